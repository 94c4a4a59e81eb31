"""Bootstrap intervals by patient: of a mean over lesions and of a pooled ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError

_DRAWN_AT_ONCE = 2**18  # patients, over all draws held in memory together


def bootstrap_ci(
    values_by_patient: Mapping[str, Sequence[float]], *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over lesions and its percentile bootstrap interval, drawing whole patients with replacement.

    Lesions of one patient resemble each other. Drawing whole patients keeps this in the width of the interval.

    Parameters
    ----------
    values_by_patient : one sequence of lesion values per patient
        NaN marks a lesion left out by ``empty="skip"`` and is dropped, with the patient if nothing is left.
    n : number of draws
    seed : of the generator; the order of the patients has no influence
    level : coverage, between 0 and 1

    Returns
    -------
    (mean, lo, hi). Bounds are order statistics of the drawn means, the outer neighbours of the percentiles; infinite values are
    allowed. With fewer than two patients lo and hi are NaN.

    Raises
    ------
    InputError
        If no value is left, `n` is below 1 or `level` is outside (0, 1).
    """
    _check(n, level)
    kept = [v[~np.isnan(v)] for _, v in sorted((k, np.asarray(v, np.float64)) for k, v in values_by_patient.items())]
    kept = [v for v in kept if v.size]
    if not kept:
        raise InputError(
            f"values_by_patient: expected at least one value that is not NaN, got none of "
            f"{len(values_by_patient)} patients; nothing was scored"
        )
    sums = np.array([v.sum() for v in kept])
    counts = np.array([v.size for v in kept], np.float64)
    return float(sums.sum() / counts.sum()), *_interval(sums, counts, n, seed, level)


def bootstrap_ratio_ci(
    parts_by_patient: Mapping[str, tuple[float, float]], *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Ratio of two sums over patients and its percentile bootstrap interval, drawing patients with replacement.

    Pooled scores are such ratios: a pooled Dice is twice the sum of all intersections over the sum of all volumes.

    Parameters
    ----------
    parts_by_patient : (numerator, denominator) of each patient, finite, the denominator not negative
    n, seed, level : as in `bootstrap_ci`

    Returns
    -------
    (ratio, lo, hi). All are NaN if all denominators are 0. The interval omits draws with all denominators 0. With fewer than two
    patients lo and hi are NaN.

    Raises
    ------
    InputError
        If `n` is below 1 or `level` is outside (0, 1).
    """
    _check(n, level)
    parts = np.array([p for _, p in sorted(parts_by_patient.items())], np.float64).reshape(-1, 2)
    total = parts.sum(axis=0)
    if total[1] == 0:
        return math.nan, math.nan, math.nan
    return float(total[0] / total[1]), *_interval(parts[:, 0], parts[:, 1], n, seed, level)


def _check(n: int, level: float) -> None:
    if n < 1:
        raise InputError(f"n: expected at least 1 draw, got {n}; 2000 is usual")
    if not 0.0 < level < 1.0:
        raise InputError(f"level: expected a coverage between 0 and 1, got {level}; 0.95 is usual")


def _interval(
    above: NDArray[np.float64], below: NDArray[np.float64], n: int, seed: int, level: float
) -> tuple[float, float]:
    """Percentile interval of Σ above / Σ below over draws of patients; NaN of fewer than two."""
    patients = len(above)
    if patients < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    ratios = []
    at_once = max(1, _DRAWN_AT_ONCE // patients)
    for start in range(0, n, at_once):
        draws = rng.integers(0, patients, (min(at_once, n - start), patients))
        divisor = below[draws].sum(axis=1)
        ratios.append(above[draws].sum(axis=1)[divisor > 0] / divisor[divisor > 0])
    found = np.concatenate(ratios)
    tail = (1.0 - level) / 2.0
    lo = np.quantile(found, tail, method="lower")
    hi = np.quantile(found, 1.0 - tail, method="higher")
    return float(lo), float(hi)
