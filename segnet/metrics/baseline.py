"""Score of an empty prediction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from segnet.errors import InputError
from segnet.metrics._masks import as_mask


@dataclass(frozen=True)
class Baseline:
    """Mean Dice of an empty prediction, under two conventions.

    `lesion_dice`: level = lesion volume, empty = skip; 0 for every lesion.
    `slice_dice`: level = slice, empty = one; the share of slices without lesion.
    Either is None without samples.
    """

    lesion_dice: float | None
    slice_dice: float | None
    n_lesions: int
    n_slices: int


def all_background_baseline(truths: Iterable[ArrayLike]) -> Baseline:
    """Dice of an all-background prediction, to show beside every table of scores.

    Parameters
    ----------
    truths : masks of shape (Z, Y, X), slices along the first axis
        ``mask.any(axis=(1, 2), keepdims=True)`` gives the same result.

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
