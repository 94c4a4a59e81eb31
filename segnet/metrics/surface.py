"""Distances between the surfaces of two masks, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from segnet.io.boxes import bounding_box
from segnet.metrics._masks import BoolArray, FloatArray, checked_spacing, pair


def _surface(mask: BoolArray) -> BoolArray:
    """Foreground voxels with a face neighbour in the background; outside the array is background."""
    surface: BoolArray = mask & ~ndimage.binary_erosion(mask)
    return surface


def surface_distances_mm(
    pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Distance from each surface voxel of one mask to the nearest of the other, both ways.

    A surface voxel is a foreground voxel that shares a face with the background. Outside the array is background. Distances are
    Euclidean, between voxel centres.

    Parameters
    ----------
    pred, truth : boolean arrays of equal shape
    spacing_mm : one length in mm per axis, in array order

    Returns
    -------
    (pred_to_truth_mm, truth_to_pred_mm), one value per surface voxel of the first-named mask. The array of an empty mask has
    length 0; every distance to it is infinite.

    Raises
    ------
    InputError
        If the shapes differ, a mask holds values other than 0 and 1, or `spacing_mm` does not fit.
    """
    p, t = pair(pred, truth)
    spacing = checked_spacing(spacing_mm, p.ndim)
    either = p | t
    if not either.any():
        return np.empty(0), np.empty(0)
    # The box of both masks holds every surface: distances equal the whole array's.
    box = bounding_box(either)
    p_surface, t_surface = _surface(p[box]), _surface(t[box])
    return distances_to(t_surface, p_surface, spacing), distances_to(p_surface, t_surface, spacing)


def distances_to(target: BoolArray, points: BoolArray, spacing: FloatArray) -> FloatArray:
    """Distance in mm of each voxel of `points` to the nearest of `target`; infinite for an empty target."""
    if not target.any():
        return np.full(np.count_nonzero(points), math.inf)
    distance: FloatArray = ndimage.distance_transform_edt(~target, sampling=spacing)
    return distance[points]


def mean_directed(there: FloatArray, back: FloatArray) -> float:
    """Mean of the distances `there`; 0 where both masks are empty, infinite where one is."""
    if there.size == 0:
        return math.inf if back.size else 0.0
    return float(there.mean())


def mean_of_both(there: FloatArray, back: FloatArray) -> float:
    """Mean of all distances of both directions; 0 where both masks are empty, infinite where one is."""
    both = np.concatenate([there, back])
    return float(both.mean()) if both.size else 0.0


def larger_percentile(there: FloatArray, back: FloatArray, percentile: float) -> float:
    """Larger one of both directions' percentiles; 0 where both masks are empty, infinite where one is."""
    if there.size == 0 and back.size == 0:
        return 0.0
    if there.size == 0 or back.size == 0:
        return math.inf
    return float(max(np.percentile(there, percentile), np.percentile(back, percentile)))


def asd_mm(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Average surface distance in mm, directed from the prediction to the truth.

    ASD = Σ_{p ∈ ∂P} d(p, ∂T) / |∂P|

    It ignores missed parts of the lesion. Swap the arguments for the other direction, or use `assd_mm`.
    0 where both masks are empty, infinite where one is. Surfaces and Raises as in `surface_distances_mm`.
    """
    return mean_directed(*surface_distances_mm(pred, truth, spacing_mm))


def hd_mm(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Hausdorff distance in mm: the largest distance of a surface voxel of either mask to the other surface.

    HD = max(max d(∂P, ∂T), max d(∂T, ∂P))

    0 where both masks are empty, infinite where one is. Surfaces and Raises as in `surface_distances_mm`.
    """
    return larger_percentile(*surface_distances_mm(pred, truth, spacing_mm), 100.0)


def assd_mm(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Average symmetric surface distance in mm: the mean over all surface voxels of both masks.

    ASSD = (Σ_{p ∈ ∂P} d(p, ∂T) + Σ_{t ∈ ∂T} d(t, ∂P)) / (|∂P| + |∂T|)

    0 where both masks are empty, infinite where one is. Surfaces and Raises as in `surface_distances_mm`.
    """
    return mean_of_both(*surface_distances_mm(pred, truth, spacing_mm))


def hd95_mm(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed percentiles.

    HD95 = max(q95 of d(∂P, ∂T), q95 of d(∂T, ∂P)), percentiles interpolated linearly.

    0 where both masks are empty, infinite where one is. Surfaces and Raises as in `surface_distances_mm`.
    """
    return larger_percentile(*surface_distances_mm(pred, truth, spacing_mm), 95.0)
