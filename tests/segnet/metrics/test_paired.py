"""Two models: counts, tests by patient and effect sizes, against hand counts and full enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from segnet.errors import InputError
from segnet.metrics import bootstrap_ci, bootstrap_ratio_ci, paired_difference
from segnet.metrics.paired import EXACT_PATIENTS, sign_flip_p


def test_by_hand() -> None:
    first, second = [0.9, 0.8, 0.7, 0.5], [0.8, 0.6, 0.7, 0.6]
    found = paired_difference(first, second, ["a", "a", "b", "c"])
    assert (found.n_lesions, found.n_patients, found.n_left_out) == (4, 3, 0)
    assert found.difference == pytest.approx(0.05, rel=1e-12)
    assert (found.mean_first, found.mean_second) == (pytest.approx(0.725), pytest.approx(0.675))
    assert (found.better, found.worse, found.equal) == (2, 1, 1)
    means = np.array([0.15, 0.0, -0.1])
    assert found.cohens_dz == pytest.approx(means.mean() / means.std(ddof=1), rel=1e-9)
    assert found.rank_biserial == pytest.approx((2 - 1) / 3, rel=1e-12)
    # sums by patient 0.3, 0, -0.1: |±0.3 ± 0.1| is at least 0.2 for every sign
    assert found.p_sign_flip == 1.0
    interval = bootstrap_ci({"a": [0.1, 0.2], "b": [0.0], "c": [-0.1]})[1:]
    assert (found.ci95_lo, found.ci95_hi) == pytest.approx(interval, rel=1e-12)
    mirrored = paired_difference(second, first, ["a", "a", "b", "c"])
    assert mirrored.difference == pytest.approx(-0.05)
    assert (mirrored.better, mirrored.worse) == (1, 2)


def test_smaller_may_be_better_and_infinity_is_worst() -> None:
    inf, nan = math.inf, math.nan
    found = paired_difference(
        [1.0, inf, 2.0, inf, nan], [2.0, 3.0, inf, inf, 1.0], list("abcde"), larger_is_better=False
    )
    assert (found.better, found.worse, found.equal) == (2, 1, 1)
    assert (found.n_lesions, found.n_left_out, found.difference) == (1, 4, -1.0)
    assert (found.ci95_lo, found.p_sign_flip, found.p_wilcoxon, found.cohens_dz) == (None, None, None, None)
    nothing = paired_difference([nan], [1.0], ["a"])
    assert (nothing.n_lesions, nothing.difference, nothing.better) == (0, None, 0)


@pytest.mark.parametrize("patients", [2, 5, EXACT_PATIENTS])
def test_sign_flips_are_all_gone_through(patients: int) -> None:
    sums = np.random.default_rng(patients).normal(0.3, 1.0, patients)
    flipped = [abs(float(np.dot(s, sums))) for s in product((1, -1), repeat=patients)]
    expected = np.mean([f >= abs(sums.sum()) - 1e-9 for f in flipped])
    assert sign_flip_p(sums) == pytest.approx(expected, abs=1e-15)
    assert sign_flip_p(np.abs(sums)) == 2 / 2**patients  # all of one sign: only it and its mirror are as extreme


def test_drawn_signs_agree_with_all_of_them_and_are_never_0() -> None:
    sums = np.random.default_rng(7).normal(0.4, 1.0, EXACT_PATIENTS + 2)
    every = np.array(list(product((1.0, -1.0), repeat=len(sums)))) @ sums
    exact = float((np.abs(every) >= abs(sums.sum()) - 1e-9).mean())
    drawn = sign_flip_p(sums, n=4000)
    # a share of 4,000 draws: five standard deviations
    assert abs(drawn - exact) <= 5 * math.sqrt(exact * (1 - exact) / 4000)
    assert sign_flip_p(np.ones(60), n=500) == 1 / 501
    assert sign_flip_p(sums, n=300, seed=1) == sign_flip_p(sums, n=300, seed=1)


def test_no_difference_is_no_evidence() -> None:
    same = [0.5, 0.6, 0.7]
    found = paired_difference(same, same, list("abc"))
    assert (found.difference, found.p_sign_flip, found.p_wilcoxon) == (0.0, 1.0, 1.0)
    assert (found.cohens_dz, found.rank_biserial, found.equal) == (None, None, 3)


def test_the_test_keeps_its_level() -> None:
    """Under no difference, p <= 0.05 in about one trial of twenty, though lesions of a patient go together."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        effects = rng.normal(0, 0.1, 8)
        gaps = np.repeat(effects, 4) + rng.normal(0, 0.01, 32)
        found = paired_difference(gaps.tolist(), [0.0] * 32, [str(i // 4) for i in range(32)])
        assert found.p_sign_flip is not None
        hits += found.p_sign_flip <= 0.05
    # 15 expected with a standard deviation of 3.8; tests by lesion would give over a hundred
    assert hits <= 15 + 5 * 3.8


def test_wilcoxon_is_of_patients() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(30), rng.random(30)
    patients = [f"p{i // 3}" for i in range(30)]
    means = (first - second).reshape(10, 3).mean(axis=1)
    found = paired_difference(first.tolist(), second.tolist(), patients)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(means).pvalue, rel=1e-12)
    with pytest.raises(InputError, match="expected equal lengths, got 1, 2, 1"):
        paired_difference([1.0], [1.0, 2.0], ["a"])


def test_ratio_of_sums_by_patient() -> None:
    parts = {"a": (2.0, 4.0), "b": (9.0, 10.0), "c": (0.0, 0.0)}
    ratio, lo, hi = bootstrap_ratio_ci(parts, seed=2)
    assert ratio == pytest.approx(11 / 14, rel=1e-15)
    assert (lo, hi) == (0.5, 0.9)
    assert all(math.isnan(x) for x in bootstrap_ratio_ci({}))
    assert all(math.isnan(x) for x in bootstrap_ratio_ci({"a": (0.0, 0.0)}))
    one, lo, hi = bootstrap_ratio_ci({"a": (1.0, 2.0)})
    assert one == 0.5
    assert math.isnan(lo)
    assert math.isnan(hi)
    with pytest.raises(InputError, match="n: expected at least 1 draw"):
        bootstrap_ratio_ci(parts, n=0)
