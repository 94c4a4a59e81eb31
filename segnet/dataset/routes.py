"""What becomes of an image on its way into a dataset.

`hu`: clipped to a CT window, at its own resolution. `paper`: the preprocessing of Mamba-AHNet (arXiv 2404.17235, section V), whole:
each slice by itself scaled to its own range, made an 8-bit grey picture, resized to 256 x 256 by Lanczos. What it loses: HU, for every
slice has its own scale; the resolution; and the contrast of a slice that holds metal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.config import PrepareConfig
from segnet.errors import InputError
from segnet.runtime.files import replacing

PAPER_SIDE_PX = 256


def windowed(image_zyx: NDArray[Any], config: PrepareConfig) -> NDArray[Any]:
    """The route hu: int16 HU, or float16 from 0 to 1 or in standard deviations, of the voxels within the window.

    Parameters
    ----------
    image_zyx : (Z, Y, X) in HU

    Raises
    ------
    InputError
        Standard deviations are asked for, and the window leaves one value.
    """
    low, high = config.window_hu
    if config.values == "hu":
        if image_zyx.dtype.kind == "i":
            return np.clip(image_zyx, round(low), round(high)).astype(np.int16)
        clipped = np.clip(image_zyx, low, high)
        return np.rint(clipped, out=clipped).astype(np.int16)
    clipped = np.clip(image_zyx, low, high, dtype=np.float32)
    if config.values == "unit":
        clipped -= low
        clipped /= high - low
    else:
        deviation = float(clipped.std(dtype=np.float64))
        if deviation == 0:
            raise InputError(
                f"values: expected an image that varies within {low:g} to {high:g} HU, got one value; widen the window"
            )
        clipped -= float(clipped.mean(dtype=np.float64))
        clipped /= deviation
    return clipped.astype(np.float16)


def grey_slices(image_zyx: NDArray[Any]) -> NDArray[np.uint8]:
    """The route paper: (Z, 256, 256) of 8-bit grey; the least value of a slice is 0, its greatest 255, a constant slice 0.

    Parameters
    ----------
    image_zyx : (Z, Y, X)
    """
    from PIL import Image

    out = np.empty((len(image_zyx), PAPER_SIDE_PX, PAPER_SIDE_PX), np.uint8)
    for z, plane in enumerate(image_zyx):
        low, high = float(plane.min()), float(plane.max())
        scale = 255.0 / (high - low) if high > low else 0.0
        grey = np.rint((plane.astype(np.float32) - low) * scale).astype(np.uint8)
        picture = Image.fromarray(grey).resize((PAPER_SIDE_PX, PAPER_SIDE_PX), Image.Resampling.LANCZOS)
        out[z] = np.asarray(picture)
    return out


def mask_slices(mask_zyx: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks for `grey_slices`, by the nearest voxel: Lanczos would make greys of them."""
    return np.stack([_nearest(plane, PAPER_SIDE_PX, PAPER_SIDE_PX) for plane in mask_zyx])


def _nearest(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The pixel whose centre lies nearest, as Pillow chooses it."""
    y = ((np.arange(height) + 0.5) * plane.shape[0] / height).astype(int)
    x = ((np.arange(width) + 0.5) * plane.shape[1] / width).astype(int)
    return plane[y[:, None], x]


def paper_affine(affine: NDArray[np.float64], shape_zyx: tuple[int, int, int]) -> NDArray[np.float64]:
    """Voxel index (x, y, z) of the 256 x 256 slices to mm: the field of view stays."""
    _, height, width = shape_zyx
    scale = np.array([width / PAPER_SIDE_PX, height / PAPER_SIDE_PX, 1.0])
    shift = (scale - 1) / 2  # the middle of the first pixel moves
    resized = np.diag([*scale, 1.0])
    resized[:3, 3] = shift
    return np.asarray(affine @ resized)


def paper_point(point_zyx: tuple[int, int, int], shape_zyx: tuple[int, ...]) -> tuple[int, int, int]:
    """The pixel of the 256 x 256 slices that the middle of a voxel lies in."""
    z, y, x = point_zyx
    return z, int((y + 0.5) * PAPER_SIDE_PX / shape_zyx[1]), int((x + 0.5) * PAPER_SIDE_PX / shape_zyx[2])


def resized_back(maps: NDArray[np.float32], shape_yx: tuple[int, int]) -> NDArray[np.float32]:
    """Maps on the 256 x 256 slices (Z, 256, 256), such as probabilities, on the image's own pixels, bilinearly."""
    from PIL import Image

    height, width = shape_yx
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in maps]
    return np.stack([np.asarray(plane) for plane in planes])


def write_pngs(folder: Path, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    """Pictures ``image_<z>.png`` and ``label_<z>.png`` of one case, the labels 0 and 255."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, plane in _named(image, mask):
        with replacing(folder / name) as temporary:
            Image.fromarray(plane).save(temporary, format="PNG")


def _named(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for z in range(len(image)):
        yield f"image_{z:04d}.png", image[z]
        yield f"label_{z:04d}.png", mask[z] * np.uint8(255)
