"""RECIST 1.1 target response: the limits from both sides, and what the paper's table says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnet.errors import InputError
from segnet.metrics.response import Category, Target, target_response

LENGTHS = st.floats(0, 300, allow_subnormal=False)


def one(before: float, now: float | None, *, node: bool = False, too_small: bool = False) -> Target:
    return Target("1", "lung", node, before, now, too_small)


@pytest.mark.parametrize(
    ("before", "now", "nadir", "new", "category"),
    [
        (100.0, 100.0, None, 0, "SD"),
        (100.0, 70.0, None, 0, "PR"),  # 30 % exactly
        (100.0, 70.01, None, 0, "SD"),
        (100.0, 119.99, None, 0, "SD"),
        (100.0, 120.0, None, 0, "PD"),  # 20 % exactly
        (20.0, 24.99, None, 0, "SD"),  # 25 %, but below 5 mm
        (20.0, 25.0, None, 0, "PD"),
        (30.0, 35.5, None, 0, "SD"),  # above 5 mm, below 20 %
        (100.0, 60.0, 50.0, 0, "PD"),  # 40 % below the baseline, and 20 % above the nadir: progression
        (100.0, 59.0, 50.0, 0, "PR"),
        (100.0, 110.0, 150.0, 0, "SD"),  # a nadir above the baseline is the baseline
        (100.0, 0.0, None, 0, "CR"),
        (100.0, 0.0, None, 1, "PD"),
        (100.0, 50.0, None, 2, "PD"),
        (100.0, None, None, 0, "NE"),
        (100.0, None, None, 1, "PD"),
        (0.7, 0.49, None, 0, "PR"),
    ],
)
def test_limits(before: float, now: float | None, nadir: float | None, new: int, category: Category) -> None:
    assert target_response([one(before, now)], nadir_mm=nadir, new_lesions=new).category == category


@pytest.mark.parametrize(
    ("targets", "category"),
    [
        ([one(15, 9.9, node=True)], "CR"),  # a node is normal below 10 mm
        ([one(15, 10.0, node=True)], "PR"),
        ([one(15, 10.6, node=True)], "SD"),
        ([one(40, 0), one(15, 9.9, node=True)], "CR"),
        ([one(40, 0), one(15, 10.0, node=True)], "PR"),
        ([one(40, 1.0), one(15, 9.9, node=True)], "PR"),
        ([one(20, 0.0, too_small=True)], "PR"),  # counts 5 mm, so it is not gone
        ([one(20, 15), one(20, None)], "NE"),
        ([one(20, 50), one(20, None)], "PD"),  # what was not evaluated can only add
    ],
)
def test_nodes_small_lesions_and_missing_ones(targets: list[Target], category: Category) -> None:
    assert target_response(targets).category == category


def test_sums_and_changes() -> None:
    found = target_response([one(20, 13), one(15, 12, node=True)], nadir_mm=24.0)
    assert (found.baseline_sum_mm, found.followup_sum_mm, found.nadir_mm) == (35, 25, 24)
    assert found.change_from_baseline == pytest.approx(-10 / 35)
    assert found.change_from_nadir == pytest.approx(1 / 24)
    assert found.change_from_nadir_mm == pytest.approx(1)
    assert target_response([one(20, 0, too_small=True)]).followup_sum_mm == 5
    assert target_response([one(20, None)]).followup_sum_mm is None


@given(st.lists(st.tuples(LENGTHS, LENGTHS), min_size=1, max_size=5), LENGTHS)
def test_growing_never_improves_the_response(pairs: list[tuple[float, float]], more: float) -> None:
    order = ["CR", "PR", "SD", "PD"]
    targets = [one(a, b) for a, b in pairs]
    grown = [one(a, b + more) for a, b in pairs]
    better, worse = (order.index(target_response(t).category) for t in (targets, grown))
    assert worse >= better


@given(st.lists(st.tuples(LENGTHS, LENGTHS), min_size=1, max_size=5), st.floats(0.2, 5))
def test_shares_do_not_depend_on_the_unit(pairs: list[tuple[float, float]], scale: float) -> None:
    found, scaled = (target_response([one(k * a, k * b) for a, b in pairs]) for k in (1.0, scale))
    if found.change_from_baseline is not None and scaled.change_from_baseline is not None:
        assert scaled.change_from_baseline == pytest.approx(found.change_from_baseline, abs=1e-9)


def test_departures_from_the_rules_are_told() -> None:
    many = [Target(str(k), "lung", False, 20, 20) for k in range(6)]
    problems = target_response(many).problems
    assert any("6 targets" in problem for problem in problems)
    assert any("in lung" in problem for problem in problems)
    nodes = [Target(str(k), organ, True, 16, 16) for k, organ in enumerate(("neck", "axilla", "groin"))]
    assert any("lymph nodes" in problem for problem in target_response(nodes).problems)
    assert any("below the 10 mm" in problem for problem in target_response([one(9.9, 9)]).problems)
    assert any("below the 15 mm" in problem for problem in target_response([one(14.9, 9, node=True)]).problems)
    assert target_response([one(10, 9), one(15, 9, node=True)]).problems == ()


@pytest.mark.parametrize(
    ("targets", "nadir"), [([], None), ([one(-1, 1)], None), ([one(1, float("nan"))], None), ([one(1, 1)], -1.0)]
)
def test_what_cannot_be_is_refused(targets: list[Target], nadir: float | None) -> None:
    with pytest.raises(InputError, match="targets: expected"):
        target_response(targets, nadir_mm=nadir)
