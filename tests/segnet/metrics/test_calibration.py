"""Reliability against a loop over voxels, and that volumes add up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segnet.metrics.calibration import BINS, Calibration


def by_loop(p: np.ndarray, t: np.ndarray) -> tuple[float, float, float, list[int]]:
    members: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for value, marked in zip(p.ravel().tolist(), t.ravel().tolist(), strict=True):
        k = next(k for k in range(BINS) if k == BINS - 1 or value < np.linspace(0, 1, BINS + 1)[k + 1])
        members[k].append((value, marked))
    gaps = [abs(np.mean([v for v, _ in m]) - np.mean([b for _, b in m])) if m else 0.0 for m in members]
    counts = [len(m) for m in members]
    ece = sum(n * g for n, g in zip(counts, gaps, strict=True)) / p.size
    return ece, max(gaps), float(np.mean((p.astype(float) - t) ** 2)), counts


@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.beta(0.4, 0.6, (3, 6, 7)).astype(np.float32)
    p.flat[:3] = 0.0, 1.0, 0.5  # the ends, and an edge between bins
    t = rng.random(p.shape) < p**2
    found = Calibration.of(p, t)
    ece, mce, brier, counts = by_loop(p, t)
    assert found.n.tolist() == counts
    assert found.voxels == p.size
    assert (found.ece(), found.mce(), found.brier()) == pytest.approx((ece, mce, brier), rel=1e-12)
    summed = Calibration.of(p[:2], t[:2]) + Calibration.of(p[2:], t[2:])
    assert np.array_equal(summed.n, found.n)
    assert np.array_equal(summed.lesion, found.lesion)
    assert summed.ece() == pytest.approx(found.ece(), rel=1e-12)
    assert summed.brier() == pytest.approx(found.brier(), rel=1e-12)


def test_perfect_and_worst() -> None:
    t = np.array([[[0, 1, 1, 0]]], bool)
    perfect, worst = Calibration.of(t.astype(float), t), Calibration.of((~t).astype(float), t)
    assert (perfect.ece(), perfect.mce(), perfect.brier()) == (0.0, 0.0, 0.0)
    assert (worst.ece(), worst.mce(), worst.brier()) == (1.0, 1.0, 1.0)
    last = worst.bins()[-1]
    assert (last.lo, last.hi, last.n, last.confidence, last.frequency) == (0.9, 1.0, 2, 1.0, 0.0)
    assert worst.bins()[4].confidence is None


def test_a_coin_that_is_right_half_of_the_time_is_calibrated() -> None:
    found = Calibration.of(np.full((1, 1, 4), 0.5), [[[0, 1, 0, 1]]])
    assert (found.ece(), found.brier()) == (0.0, 0.25)
    assert all(math.isnan(x) for x in (Calibration.none().ece(), Calibration.none().mce(), Calibration.none().brier()))
