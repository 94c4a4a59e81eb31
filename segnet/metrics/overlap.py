"""Overlap and volume of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from segnet.errors import InputError
from segnet.metrics._masks import as_mask, checked_spacing, pair

Empty = Literal["skip", "one", "zero"]

_EMPTY_VALUE: dict[str, float] = {"skip": math.nan, "one": 1.0, "zero": 0.0}


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
        Score of two empty masks: NaN (left out of means), 1 or 0. If only one is empty, the score is always 0.

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
    p, t = pair(pred, truth)
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
    p, t = pair(pred, truth)
    value = _empty_value(empty)
    union = np.count_nonzero(p | t)
    return float(np.count_nonzero(p & t) / union) if union else value


def ravd(pred: ArrayLike, truth: ArrayLike) -> float:
    """Relative absolute volume difference, ``| |P| − |T| | / |T|``.

    With an empty truth it is 0 for an empty prediction and infinite for any other; never NaN.

    Returns
    -------
    float in [0, inf], without unit. An empty prediction of a lesion scores 1.

    Raises
    ------
    InputError
        If the shapes differ or a mask holds values other than 0 and 1.
    """
    p, t = pair(pred, truth)
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
    return float(np.count_nonzero(m) * checked_spacing(spacing_mm, 3).prod() / 1000.0)
