"""A volume on its patient's grid, from any format, and the checks of every one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.errors import InputError

FloatArray = NDArray[np.float64]

MAX_VOXELS = 2**30
AFFINE_TOLERANCE_MM = 1e-3

_orientations: Any = nib.orientations
_nifti1_header: Any = nib.Nifti1Header
_nifti2_header: Any = nib.Nifti2Header


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in canonical RAS+ orientation, with the grid of its file.

    Attributes
    ----------
    array : (X, Y, Z), float32 for an image, uint8 for a mask; in Fortran order, so (Z, Y, X) is C-contiguous
    affine : (4, 4) float64, voxel index of `array` to mm in RAS+
    spacing_mm : along the axes of `array`, as `spacing_of`
    path : the file or folder it was read from
    header : nibabel's header of the file's own grid, without extensions; made anew for formats other than NIfTI
    source_shape : the file's own shape, trailing axes of length 1 included
    source_affine : (4, 4) float64, voxel index in the file to mm
    orientation : (3, 2) float64, nibabel's orientation of the file's axes
    warnings : oddities of the file, to be shown with every result
    """

    array: NDArray[Any]
    affine: FloatArray
    spacing_mm: tuple[float, float, float]
    path: Path
    header: Any
    source_shape: tuple[int, ...]
    source_affine: FloatArray
    orientation: FloatArray
    warnings: tuple[str, ...] = ()

    @property
    def array_zyx(self) -> NDArray[Any]:
        """View of `array` as (Z, Y, X)."""
        return self.array.transpose(2, 1, 0)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """`spacing_mm` in the order of `array_zyx`."""
        x, y, z = self.spacing_mm
        return (z, y, x)

    def to_source(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array on the grid of `array`, (X, Y, Z), turned back to the file's own axes and shape."""
        canonical = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
        back = _orientations.ornt_transform(canonical, self.orientation)
        return np.asarray(_orientations.apply_orientation(array, back).reshape(self.source_shape))


@dataclass(frozen=True, eq=False)
class Stored:
    """Voxels as a file holds them, and their meaning.

    Attributes
    ----------
    array : (X, Y, Z) in the file's own order, type and scale
    shape : the file's own shape, trailing axes of length 1 included
    affine : (4, 4) float64, voxel index in the file to mm in RAS+
    path : the file or folder
    header : nibabel's header of the file's grid
    slope, inter : value = stored * slope + inter
    warnings : oddities of the file
    """

    array: NDArray[Any]
    shape: tuple[int, ...]
    affine: FloatArray
    path: Path
    header: Any
    slope: float = 1.0
    inter: float = 0.0
    warnings: tuple[str, ...] = ()


def as_image(stored: Stored) -> Volume:
    """An image as float32 in canonical orientation.

    Raises
    ------
    InputError
        A voxel is NaN or infinite.
    """
    scaled = _scaled(stored)
    with np.errstate(over="ignore"):
        array = scaled.astype(np.float32)
    _check_finite(array, stored.path)
    return _canonical(array, stored)


def from_array(array_zyx: ArrayLike, spacing_zyx_mm: Sequence[float]) -> Volume:
    """A volume in memory as an image.

    Parameters
    ----------
    array_zyx : (Z, Y, X) in HU; axes run to superior, anterior and right
    spacing_zyx_mm : lengths of a voxel in that order

    Raises
    ------
    InputError
        The array is not of three axes of finite numbers, or a length is not above 0.
    """
    array = np.asarray(array_zyx)
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise InputError(
            f"image: expected numbers of shape (Z, Y, X), got {array.dtype} of shape {array.shape}; pass one volume in HU"
        )
    spacing = np.asarray(spacing_zyx_mm, np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(
            f"spacing_mm: expected three lengths above 0 mm in the order (z, y, x), got {spacing_zyx_mm}; one for each axis"
        )
    z, y, x = spacing.tolist()
    affine = np.diag([x, y, z, 1.0])
    shape = array.shape[::-1]
    volume = as_image(Stored(array.transpose(2, 1, 0), shape, affine, Path("array"), header_of(shape, affine)))
    return replace(volume, spacing_mm=(x, y, z))


def as_mask(stored: Stored, like: Volume | None = None) -> Volume:
    """A mask as uint8 with values 0 and 1, in canonical orientation.

    Raises
    ------
    InputError
        The mask holds other values or lies on another grid than `like`.
    """
    scaled = _scaled(stored)
    _check_finite(scaled, stored.path)
    if scaled is not stored.array:
        scaled = _without_rounding(scaled, stored)
    check_binary(scaled, f"mask {stored.path}", "choose one label and save it as 0 and 1")
    mask = _canonical(scaled.astype(np.uint8), stored)
    if like is not None:
        _check_same_grid(mask, like)
    return mask


def header_of(shape: tuple[int, ...], affine: FloatArray) -> Any:
    """A new NIfTI header for a grid of another format, to write a mask on it.

    Parameters
    ----------
    shape : (X, Y, Z) or (X, Y, Z, 1)
    affine : (4, 4), voxel index to mm in RAS+

    Returns
    -------
    NIfTI-1; NIfTI-2 if float32 numbers move a voxel, or an axis is longer than 16 bits can say.
    """
    moved_mm = np.abs(affine.astype(np.float32) - affine)[:3] @ (*shape[:3], 1)
    header = (_nifti2_header if max(shape) > 32767 or moved_mm.max() > AFFINE_TOLERANCE_MM / 4 else _nifti1_header)()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    if _is_sheared(affine):  # a qform cannot shear
        header.set_qform(None, 0)
        header.set_zooms((*np.linalg.norm(affine[:3, :3], axis=0), *(1.0 for _ in shape[3:])))
    return header


def spacing_of(affine: FloatArray) -> tuple[float, float, float]:
    """Distances in mm between neighbouring columns, rows and slices of a grid, whose product is a voxel's volume.

    They are the lengths of the axes. In a sheared grid, such as from a tilted gantry, they are the parts of each axis at right angles to
    those before it: the distance of slices is measured along their normal.

    Parameters
    ----------
    affine : (4, 4), voxel index to mm

    Examples
    --------
    >>> spacing_of(np.array([[0.5, 0, 0, 0], [0, 0.5, 1.0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]))
    (0.5, 0.5, 2.0)
    """
    axes = affine[:3, :3]
    x, y, z = np.abs(np.diag(np.linalg.qr(axes).R)) if _is_sheared(affine) else np.linalg.norm(axes, axis=0)
    return float(x), float(y), float(z)


def _is_sheared(affine: FloatArray) -> bool:
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() > 1e-6)


def check_shape(shape: tuple[int, ...], path: Path, max_voxels: int, name: str) -> None:
    """Raises `InputError` unless `shape`, called `name` in the file, is (X, Y, Z) or (X, Y, Z, 1) and small enough."""
    if min(shape) < 1:
        raise InputError(f"{name}: expected axes of at least one voxel, got {shape} in {path}; save the volume anew")
    if len(shape) < 3:
        raise InputError(
            f"{name}: expected shape (X, Y, Z), got the {len(shape)}-D shape {shape} in {path}; "
            "stack the slices to a volume"
        )
    if any(n > 1 for n in shape[3:]):
        raise InputError(
            f"{name}: expected shape (X, Y, Z) or (X, Y, Z, 1), got {shape} in {path}; save one volume of the series"
        )
    if math.prod(shape) > max_voxels:
        raise InputError(
            f"{name}: expected at most {max_voxels} voxels, got {math.prod(shape)} from shape "
            f"{shape} in {path}; crop it, or raise max_voxels"
        )


def check_affine(affine: FloatArray, path: Path, name: str = "affine") -> None:
    """Raises `InputError` unless `affine` (4, 4) is finite and its axes span space."""
    if not np.isfinite(affine).all():
        raise InputError(
            f"{name}: expected finite numbers, got NaN or infinity in {path}; save the volume with its true affine"
        )
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    # Between 1e-6 and 1e6 mm the arithmetic is safe.
    if columns.min() < 1e-6 or columns.max() > 1e6 or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-4:
        raise InputError(
            f"{name}: expected three independent axes, got the singular "
            f"{affine[:3, :3].tolist()} in {path}; save the volume with its true affine"
        )


def check_binary(array: NDArray[Any], name: str, remedy: str) -> None:
    """Raises `InputError` unless `array` is bool or holds only 0 and 1."""
    if array.dtype == np.bool_:
        return
    other = (array != 0) & (array != 1)
    if other.any():
        values = np.unique(array[other])
        shown = ", ".join(f"{v!s}".removesuffix(".0") for v in values[:5]) + (", ..." if len(values) > 5 else "")
        raise InputError(f"{name}: expected only 0 and 1, got also {shown} in {int(other.sum())} voxels; {remedy}")


def _scaled(stored: Stored) -> NDArray[Any]:
    if stored.slope == 1.0 and stored.inter == 0.0:
        return stored.array
    with np.errstate(all="ignore"):
        return stored.array.astype(np.float64) * stored.slope + stored.inter


def _without_rounding(scaled: FloatArray, stored: Stored) -> FloatArray:
    """Scaled values; those that differ from a whole number only by the float32 rounding of slope and intercept become whole."""
    error = (np.abs(scaled - stored.inter) + abs(stored.inter)) * np.finfo(np.float32).eps
    whole = np.rint(scaled)
    return np.where(np.abs(scaled - whole) <= error, whole, scaled)


def _check_finite(array: NDArray[Any], path: Path) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        n_bad = finite.size - int(finite.sum())
        raise InputError(
            f"voxels: expected finite values, got {n_bad} NaN or infinite in {path}, the first "
            f"at {first} of the file's grid; repair or replace the file"
        )


def _canonical(array: NDArray[Any], stored: Stored) -> Volume:
    orientation = _orientations.io_orientation(stored.affine)
    if not np.isfinite(orientation).all():
        raise InputError(
            "affine: expected axes that point right, anterior and superior, got "
            f"{stored.affine.tolist()} in {stored.path}; save the volume with its true affine"
        )
    affine = stored.affine @ _orientations.inv_ornt_aff(orientation, array.shape)
    # Slices are cut from (Z, Y, X), which Fortran order makes contiguous.
    turned = np.asfortranarray(_orientations.apply_orientation(array, orientation))
    return Volume(
        turned,
        affine,
        spacing_of(affine),
        stored.path,
        stored.header,
        stored.shape,
        stored.affine,
        orientation,
        stored.warnings,
    )


def _check_same_grid(mask: Volume, image: Volume) -> None:
    if mask.array.shape != image.array.shape:
        raise InputError(
            f"mask: expected shape {image.array.shape} (X, Y, Z in RAS+) like {image.path}, got "
            f"{mask.array.shape} in {mask.path}; resample the mask onto the image"
        )
    corners = np.array(list(product(*((0, n - 1) for n in image.array.shape), (1,))), dtype=np.float64)
    apart_mm = float(np.linalg.norm((corners @ (mask.affine - image.affine).T)[:, :3], axis=1).max())
    if apart_mm > AFFINE_TOLERANCE_MM:
        raise InputError(
            f"mask: expected voxels within {AFFINE_TOLERANCE_MM:g} mm of those of {image.path}, "
            f"got {apart_mm:.4g} mm in {mask.path}; resample the mask onto the image"
        )
