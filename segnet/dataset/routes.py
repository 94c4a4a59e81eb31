"""Routes of an image into a dataset.

`hu` clips to a CT window at the image's own resolution. `paper` is the preprocessing of Mamba-AHNet (arXiv 2404.17235, section V): each
slice is scaled to its own range, made an 8-bit grey picture and resized to 256 x 256 by Lanczos. It loses HU, since every slice has its
own scale, resolution, and the contrast of slices with metal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet.config import PrepareConfig
from segnet.errors import InputError
from segnet.runtime.files import replacing

PAPER_SIDE_PX = 256


def windowed(image_zyx: NDArray[Any], config: PrepareConfig) -> NDArray[Any]:
    """The route hu: voxels clipped to the window, as int16 HU, or as float16 from 0 to 1 or in standard deviations.

    Parameters
    ----------
    image_zyx : (Z, Y, X) in HU

    Raises
    ------
    InputError
        Standard deviations are asked for, and all values within the window are equal.
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
    """The route paper: (Z, 256, 256) of 8-bit grey. A slice's lowest value is 0 and its highest 255; a constant slice is 0.

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
    """Masks for `grey_slices`, by nearest neighbour: Lanczos would make greys of them."""
    return np.stack([_nearest(plane, PAPER_SIDE_PX, PAPER_SIDE_PX) for plane in mask_zyx])


def _nearest(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Nearest neighbour, as Pillow chooses it."""
    y = ((np.arange(height) + 0.5) * plane.shape[0] / height).astype(int)
    x = ((np.arange(width) + 0.5) * plane.shape[1] / width).astype(int)
    return plane[y[:, None], x]


def paper_affine(affine: NDArray[np.float64], shape_zyx: tuple[int, int, int]) -> NDArray[np.float64]:
    """Affine of (x, y, z) on the 256 x 256 slices, which keep the field of view."""
    _, height, width = shape_zyx
    scale = np.array([width / PAPER_SIDE_PX, height / PAPER_SIDE_PX, 1.0])
    shift = (scale - 1) / 2  # of the first pixel's centre
    resized = np.diag([*scale, 1.0])
    resized[:3, 3] = shift
    return np.asarray(affine @ resized)


def paper_point(point_zyx: tuple[int, int, int], shape_zyx: tuple[int, ...]) -> tuple[int, int, int]:
    """The pixel of the 256 x 256 slices at a voxel's centre."""
    z, y, x = point_zyx
    return z, int((y + 0.5) * PAPER_SIDE_PX / shape_zyx[1]), int((x + 0.5) * PAPER_SIDE_PX / shape_zyx[2])


def resized_back(maps: NDArray[np.float32], shape_yx: tuple[int, int]) -> NDArray[np.float32]:
    """Maps (Z, 256, 256), such as probabilities, resampled bilinearly to the image's own pixels."""
    from PIL import Image

    height, width = shape_yx
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in maps]
    return np.stack([np.asarray(plane) for plane in planes])


def write_pngs(folder: Path, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    """Pictures ``image_<z>.png`` and ``label_<z>.png`` of one case; labels are 0 and 255."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for kind, planes in (("image", image), ("label", mask * np.uint8(255))):
        for z, plane in enumerate(planes):
            with replacing(folder / f"{kind}_{z:04d}.png") as temporary:
                Image.fromarray(plane).save(temporary, format="PNG")
