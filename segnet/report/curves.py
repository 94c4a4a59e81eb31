"""Training curves as a PNG: loss and validation Dice over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from segnet.errors import InputError
from segnet.report._png import font, save_png

SCALE = 2  # device pixels per point
SMOOTH = 3  # lines are drawn this much larger and reduced, which smooths them
WIDTH, HEIGHT = 460 * SCALE, 300 * SCALE  # of one chart
LEFT, RIGHT, TOP, BOTTOM = 52 * SCALE, 54 * SCALE, 46 * SCALE, 46 * SCALE
PAPER, INK, QUIET, GRID = (255, 255, 255), (32, 36, 42), (104, 110, 120), (230, 233, 237)
LOSS_RGB, DICE_RGB = (0, 114, 178), (213, 94, 0)  # blue and vermilion of the Okabe-Ito palette

_Point = tuple[float, float]
_UNITS = ((1.0, "s", 180.0), (60.0, "min", 3.0 * 3600.0), (3600.0, "h", math.inf))


def curves_png(path: str | Path, history: Sequence[Mapping[str, float | None]]) -> None:
    """Write the chart of a training run: loss on the left, validation Dice on the right.

    Time is `elapsed_s` in s, min or h; where any row lacks it, epochs are counted instead. Values that are
    absent, None or not finite leave no point.

    Parameters
    ----------
    path : file to write, atomically
    history : one row per epoch with the keys epoch, elapsed_s, loss and, on epochs with validation, val_dice

    Raises
    ------
    InputError
        If `history` holds no finite loss and no finite val_dice.
    """
    times, label = _times(history)
    loss, val = _series(history, times, "loss"), _series(history, times, "val_dice")
    if not loss and not val:
        raise InputError(
            f"history: expected rows with a finite loss or val_dice, got {len(history)} without; "
            "train at least one epoch first"
        )
    extent = (0.0, max(times))
    page = Image.new("RGB", (2 * WIDTH, HEIGHT), PAPER)
    losses = [y for _, y in loss]
    page.paste(
        _chart("Training loss", loss, label, extent, (min([0.0, *losses]), max(losses, default=1.0)), LOSS_RGB),
        (0, 0),
    )
    page.paste(_chart("Validation Dice", val, label, extent, (0.0, 1.0), DICE_RGB, marks=True), (WIDTH, 0))
    save_png(page, path)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _times(history: Sequence[Mapping[str, float | None]]) -> tuple[list[float], str]:
    elapsed = [row.get("elapsed_s") for row in history]
    if all(_finite(t) for t in elapsed):
        seconds = [float(t) for t in elapsed if t is not None]
        size, unit, _ = next(u for u in _UNITS if max(seconds, default=0.0) <= u[2])
        return [s / size for s in seconds], f"time ({unit})"
    epochs = [row.get("epoch") for row in history]
    return [float(e) if e is not None and _finite(e) else float(i) for i, e in enumerate(epochs)], "epoch"


def _series(history: Sequence[Mapping[str, float | None]], times: Sequence[float], key: str) -> list[_Point]:
    values = [row.get(key) for row in history]
    return [(t, float(v)) for t, v in zip(times, values, strict=True) if v is not None and math.isfinite(v)]


def nice_ticks(lo: float, hi: float, n: int = 5) -> list[float]:
    """About `n` round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) that cover lo to hi.

    Examples
    --------
    >>> nice_ticks(0.0, 0.9)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not hi > lo:
        hi = lo + (abs(lo) if lo else 1.0)
    raw = (hi - lo) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda s: abs(math.log(s / raw)))
    first, last = math.floor(lo / step + 1e-9), math.ceil(hi / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _chart(
    title: str,
    points: list[_Point],
    x_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    rgb: tuple[int, int, int],
    *,
    marks: bool = False,
) -> Image.Image:
    x_ticks, y_ticks = nice_ticks(*x_range), nice_ticks(*y_range)
    x_end = x_range[1] if x_range[1] > 0 else x_ticks[-1]
    x_ticks = [t for t in x_ticks if t <= x_end]

    def place(point: _Point) -> _Point:
        x, y = point[0] / x_end, (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    chart = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(chart)
    small = font(11 * SCALE)
    for value, text in zip(y_ticks, _labels(y_ticks), strict=True):
        y = round(place((0.0, value))[1])
        draw.line((LEFT, y, WIDTH - RIGHT, y), fill=GRID, width=SCALE)
        draw.text((LEFT - 8 * SCALE, y), text, font=small, fill=QUIET, anchor="rm")
    base = round(place((0.0, y_ticks[0]))[1])
    draw.line((LEFT, base, WIDTH - RIGHT, base), fill=QUIET, width=SCALE)
    for value, text in zip(x_ticks, _labels(x_ticks), strict=True):
        x = round(place((value, y_ticks[0]))[0])
        draw.line((x, base, x, base + 4 * SCALE), fill=QUIET, width=SCALE)
        draw.text((x, base + 8 * SCALE), text, font=small, fill=QUIET, anchor="mt")
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10 * SCALE), x_label, font=small, fill=QUIET, anchor="ms")
    draw.text((LEFT, 26 * SCALE), title, font=font(15 * SCALE), fill=INK, anchor="ls")
    if not points:
        centre = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
        draw.text(centre, "no values yet", font=font(13 * SCALE), fill=QUIET, anchor="mm")
        return chart
    placed = [place(p) for p in points]
    _curve(chart, placed, rgb, marks=marks)
    end_x, end_y = placed[-1]
    draw.text((end_x + 8 * SCALE, end_y), _short(points[-1][1]), font=font(13 * SCALE), fill=rgb, anchor="lm")
    return chart


def _curve(chart: Image.Image, placed: list[_Point], rgb: tuple[int, int, int], *, marks: bool) -> None:
    layer = Image.new("L", (WIDTH * SMOOTH, HEIGHT * SMOOTH))
    draw = ImageDraw.Draw(layer)
    large = [(x * SMOOTH, y * SMOOTH) for x, y in placed]
    if len(large) > 1:
        draw.line(large, fill=255, width=round(1.8 * SCALE * SMOOTH), joint="curve")
    for k, (x, y) in enumerate(large):
        radius = 3.2 if k == len(large) - 1 else 2.2
        if (marks and len(large) <= 60) or k == len(large) - 1:
            r = radius * SCALE * SMOOTH
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    chart.paste(rgb, (0, 0), layer.resize(chart.size, Image.Resampling.BOX))


def _labels(ticks: Sequence[float]) -> list[str]:
    """The ticks with as many decimals as the step between them needs."""
    for digits in range(8):
        if all(abs(round(t, digits) - t) <= 1e-9 * max(1.0, abs(t)) for t in ticks):
            return [f"{t:.{digits}f}" for t in ticks]
    return [f"{t:.3g}" for t in ticks]


def _short(value: float) -> str:
    return f"{value:.3f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.3g}"
