"""The page's charts, from its numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from segnet.report.charts import COLOURS, Chart, Point, clock, series, styled
from segnet.report.documents import Document, Region, Run
from segnet.report.numbers import MISSING, count, fixed, number

BUCKETS = 200
"""Points of a loss curve, each the mean of as many steps."""
DICE_EDGES = np.arange(21) / 20
_REGIONS = {"box_10mm": "10 mm box", "volume": "whole volume"}
_GUIDE: dict[str, Any] = {"color": COLOURS["quiet"], "linewidth": 1.0, "linestyle": (0, (4, 3))}
_STRONG: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1.3}


@dataclass(frozen=True)
class Figure:
    """A chart, its heading and its caption; `series` is the number of the model, if it shows one only."""

    svg: Markup
    title: str
    caption: str
    series: int | None = None


@styled
def dice_histograms(documents: Mapping[str, Document]) -> list[Figure]:
    """Distribution of Dice: one chart per model, all on the same axes."""
    values = {name: _column(document, "dice") for name, document in documents.items()}
    top = max(int(np.histogram(found, DICE_EDGES)[0].max()) for found in values.values()) or 1
    figures = []
    for k, (name, found) in enumerate(values.items()):
        chart = Chart("Dice per lesion (ratio)", "lesions", (0.0, 1.0), (0.0, top))
        counts = np.histogram(found, DICE_EDGES)[0]
        bars = chart.axes.bar(DICE_EDGES[:-1], counts, 0.046, align="edge", color=series(k).colour, alpha=0.8)
        for bar, low, n in zip(bars, DICE_EDGES[:-1], counts, strict=True):
            chart.tip(bar, f"{low:g} to {low + 0.05:g}: {n}")
        said = f"{count(len(found), 'lesion')}, bins of 0.05"
        if found:
            middle = statistics.median(found)
            chart.axes.axvline(middle, **_STRONG)
            chart.axes.annotate(
                f"median {fixed(middle, 3)}",
                (middle, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="right" if middle > 0.5 else "left",
            )
            said += f", median {fixed(middle, 3)}"
        left_out = len(documents[name].lesions) - len(found)
        said += f"; {count(left_out, 'lesion')} without a Dice not shown." if left_out else "."
        figures.append(Figure(chart.svg(f"Distribution of Dice, {name}", said), name, said, k))
    return figures


def bland_altman(differences: Sequence[float]) -> dict[str, float]:
    """Bias and 95 % limits of agreement: the mean difference, and that ± 1.96 sample standard deviations.

    Of one difference there are no limits; of none there is no bias.

    Examples
    --------
    >>> bland_altman([1.0, -1.0, 3.0, 1.0])["bias"]
    1.0

    Source: Bland and Altman, Lancet 1986; 327: 307–310.
    """
    if not differences:
        return {}
    bias = statistics.fmean(differences)
    if len(differences) < 2:
        return {"bias": bias}
    reach = 1.96 * statistics.stdev(differences)
    return {"bias": bias, "lower": bias - reach, "upper": bias + reach}


@styled
def axis_agreement(documents: Mapping[str, Document]) -> list[Figure]:
    """Bland–Altman charts of the long axes: one per model, all on the same axes. Lesions with an empty mask are left out."""
    pairs = {name: _pairs(document, "pred_long_mm", "truth_long_mm") for name, document in documents.items()}
    limits = {name: bland_altman([p - t for p, t, _ in of]) for name, of in pairs.items()}
    means = [(p + t) / 2 for of in pairs.values() for p, t, _ in of]
    heights = [p - t for of in pairs.values() for p, t, _ in of] + [v for of in limits.values() for v in of.values()]
    reach = max(map(abs, heights), default=0.0) or 1.0
    figures = []
    for k, (name, of) in enumerate(pairs.items()):
        bias, lower, upper = (fixed(limits[name].get(key), 2) for key in ("bias", "lower", "upper"))
        said = f"n = {len(of)}; bias {bias} mm, 95 % limits of agreement {lower} to {upper} mm.{_left_out(documents[name], of)}"
        chart = Chart(
            "mean of predicted and true long axis (mm)",
            "predicted − true (mm)",
            (0.0, max(means, default=10.0)),
            (-reach, reach),
            right=92.0,
        )
        chart.axes.axhline(0.0, color=COLOURS["control"], linewidth=1.0)
        chart.dots(
            [((p + t) / 2, p - t) for p, t, _ in of],
            series(k),
            [f"{case}: predicted {fixed(p, 1)} mm, true {fixed(t, 1)} mm" for p, t, case in of],
        )
        for key, level in limits[name].items():
            chart.axes.axhline(level, **(_STRONG if key == "bias" else _GUIDE))
        chart.beside({f"{key} {_signed(level)}": level for key, level in limits[name].items()})
        figures.append(Figure(chart.svg(f"Bland–Altman of long axes, {name}", said), name, said, k))
    return figures


@styled
def volume_agreement(documents: Mapping[str, Document]) -> list[Figure]:
    """Predicted against true volume on logarithmic axes: one chart per model. Lesions with an empty mask are left out."""
    pairs = {name: _pairs(document, "pred_volume_ml", "truth_volume_ml") for name, document in documents.items()}
    sizes = [v for of in pairs.values() for p, t, _ in of for v in (p, t)]
    ends = (min(sizes, default=0.1), max(sizes, default=10.0))
    figures = []
    for k, (name, of) in enumerate(pairs.items()):
        said = f"n = {len(of)}; logarithmic axes, line of equality.{_left_out(documents[name], of)}"
        chart = Chart("true volume (ml)", "predicted volume (ml)", ends, ends, log=True)
        chart.axes.plot(chart.axes.get_xlim(), chart.axes.get_ylim(), **_GUIDE)
        chart.dots(
            [(t, p) for p, t, _ in of],
            series(k),
            [f"{case}: predicted {fixed(p, 3)} ml, true {fixed(t, 3)} ml" for p, t, case in of],
        )
        figures.append(Figure(chart.svg(f"Predicted against true volume, {name}", said), name, said, k))
    return figures


@styled
def by_size(documents: Mapping[str, Document]) -> Figure | None:
    """Mean Dice and its interval by size of the lesion, all models in one chart. None without a Dice."""
    scores = {
        (label, k): (of["dice"], of["dice"].mean)
        for k, document in enumerate(documents.values())
        for label, of in document.by_size.items()
        if "dice" in of and of["dice"].mean is not None
    }
    order = dict.fromkeys(label for document in documents.values() for label in document.by_size)
    labels = [label for label in order if any(label == shown for shown, _ in scores)]
    if not labels:
        return None
    n, names = len(documents), list(documents)
    chart = Chart(
        "Dice per lesion (ratio)",
        "",
        (0.0, 1.0),
        (0.0, 1.0),
        left=92.0,
        height=60.0 + len(labels) * max(34.0, 14.0 * n + 12.0),
    )
    printable = ["".join(c if c.isprintable() else "�" for c in label) for label in labels]
    chart.axes.set_yticks(range(len(labels)), printable)
    chart.axes.set_ylim(len(labels) - 0.5, -0.5)
    chart.axes.grid(False, axis="y")
    chart.axes.grid(True, axis="x")
    gap = min(0.24, 0.7 / n)
    for (label, k), (score, mean) in scores.items():
        place, look = labels.index(label) + (k - (n - 1) / 2) * gap, series(k)
        if score.ci95_lo is not None and score.ci95_hi is not None:
            chart.axes.plot([score.ci95_lo, score.ci95_hi], [place, place], color=look.colour)
        (mark,) = chart.axes.plot([mean], [place], look.marker, color=look.colour, markersize=7, clip_on=False)
        interval = f"{fixed(score.ci95_lo, 3)} to {fixed(score.ci95_hi, 3)}"
        chart.tip(mark, f"{names[k]}, {label}: {fixed(mean, 3)} ({interval})")
    told = "; ".join(f"{names[k]}, {label}: {fixed(mean, 3)}" for (label, k), (_, mean) in scores.items())
    return Figure(
        chart.svg("Dice by size of the lesion", told),
        "Dice by size",
        "Mean and 95 % interval. Size is the RECIST long axis of the truth.",
    )


@styled
def reliability(name: str, region_name: str, region: Region, k: int) -> Figure:
    """Observed frequency of lesion against predicted probability, bin by bin."""
    title = f"{name}, {_REGIONS.get(region_name, region_name)}"
    scores = f"ECE {fixed(region.ece, 4)}, MCE {fixed(region.mce, 4)}, Brier {fixed(region.brier, 4)}"
    chart = Chart("predicted probability (mean of the bin)", "observed frequency of lesion", (0.0, 1.0), (0.0, 1.0))
    chart.axes.plot((0.0, 1.0), (0.0, 1.0), **_GUIDE)
    bins = [
        (b, b.confidence, b.frequency)
        for b in region.bins
        if b.n and b.confidence is not None and b.frequency is not None
    ]
    if bins:
        _, x, y = zip(*bins, strict=True)
        (curve,) = chart.axes.plot(x, y, marker="o", clip_on=False, **series(k).line)
        chart.tip(
            curve,
            *(
                f"{count(b.n, 'voxel')} in {b.lo:g} to {b.hi:g}: probability {fixed(c, 3)}, frequency {fixed(f, 3)}"
                for b, c, f in bins
            ),
        )
    voxels = MISSING if region.voxels is None else count(region.voxels, "voxel")
    of = "" if region.n_lesions is None else f" of {count(region.n_lesions, 'lesion')} with probabilities"
    without = f"; {count(region.n_left_out, 'lesion')} without left out" if region.n_left_out else ""
    said = f"{scores}; {voxels}{of}{without}."
    return Figure(chart.svg(f"Reliability, {title}", f"{said} The line is perfect calibration."), title, said, k)


@styled
def training_curves(runs: Mapping[str, Run], numbers: Mapping[str, int]) -> list[Figure]:
    """Loss and validation Dice over time; no chart of a quantity that no log holds."""
    rows = [(name, row) for name, run in runs.items() for row in (*run.steps, *run.validations)]
    times, title = clock([{"elapsed_s": number(r.get("elapsed_s")), "step": number(r.get("step"))} for _, r in rows])
    curves: dict[str, dict[str, list[Point]]] = {key: {name: [] for name in runs} for key in ("loss", "val_dice")}
    for t, (name, row) in zip(times, rows, strict=True):
        key = "val_dice" if "val_dice" in row else "loss"
        value = number(row.get(key))
        if value is not None:
            curves[key][name].append((t, value))
    longest = max((len(points) for points in curves["loss"].values()), default=0)
    each = f"Each point is the mean of a {BUCKETS}th of the steps" if longest > BUCKETS else "Each point is a step"
    told = {
        "loss": ("Training loss", "training loss", f"{each}; models may differ in their loss."),
        "val_dice": ("Validation Dice", "validation Dice (ratio)", "On the run's own validation cases, from its log."),
    }
    end = max(times, default=0.0) or 1.0
    figures = []
    for key, (heading, y, caption) in told.items():
        drawn = {name: _thinned(points) for name, points in curves[key].items() if points}
        if not drawn:
            continue
        values = [value for points in drawn.values() for _, value in points]
        low, high = (min(0.0, *values), max(values)) if key == "loss" else (0.0, 1.0)
        chart = Chart(title, y, (0.0, end), (low, high))
        chart.axes.set_xlim(0.0, end)
        for name, points in drawn.items():
            marked = key == "val_dice" or len(points) == 1
            chart.axes.plot(*zip(*points, strict=True), marker="o" if marked else "", **series(numbers[name]).line)
        ends = "; ".join(f"{name} ends at {fixed(points[-1][1], 3)}" for name, points in drawn.items())
        figures.append(Figure(chart.svg(heading, f"Over {title}: {ends}."), heading, caption))
    return figures


def _thinned(points: list[Point]) -> list[Point]:
    """At most BUCKETS points, each the mean of consecutive ones."""
    if len(points) <= BUCKETS:
        return points
    return [(float(x), float(y)) for x, y in (part.mean(0) for part in np.array_split(np.array(points), BUCKETS))]


def _column(document: Document, name: str) -> list[float]:
    return [v for row in document.lesions if (v := row.number(name)) is not None]


def _pairs(document: Document, pred: str, truth: str) -> list[tuple[float, float, str]]:
    """Predicted and true value, and case, of the lesions where both are above zero."""
    rows = [(row.number(pred), row.number(truth), row.case) for row in document.lesions]
    return [(p, t, case) for p, t, case in rows if p and t and p > 0 and t > 0]


def _left_out(document: Document, shown: Sequence[object]) -> str:
    out = len(document.lesions) - len(shown)
    return f" {count(out, 'lesion')} with an empty mask left out." if out else ""


def _signed(value: float) -> str:
    text = fixed(value, 2)
    return text if text.startswith("−") or value == 0 else f"+{text}"
