"""Charts: points lie where they should, everyone can read them, and both themes have enough contrast."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from segnet.errors import InputError
from segnet.report import charts
from segnet.report.charts import COLOURS, SERIES, STYLESHEET, Chart, clock, curves_png, series, styled

THEMES = {
    theme: {name: pair[k] for name, *pair in re.findall(r"--([\w-]+):light-dark\((#\w{6}),(#\w{6})\)", STYLESHEET)}
    for k, theme in enumerate(("light", "dark"))
}
MODELS = [f"series-{k}" for k in range(1, SERIES + 1)]
TEXT_ON = {
    "ink": ["page", "surface", "raised"],
    "quiet": ["page", "surface", "raised"],
    "accent": ["page", "surface", "raised"],
    "warn": ["warn-ground", "surface"],
    "good": ["good-ground", "surface"],
    **{name: ["surface"] for name in MODELS},
}
MARKS_ON = {"control": ["page", "surface"], **{name: ["surface"] for name in MODELS}}


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours ``#rrggbb``, from 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_of_known_colours() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    # just below and just above AA on white: the pair that WCAG's own examples turn on
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=5e-4)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.542, abs=5e-4)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("pairs", "least"), [(TEXT_ON, 4.5), (MARKS_ON, 3.0)], ids=["text", "marks"])
def test_colours_stand_out_from_their_grounds(theme: str, pairs: dict[str, list[str]], least: float) -> None:
    colours = THEMES[theme]
    found = {(c, g): contrast(colours[c], colours[g]) for c, grounds in pairs.items() for g in grounds}
    assert min(found.values()) >= least, found


def test_paper_is_light() -> None:
    assert ":root,:root[data-theme]{color-scheme:light}" in STYLESHEET.split("@media print")[1]


def test_a_seventh_model_is_not_the_first_again() -> None:
    looks = [series(k) for k in range(SERIES**2)]
    assert (
        len({(look.colour, look.dash) for look in looks}) == len({(look.colour, look.marker) for look in looks}) == 36
    )
    assert len({look.dash for look in looks[:SERIES]}) == len({look.glyph for look in looks[:SERIES]}) == SERIES


@styled
def drawn(title: str = "A & B") -> tuple[Chart, ElementTree.Element, str]:
    """A chart of three dots and a line, as an element and as text."""
    chart = Chart("time (s)", "Dice (ratio)", (0.0, 10.0), (0.0, 1.0))
    chart.dots([(2.0, 0.25), (4.0, 0.5), (6.0, 0.75)], series(1), ["<b>one</b>", "two", "three"])
    chart.axes.plot([0.0, 10.0], [0.5, 0.5], **series(0).line)
    text = str(chart.svg(title, "x < y"))
    return chart, ElementTree.fromstring(text), text


def test_dots_have_their_places_and_escaped_tooltips() -> None:
    _, root, _ = drawn()
    dots = [use for use in root.iter("use") if use.find("title") is not None]
    assert [use.findtext("title") for use in dots] == ["<b>one</b>", "two", "three"]
    places = np.array([[float(use.get(key, "")) for key in "xy"] for use in dots])
    right, down = np.diff(places, axis=0).mean(0)
    np.testing.assert_allclose(np.diff(places, axis=0), [[right, down]] * 2, atol=0.03)
    assert right > 0 > down
    assert all("var(--series-2)" in use.get("style", "") for use in dots)


def test_a_chart_is_read_out_and_takes_its_colours_from_the_page() -> None:
    _, root, text = drawn()
    assert root.get("role") == "img"
    assert [(e.tag, e.text) for e in root[:2]] == [("title", "A & B"), ("desc", "x < y")]
    words = {e.text for e in root.iter("text")}
    assert {"time (s)", "Dice (ratio)", "0", "10", "0.0", "1.0"} <= words
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(|<style|xmlns|http", text)
    assert "var(--series-1)" in text


def test_charts_are_the_same_in_each_run_and_share_no_id() -> None:
    assert drawn()[2] == drawn()[2]
    ids = [{e.get("id") for e in drawn(title)[1].iter() if e.get("id")} for title in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


@styled
def test_many_points_are_one_path_without_tooltips() -> None:
    chart = Chart("x", "y", (0.0, 10.0), (0.0, 1.0))
    n = charts.MANY + 1
    chart.dots([(k % 10, 0.5) for k in range(n)], series(0), ["x"] * n)
    root = ElementTree.fromstring(str(chart.svg("t", "d")))
    assert max(path.get("d", "").count("M ") for path in root.iter("path")) == n
    assert len(list(root.iter("title"))) == 1


@styled
def test_labels_beside_levels_keep_apart() -> None:
    chart = Chart("x", "y", (0.0, 1.0), (-1.0, 1.0))
    chart.beside({"bias": 0.50, "upper": 0.51, "lower": 0.49})
    root = ElementTree.fromstring(str(chart.svg("t", "d")))
    notes = {e.text: float(e.get("y", "")) for e in root.iter("text") if e.text in ("bias", "upper", "lower")}
    assert sorted(notes, key=notes.__getitem__) == ["upper", "bias", "lower"]
    assert all(b - a >= 11 for a, b in pairwise(sorted(notes.values())))


@styled
def test_axes_end_at_round_numbers() -> None:
    linear = Chart("x", "y", (-3.2, 7.1), (0.0, 0.0)).axes
    assert linear.get_xlim()[0] <= -3.2 < 7.1 <= linear.get_xlim()[1]
    assert linear.get_ylim()[0] < linear.get_ylim()[1]
    log = Chart("x", "y", (0.05, 20.0), (1.0, 1.0), log=True).axes
    assert log.get_xlim() == pytest.approx((0.01, 100.0))
    assert log.get_ylim() == pytest.approx((1.0, 10.0))


def test_time_has_a_unit_that_suits() -> None:
    assert clock([{"elapsed_s": 90.0}]) == ([90.0], "training time (s)")
    assert clock([{"elapsed_s": 600.0}]) == ([10.0], "training time (min)")
    assert clock([{"elapsed_s": 36000.0}]) == ([10.0], "training time (h)")
    assert clock([{"elapsed_s": None, "step": 4}, {"elapsed_s": 1.0, "step": 5}]) == ([4.0, 5.0], "step")


def pixels_of(path: Path, number: int) -> np.ndarray:
    """Rows and columns of a model's colour, columns as shares of the width."""
    page = np.asarray(Image.open(path).convert("RGB"))
    colour = COLOURS[f"series-{number + 1}"]
    rows, columns = np.nonzero((page == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1))
    return np.stack([rows, columns / page.shape[1]], 1)


def test_both_curves_are_drawn(tmp_path: Path) -> None:
    history = [
        {"step": i, "elapsed_s": 20.0 * (i + 1), "loss": 1 / (i + 1), "val_dice": i / 12 if i % 2 else None}
        for i in range(10)
    ]
    for name in ("c", "d"):
        curves_png(tmp_path / f"{name}.png", history)
    assert 0 < pixels_of(tmp_path / "c.png", 0)[:, 1].max() < 0.52
    assert pixels_of(tmp_path / "c.png", 1)[:, 1].min() > 0.5
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["c.png", "d.png"]


@pytest.mark.parametrize(("losses", "falls"), [([1.0, 0.5, 0.1], True), ([0.1, 0.5, 1.0], False)])
def test_higher_loss_is_drawn_higher(tmp_path: Path, losses: list[float], falls: bool) -> None:
    curves_png(tmp_path / "c.png", [{"elapsed_s": i + 1.0, "loss": v} for i, v in enumerate(losses)])
    line = pixels_of(tmp_path / "c.png", 0)
    line = line[line[:, 1].argsort()]
    assert (line[0, 0] < line[len(line) // 2, 0]) == falls


@pytest.mark.parametrize(
    "history",
    [
        [{"step": 0, "elapsed_s": 3.0, "loss": 0.0004}],
        [{"step": 0, "loss": 2.0}, {"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}],
        [{"loss": 0.0}, {"loss": 0.0}],
        [{"step": 0, "elapsed_s": 0.0, "loss": -1.0}, {"step": 1, "elapsed_s": 1e6, "loss": 1e26}],
        [{"step": 0, "elapsed_s": 1.0, "loss": None, "val_dice": 0.5}],
    ],
)
def test_short_and_odd_histories(tmp_path: Path, history: list[dict[str, float | None]]) -> None:
    curves_png(tmp_path / "c.png", history)
    assert Image.open(tmp_path / "c.png").size == (1840, 600)


@pytest.mark.parametrize("history", [[], [{"elapsed_s": 1.0, "loss": math.nan, "val_dice": None}]])
def test_nothing_to_draw_is_an_error(tmp_path: Path, history: list[dict[str, float | None]]) -> None:
    with pytest.raises(InputError, match="history: expected rows with a finite loss or val_dice"):
        curves_png(tmp_path / "c.png", history)
    assert not list(tmp_path.iterdir())
