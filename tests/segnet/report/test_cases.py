"""Which cases are drawn, and what happens where one cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from segnet.io.pairs import find_pairs
from segnet.report.cases import overlay_cases, telling_cases


def test_cases_without_a_dice_are_not_ranked() -> None:
    nan = math.nan
    assert telling_cases({"a": nan, "b": 0.5, "c": 0.9, "d": nan, "e": 0.1}) == {
        "worst": "e",
        "median": "b",
        "best": "c",
    }
    assert telling_cases({"a": nan}) == telling_cases({}) == {}


def test_no_case_is_drawn_twice() -> None:
    assert telling_cases({"a": 0.5}) == {"only": "a"}
    assert telling_cases({"a": 0.5, "b": 0.2}) == {"worst": "b", "best": "a"}


def test_a_case_that_cannot_be_drawn_is_told_and_the_others_are(material: Any, tmp_path: Path) -> None:
    pairs = {pair.case: pair for pair in find_pairs(material.pairs)}
    cases = sorted(pairs)[:3]
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    pairs[cases[1]] = type(pairs[cases[1]])(cases[1], "p", bad, pairs[cases[1]].mask)
    scores = dict(zip(cases, (0.1, 0.5, 0.9), strict=True))
    out = tmp_path / "out"
    out.mkdir()
    failed = overlay_cases(scores, material.predictions["second"], pairs, out, window_hu=(-1000.0, 400.0))
    assert sorted(path.name for path in out.iterdir()) == ["best.png", "worst.png"]
    assert [case for case, _ in failed] == [cases[1]]
