"""A library of lesion shapes: masks without images, packed into bits, one file for each set."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segnet.errors import InputError

FIELDS = ("bits", "nbytes", "shape", "spacing")


@dataclass(frozen=True)
class Shape:
    """One lesion: mask (Z, Y, X) of bool, cropped to it, and its spacing."""

    mask: NDArray[np.bool_]
    spacing_zyx_mm: tuple[float, float, float]


class ShapeLibrary:
    """Lesion shapes, unpacked on demand.

    Parameters
    ----------
    packed : bits of each shape, (bytes,) uint8, with the first axis of (X, Y, Z) the slowest
    shapes : (count, 3) voxels along x, y, z
    spacings_mm : (count, 3) along x, y, z
    """

    def __init__(
        self, packed: list[NDArray[np.uint8]], shapes: NDArray[np.int64], spacings_mm: NDArray[np.float64]
    ) -> None:
        self._packed, self._shapes, self._spacings_mm = packed, shapes, spacings_mm

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> Shape:
        shape = self._shapes[index]
        mask = np.unpackbits(self._packed[index], count=int(shape.prod())).reshape(shape).astype(bool)
        x_mm, y_mm, z_mm = self._spacings_mm[index].tolist()
        return Shape(np.ascontiguousarray(mask.transpose(2, 1, 0)), (z_mm, y_mm, x_mm))


def load_shapes(folder: str | Path) -> ShapeLibrary:
    """Reads all sets ``*.npz`` of a folder.

    A set holds ``shape`` (count, 3) and ``spacing`` (count, 3) in mm, both along x, y, z, ``nbytes`` (count,), and ``bits``: the joined
    masks, each packed by `numpy.packbits`.

    Raises
    ------
    InputError
        There is no set; a set cannot be read, lacks a field or is inconsistent; or a shape is empty.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputError(
            f"shapes: expected a folder with sets *.npz, got {folder} without one; give the folder of the sets"
        )
    packed: list[NDArray[np.uint8]] = []
    shapes, spacings = [], []
    for file in files:
        bits, nbytes, shape, spacing = _read(file)
        ends = nbytes.cumsum()
        packed += [bits[end - length : end] for end, length in zip(ends, nbytes, strict=True)]
        shapes.append(shape)
        spacings.append(spacing)
    return ShapeLibrary(packed, np.concatenate(shapes), np.concatenate(spacings))


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """bits, nbytes, shape and spacing of a set, checked."""

    def bad(expected: str, got: object) -> InputError:
        return InputError(f"shapes {file}: expected {expected}, got {got}; pack the set again, or leave it out")

    try:
        with np.load(file, allow_pickle=False) as opened:
            if missing := [name for name in FIELDS if name not in opened.files]:
                raise bad(f"the fields {', '.join(FIELDS)}", f"none named {missing[0]}")
            bits, nbytes, shape, spacing = (opened[name] for name in FIELDS)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise bad("a NumPy archive", f"{type(error).__name__}: {error}") from None
    count = len(nbytes) if nbytes.ndim == 1 else 0
    for name, array, kind, wanted in (
        ("nbytes", nbytes, "iu", (count,)),
        ("bits", bits, "u", bits.shape[:1]),
        ("shape", shape, "iu", (count, 3)),
        ("spacing", spacing, "f", (count, 3)),
    ):
        if array.shape != wanted or array.dtype.kind not in kind or count == 0:
            raise bad(f"{name} for one shape or more, as (count,) or (count, 3)", f"{array.dtype} {array.shape}")
    if bits.dtype != np.uint8:
        raise bad("bits of uint8", bits.dtype)
    nbytes, shape, spacing = nbytes.astype(np.int64), shape.astype(np.int64), spacing.astype(np.float64)
    if not (shape > 0).all():
        raise bad("one voxel or more along each axis", shape[(shape <= 0).any(1)][0].tolist())
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise bad("positive spacings in mm", spacing[~(np.isfinite(spacing) & (spacing > 0)).all(1)][0].tolist())
    if (wrong := np.flatnonzero(nbytes != -(-shape.prod(1) // 8))).size:
        first = int(wrong[0])
        raise bad(f"{-(-int(shape[first].prod()) // 8)} bytes for shape {first}", int(nbytes[first]))
    if nbytes.sum() != len(bits):
        raise bad(f"{int(nbytes.sum())} bytes in all", len(bits))
    empty = np.add.reduceat(bits, nbytes.cumsum() - nbytes, dtype=np.int64) == 0
    if empty.any():
        raise bad("a lesion in each mask", f"none in shape {int(np.flatnonzero(empty)[0])}")
    return bits, nbytes, shape, spacing


def render(
    shape: Shape, *, size_px: int, pixel_mm: Tensor, offset_mm: Tensor, at: float, angle_rad: float = 0.0
) -> Tensor:
    """Slices through a shape on the pixels of a picture.

    Parameters
    ----------
    size_px : side of the picture
    pixel_mm : (2,) height and width of its pixels
    offset_mm : (slices,) distance of each slice from the middle slice
    at : in [0, 1); choice of the middle slice among those with lesion
    angle_rad : rotation in the plane

    Returns
    -------
    (slices, size, size) of 0 and 1, centred. Slices beyond the shape's ends are empty, and so are all if the shape is too large.
    """
    depth = shape.mask.shape[0]
    z_mm, y_mm, x_mm = shape.spacing_zyx_mm
    held = np.flatnonzero(shape.mask.any((1, 2)))
    middle = int(held[int(at * len(held))])
    planes = torch.zeros(len(offset_mm), *shape.mask.shape[1:])
    for s, offset in enumerate(offset_mm.tolist()):
        z = middle + round(offset / z_mm)
        if 0 <= z < depth:
            planes[s] = torch.from_numpy(shape.mask[z].astype(np.float32))
    # the rotated corners must fit, with a pixel to spare
    height, width = planes.shape[1:]
    diagonal_mm = float(np.hypot(height * y_mm, width * x_mm))
    if diagonal_mm > (size_px - 2) * float(pixel_mm.min()):
        return torch.zeros(len(offset_mm), size_px, size_px)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    side_y_mm, side_x_mm = (size_px * float(mm) for mm in pixel_mm)
    theta = torch.tensor(
        [
            [cos * side_x_mm / (width * x_mm), -sin * side_y_mm / (width * x_mm), 0],
            [sin * side_x_mm / (height * y_mm), cos * side_y_mm / (height * y_mm), 0],
        ],
        dtype=torch.float32,
    )[None]
    grid = F.affine_grid(theta, [1, 1, size_px, size_px], align_corners=False)
    # a linear threshold at one half gives smoother outlines than nearest neighbour
    return (F.grid_sample(planes[None], grid, mode="bilinear", align_corners=False)[0] > 0.5).float()
