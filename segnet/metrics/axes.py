"""Long and short axis of a lesion in the axial plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from segnet.errors import InputError
from segnet.metrics._masks import BoolArray, FloatArray, as_mask, checked_spacing

Point = tuple[float, float]


@dataclass(frozen=True)
class RecistAxes:
    """The two axes of a lesion, as lengths and as lines to draw.

    Attributes
    ----------
    z : their slice
    long_mm, short_mm : lengths
    long_yx, short_yx : both ends of each as (y, x) in voxels. Whole numbers are pixel centres: an end lies up to half a pixel
        outside the outermost centre
    """

    z: int
    long_mm: float
    short_mm: float
    long_yx: tuple[Point, Point]
    short_yx: tuple[Point, Point]

    def moved(self, corner_zyx: Sequence[int]) -> RecistAxes:
        """Axes of a box in the indices of the volume; `corner_zyx` is the first voxel of the box."""
        z, y, x = corner_zyx
        long_yx, short_yx = (((a[0] + y, a[1] + x), (b[0] + y, b[1] + x)) for a, b in (self.long_yx, self.short_yx))
        return replace(self, z=self.z + z, long_yx=long_yx, short_yx=short_yx)


def recist(mask_zyx: ArrayLike, spacing_zyx_mm: Sequence[float]) -> RecistAxes | None:
    """Long and short axis of a lesion with their slice and end points, None for an empty mask.

    In each axial slice every 8-connected part has a convex hull of its pixels' edge midpoints: half a pixel from each centre along
    each axis. The long axis is the longest diameter of all hulls; the short axis is the longest chord of the same hull
    perpendicular to it, in mm. Both are within one pixel of the truth on rectangles aligned to the grid (from below) and on discs
    (from above). A single pixel measures one pixel. Of equal slices the first is taken.

    Parameters
    ----------
    mask_zyx : mask of shape (Z, Y, X)
    spacing_zyx_mm : mm, in that order

    Raises
    ------
    InputError
        If the mask is not 3-D, holds values other than 0 and 1, or the spacing does not fit.
    """
    mask = as_mask(mask_zyx, "mask_zyx")
    if mask.ndim != 3:
        raise InputError(f"mask_zyx: expected shape (Z, Y, X), got {mask.shape}; add the slice axis in front")
    spacing_yx = checked_spacing(spacing_zyx_mm, 3)[1:]
    best: RecistAxes | None = None
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        labels, _ = ndimage.label(mask[z], structure=np.ones((3, 3), dtype=int))
        for index, box in enumerate(ndimage.find_objects(labels), start=1):
            part = labels[box] == index
            if best is not None and math.hypot(*(np.array(part.shape) * spacing_yx)) < best.long_mm:
                continue
            found = _axes_of_part(part, spacing_yx, int(z), np.array([box[0].start, box[1].start]))
            if best is None or (found.long_mm, found.short_mm) > (best.long_mm, best.short_mm):
                best = found
    return best


def recist_axes_mm(mask_zyx: ArrayLike, spacing_zyx_mm: Sequence[float]) -> tuple[float, float]:
    """Long and short axis of a lesion in mm, as RECIST 1.1 measures them in the axial plane.

    Parameters, definition and Raises as in `recist`.

    Returns
    -------
    (long_mm, short_mm), (0, 0) for an empty mask.
    """
    axes = recist(mask_zyx, spacing_zyx_mm)
    return (0.0, 0.0) if axes is None else (axes.long_mm, axes.short_mm)


def _axes_of_part(part: BoolArray, spacing_yx: FloatArray, z: int, corner_yx: NDArray[np.int_]) -> RecistAxes:
    """Diameter and longest perpendicular chord of one part's hull, shape (Y, X); its box begins at `corner_yx`."""
    y = np.flatnonzero(part.any(axis=1))
    # The leftmost and rightmost pixel of each row span the hull of the row.
    first, last = part[y].argmax(axis=1), part.shape[1] - 1 - part[y][:, ::-1].argmax(axis=1)
    ends = np.stack([np.tile(y, 2), np.concatenate([first, last])], axis=1).astype(np.float64)
    midpoints = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    points = (ends[:, None, :] + midpoints).reshape(-1, 2) * spacing_yx
    hull = points[ConvexHull(points).vertices]
    distances = squareform(pdist(hull))
    i, j = np.unravel_index(int(distances.argmax()), distances.shape)
    long_mm = float(distances[i, j])
    along = (hull[j] - hull[i]) / long_mm
    across = np.array([-along[1], along[0]])
    t = (hull - hull[i]) @ along
    side = (hull - hull[i]) @ across
    # The long axis cuts the hull into two chains, each a function of t; their distance is linear between vertices.
    above, below = _chain(t, side, 1.0, long_mm), _chain(t, side, -1.0, long_mm)
    chords = above + below
    k = int(chords.argmax())
    foot = hull[i] + t[k] * along

    def yx(point_mm: FloatArray) -> Point:
        y, x = (point_mm / spacing_yx + corner_yx).tolist()
        return y, x

    return RecistAxes(
        z=z,
        long_mm=long_mm,
        short_mm=min(long_mm, float(chords[k])),  # a chord exceeds the diameter by rounding only
        long_yx=(yx(hull[i]), yx(hull[j])),
        short_yx=(yx(foot - below[k] * across), yx(foot + above[k] * across)),
    )


def _chain(t: FloatArray, side: FloatArray, sign: float, long_mm: float) -> FloatArray:
    """Distance from the long axis to the hull's border on one side of it, at every vertex's t."""
    on_side = np.flatnonzero(sign * side > 0.0)
    on_side = on_side[np.argsort(t[on_side])]
    return np.interp(t, np.r_[0.0, t[on_side], long_mm], np.r_[0.0, sign * side[on_side], 0.0])


def axis_error(pred_mm: float, truth_mm: float) -> float:
    """Relative error of an axis as ULS23 scores it, ``|p − t| / (p + t)``, in [0, 1]; 0 where both are 0.

    Examples
    --------
    >>> axis_error(10.0, 30.0)
    0.5
    """
    total = pred_mm + truth_mm
    return min(1.0, abs(pred_mm - truth_mm) / total) if total > 0 else 0.0
