"""Charts as inline SVG: lines, points, bars, intervals; axes with titles and units. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from segnet.report.curves import nice_ticks
from segnet.report.palette import SERIES

WIDTH, HEIGHT = 380.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 14.0, 46.0
MANY = 600
"""More points than this are one path, without a title each."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")
_SHAPES = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "M-3.5 -3.5H3.5V3.5H-3.5Z",
    "M0 -4.6L4.3 3.2H-4.3Z",
    "M0 -4.8L4.8 0L0 4.8L-4.8 0Z",
    "M0 4.6L-4.3 -3.2H4.3Z",
    "M-1.4 -4.4H1.4V-1.4H4.4V1.4H1.4V4.4H-1.4V1.4H-4.4V-1.4H-1.4Z",
)
"""Circle, square, triangle, diamond, triangle upside down, cross, about the origin."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """What one direction shows: its ends, its ticks, and its title with units. Logarithmic where `log`."""

    lo: float
    hi: float
    ticks: tuple[float, ...]
    title: str
    log: bool = False
    labels: tuple[str, ...] = ()

    def at(self, value: float) -> float:
        """Place of a value, 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.lo) / math.log(self.hi / self.lo)
        return (value - self.lo) / (self.hi - self.lo)


def linear(lo: float, hi: float, title: str, n: int = 5) -> Axis:
    """An axis that begins and ends at round numbers around lo and hi."""
    ticks = nice_ticks(lo, hi, n)
    return Axis(ticks[0], ticks[-1], tuple(ticks), title)


def logarithmic(lo: float, hi: float, title: str) -> Axis:
    """An axis from one power of ten to another around lo and hi, which are positive."""
    first, last = math.floor(math.log10(lo) + 1e-9), math.ceil(math.log10(hi) - 1e-9)
    last = max(last, first + 1)
    return Axis(10.0**first, 10.0**last, tuple(10.0**k for k in range(first, last + 1)), title, log=True)


def named(names: Sequence[str], title: str) -> Axis:
    """An axis of names from the top down, one unit apart."""
    n = len(names)
    return Axis(n - 0.5, -0.5, tuple(float(k) for k in range(n)), title, labels=tuple(names))


@dataclass
class Chart:
    """A chart that is drawn bottom up: grid, then what is added, in order.

    Parameters
    ----------
    x, y : axes
    title, description : what a screen reader says
    width, height, left, right : of the drawing, in units of its own that are about pixels
    """

    x: Axis
    y: Axis
    title: str
    description: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    _parts: list[str] = field(default_factory=list)

    def px(self, x: float) -> float:
        """Horizontal place of a value."""
        return self.left + self.x.at(x) * (self.width - self.left - self.right)

    def py(self, y: float) -> float:
        """Vertical place of a value, downwards."""
        return self.height - BOTTOM - self.y.at(y) * (self.height - TOP - BOTTOM)

    def line(self, points: Iterable[Point], series: int, *, marks: bool = False) -> None:
        """A line through points in the colour and dash of a series, a mark at each where wanted."""
        placed = [(self.px(x), self.py(y)) for x, y in points]
        if not placed:
            return
        path = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in placed)
        dashed = f' stroke-dasharray="{dash(series)}"' if dash(series) else ""
        self._parts.append(f'<path class="line s{_series(series)}" d="{path}"{dashed}/>')
        if marks or len(placed) == 1:
            self._parts.extend(
                f'<circle class="mark s{_series(series)}" cx="{_n(x)}" cy="{_n(y)}" r="3"/>' for x, y in placed
            )

    def dots(self, points: Sequence[Point], series: int, titles: Sequence[str] = ()) -> None:
        """A point for each pair; its title where they are not many."""
        placed = [(self.px(x), self.py(y)) for x, y in points]
        if len(placed) > MANY:
            path = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in placed)
            self._parts.append(f'<path class="cloud s{_series(series)}" d="{path}"/>')
            return
        for k, (x, y) in enumerate(placed):
            title = f"<title>{escape(titles[k])}</title>" if titles else ""
            self._parts.append(
                f'<circle class="dot s{_series(series)}" cx="{_n(x)}" cy="{_n(y)}" r="3">{title}</circle>'
            )

    def bars(self, edges: Sequence[float], counts: Sequence[float], series: int) -> None:
        """Bars between consecutive edges, from zero to each count."""
        base = self.py(0.0)
        for lo, hi, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if not count:
                continue
            x0, x1, y = self.px(lo) + 0.75, self.px(hi) - 0.75, self.py(count)
            self._parts.append(
                f'<rect class="bar s{_series(series)}" x="{_n(x0)}" y="{_n(y)}" width="{_n(x1 - x0)}"'
                f' height="{_n(base - y)}"><title>{_short(lo)} to {_short(hi)}: {_short(count)}</title></rect>'
            )

    def interval(self, y: float, value: float, lo: float | None, hi: float | None, series: int, title: str) -> None:
        """A mean in the shape of its series with its interval, lying along x; `y` is a place of a `named` axis."""
        yy = _n(self.py(y))
        self._parts.append(f"<g><title>{escape(title)}</title>")
        if lo is not None and hi is not None:
            self._parts.append(
                f'<path class="whisker s{_series(series)}" d="M{_n(self.px(lo))} {yy}H{_n(self.px(hi))}"/>'
            )
        place = f"translate({_n(self.px(value))} {yy})"
        self._parts.append(f'<path class="mark s{_series(series)}" transform="{place}" d="{shape(series)}"/></g>')

    def across(self, y: float, css: str = "guide") -> None:
        """A level line over the whole width."""
        self._parts.append(f'<path class="{css}" d="M{_n(self.left)} {_n(self.py(y))}H{_n(self.width - self.right)}"/>')

    def beside(self, levels: Sequence[tuple[float, str]]) -> None:
        """Labels at the right of levels, moved apart where they would touch."""
        x, last = self.width - self.right + 6, -math.inf
        for y, label in sorted(((self.py(v), text) for v, text in levels)):
            last = max(y + 4, last + 13)
            self._parts.append(f'<text class="note" x="{_n(x)}" y="{_n(last)}">{escape(label)}</text>')

    def down(self, x: float, css: str = "guide", label: str = "") -> None:
        """An upright line over the whole height, its label beside its top, where there is more room."""
        xx = self.px(x)
        left = self.x.at(x) > 0.5
        self._parts.append(f'<path class="{css}" d="M{_n(xx)} {_n(TOP)}V{_n(self.height - BOTTOM)}"/>')
        if label:
            self._parts.append(
                f'<text class="note" x="{_n(xx + (-6 if left else 6))}" y="{_n(TOP + 10)}" text-anchor="{"end" if left else "start"}">{escape(label)}</text>'
            )

    def diagonal(self) -> None:
        """The line of equality, between the ends that both axes share."""
        lo, hi = max(self.x.lo, self.y.lo), min(self.x.hi, self.y.hi)
        if hi > lo:
            d = f"M{_n(self.px(lo))} {_n(self.py(lo))}L{_n(self.px(hi))} {_n(self.py(hi))}"
            self._parts.append(f'<path class="guide" d="{d}"/>')

    def svg(self) -> Markup:
        """The chart as an element that stands in a page."""
        size = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        return Markup(  # every text is escaped where it is put in
            f'<svg class="chart" role="img" {size}><title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>'
            f"{self._axes()}{''.join(self._parts)}</svg>"
        )

    def _axes(self) -> str:
        right, base = self.width - self.right, self.height - BOTTOM
        out = []
        for value, text in zip(self.y.ticks, _labels(self.y), strict=True):
            y = self.py(value)
            if not self.y.labels:
                out.append(f'<path class="grid" d="M{_n(self.left)} {_n(y)}H{_n(right)}"/>')
            out.append(
                f'<text class="tick" x="{_n(self.left - 8)}" y="{_n(y + 4)}" text-anchor="end">{escape(text)}</text>'
            )
        for value, text in zip(self.x.ticks, _labels(self.x), strict=True):
            x = self.px(value)
            line = f"M{_n(x)} {_n(TOP)}V{_n(base)}" if self.y.labels else f"M{_n(x)} {_n(base)}v4"
            out.append(f'<path class="{"grid" if self.y.labels else "base"}" d="{line}"/>')
            out.append(f'<text class="tick" x="{_n(x)}" y="{_n(base + 17)}" text-anchor="middle">{escape(text)}</text>')
        out.append(f'<path class="base" d="M{_n(self.left)} {_n(base)}H{_n(right)}"/>')
        middle = (self.left + right) / 2
        out.append(
            f'<text class="axis" x="{_n(middle)}" y="{_n(self.height - 8)}" text-anchor="middle">{escape(self.x.title)}</text>'
        )
        if self.y.title:
            y = (TOP + base) / 2
            out.append(
                f'<text class="axis" transform="translate(13 {_n(y)}) rotate(-90)" text-anchor="middle">{escape(self.y.title)}</text>'
            )
        return "".join(out)


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin [low, high); the last one holds its high edge too."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        for k in range(len(counts)):
            last = k == len(counts) - 1
            if edges[k] <= value < edges[k + 1] or (last and value == edges[-1]):
                counts[k] += 1
                break
    return counts


def dash(series: int) -> str:
    """Dashes of a series' line; with its colour they are its own for SERIES² series."""
    return _DASHES[_turned(series)]


def shape(series: int) -> str:
    """Outline of a series' mark about the origin, about 8 wide; with its colour it is its own for SERIES² series."""
    return _SHAPES[_turned(series)]


def _turned(series: int) -> int:
    """Colours of a further round meet another dash and shape than in the round before."""
    return (series + series // SERIES) % SERIES


def _series(series: int) -> int:
    return series % SERIES + 1


def _labels(axis: Axis) -> list[str]:
    if axis.labels:
        return list(axis.labels)
    if axis.log or max(map(abs, axis.ticks), default=0.0) >= 1e6:
        return [_short(t) for t in axis.ticks]
    for digits in range(8):
        if all(abs(round(t, digits) - t) <= 1e-9 * max(1.0, abs(t)) for t in axis.ticks):
            return [_minus(f"{t:.{digits}f}") for t in axis.ticks]
    return [_short(t) for t in axis.ticks]


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _short(value: float) -> str:
    return _minus(f"{value:.6g}")


def _n(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
