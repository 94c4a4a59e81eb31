"""Fonts and atomic writing, shared by the report's pictures."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageFont

from segnet.errors import InputError


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
        raise InputError(
            "Pillow: expected a build with FreeType, got one without; reinstall Pillow from its wheel"
        )
    return face


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write `image` to `path` as PNG, atomically: a failure leaves neither half a file nor a temporary one.

    Raises
    ------
    InputError
        If the folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(
            f"path: expected a file in an existing folder, got {path}; create {path.parent} first"
        )
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            image.save(stream, format="PNG")
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's 0600 would hide the report from colleagues
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
