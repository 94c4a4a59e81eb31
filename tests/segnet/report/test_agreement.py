"""Bland and Altman's numbers by hand."""

from __future__ import annotations

import math

import pytest

from segnet.report.agreement import bland_altman


def test_limits_by_hand() -> None:
    # differences 1, −1, 3, 1: mean 1, squares of deviations 0, 4, 4, 0, variance 8/3
    found = bland_altman([11.0, 9.0, 13.0, 21.0], [10.0, 10.0, 10.0, 20.0])
    sd = math.sqrt(8 / 3)
    assert (found.n, found.bias) == (4, 1.0)
    assert found.sd == pytest.approx(sd, rel=1e-15)
    assert found.lower == pytest.approx(1 - 1.96 * sd, rel=1e-14)
    assert found.upper == pytest.approx(1 + 1.96 * sd, rel=1e-14)


def test_one_pair_has_a_bias_and_no_limits() -> None:
    found = bland_altman([3.0], [1.0])
    assert (found.n, found.bias, found.sd, found.lower, found.upper) == (1, 2.0, None, None, None)
    assert bland_altman([], []).bias is None


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        bland_altman([1.0, 2.0], [1.0])
