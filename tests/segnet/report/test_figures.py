"""The page's charts show the numbers of the evaluations."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest

from segnet.report.documents import Bin, Document, Region, Run, read_evaluation
from segnet.report.figures import (
    Figure,
    axis_agreement,
    bland_altman,
    by_size,
    dice_histograms,
    reliability,
    training_curves,
    volume_agreement,
)


def tips(figure: Figure) -> list[str]:
    """Tooltips of a chart, without its own title."""
    titles = list(ElementTree.fromstring(str(figure.svg)).iter("title"))
    return [t.text or "" for t in titles[1:]]


@pytest.fixture(scope="module")
def documents(material: Any) -> dict[str, Document]:
    return {name: read_evaluation(folder) for name, folder in material.evaluations.items()}


def test_limits_by_hand() -> None:
    # mean 1, squares of deviations 0, 4, 4, 0, variance 8/3
    found = bland_altman([1.0, -1.0, 3.0, 1.0])
    reach = 1.96 * math.sqrt(8 / 3)
    assert found == pytest.approx({"bias": 1.0, "lower": 1 - reach, "upper": 1 + reach}, rel=1e-14)
    assert bland_altman([2.0]) == {"bias": 2.0}
    assert bland_altman([]) == {}


def test_a_histogram_counts_every_lesion_once(documents: dict[str, Document]) -> None:
    for figure, document in zip(dice_histograms(documents), documents.values(), strict=True):
        counts = {float(low): int(n) for low, _, n in (tip.replace(":", " to").split(" to ") for tip in tips(figure))}
        values = [row.number("dice") for row in document.lesions]
        assert sum(counts.values()) == len(values)
        assert counts[0.0] == sum(v is not None and v < 0.05 for v in values)
        assert counts[0.95] == sum(v is not None and v >= 0.95 for v in values)
        assert f"median {document.summary['dice'].median:.3f}" in figure.svg


def test_agreement_has_a_dot_for_each_lesion_that_was_found(documents: dict[str, Document]) -> None:
    for charts in (axis_agreement(documents), volume_agreement(documents)):
        first, second = charts
        assert (len(tips(first)), len(tips(second))) == (9, 10)  # the first model missed one
        assert "1 lesion with an empty mask left out" in first.caption
    first = axis_agreement(documents)[0]
    row = documents["first"].lesions[0]
    assert f"{row.case}: predicted {row.number('pred_long_mm'):.1f} mm, true" in " ".join(tips(first))
    assert "bias" in " ".join(e.text or "" for e in ElementTree.fromstring(str(first.svg)).iter("text"))


def test_models_by_size_differ_in_colour_and_marker(documents: dict[str, Document]) -> None:
    seven = {**{f"m{k}": documents["first"] for k in range(6)}, "m6": documents["first"]}
    figure = by_size(seven)
    assert figure is not None
    root = ElementTree.fromstring(str(figure.svg))
    paths = {"#" + e.get("id", ""): e.get("d") for e in root.iter("path") if e.get("id")}
    marks: dict[str, tuple[str | None, str | None]] = {}
    for use in root.iter("use"):
        tip = use.findtext("title")
        if tip:
            marks[tip.split(",")[0]] = (use.get("style"), paths[use.get("href", "")])
    assert len(marks) == 7
    assert len(set(marks.values())) == 7
    assert all("series-1" in (marks[name][0] or "") for name in ("m0", "m6"))
    assert by_size({"m": documents["first"].model_copy(update={"by_size": {}})}) is None


def test_a_bin_without_voxels_is_not_drawn() -> None:
    bins = [Bin(lo=0, hi=0.5, n=3, confidence=0.25, frequency=0.3), Bin(lo=0.5, hi=1, n=0)]
    figure = reliability("m", "box_10mm", Region(ece=0.05, bins=bins), 0)
    assert figure.title == "m, 10 mm box"
    assert tips(figure) == ["3 voxels in 0 to 0.5: probability 0.250, frequency 0.300"]


def test_one_point_of_a_curve_is_seen() -> None:
    run = Run(steps=[{"step": 1, "loss": 2.0, "elapsed_s": 1.0}], validations=[])
    (loss,) = training_curves({"a$b$": run}, {"a$b$": 0})
    root = ElementTree.fromstring(str(loss.svg))
    assert len([use for use in root.iter("use") if "series-1" in use.get("style", "")]) == 1
    assert "a$b$ ends at 2.000" in root.findtext("desc", "")
    assert training_curves({"a": Run()}, {"a": 0}) == []
