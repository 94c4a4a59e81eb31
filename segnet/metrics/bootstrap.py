"""Intervals of a mean over lesions, drawn by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from segnet.errors import InputError


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
