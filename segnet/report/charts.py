"""Charts drawn by matplotlib: inline SVG for the page, PNG for a training run. Importing this module imports matplotlib."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segnet.errors import InputError
from segnet.runtime.files import replacing
from segnet.runtime.table import rounded

STYLESHEET = resources.files("segnet.report").joinpath("page", "report.css").read_text(encoding="utf-8")
COLOURS = dict(re.findall(r"--([\w-]+):light-dark\((#[0-9a-f]{6})", STYLESHEET))
"""The page's light colours by name. In SVG each becomes the page's CSS variable, which follows the reader's theme."""
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
SERIES = sum(name.startswith("series-") for name in COLOURS)
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")
_MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"}
MANY = 600
"""More points than this become one path without tooltips: thousands of elements make a page slow."""
TIME_UNITS = ((1.0, "s", 180.0), (60.0, "min", 3.0 * 3600.0), (3600.0, "h", math.inf))
"""Seconds per unit, its name, and the longest time in seconds that is shown in it."""

STYLE: dict[str, Any] = {
    "axes.autolimit_mode": "round_numbers",
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["control"],
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLOURS["quiet"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.xmargin": 0.0,
    "axes.ymargin": 0.0,
    "figure.facecolor": "none",
    "font.size": 11.5,
    "grid.color": COLOURS["rule"],
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "lines.scale_dashes": False,
    "path.simplify": False,  # it would drop the points of `Chart.dots`, which are lines without length
    "svg.fonttype": "none",  # text stays text, in the page's typeface
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a model's name may hold dollar signs
    "xtick.color": COLOURS["control"],
    "xtick.labelcolor": COLOURS["quiet"],
    "ytick.color": COLOURS["control"],
    "ytick.labelcolor": COLOURS["quiet"],
    "ytick.major.size": 0.0,
}
Range = tuple[float, float]
Point = tuple[float, float]
_SVG = "{http://www.w3.org/2000/svg}"
styled = style.context(["default", STYLE])
"""Decorates each function that draws: this style, whatever the user's own matplotlibrc says."""


@dataclass(frozen=True)
class Series:
    """How one model is drawn. Colour with dash, and colour with marker, are unique for `SERIES`² models."""

    colour: str
    dash: str
    marker: str

    @property
    def glyph(self) -> str:
        """The marker as a character, for legends."""
        return _MARKERS[self.marker]

    @property
    def line(self) -> dict[str, Any]:
        """Options of a line."""
        return {"color": self.colour, "linestyle": (0, tuple(map(float, self.dash.split()))) if self.dash else "-"}


def series(number: int) -> Series:
    """The look of model `number`, from 0. Each further round of colours is shifted against dashes and markers."""
    turned = (number + number // SERIES) % SERIES
    return Series(COLOURS[f"series-{number % SERIES + 1}"], _DASHES[turned], list(_MARKERS)[turned])


def prepare(axes: Axes, x: str, y: str, x_data: Range, y_data: Range, *, log: bool = False) -> None:
    """Titles, limits and ticks: axes end at round numbers around the data, logarithmic ones at powers of ten."""
    axes.set(xlabel=x, xscale="log" if log else "linear", yscale="log" if log else "linear")
    axes.set_ylabel(y, rotation_mode="anchor")  # anchored, it stays in place in any typeface
    for axis, limit, data in ((axes.xaxis, axes.set_xlim, x_data), (axes.yaxis, axes.set_ylim, y_data)):
        if log:
            first, last = math.floor(math.log10(data[0]) + 1e-9), math.ceil(math.log10(data[1]) - 1e-9)
            limit(10.0**first, 10.0 ** max(last, first + 1))
            axis.set_major_formatter("{x:g}")
        else:
            locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
            axis.set_major_locator(locator)
            limit(*locator.view_limits(*data))
    axes.minorticks_off()


class Chart:
    """One chart of the page.

    Parameters
    ----------
    x, y, x_data, y_data, log : see `prepare`
    left, right, height : margins beside the axes, and height, in units of the drawing; its width is 380
    """

    def __init__(
        self,
        x: str,
        y: str,
        x_data: Range,
        y_data: Range,
        *,
        log: bool = False,
        left: float = 48.0,
        right: float = 14.0,
        height: float = 280.0,
    ) -> None:
        self.figure = Figure(figsize=(380 / 72, height / 72))  # laid out by hand: matplotlib's layout would draw twice
        margins = {"left": left / 380, "right": 1 - right / 380, "bottom": 40 / height, "top": 1 - 20 / height}
        self.axes = self.figure.subplots(gridspec_kw=margins)
        prepare(self.axes, x, y, x_data, y_data, log=log)
        self._tips: dict[str, Sequence[str]] = {}

    def tip(self, artist: Artist, *texts: str) -> None:
        """Adds tooltips: one of a shape, or one for each marker of a line."""
        name = f"tip-{len(self._tips)}"
        artist.set_gid(name)
        self._tips[name] = texts

    def dots(self, points: Sequence[Point], look: Series, texts: Sequence[str]) -> None:
        """A dot for each point, with a tooltip unless there are more than `MANY`."""
        if not points:
            return
        x, y = np.array(points).T
        if len(points) <= MANY:
            (drawn,) = self.axes.plot(x, y, "o", color=look.colour, alpha=0.6)
            self.tip(drawn, *texts)
            return
        x, y = (np.stack([v, v, np.full_like(v, np.nan)], 1).ravel() for v in (x, y))  # lines without length
        self.axes.plot(x, y, color=look.colour, alpha=0.45, linewidth=3.4, solid_capstyle="round")

    def beside(self, levels: Mapping[str, float]) -> None:
        """Labels at the right of levels, moved apart where they would touch."""
        bottom, top = self.axes.get_ylim()
        at, apart = math.inf, (top - bottom) * 13 / 200
        for text, level in sorted(levels.items(), key=lambda item: -item[1]):
            at = min(level, at - apart)
            self.axes.annotate(
                text,
                (1, at),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )

    def svg(self, title: str, description: str) -> Markup:
        """The chart as an element of the page. Title and description are read out by screen readers."""
        file = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": title}):  # ids differ between charts, not between runs
            self.figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        root = ElementTree.fromstring(file.getvalue())
        for element in list(root.iter()):
            element.tag = element.tag.rpartition("}")[2]
            element.attrib = {k.rpartition("}")[2]: _in_page(v) for k, v in element.attrib.items()}
            if element.tag == "g":
                texts = self._tips.get(element.attrib.pop("id", ""), ())
                marks = element.findall(f".//{_SVG}use")
                for mark, text in zip(marks or [element], texts, strict=True) if texts else ():
                    tip = ElementTree.Element("title")
                    tip.text = text
                    mark.insert(0, tip)
        root.remove(root[0])  # a style sheet for the whole document
        root.attrib = {"class": "chart", "role": "img", "viewBox": root.attrib["viewBox"]}
        for tag, text in (("desc", description), ("title", title)):
            told = ElementTree.Element(tag)
            told.text = text
            root.insert(0, told)
        return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree has escaped every text


def _in_page(attribute: str) -> str:
    """Colours as variables of the page, and numbers with at most two decimals."""
    attribute = re.sub(r"(\.\d\d)\d+", r"\1", attribute)
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: _VARIABLES.get(colour[0], colour[0]), attribute)


def clock(rows: Sequence[Mapping[str, float | None]]) -> tuple[list[float], str]:
    """Times of a log's rows and the axis' title: `elapsed_s` in s, min or h, or steps where a row lacks it."""
    elapsed = [row.get("elapsed_s") for row in rows]
    seconds = [float(t) for t in elapsed if t is not None and math.isfinite(t)]
    if len(seconds) < len(rows):
        return [float(row.get("step") or 0) for row in rows], "step"
    size, unit, _ = next(u for u in TIME_UNITS if max(seconds, default=0.0) <= u[2])
    return [t / size for t in seconds], f"training time ({unit})"


@styled
def curves_png(path: str | Path, history: Sequence[Mapping[str, float | None]]) -> None:
    """Draw a training run: loss on the left, validation Dice on the right, over time.

    Parameters
    ----------
    path : file to write, atomically
    history : rows with the keys `elapsed_s` or `step`, `loss` and `val_dice`; values absent, None or not finite leave no point

    Raises
    ------
    InputError
        `history` holds no finite loss and no finite Dice, or the folder of `path` does not exist.
    """
    times, title = clock(history)
    curves = {
        key: [
            (t, float(v))
            for t, row in zip(times, history, strict=True)
            if (v := row.get(key)) is not None and math.isfinite(v)
        ]
        for key in ("loss", "val_dice")
    }
    if not any(curves.values()):
        raise InputError(
            f"history: expected rows with a finite loss or val_dice, got {len(history)} without; train at least one epoch first"
        )
    losses = [loss for _, loss in curves["loss"]]
    end = max(times) or 1.0
    figure = Figure(figsize=(920 / 72, 300 / 72))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.95, "bottom": 0.16, "wspace": 0.26})
    prepare(left, title, "training loss", (0.0, end), (min([0.0, *losses]), max(losses, default=1.0)))
    prepare(right, title, "validation Dice (ratio)", (0.0, end), (0.0, 1.0))
    for axes, points, look in ((left, curves["loss"], series(0)), (right, curves["val_dice"], series(1))):
        axes.set_xlim(0.0, end)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=look.colour, marker="o", markersize=4, clip_on=False)
            axes.annotate(
                rounded(y[-1], 3), points[-1], xytext=(8, 0), textcoords="offset points", color=look.colour, va="center"
            )
        else:
            axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color=COLOURS["quiet"])
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=144, facecolor="white", metadata={"Software": None})
