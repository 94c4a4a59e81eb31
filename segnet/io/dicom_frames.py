"""The frames of a DICOM series, and the way from a volume's canonical array to them and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.errors import InputError
from segnet.io.boxes import Box
from segnet.io.volume import AFFINE_TOLERANCE_MM, FloatArray, Volume


@dataclass(frozen=True)
class FrameMap:
    """How the axes (Z, Y, X) of a canonical array lie in the frames of its series.

    Attributes
    ----------
    axes : for slice, row and column in turn, the axis of the canonical array that runs along it
    flipped : whether that axis runs against it
    shape : slices, rows, columns

    Examples
    --------
    >>> feet_first = FrameMap(axes=(0, 1, 2), flipped=(True, False, False), shape=(3, 2, 2))
    >>> feet_first.points([[0, 1, 1]]).tolist()
    [[2.0, 1.0, 1.0]]
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    shape: tuple[int, int, int]

    def frames(self, array_zyx: NDArray[Any]) -> NDArray[Any]:
        """View (slice, row, column) of a canonical array, or of a crop of one."""
        return np.flip(array_zyx.transpose(self.axes), self._against)

    def array_zyx(self, frames: NDArray[Any]) -> NDArray[Any]:
        """View (Z, Y, X) of frames: the inverse of `frames`."""
        return np.flip(frames, self._against).transpose(np.argsort(self.axes))

    def box(self, box_zyx: Box) -> Box:
        """A box of canonical voxels as a box of slices, rows and columns."""
        parts = (box_zyx[axis] for axis in self.axes)
        return tuple(
            slice(length - part.stop, length - part.start) if against else part
            for part, against, length in zip(parts, self.flipped, self.shape, strict=True)
        )

    def points(self, points_zyx: ArrayLike) -> FloatArray:
        """(n, 3) points in canonical voxels as (slice, row, column). Whole numbers stay voxel centres."""
        points = np.asarray(points_zyx, np.float64)[:, self.axes]
        return np.where(self.flipped, np.subtract(self.shape, 1) - points, points)

    @property
    def _against(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(3) if self.flipped[axis])


@dataclass(frozen=True, eq=False)
class Series:
    """The headers of a series in the order of its slices along their normal.

    Attributes
    ----------
    headers : pydicom's data set of each slice. They name the patient
    shape : slices, rows, columns
    affine : (4, 4), index (column, row, slice) to mm in RAS+
    """

    headers: tuple[Any, ...]
    shape: tuple[int, int, int]
    affine: FloatArray

    def frame_map(self, volume: Volume) -> FrameMap:
        """The way from the canonical array of `volume` to these slices.

        Raises
        ------
        InputError
            The volume is not of this series: its shape differs, or a corner lies over 1e-3 mm from the series' own.
        """
        # index (x, y, z) of the volume to (column, row, slice)
        turn = np.linalg.solve(self.affine, volume.affine)
        linear = np.rint(turn[:3, :3])
        if not (np.abs(linear).sum(axis=0) == 1).all() or not (np.abs(linear).sum(axis=1) == 1).all():
            raise _misfit("voxels along its rows, columns and slices", "a volume of another direction or spacing")
        along = [int(axis) for axis in np.abs(linear).argmax(axis=1)]
        sizes = self.shape[::-1]
        if tuple(volume.array.shape[axis] for axis in along) != sizes:
            raise _misfit(f"a volume of {self.shape} slices, rows and columns", f"{volume.array_zyx.shape} (Z, Y, X)")
        against = linear.sum(axis=1) < 0
        exact = np.eye(4)
        exact[:3, :3] = linear
        exact[:3, 3] = np.where(against, np.subtract(sizes, 1), 0)
        corners = np.array(list(product(*((0, n - 1) for n in volume.array.shape), (1,))), np.float64)
        apart_mm = np.linalg.norm((corners @ (volume.affine - self.affine @ exact).T)[:, :3], axis=1).max()
        if apart_mm > AFFINE_TOLERANCE_MM:
            raise _misfit(f"voxels within {AFFINE_TOLERANCE_MM:g} mm of its own", f"{apart_mm:.4g} mm")
        slice_, row, column = (2 - axis for axis in reversed(along))
        over_slice, over_row, over_column = (bool(one) for one in against[::-1])
        return FrameMap((slice_, row, column), (over_slice, over_row, over_column), self.shape)

    def to_lps(self, points: ArrayLike) -> FloatArray:
        """(n, 3) points (slice, row, column) in mm of the patient, LPS as DICOM counts."""
        columns_first = np.asarray(points, np.float64)[:, ::-1]
        ras = columns_first @ self.affine[:3, :3].T + self.affine[:3, 3]
        return ras * (-1, -1, 1)

    def write(self, folder: str | Path) -> list[Path]:
        """Write the headers without pixels, a file a slice, for `read_series`. The folder must be empty or missing.

        Raises
        ------
        InputError
            The folder holds something.
        """
        from pydicom import dcmwrite
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"folder: expected an empty folder for headers, got {folder}; name a new one")
        paths = []
        for number, header in enumerate(self.headers, 1):
            bare = _without_pixels(header)
            bare.file_meta = FileMetaDataset()
            bare.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            bare.file_meta.MediaStorageSOPClassUID = header.get("SOPClassUID") or "0"
            bare.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID") or "0"
            paths.append(folder / f"{number:05}.dcm")
            dcmwrite(paths[-1], bare, enforce_file_format=True)
        return paths


def _without_pixels(header: Any) -> Any:
    from pydicom.dataset import Dataset

    bare = Dataset()  # a copy would share the header's elements
    for element in header:
        if element.tag.group != 0x7FE0:
            bare.add(element)
    return bare


def _misfit(expected: str, got: str) -> InputError:
    return InputError(
        f"series: expected {expected}, got {got}; pass the headers of the series that the volume was read from"
    )
