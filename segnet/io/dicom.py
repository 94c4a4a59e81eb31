"""A folder with one DICOM series of slices, as a volume. Nothing is resampled, filled in or left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segnet.errors import InputError
from segnet.io.dicom_frames import Series
from segnet.io.dicom_slice import Slice, is_dicom, read_header, read_slice, slice_of
from segnet.io.streams import check_size
from segnet.io.volume import MAX_VOXELS, FloatArray, Stored, check_affine, check_shape, header_of

POSITION_TOLERANCE = 0.1
"""Allowed distance of a slice from its place on the grid, in voxels. Positions are written with few digits."""
DUPLICATE_MM = 0.01
"""Slices closer than this are at one place."""

_ALIKE = 1e-4  # of spacings and direction cosines: half a tenth of a voxel over 512 pixels
_MAX_FILES = 2**14


def is_dicom_series(folder: str | Path) -> bool:
    """Whether a folder itself holds DICOM objects, by the content of its files."""
    folder = Path(folder)
    return folder.is_dir() and any(is_dicom(file) for file in _files(folder))


def series_files(folder: Path) -> list[Path]:
    """The files of a series, sorted: DICOM objects of any name, not hidden, not in sub-folders."""
    return [file for file in _files(folder) if is_dicom(file)]


def load_series(folder: str | Path, *, max_voxels: int = MAX_VOXELS) -> Stored:
    """Read one CT or MR series, CT in HU, as (column, row, slice), the slices along the normal.

    Parameters
    ----------
    folder : one file a slice, of any name; objects that are no images are left out, sub-folders are not read
    max_voxels : larger volumes are refused by their headers alone

    Raises
    ------
    InputError
        There is no series or more than one; a file is damaged; no decoder is installed for the pixels; or the slices do not make one
        even grid: one is missing, twice there, tilted, or of another size or direction.
    """
    folder = Path(folder)
    slices, warnings = _one_series(folder)
    for one in slices:
        one.check_kind()
        one.check_decoder()
    grid = grid_of(slices, folder)
    rows, columns = slices[0].shape
    shape = (columns, rows, len(slices))
    check_shape(shape, folder, max_voxels, "Columns, Rows, slices")
    n_bytes = sum(rows * columns * one.bits[0] // 8 for one in slices)
    check_size(n_bytes, folder, sum(one.n_bytes for one in slices), packed=not all(one.is_native for one in slices))
    array = np.empty(shape[::-1], dtype=np.float32)
    for plane, index in zip(array, grid.order, strict=True):
        plane[:] = slices[index].values()
    header = header_of(shape, grid.affine)
    return Stored(array.transpose(2, 1, 0), shape, grid.affine, folder, header, warnings=warnings)


def read_series(folder: str | Path) -> Series:
    """The headers of one CT or MR series, in the order of the slices that `load_series` stacks.

    The files may lack their pixels, as `Series.write` leaves them.

    Raises
    ------
    InputError
        As `load_series`, but nothing is asked of the pixels.
    """
    folder = Path(folder)
    slices, _ = _one_series(folder)
    return _ordered([read_header(one.path) for one in slices], slices, folder)


def series_of(headers: Iterable[Any]) -> Series:
    """pydicom data sets of one CT or MR series, with pixels or without, brought into the order of `load_series`.

    Raises
    ------
    InputError
        As `read_series`; messages call the folder "headers".
    """
    headers = list(headers)
    here = Path("headers")
    slices = [slice_of(header, here) for header in headers]
    series = sorted({one.series for one in slices})
    if len(series) > 1:
        raise InputError(f"headers: expected one DICOM series, got {len(series)}; pass the slices of one")
    return _ordered(headers, slices, here)


def _ordered(headers: list[Any], slices: list[Slice], folder: Path) -> Series:
    for one in slices:
        one.check_kind()
    grid = grid_of(slices, folder)
    rows, columns = slices[0].shape
    return Series(tuple(headers[index] for index in grid.order), (len(slices), rows, columns), grid.affine)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())


def _one_series(folder: Path) -> tuple[list[Slice], tuple[str, ...]]:
    """The slices of the only series of images in a folder, and warnings of odd files."""
    if not folder.is_dir():
        raise InputError(f"folder: expected a folder with a DICOM series, got {folder}; name the folder of its files")
    files = _files(folder)
    if len(files) > _MAX_FILES:
        raise InputError(f"folder: expected at most {_MAX_FILES} files, got {len(files)} in {folder}; split it")
    read = [read_slice(file) for file in files]
    objects = [one for one in read if one is not None]
    images = [one for one in objects if one.is_image]
    if not images:
        others = Counter(one.modality for one in objects)
        held = ", ".join(f"{n} of {modality}" for modality, n in sorted(others.items())) or "no DICOM object"
        raise InputError(
            f"folder: expected the slices of a CT or MR series, got {held} among {len(files)} files of {folder} "
            "(sub-folders are not read); name the folder of the slices"
        )
    series = sorted({one.series for one in images})
    if len(series) > 1:
        held = "; ".join(_described([one for one in images if one.series == uid]) for uid in series[:8])
        more = f"; and {len(series) - 8} more" if len(series) > 8 else ""
        raise InputError(
            f"folder: expected one DICOM series, got {len(series)} in {folder}: {held}{more}; give each its own folder"
        )
    odd = Counter(one.oddity for one in images if one.oddity)
    warnings = [f"{n} of {len(images)} files have {oddity}" for oddity, n in sorted(odd.items())]
    left_out = [
        file.name
        for file, one in zip(files, read, strict=True)
        if one is None or not (one.is_image or one.is_known_other)
    ]
    if left_out:
        more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        warnings.append(f"left out as no image of the DICOM series: {', '.join(left_out[:4])}{more}")
    return images, tuple(warnings)


def _described(slices: list[Slice]) -> str:
    first = slices[0]
    kind = " localizer" if "LOCALIZER" in first.text("ImageType") else ""
    number = first.text("SeriesNumber")
    size = f"{first.text('Rows')} x {first.text('Columns')}"
    return (
        f"{len(slices)} {first.modality}{kind} slices of {size}, series {number or '?'}, UID {first.series or 'none'}"
    )


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the slices of a series lie.

    Attributes
    ----------
    affine : (4, 4), index (column, row, slice) to mm in RAS+
    order : the number of the file, or header, of each slice
    """

    affine: FloatArray
    order: tuple[int, ...]


def grid_of(slices: list[Slice], folder: Path) -> Grid:
    """The even grid of a series, its slices ordered along their normal.

    Raises
    ------
    InputError
        The slices make no such grid; the message names `folder`.
    """
    if len(slices) < 2:
        raise InputError(f"folder: expected at least 2 slices, got {len(slices)} in {folder}; name a whole series")
    _check_alike(slices, folder)
    row_mm, column_mm = slices[0].numbers("PixelSpacing", 2)  # between rows, between columns
    cosines = slices[0].numbers("ImageOrientationPatient", 6).reshape(2, 3)
    if min(row_mm, column_mm) <= 0:
        raise InputError(f"PixelSpacing: expected positive lengths, got {[row_mm, column_mm]} in {folder}; export anew")
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > 1e-3:
        raise InputError(
            f"ImageOrientationPatient: expected two perpendicular unit vectors, got {cosines.tolist()} in {folder}; "
            "export the series anew"
        )
    along_row, along_column = cosines
    normal = np.cross(along_row, along_column)
    positions = np.stack([one.numbers("ImagePositionPatient", 3) for one in slices])
    heights = positions @ normal
    order = tuple(int(i) for i in np.argsort(heights, kind="stable"))
    positions, heights = positions[list(order)], heights[list(order)]
    _check_steps(positions, heights, folder)
    step_mm = (heights[-1] - heights[0]) / (len(slices) - 1)
    drift = positions - positions[0] - (heights - heights[0])[:, None] * normal
    _check_drift(drift @ np.stack([along_row / column_mm, along_column / row_mm], axis=1), drift, heights, folder)

    affine = np.eye(4)
    affine[:3, 0] = along_row * column_mm
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = normal * step_mm
    affine[:3, 3] = positions[0]
    affine[:2] *= -1  # LPS to RAS
    check_affine(affine, folder, "ImagePositionPatient, ImageOrientationPatient")
    return Grid(affine, order)


def _check_alike(slices: list[Slice], folder: Path) -> None:
    shapes = Counter(one.shape for one in slices)
    if len(shapes) > 1:
        held = ", ".join(f"{n} of {rows} x {columns}" for (rows, columns), n in shapes.most_common(4))
        raise InputError(f"Rows, Columns: expected slices of one size, got {held} in {folder}; take out the odd ones")
    frames = {one.text("FrameOfReferenceUID") for one in slices}
    if len(frames) > 1:
        raise InputError(
            f"FrameOfReferenceUID: expected slices of one frame of reference, got {len(frames)} in {folder}; "
            "give each its own folder"
        )
    for keyword, count in (("PixelSpacing", 2), ("ImageOrientationPatient", 6)):
        values = np.stack([one.numbers(keyword, count) for one in slices])
        apart = np.abs(values - np.median(values, axis=0)).max(axis=1) > _ALIKE
        if apart.any():
            odd = values[apart][0].tolist()
            raise InputError(
                f"{keyword}: expected the same in every slice, got {odd} in {int(apart.sum())} of {len(slices)} slices "
                f"of {folder}; take out the odd ones"
            )


def _check_steps(positions: FloatArray, heights: FloatArray, folder: Path) -> None:
    """Each place along the normal is taken once, and all are evenly spaced."""
    steps = np.diff(heights)
    twice = np.flatnonzero(steps < DUPLICATE_MM)
    if twice.size:
        raise InputError(
            f"ImagePositionPatient: expected one slice at each position, got {twice.size} more, the first at "
            f"{_point(positions[twice[0]])} in {folder}; take out the duplicates"
        )
    usual_mm = float(np.sort(steps)[(len(steps) - 1) // 2])
    gaps = np.flatnonzero(steps > 1.5 * usual_mm)
    if gaps.size:
        first = gaps[0]
        n_missing = int(np.round(steps[gaps] / usual_mm - 1).sum())
        raise InputError(
            f"ImagePositionPatient: expected a slice every {usual_mm:g} mm, got a gap of {steps[first]:g} mm between "
            f"{_point(positions[first])} and {_point(positions[first + 1])}, {n_missing} missing in all, in {folder}; "
            "export the whole series"
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() > POSITION_TOLERANCE * (even[1] - even[0]):
        at = int(np.abs(steps - usual_mm).argmax())
        raise InputError(
            f"ImagePositionPatient: expected evenly spaced slices, got steps of {steps.min():g} to {steps.max():g} mm, "
            f"the oddest between {_point(positions[at])} and {_point(positions[at + 1])} in {folder}; "
            "export a series of one spacing"
        )


def _check_drift(voxels: FloatArray, drift_mm: FloatArray, heights: FloatArray, folder: Path) -> None:
    """No slice lies beside the normal through the first.

    Parameters
    ----------
    voxels : (n, 2) distance of each slice from it, along rows and columns
    drift_mm : (n, 3) the same in mm
    heights : (n,) mm along the normal
    """
    if np.abs(voxels).max() <= POSITION_TOLERANCE:
        return
    share = (heights - heights[0]) / (heights[-1] - heights[0])
    if np.abs(voxels - share[:, None] * voxels[-1]).max() <= POSITION_TOLERANCE:
        degrees = np.degrees(np.arctan2(np.linalg.norm(drift_mm[-1]), heights[-1] - heights[0]))
        raise InputError(
            f"ImagePositionPatient: expected slices stacked along their normal, got a gantry tilt of {degrees:.2f} "
            f"degrees in {folder}; resample the series onto a straight grid"
        )
    worst = int(np.abs(voxels).max(axis=1).argmax())
    raise InputError(
        f"ImagePositionPatient: expected slices stacked along their normal, got slice {worst} of the order moved "
        f"sideways by {np.linalg.norm(drift_mm[worst]):g} mm in {folder}; export the original series"
    )


def _point(position: FloatArray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in position) + ") mm LPS"
