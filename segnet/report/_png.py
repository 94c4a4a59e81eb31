"""Fonts and atomic writing, shared by the report's pictures."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageFont

from segnet.errors import InputError
from segnet.runtime.files import replacing


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface at `size` device pixels, so that pictures look alike on every machine.

    Raises
    ------
    InputError
        If Pillow was built without FreeType.
    """
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise InputError("Pillow: expected a build with FreeType, got one without; reinstall Pillow from its wheel")
    return face


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write `image` to `path` as PNG, atomically: a failure leaves neither half a file nor a temporary one.

    Raises
    ------
    InputError
        If the folder of `path` does not exist.
    """
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
