"""Two models on the same lesions: difference and significance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.metrics.bootstrap import bootstrap_ci

EXACT_PATIENTS = 12
"""Up to this number of patients all 2^n signs are tried; beyond it signs are drawn at random."""
_TIE = 1e-12  # smaller differences tie in ranks, and count as equally extreme


@dataclass(frozen=True)
class PairedDifference:
    """First less second, over the lesions where both are finite.

    Attributes
    ----------
    n_lesions, n_patients, n_left_out : compared; left out because a score is not finite
    mean_first, mean_second, difference : means over lesions
    ci95_lo, ci95_hi : of the difference, bootstrap by patient; None of fewer than two patients
    p_sign_flip : two-sided, of the mean difference, with signs flipped by patient
    p_wilcoxon : two-sided signed-rank test of the patients' mean differences; None of fewer than two patients
    cohens_dz : mean of the patients' mean differences over their standard deviation (n − 1); None if that is 0
    rank_biserial : matched-pairs rank-biserial correlation of the patients' mean differences, in [-1, 1]; None if all are 0
    better, worse, equal : lesions where the first is better, worse, equal. Infinite distances count here, as worse than any finite
        one; NaN does not
    """

    n_lesions: int
    n_patients: int
    n_left_out: int
    mean_first: float | None
    mean_second: float | None
    difference: float | None
    ci95_lo: float | None
    ci95_hi: float | None
    p_sign_flip: float | None
    p_wilcoxon: float | None
    cohens_dz: float | None
    rank_biserial: float | None
    better: int
    worse: int
    equal: int


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence[str],
    *,
    larger_is_better: bool = True,
    n: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two scores of the same lesions.

    Parameters
    ----------
    first, second : scores by lesion; means and tests omit NaN and infinite ones
    patients : patient of each lesion
    larger_is_better : as for Dice; False for distances and errors
    n : signs drawn for more than `EXACT_PATIENTS` patients
    seed : of bootstrap and signs

    Raises
    ------
    InputError
        If the lengths differ.
    """
    if not len(first) == len(second) == len(patients):
        raise InputError(
            f"first, second, patients: expected equal lengths, got {len(first)}, {len(second)}, {len(patients)};"
            " pair them by lesion"
        )
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    with np.errstate(invalid="ignore"):
        gain = np.where(a == b, 0.0, np.sign(a - b)) * (1.0 if larger_is_better else -1.0)
    better, worse, equal = (int((gain == sign).sum()) for sign in (1.0, -1.0, 0.0))
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    named = [p for p, keep in zip(patients, finite, strict=True) if keep]
    by_patient: dict[str, list[float]] = {}
    for patient, gap in zip(named, (a - b).tolist(), strict=True):
        by_patient.setdefault(patient, []).append(gap)
    gaps = [np.array(v) for _, v in sorted(by_patient.items())]
    left_out = int((~finite).sum())
    if not gaps:
        return PairedDifference(0, 0, left_out, *(None,) * 9, better, worse, equal)
    difference, lo, hi = bootstrap_ci(by_patient, seed=seed)
    means = np.array([g.mean() for g in gaps])
    several = len(means) > 1
    sd = float(means.std(ddof=1)) if several else 0.0
    return PairedDifference(
        n_lesions=len(a),
        n_patients=len(means),
        n_left_out=left_out,
        mean_first=float(a.mean()),
        mean_second=float(b.mean()),
        difference=difference,
        ci95_lo=lo if several else None,
        ci95_hi=hi if several else None,
        p_sign_flip=sign_flip_p(np.array([g.sum() for g in gaps]), n=n, seed=seed) if several else None,
        p_wilcoxon=_wilcoxon_p(means) if several else None,
        cohens_dz=float(means.mean() / sd) if sd > _TIE else None,
        rank_biserial=_rank_biserial(means),
        better=better,
        worse=worse,
        equal=equal,
    )


def sign_flip_p(sums: NDArray[np.float64], *, n: int = 10_000, seed: int = 0) -> float:
    """Share of sign assignments whose |sum| is at least that of `sums`, one sum of differences for each patient.

    Exact for up to `EXACT_PATIENTS` patients. Beyond that (1 + k) / (1 + n), with k of n random assignments as extreme. The
    observed one counts too: the result is never 0.
    """
    observed = abs(float(sums.sum())) - _TIE * float(np.abs(sums).sum())
    if len(sums) <= EXACT_PATIENTS:
        signs = np.array(list(product((1.0, -1.0), repeat=len(sums))))
        return float((np.abs(signs @ sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = sum(int(abs((rng.integers(0, 2, len(sums)) * 2 - 1) @ sums) >= observed) for _ in range(n))
    return (1 + extreme) / (1 + n)


def _ranked(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-zero differences, rounded to make ties equal."""
    rounded = np.round(means, 12)
    return rounded[rounded != 0]


def _wilcoxon_p(means: NDArray[np.float64]) -> float:
    from scipy import stats

    kept = _ranked(means)
    return float(stats.wilcoxon(kept).pvalue) if kept.size else 1.0


def _rank_biserial(means: NDArray[np.float64]) -> float | None:
    from scipy import stats

    kept = _ranked(means)
    if not kept.size:
        return None
    ranks = stats.rankdata(np.abs(kept))
    return float((ranks * np.sign(kept)).sum() / ranks.sum())
