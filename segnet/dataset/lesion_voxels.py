"""The lesions of a case as lists of voxels: planes of one lesion or of all, without reading a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


class LesionVoxels:
    """The lesions of one case.

    Parameters
    ----------
    voxels_zyx : (n, 3), rising in z

    Attributes
    ----------
    of : (n,) number of each voxel's lesion, a 3-D component (26 neighbours), from 0
    by_lesion : the voxels of each lesion
    boxes : first and last (z, y, x) of each lesion
    middles : mean (z, y, x) of each lesion
    """

    def __init__(self, voxels_zyx: NDArray[np.integer]) -> None:
        self.voxels = voxels_zyx.astype(np.int32)
        corner = self.voxels.min(axis=0)
        held = np.zeros(self.voxels.max(axis=0) - corner + 1, np.bool_)
        at = tuple((self.voxels - corner).T)
        held[at] = True
        labels, _ = ndimage.label(held, np.ones((3, 3, 3)))
        self.of: NDArray[np.int32] = labels[at].astype(np.int32) - 1
        self.by_lesion = [self.voxels[self.of == k] for k in range(int(self.of.max()) + 1)]
        self.boxes = [(own.min(axis=0), own.max(axis=0)) for own in self.by_lesion]
        self.middles = [own.mean(axis=0) for own in self.by_lesion]

    def in_slice(self, z: int) -> slice:
        """The voxels of slice z in the list."""
        return _slice_of(self.voxels, z)

    def plane(self, z: int, lesion: int | None, rows: slice, columns: slice) -> NDArray[np.float32] | None:
        """0 and 1 in a part of slice z, of one lesion, or of all; None where the slice has none."""
        voxels = self.voxels if lesion is None else self.by_lesion[lesion]
        voxels = voxels[_slice_of(voxels, z), 1:] - (rows.start, columns.start)
        shape = rows.stop - rows.start, columns.stop - columns.start
        voxels = voxels[((voxels >= 0) & (voxels < shape)).all(axis=1)]
        if not len(voxels):
            return None
        out = np.zeros(shape, np.float32)
        out[voxels[:, 0], voxels[:, 1]] = 1
        return out

    def near(self, point_zyx: tuple[int, int, int], reach_zyx: NDArray[np.float64]) -> bool:
        """Whether a point lies within `reach_zyx` voxels of the box of a lesion."""
        return any(
            bool(((first - reach_zyx <= point_zyx) & (point_zyx <= last + reach_zyx)).all())
            for first, last in self.boxes
        )


def _slice_of(voxels: NDArray[np.int32], z: int) -> slice:
    return slice(*np.searchsorted(voxels[:, 0], [z, z + 1]).tolist())
