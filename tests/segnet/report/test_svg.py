"""Charts at exact coordinates."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from segnet.report import svg
from segnet.report.svg import Axis, Chart, histogram, linear, logarithmic, named

# a chart of 100 × 100 between its axes
X, Y = Axis(0.0, 10.0, (0.0, 5.0, 10.0), "time (s)"), Axis(0.0, 1.0, (0.0, 1.0), "Dice (ratio)")
SIZE = {"width": 100.0 + svg.LEFT + svg.RIGHT, "height": 100.0 + svg.TOP + svg.BOTTOM}


def chart(**options: float) -> Chart:
    return Chart(X, Y, "A title", "What it shows.", **{**SIZE, **options})


def tree(drawn: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(drawn.svg()))


def test_places_are_exact() -> None:
    c = chart()
    assert (c.px(0.0), c.px(10.0), c.px(2.5)) == (svg.LEFT, svg.LEFT + 100, svg.LEFT + 25)
    assert (c.py(0.0), c.py(1.0), c.py(0.25)) == (svg.TOP + 100, svg.TOP, svg.TOP + 75)


def test_line_goes_through_its_points() -> None:
    c = chart()
    c.line([(0.0, 0.0), (5.0, 0.5), (10.0, 1.0)], 0)
    (line,) = [e for e in tree(c) if e.get("class") == "line s1"]
    assert (
        line.get("d")
        == f"M{svg.LEFT:g} {svg.TOP + 100:g}L{svg.LEFT + 50:g} {svg.TOP + 50:g}L{svg.LEFT + 100:g} {svg.TOP:g}"
    )
    assert line.get("stroke-dasharray") is None


def test_series_differ_by_dash_as_well_as_colour() -> None:
    dashes = {svg.dash(k) for k in range(svg.SERIES)}
    assert len(dashes) == svg.SERIES
    c = chart()
    c.line([(0.0, 0.0), (1.0, 1.0)], 1)
    (line,) = [e for e in tree(c) if e.get("class") == "line s2"]
    assert line.get("stroke-dasharray") == svg.dash(1)


def test_a_seventh_series_is_not_the_first_again() -> None:
    rounds = range(svg.SERIES**2)
    for of in (svg.dash, svg.shape):
        assert len({(k % svg.SERIES, of(k)) for k in rounds}) == svg.SERIES**2
    c = Chart(Axis(0.0, 1.0, (0.0, 1.0), "Dice"), named(["all"], ""), "t", "d", **SIZE)
    for k in (0, 1, svg.SERIES):
        c.interval(0.0, 0.5, None, None, k, "mean")
    first, second, seventh = [e for e in tree(c).iter() if (e.get("class") or "").startswith("mark")]
    assert first.get("class") == seventh.get("class") == "mark s1"
    assert first.get("d") not in (second.get("d"), seventh.get("d"))


def test_dots_have_places_and_escaped_titles() -> None:
    c = chart()
    c.dots([(2.0, 0.5)], 0, ["<b>case & co</b>"])
    (dot,) = [e for e in tree(c) if e.get("class") == "dot s1"]
    assert (float(dot.get("cx", "")), float(dot.get("cy", ""))) == (svg.LEFT + 20, svg.TOP + 50)
    assert dot[0].text == "<b>case & co</b>"


def test_many_points_are_one_path() -> None:
    c = chart()
    n = svg.MANY + 1
    c.dots([(k % 10, 0.5) for k in range(n)], 0, ["x"] * n)
    (cloud,) = [e for e in tree(c) if e.get("class") == "cloud s1"]
    assert cloud.get("d", "").count("M") == n


def test_bars_stand_on_zero() -> None:
    c = Chart(X, Axis(0.0, 4.0, (0.0, 4.0), "lesions"), "t", "d", **SIZE)
    c.bars([0.0, 5.0, 10.0], [1, 4], 0)
    low, high = [e for e in tree(c) if e.get("class") == "bar s1"]
    assert (float(low.get("height", "")), float(high.get("height", ""))) == (25.0, 100.0)
    assert float(low.get("y", "")) + float(low.get("height", "")) == svg.TOP + 100
    assert float(high.get("x", "")) == pytest.approx(svg.LEFT + 50.75)


def test_an_interval_lies_between_its_bounds() -> None:
    c = Chart(Axis(0.0, 1.0, (0.0, 1.0), "Dice"), named(["small", "large"], ""), "t", "d", **SIZE)
    c.interval(0.0, 0.5, 0.25, 0.75, 0, "mean")
    (group,) = [e for e in tree(c) if e.tag == "g"]
    y = svg.TOP + 25  # the first of two names, in the middle of the upper half
    assert group[1].get("d") == f"M{svg.LEFT + 25:g} {y:g}H{svg.LEFT + 75:g}"
    assert group[2].get("transform") == f"translate({svg.LEFT + 50:g} {y:g})"


def test_labels_beside_levels_keep_apart() -> None:
    c = chart()
    c.beside([(0.50, "bias"), (0.51, "upper"), (0.49, "lower")])
    notes = [e for e in tree(c) if e.get("class") == "note"]
    assert [e.text for e in notes] == ["upper", "bias", "lower"]
    heights = [float(e.get("y", "")) for e in notes]
    assert all(b - a >= 13 for a, b in pairwise(heights))


def test_logarithmic_axis_is_even_in_decades() -> None:
    axis = logarithmic(0.05, 20.0, "ml")
    assert (axis.lo, axis.hi) == (0.01, 100.0)
    assert [axis.at(10.0**k) for k in (-2, -1, 0, 1, 2)] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-12)
    assert logarithmic(1.0, 1.0, "ml").hi == 10.0


def test_linear_axis_holds_its_ends() -> None:
    axis = linear(-3.2, 7.1, "mm")
    assert axis.lo <= -3.2
    assert axis.hi >= 7.1
    assert axis.at(axis.lo) == 0.0


def test_who_cannot_see_is_told() -> None:
    root = tree(Chart(X, Y, "A & B", "x < y", **SIZE))
    assert root.get("role") == "img"
    assert (root[0].tag, root[0].text) == ("title", "A & B")
    assert (root[1].tag, root[1].text) == ("desc", "x < y")
    texts = [e.text for e in root if e.tag == "text"]
    assert "time (s)" in texts
    assert "Dice (ratio)" in texts
    assert {"0", "5", "10", "1"} <= set(texts)


def test_histogram_counts_edges_once() -> None:
    assert histogram([0.0, 0.1, 0.5, 0.999, 1.0, math.nan], [0.0, 0.5, 1.0]) == [2, 3]


def test_no_colours_of_its_own() -> None:
    c = chart()
    c.line([(0.0, 0.0), (1.0, 1.0)], 0, marks=True)
    c.across(0.5)
    c.down(5.0, label="middle")
    c.diagonal()
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(|fill=|stroke=\"", str(c.svg()))
