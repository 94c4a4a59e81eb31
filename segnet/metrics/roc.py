"""Area under the ROC curve of voxels: exact for one volume, by thresholds for many."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.errors import InputError
from segnet.metrics._masks import BoolArray, as_mask

THRESHOLDS = 0x3C00 + 3
"""Exactly 0; one for each float16 value from 0 to 1, whose bits count in rising order; exactly 1."""


def as_probability(probability: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """`probability` as floats of that shape; InputError unless all lie in [0, 1]."""
    array = np.asarray(probability)
    found: NDArray[np.floating] = array if array.dtype.kind == "f" else array.astype(np.float32)
    if found.shape != shape:
        raise InputError(
            f"probability: expected shape {shape} like truth, got {found.shape}; resample it onto the truth's grid"
        )
    if found.size and not (found.min() >= 0.0 and found.max() <= 1.0):  # also false for NaN
        raise InputError(
            f"probability: expected values in [0, 1], got {found.min()} to {found.max()}; give probabilities, not logits"
        )
    return found


def auc(probability: ArrayLike, truth: ArrayLike) -> float:
    """Area under the ROC curve over all voxels, exact, by ranks.

    AUC = (#{(p, n): s_p > s_n} + #{(p, n): s_p = s_n} / 2) / (P N), p over the P voxels of the lesion and n over the N others.

    For a mask of 0 and 1 it is the mean of sensitivity and specificity. More background brings it closer to 1: compare only values
    over the same voxels.

    Parameters
    ----------
    probability : of lesion, in [0, 1], or a mask
    truth : mask of the same shape

    Returns
    -------
    float in [0, 1], or NaN where the truth is empty or holds every voxel.

    Raises
    ------
    InputError
        If the shapes differ, `truth` holds values other than 0 and 1, or `probability` leaves [0, 1].

    Examples
    --------
    >>> auc([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0])
    0.875
    """
    t = as_mask(truth, "truth")
    score = as_probability(probability, t.shape)
    lesion, others = score[t], np.sort(score[~t])
    if lesion.size == 0 or others.size == 0:
        return math.nan
    below = int(np.searchsorted(others, lesion, side="left").sum())
    not_above = int(np.searchsorted(others, lesion, side="right").sum())
    return (below + not_above) / (2 * lesion.size * others.size)


@dataclass(frozen=True, eq=False)
class RocCounts:
    """Voxels by probability rounded to float16, for an AUC over many volumes. Rounding keeps the order.

    Exact zeros and ones are counted apart: most voxels have them, and their ties do not come from rounding.

    Attributes
    ----------
    lesion, background : int64 (THRESHOLDS,), voxels of each class at each value
    """

    lesion: NDArray[np.int64]
    background: NDArray[np.int64]

    @classmethod
    def of(cls, probability: ArrayLike, truth: ArrayLike) -> RocCounts:
        """Counts of one volume; Parameters and Raises as in `auc`."""
        t = as_mask(truth, "truth")
        score = as_probability(probability, t.shape)
        return cls(_counts(score[t]), _counts(score[~t]))

    @classmethod
    def of_masks(cls, pred: BoolArray, truth: BoolArray) -> RocCounts:
        """Counts of a mask taken as probabilities of 0 and 1."""
        out = cls(np.zeros(THRESHOLDS, np.int64), np.zeros(THRESHOLDS, np.int64))
        both, lesion, marked = (int(np.count_nonzero(m)) for m in (pred & truth, truth, pred))
        out.lesion[[0, -1]] = lesion - both, both
        out.background[[0, -1]] = truth.size - lesion - (marked - both), marked - both
        return out

    def __add__(self, other: RocCounts) -> RocCounts:
        return RocCounts(self.lesion + other.lesion, self.background + other.background)

    def auc(self) -> float:
        """Area under the curve; ties count half; NaN if a class is absent."""
        pairs = self._pairs()
        if pairs == 0.0:
            return math.nan
        below = np.cumsum(self.background) - self.background
        return float((self.lesion * (below + self.background / 2)).sum() / pairs)

    def error_bound(self) -> float:
        """Bound of the difference between `auc` and the AUC before rounding; NaN if a class is absent.

        Half the share of pairs (one voxel of each class) that rounding may have tied.
        """
        pairs = self._pairs()
        rounded = slice(1, -1)
        return (
            float((self.lesion[rounded].astype(np.float64) * self.background[rounded]).sum() / (2 * pairs))
            if pairs
            else math.nan
        )

    def _pairs(self) -> float:
        return float(self.lesion.sum()) * float(self.background.sum())


def _counts(score: NDArray[np.floating]) -> NDArray[np.int64]:
    index = np.abs(score).astype(np.float16).view(np.uint16) + np.uint16(1)  # abs, because the bits of -0.0 are not 0
    index[score == 0] = 0
    index[score == 1] = THRESHOLDS - 1
    return np.bincount(index, minlength=THRESHOLDS).astype(np.int64)
