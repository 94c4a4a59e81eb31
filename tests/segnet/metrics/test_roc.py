"""AUC against counting all pairs, by thresholds against by ranks, and where it does not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from segnet.errors import InputError
from segnet.metrics import RocCounts, auc
from segnet.metrics.roc import THRESHOLDS


def by_pairs(score: np.ndarray, truth: np.ndarray) -> float:
    pos, neg = score[truth].astype(float), score[~truth].astype(float)
    gaps = pos[:, None] - neg[None]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [True, False])
def test_auc_counts_pairs(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random((3, 7, 8)).astype(np.float32)
    if ties:
        score = np.round(score, 1)
    truth = rng.random(score.shape) < 0.2 + 0.4 * score
    found = auc(score, truth)
    assert found == pytest.approx(by_pairs(score, truth), abs=1e-12)
    # the rank formula, (R - P (P + 1) / 2) / (P N)
    n_pos = int(truth.sum())
    ranks = stats.rankdata(score.ravel())[truth.ravel()].sum()
    assert found == pytest.approx((ranks - n_pos * (n_pos + 1) / 2) / (n_pos * (truth.size - n_pos)), abs=1e-12)
    counted = RocCounts.of(score, truth)
    assert abs(counted.auc() - found) <= counted.error_bound() + 1e-12
    # what is rounded to float16 has no pairs within a value but ties
    rounded = score.astype(np.float16).astype(np.float32)
    assert RocCounts.of(rounded, truth).auc() == pytest.approx(auc(rounded, truth), abs=1e-12)


def test_counts_of_two_volumes_are_those_of_both_together() -> None:
    rng = np.random.default_rng(1)
    score, truth = rng.random((4, 9, 9)).astype(np.float32), rng.random((4, 9, 9)) < 0.3
    parts = RocCounts.of(score[:1], truth[:1]) + RocCounts.of(score[1:], truth[1:])
    assert parts.auc() == RocCounts.of(score, truth).auc()
    assert parts.lesion.sum() == truth.sum()
    assert len(parts.background) == THRESHOLDS


def test_of_a_mask_it_is_the_mean_of_sensitivity_and_specificity() -> None:
    rng = np.random.default_rng(2)
    pred, truth = rng.random((5, 6, 7)) < 0.4, rng.random((5, 6, 7)) < 0.3
    expected = ((pred & truth).sum() / truth.sum() + (~pred & ~truth).sum() / (~truth).sum()) / 2
    assert auc(pred, truth) == pytest.approx(expected, abs=1e-12)
    assert RocCounts.of_masks(pred, truth).auc() == pytest.approx(expected, abs=1e-12)
    assert auc(np.zeros_like(truth), truth) == 0.5
    # Of a mask's own values none is rounded.
    assert RocCounts.of_masks(pred, truth).error_bound() == 0.0
    assert np.array_equal(RocCounts.of(pred, truth).lesion, RocCounts.of_masks(pred, truth).lesion)
    assert np.array_equal(RocCounts.of(pred, truth).background, RocCounts.of_masks(pred, truth).background)


def test_the_bound_is_of_rounding_alone() -> None:
    """Values between two of float16 are one after rounding; tiny ones are not 0, nor those next to 1 exactly 1."""
    close = np.array([0.5, 0.50001, 0.0, 0.0], np.float32)
    found = RocCounts.of(close, [0, 1, 0, 1])
    assert found.error_bound() == 1 / 8  # one pair of four, half
    assert abs(found.auc() - auc(close, [0, 1, 0, 1])) == 1 / 8
    ends = np.array([0.0, 1e-30, 1.0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    assert RocCounts.of(ends, [0, 1, 1, 0]).auc() == auc(ends, [0, 1, 1, 0]) == 0.75


def test_ends_and_refusals() -> None:
    assert auc([0.1, 0.9], [0, 1]) == 1.0
    assert auc([0.9, 0.1], [0, 1]) == 0.0
    assert math.isnan(auc([0.1, 0.9], [0, 0]))
    assert math.isnan(auc([0.1, 0.9], [1, 1]))
    assert math.isnan(RocCounts.of([0.1, 0.9], [0, 0]).auc())
    assert RocCounts.of([-0.0, 1.0], [0, 1]).auc() == 1.0
    with pytest.raises(InputError, match=r"probability: expected values in \[0, 1\], got -1.0 to 3.0; give prob"):
        auc([-1.0, 3.0], [0, 1])
    with pytest.raises(InputError, match="probability: expected values"):
        auc([math.nan, 0.5], [0, 1])
    with pytest.raises(InputError, match=r"probability: expected shape \(2,\) like truth, got \(3,\)"):
        RocCounts.of([0.1, 0.2, 0.3], [0, 1])
