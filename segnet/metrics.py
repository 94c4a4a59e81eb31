"""Overlap, volume and distance measures of two lesion masks, and honest summaries of them.

Every measure takes boolean arrays (or arrays that hold only 0 and 1) of equal shape and any dimension,
prediction first. What happens where a mask is empty is written at each function; NaN is returned only by
`dice` and `iou` with ``empty="skip"``, and as the interval of fewer than two patients by `bootstrap_ci`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from segnet.errors import InputError

Empty = Literal["skip", "one", "zero"]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_EMPTY_VALUE: dict[str, float] = {"skip": math.nan, "one": 1.0, "zero": 0.0}


def as_mask(mask: ArrayLike, name: str = "mask") -> BoolArray:
    """`mask` as a boolean array of the same shape.

    Raises
    ------
    InputError
        If `mask` is not boolean and holds anything but 0 and 1.
    """
    array = np.asarray(mask)
    if array.dtype == np.bool_:
        return array
    out = array.astype(np.bool_)
    if not np.array_equal(out, array):
        raise InputError(
            f"{name}: expected booleans or only 0 and 1, got {array.dtype} from {array.min()} to "
            f"{array.max()}; compare with a threshold first"
        )
    return out


def _pair(pred: ArrayLike, truth: ArrayLike) -> tuple[BoolArray, BoolArray]:
    p, t = as_mask(pred, "pred"), as_mask(truth, "truth")
    if p.shape != t.shape:
        raise InputError(
            f"pred: expected shape {t.shape} like truth, got {p.shape}; "
            "resample or transpose the prediction onto the truth's grid"
        )
    return p, t


def _spacing(spacing_mm: Sequence[float], ndim: int) -> FloatArray:
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (ndim,) or not np.all(np.isfinite(spacing)) or not np.all(spacing > 0):
        raise InputError(
            f"spacing_mm: expected {ndim} positive lengths in mm, one per axis of the mask, "
            f"got {tuple(np.ravel(spacing).tolist())}; give them in array order"
        )
    return spacing


def _empty_value(empty: str) -> float:
    if empty not in _EMPTY_VALUE:
        raise InputError(
            f"empty: expected one of {', '.join(_EMPTY_VALUE)}, got {empty!r}; "
            "it names the score where both masks are empty"
        )
    return _EMPTY_VALUE[empty]


def dice(pred: ArrayLike, truth: ArrayLike, *, empty: Empty = "skip") -> float:
    """Dice coefficient of the foreground.

    D = 2 |P ∩ T| / (|P| + |T|)

    Parameters
    ----------
    pred, truth : boolean arrays of equal shape
    empty : {"skip", "one", "zero"}
        The score where both masks are empty: NaN (left out of means), 1 or 0. Where one of them is empty the
        score is 0 whatever is chosen here.

    Returns
    -------
    float in [0, 1], or NaN for two empty masks under ``empty="skip"``.

    Raises
    ------
    InputError
        If the shapes differ, a mask holds values other than 0 and 1, or `empty` is unknown.

    Examples
    --------
    >>> dice([1, 1, 0], [0, 1, 0])
    0.6666666666666666
    """
    p, t = _pair(pred, truth)
    value = _empty_value(empty)
    total = np.count_nonzero(p) + np.count_nonzero(t)
    return float(2.0 * np.count_nonzero(p & t) / total) if total else value


def iou(pred: ArrayLike, truth: ArrayLike, *, empty: Empty = "skip") -> float:
    """Intersection over union (Jaccard index) of the foreground.

    J = |P ∩ T| / |P ∪ T| = D / (2 − D)

    Parameters, Returns and Raises as in `dice`.

    Examples
    --------
    >>> iou([1, 1, 0], [0, 1, 0])
    0.5
    """
    p, t = _pair(pred, truth)
    value = _empty_value(empty)
    union = np.count_nonzero(p | t)
    return float(np.count_nonzero(p & t) / union) if union else value


def ravd(pred: ArrayLike, truth: ArrayLike) -> float:
    """Relative absolute volume difference, ``| |P| − |T| | / |T|``.

    Where the truth is empty it is 0 for an empty prediction and infinite for any other; never NaN.

    Returns
    -------
    float in [0, inf], without unit. An empty prediction of a lesion scores 1.

    Raises
    ------
    InputError
        If the shapes differ or a mask holds values other than 0 and 1.
    """
    p, t = _pair(pred, truth)
    n_pred, n_truth = np.count_nonzero(p), np.count_nonzero(t)
    if n_truth == 0:
        return math.inf if n_pred else 0.0
    return float(abs(n_pred - n_truth) / n_truth)


def volume_ml(mask: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Volume of a 3-D mask in millilitres: voxels × voxel volume / 1000.

    Raises
    ------
    InputError
        If `mask` is not 3-D, holds values other than 0 and 1, or `spacing_mm` is not three positive lengths.
    """
    m = as_mask(mask)
    if m.ndim != 3:
        raise InputError(f"mask: expected three axes for a volume, got shape {m.shape}; pass the whole volume")
    return float(np.count_nonzero(m) * _spacing(spacing_mm, 3).prod() / 1000.0)


def _bounding_box(mask: BoolArray) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def _surface(mask: BoolArray) -> BoolArray:
    """Foreground voxels with a face neighbour in the background; outside of the array is background."""
    surface: BoolArray = mask & ~ndimage.binary_erosion(mask)
    return surface


def surface_distances_mm(
    pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Distance of each surface voxel of one mask to the nearest surface voxel of the other, both ways.

    A surface voxel is a foreground voxel that shares a face with the background; what lies outside of the
    array is background. Distances are Euclidean, between voxel centres.

    Parameters
    ----------
    pred, truth : boolean arrays of equal shape
    spacing_mm : one length in mm per axis, in array order

    Returns
    -------
    (pred_to_truth_mm, truth_to_pred_mm), one value per surface voxel of the first-named mask. An empty mask
    has no surface: its own array has length 0, and every distance to it is infinite.

    Raises
    ------
    InputError
        If the shapes differ, a mask holds values other than 0 and 1, or `spacing_mm` does not fit.
    """
    p, t = _pair(pred, truth)
    spacing = _spacing(spacing_mm, p.ndim)
    either = p | t
    if not either.any():
        return np.empty(0), np.empty(0)
    # Every surface lies inside the box of both masks, so distances there are those of the whole array.
    box = _bounding_box(either)
    p_surface, t_surface = _surface(p[box]), _surface(t[box])
    return _distances_to(t_surface, p_surface, spacing), _distances_to(p_surface, t_surface, spacing)


def _distances_to(target: BoolArray, points: BoolArray, spacing: FloatArray) -> FloatArray:
    if not target.any():
        return np.full(np.count_nonzero(points), math.inf)
    distance: FloatArray = ndimage.distance_transform_edt(~target, sampling=spacing)
    return distance[points]


def _assd(there: FloatArray, back: FloatArray) -> float:
    both = np.concatenate([there, back])
    return float(both.mean()) if both.size else 0.0


def _hd95(there: FloatArray, back: FloatArray) -> float:
    if there.size == 0 and back.size == 0:
        return 0.0
    if there.size == 0 or back.size == 0:
        return math.inf
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def assd_mm(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Average symmetric surface distance in mm: the mean over the surface voxels of both masks together.

    ASSD = (Σ_{p ∈ ∂P} d(p, ∂T) + Σ_{t ∈ ∂T} d(t, ∂P)) / (|∂P| + |∂T|)

    0 where both masks are empty, infinite where one is. Surfaces and Raises as in `surface_distances_mm`.
    """
    return _assd(*surface_distances_mm(pred, truth, spacing_mm))


def hd95_mm(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed percentiles.

    HD95 = max(q95 of d(∂P, ∂T), q95 of d(∂T, ∂P)), percentiles interpolated linearly.

    0 where both masks are empty, infinite where one is. Surfaces and Raises as in `surface_distances_mm`.
    """
    return _hd95(*surface_distances_mm(pred, truth, spacing_mm))


@dataclass(frozen=True)
class LesionScores:
    """Scores of one lesion volume; empty masks as in each function, `dice` and `iou` with "skip"."""

    dice: float
    iou: float
    ravd: float
    assd_mm: float
    hd95_mm: float
    pred_volume_ml: float
    truth_volume_ml: float


def score_lesion(pred: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> LesionScores:
    """All scores of one 3-D lesion, `spacing_mm` in array order.

    Raises
    ------
    InputError
        If the shapes differ, are not 3-D, a mask holds values other than 0 and 1, or `spacing_mm` does not
        fit.
    """
    p, t = _pair(pred, truth)
    there, back = surface_distances_mm(p, t, spacing_mm)
    return LesionScores(
        dice=dice(p, t),
        iou=iou(p, t),
        ravd=ravd(p, t),
        assd_mm=_assd(there, back),
        hd95_mm=_hd95(there, back),
        pred_volume_ml=volume_ml(p, spacing_mm),
        truth_volume_ml=volume_ml(t, spacing_mm),
    )


def bootstrap_ci(
    values_by_patient: Mapping[str, Sequence[float]], *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over lesions and its percentile bootstrap interval, drawing whole patients with replacement.

    Lesions of one patient resemble each other; drawing whole patients keeps that in the width of the
    interval.

    Parameters
    ----------
    values_by_patient : one sequence of lesion values per patient
        NaN marks a lesion left out by ``empty="skip"`` and is dropped, with the patient if nothing is left.
    n : number of draws
    seed : of the generator; the order of the patients has no influence
    level : coverage, between 0 and 1

    Returns
    -------
    (mean, lo, hi). Bounds are order statistics of the drawn means (the outer neighbours of the percentiles),
    so they stand with infinite values too. Fewer than two patients give no interval: lo and hi are NaN.

    Raises
    ------
    InputError
        If no value is left, `n` is below 1 or `level` is outside (0, 1).
    """
    if n < 1:
        raise InputError(f"n: expected at least 1 draw, got {n}; 2000 is usual")
    if not 0.0 < level < 1.0:
        raise InputError(f"level: expected a coverage between 0 and 1, got {level}; 0.95 is usual")
    kept = [v[~np.isnan(v)] for _, v in sorted((k, np.asarray(v, np.float64)) for k, v in values_by_patient.items())]
    kept = [v for v in kept if v.size]
    if not kept:
        raise InputError(
            f"values_by_patient: expected at least one value that is not NaN, got none of "
            f"{len(values_by_patient)} patients; nothing was scored"
        )
    sums = np.array([v.sum() for v in kept])
    counts = np.array([v.size for v in kept])
    mean = float(sums.sum() / counts.sum())
    if len(kept) < 2:
        return mean, math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    for i in range(n):
        draw = rng.integers(0, len(kept), len(kept))
        means[i] = sums[draw].sum() / counts[draw].sum()
    tail = (1.0 - level) / 2.0
    lo = np.quantile(means, tail, method="lower")
    hi = np.quantile(means, 1.0 - tail, method="higher")
    return mean, float(lo), float(hi)


def iou_bounds(mean_dice: float) -> tuple[float, float]:
    """Least and largest mean IoU that a mean Dice allows over the same samples: ``(D / (2 − D), D)``.

    For one sample IoU = D / (2 − D), which is convex in D: by Jensen's inequality the mean IoU is at least
    the same function of the mean Dice, and at most the Dice itself.

    Raises
    ------
    InputError
        If `mean_dice` is outside [0, 1].

    Examples
    --------
    >>> iou_bounds(0.8)
    (0.6666666666666667, 0.8)
    """
    if not 0.0 <= mean_dice <= 1.0:
        raise InputError(f"mean_dice: expected a value in [0, 1], got {mean_dice}; give the mean, not per cent")
    return mean_dice / (2.0 - mean_dice), mean_dice


def check_consistency(mean_dice: float, mean_iou: float, *, tolerance: float = 1e-9) -> bool:
    """Whether a mean Dice and a mean IoU can come from the same samples (see `iou_bounds`).

    `tolerance` covers summation in double precision; for printed numbers give half of their last digit.

    Raises
    ------
    InputError
        If `mean_dice` is outside [0, 1].

    Examples
    --------
    >>> check_consistency(0.9896, 0.8265, tolerance=5e-5)
    False
    """
    lo, hi = iou_bounds(mean_dice)
    return lo - tolerance <= mean_iou <= hi + tolerance


@dataclass(frozen=True)
class Baseline:
    """Mean Dice of predicting nothing at all, under two conventions.

    `lesion_dice`: level = lesion volume, empty = skip; 0 wherever there is a lesion.
    `slice_dice`: level = slice, empty = one; the share of slices without lesion.
    Either is None where no sample is left to average.
    """

    lesion_dice: float | None
    slice_dice: float | None
    n_lesions: int
    n_slices: int


def all_background_baseline(truths: Iterable[ArrayLike]) -> Baseline:
    """Dice of an all-background prediction, to stand beside every table of scores.

    Parameters
    ----------
    truths : masks of shape (Z, Y, X), slices along the first axis
        Only whether a slice holds lesion matters: ``mask.any(axis=(1, 2), keepdims=True)`` gives the same
        answer.

    Raises
    ------
    InputError
        If a mask has no slice axis or holds values other than 0 and 1.
    """
    n_lesions = n_slices = n_empty_slices = 0
    for truth in truths:
        t = as_mask(truth, "truth")
        if t.ndim < 2:
            raise InputError(f"truth: expected a slice axis first, got shape {t.shape}; pass (Z, Y, X)")
        holds = t.any(axis=tuple(range(1, t.ndim)))
        n_lesions += bool(holds.any())
        n_slices += holds.size
        n_empty_slices += int(np.count_nonzero(~holds))
    return Baseline(
        lesion_dice=0.0 if n_lesions else None,
        slice_dice=n_empty_slices / n_slices if n_slices else None,
        n_lesions=n_lesions,
        n_slices=n_slices,
    )


def recist_axes_mm(mask_zyx: ArrayLike, spacing_zyx_mm: Sequence[float]) -> tuple[float, float]:
    """Long and short axis of a lesion in mm, as RECIST 1.1 measures them in the axial plane.

    In each axial slice, every 8-connected part of the mask is outlined by the convex hull of its pixels' edge
    midpoints (half a pixel out from each pixel centre along each axis, the half-level contour of the mask).
    The long axis is the longest diameter of any of these hulls; the short axis is the longest chord of the
    same hull perpendicular to it. Both are within one pixel of the truth on rectangles aligned to the grid
    (from below) and on discs (from above); a single pixel measures one pixel.

    Parameters
    ----------
    mask_zyx : mask of shape (Z, Y, X)
    spacing_zyx_mm : mm, in that order

    Returns
    -------
    (long_mm, short_mm), (0, 0) for an empty mask.

    Raises
    ------
    InputError
        If the mask is not 3-D, holds values other than 0 and 1, or the spacing does not fit.
    """
    mask = as_mask(mask_zyx, "mask_zyx")
    if mask.ndim != 3:
        raise InputError(f"mask_zyx: expected shape (Z, Y, X), got {mask.shape}; add the slice axis in front")
    spacing_yx = _spacing(spacing_zyx_mm, 3)[1:]
    best = (0.0, 0.0)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        labels, _ = ndimage.label(mask[z], structure=np.ones((3, 3), dtype=int))
        for index, box in enumerate(ndimage.find_objects(labels), start=1):
            part = labels[box] == index
            if math.hypot(*(np.array(part.shape) * spacing_yx)) >= best[0]:
                best = max(best, _axes_of_part(part, spacing_yx))
    return best


def _axes_of_part(part: BoolArray, spacing_yx: FloatArray) -> tuple[float, float]:
    """Diameter and longest perpendicular chord of the hull of one part, shape (Y, X)."""
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
    t = (hull - hull[i]) @ along
    side = (hull - hull[i]) @ np.array([-along[1], along[0]])
    # The long axis cuts the hull into two chains, each a function of t; their distance is linear between
    # vertices.
    chords = _chain(t, side, 1.0, long_mm) + _chain(t, side, -1.0, long_mm)
    return long_mm, min(long_mm, float(chords.max()))  # a chord exceeds the diameter by rounding only


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


def uls23_score(dice: float, long_axis_error: float, short_axis_error: float, consistency: float) -> float:
    """The ULS23 challenge's score, ``0.8 D + 0.05 (1 − LAE) + 0.05 (1 − SAE) + 0.1 consistency``, in [0, 1].

    Parameters
    ----------
    dice : mean 3-D Dice over lesions
    long_axis_error, short_axis_error : means of `axis_error`
    consistency : mean pairwise Dice of the masks from several click positions, aligned on one grid

    Raises
    ------
    InputError
        If a value is outside [0, 1].
    """
    named: dict[str, Any] = {
        "dice": dice,
        "long_axis_error": long_axis_error,
        "short_axis_error": short_axis_error,
        "consistency": consistency,
    }
    for name, value in named.items():
        if not 0.0 <= value <= 1.0:
            raise InputError(f"{name}: expected a value in [0, 1], got {value}; give the mean over lesions")
    return 0.8 * dice + 0.05 * (1.0 - long_axis_error) + 0.05 * (1.0 - short_axis_error) + 0.1 * consistency


@dataclass(frozen=True)
class SliceScores:
    """Scores of slices in the manner of the paper (arXiv 2404.17235, V-C), one entry per slice that counts.

    `dice`, `iou`: every slice, two empty masks score 1. `ravd`: slices whose truth holds lesion. `asd_px`,
    `mhd_px`: slices where both masks hold lesion; mean and maximum of the distances, in pixels, from the
    points of the predicted mask to the nearest point of the truth. They are directed: a prediction inside the
    lesion scores 0.
    """

    dice: list[float]
    iou: list[float]
    ravd: list[float]
    asd_px: list[float]
    mhd_px: list[float]


def paper_slice_scores(pred_zyx: ArrayLike, truth_zyx: ArrayLike) -> SliceScores:
    """The paper's slice-level scores of one volume, to print beside the others and never to aim at.

    Parameters
    ----------
    pred_zyx, truth_zyx : masks of equal shape (Z, Y, X)

    Raises
    ------
    InputError
        If the shapes differ or a mask holds values other than 0 and 1.

    Source: Mamba-AHNet, arXiv 2404.17235, section V-C. What it leaves open (empty masks, unit) is decided in
    `SliceScores`.
    """
    pred, truth = _pair(pred_zyx, truth_zyx)
    out = SliceScores([], [], [], [], [])
    for p, t in zip(pred, truth, strict=True):
        out.dice.append(dice(p, t, empty="one"))
        out.iou.append(iou(p, t, empty="one"))
        if t.any():
            out.ravd.append(ravd(p, t))
        if t.any() and p.any():
            box = _bounding_box(p | t)
            distances = _distances_to(t[box], p[box], np.ones(t.ndim))
            out.asd_px.append(float(distances.mean()))
            out.mhd_px.append(float(distances.max()))
    return out
