"""The report's charts, from its numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from segnet.report import svg
from segnet.report.agreement import bland_altman
from segnet.report.documents import Document, Region, Run
from segnet.report.numbers import MISSING, count, fixed, number

BUCKETS = 200
"""Points of a loss curve, each the mean of as many steps."""
DICE_EDGES = tuple(k / 20 for k in range(21))
_REGIONS = {"box_10mm": "10 mm box", "volume": "whole volume"}
_TIMES = ((1.0, "s", 180.0), (60.0, "min", 3.0 * 3600.0), (3600.0, "h", math.inf))


@dataclass(frozen=True)
class Figure:
    """A chart, its heading and its caption; `series` is the model's number where it is of one model."""

    svg: Markup
    title: str
    caption: str
    series: int | None = None


def dice_histograms(documents: Mapping[str, Document]) -> list[Figure]:
    """How Dice is distributed, a chart each model, all on the same axes."""
    values = {name: _column(d, "dice") for name, d in documents.items()}
    counts = {name: svg.histogram(v, DICE_EDGES) for name, v in values.items()}
    top = max((c for found in counts.values() for c in found), default=0) or 1
    x, y = svg.Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "Dice per lesion (ratio)"), svg.linear(0, top, "lesions")
    figures = []
    for k, (name, found) in enumerate(counts.items()):
        middle = statistics.median(values[name]) if values[name] else None
        chart = svg.Chart(
            x,
            y,
            f"Distribution of Dice, {name}",
            f"Histogram of {count(len(values[name]), 'lesion')} in bins of 0.05; median {fixed(middle, 3)}.",
        )
        chart.bars(DICE_EDGES, found, k)
        if middle is not None:
            chart.down(middle, "guide strong", f"median {fixed(middle, 3)}")
        left_out = len(documents[name].lesions) - len(values[name])
        without = f"; {count(left_out, 'lesion')} without a Dice not shown" if left_out else ""
        figures.append(Figure(chart.svg(), name, f"{count(len(values[name]), 'lesion')}, bins of 0.05{without}.", k))
    return figures


def axis_agreement(documents: Mapping[str, Document]) -> list[Figure]:
    """Bland–Altman charts of the long axes, one each model, all on the same axes; lesions with an empty mask are left out."""
    pairs = {name: _pairs(d, "pred_long_mm", "truth_long_mm") for name, d in documents.items()}
    found = {name: bland_altman([p for p, _, _ in of], [t for _, t, _ in of]) for name, of in pairs.items()}
    means = [(p + t) / 2 for of in pairs.values() for p, t, _ in of]
    heights = [p - t for of in pairs.values() for p, t, _ in of]
    heights += [v for a in found.values() for v in (a.lower, a.upper) if v is not None]
    reach = max(map(abs, heights), default=1.0) or 1.0
    x = svg.linear(0.0, max(means, default=10.0), "mean of predicted and true long axis (mm)")
    y = svg.linear(-reach, reach, "predicted − true (mm)")
    figures = []
    for k, (name, of) in enumerate(pairs.items()):
        a = found[name]
        said = f"bias {fixed(a.bias, 2)} mm, 95 % limits of agreement {fixed(a.lower, 2)} to {fixed(a.upper, 2)} mm"
        chart = svg.Chart(x, y, f"Bland–Altman of long axes, {name}", f"{count(a.n, 'lesion')}: {said}.", right=76.0)
        levels: list[tuple[float, str]] = []
        chart.across(0.0, "base")
        chart.dots(
            [((p + t) / 2, p - t) for p, t, _ in of],
            k,
            [f"{case}: predicted {fixed(p, 1)} mm, true {fixed(t, 1)} mm" for p, t, case in of],
        )
        if a.bias is not None:
            chart.across(a.bias, "guide strong")
            levels.append((a.bias, f"bias {_signed(a.bias)}"))
        if a.lower is not None and a.upper is not None:
            chart.across(a.upper)
            chart.across(a.lower)
            levels += [(a.upper, f"upper {_signed(a.upper)}"), (a.lower, f"lower {_signed(a.lower)}")]
        chart.beside(levels)
        out = len(documents[name].lesions) - a.n
        without = f" {count(out, 'lesion')} with an empty mask left out." if out else ""
        figures.append(Figure(chart.svg(), name, f"n = {a.n}; {said}.{without}", k))
    return figures


def volume_agreement(documents: Mapping[str, Document]) -> list[Figure]:
    """Predicted against true volume on logarithmic axes, one chart each model; empty masks have no place there."""
    pairs = {name: _pairs(d, "pred_volume_ml", "truth_volume_ml") for name, d in documents.items()}
    sizes = [v for of in pairs.values() for p, t, _ in of for v in (p, t)]
    lo, hi = min(sizes, default=0.1), max(sizes, default=10.0)
    x, y = svg.logarithmic(lo, hi, "true volume (ml)"), svg.logarithmic(lo, hi, "predicted volume (ml)")
    figures = []
    for k, (name, of) in enumerate(pairs.items()):
        chart = svg.Chart(
            x,
            y,
            f"Predicted against true volume, {name}",
            f"{count(len(of), 'lesion')}; both axes are logarithmic; the line is equality.",
        )
        chart.diagonal()
        chart.dots(
            [(t, p) for p, t, _ in of],
            k,
            [f"{case}: predicted {fixed(p, 3)} ml, true {fixed(t, 3)} ml" for p, t, case in of],
        )
        out = len(documents[name].lesions) - len(of)
        without = f" {count(out, 'lesion')} with an empty mask left out." if out else ""
        figures.append(Figure(chart.svg(), name, f"n = {len(of)}; logarithmic axes, line of equality.{without}", k))
    return figures


def by_size(documents: Mapping[str, Document]) -> Figure | None:
    """Mean Dice with its interval by size of the lesion, all models in one chart."""
    labels = list(dict.fromkeys(label for d in documents.values() for label in d.by_size))
    scores = {
        (label, name): d.by_size[label]["dice"]
        for name, d in documents.items()
        for label in d.by_size
        if "dice" in d.by_size[label] and d.by_size[label]["dice"].mean is not None
    }
    labels = [label for label in labels if any((label, name) in scores for name in documents)]
    if not labels:
        return None
    names = list(documents)
    chart = svg.Chart(
        svg.Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "Dice per lesion (ratio)"),
        svg.named(labels, ""),
        "Dice by size of the lesion",
        "; ".join(f"{name}, {label}: {fixed(s.mean, 3)}" for (label, name), s in scores.items()),
        height=62.0 + len(labels) * max(34.0, 14.0 * len(names) + 12.0),
        left=92.0,
    )
    gap = min(0.24, 0.7 / len(names))
    for row, label in enumerate(labels):
        for k, name in enumerate(names):
            score = scores.get((label, name))
            if score is None or score.mean is None:
                continue
            place = row + (k - (len(names) - 1) / 2) * gap
            told = f"{name}, {label}: {fixed(score.mean, 3)} ({fixed(score.ci95_lo, 3)} to {fixed(score.ci95_hi, 3)})"
            chart.interval(place, score.mean, score.ci95_lo, score.ci95_hi, k, told)
    return Figure(chart.svg(), "Dice by size", "Mean and 95 % interval; size is the RECIST long axis of the truth.")


def reliability(name: str, region_name: str, region: Region, series: int) -> Figure:
    """Observed frequency of lesion against predicted probability, bin by bin."""
    region_name = _REGIONS.get(region_name, region_name)
    points = [(b.confidence, b.frequency, b) for b in region.bins if b.n]
    ends = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    told = f"ECE {fixed(region.ece, 4)}, MCE {fixed(region.mce, 4)}, Brier {fixed(region.brier, 4)}"
    chart = svg.Chart(
        svg.Axis(0.0, 1.0, ends, "predicted probability (mean of the bin)"),
        svg.Axis(0.0, 1.0, ends, "observed frequency of lesion"),
        f"Reliability, {name}, {region_name}",
        f"{told}. The line is perfect calibration.",
    )
    chart.diagonal()
    placed = [(c, f) for c, f, _ in points if c is not None and f is not None]
    chart.line(placed, series)
    chart.dots(
        placed,
        series,
        [
            f"{count(b.n, 'voxel')} in {b.lo:g} to {b.hi:g}: probability {fixed(c, 3)}, frequency {fixed(f, 3)}"
            for c, f, b in points
            if c is not None and f is not None
        ],
    )
    voxels = MISSING if region.voxels is None else count(region.voxels, "voxel")
    of = "" if region.n_lesions is None else f" of {count(region.n_lesions, 'lesion')} with probabilities"
    without = f"; {count(region.n_left_out, 'lesion')} without left out" if region.n_left_out else ""
    return Figure(chart.svg(), f"{name}, {region_name}", f"{told}; {voxels}{of}{without}.", series)


def training_curves(runs: Mapping[str, Run], series: Mapping[str, int]) -> list[Figure]:
    """Loss and validation Dice over time; none where no log has them."""
    whole = [r for run in runs.values() for r in (*run.steps, *run.validations)]
    timed = bool(whole) and all(number(row.get("elapsed_s")) is not None for row in whole)
    longest = max((float(row["elapsed_s"]) for row in whole), default=0.0) if timed else 0.0
    size, unit, _ = next(t for t in _TIMES if longest <= t[2])
    title = f"training time ({unit})" if timed else "step"

    def at(row: Mapping[str, Any]) -> float:
        return float(row["elapsed_s"]) / size if timed else float(row.get("step", 0))

    losses = {
        n: _thinned([(at(r), float(r["loss"])) for r in run.steps if number(r.get("loss")) is not None])
        for n, run in runs.items()
    }
    scores = {
        n: [(at(r), float(r["val_dice"])) for r in run.validations if number(r.get("val_dice")) is not None]
        for n, run in runs.items()
    }
    end = max((x for of in (*losses.values(), *scores.values()) for x, _ in of), default=1.0) or 1.0
    ticks = svg.linear(0.0, end, title).ticks
    x = svg.Axis(0.0, end, tuple(t for t in ticks if t <= end), title)
    out = []
    if any(losses.values()):
        values = [y for of in losses.values() for _, y in of]
        y = svg.linear(min(0.0, *values), max(values), "training loss")
        chart = svg.Chart(x, y, "Training loss", f"Loss over {title}: {_ends(losses)}.")
        for name, points in losses.items():
            chart.line(points, series[name])
        most = max(sum(number(row.get("loss")) is not None for row in run.steps) for run in runs.values())
        each = f"Each point is the mean of a {BUCKETS}th of the steps" if most > BUCKETS else "Each point is a step"
        each += "; models may differ in their loss."
        out.append(Figure(chart.svg(), "Training loss", each))
    if any(scores.values()):
        y = svg.Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "validation Dice (ratio)")
        chart = svg.Chart(x, y, "Validation Dice", f"Dice over {title}: {_ends(scores)}.")
        for name, points in scores.items():
            chart.line(points, series[name], marks=True)
        out.append(Figure(chart.svg(), "Validation Dice", "On the run's own validation cases, as its log has it."))
    return out


def _ends(curves: Mapping[str, Sequence[svg.Point]]) -> str:
    return "; ".join(f"{name} ends at {fixed(points[-1][1], 3)}" for name, points in curves.items() if points)


def _thinned(points: list[svg.Point]) -> list[svg.Point]:
    """At most BUCKETS points, each the mean of consecutive ones."""
    n = len(points)
    if n <= BUCKETS:
        return points
    edges = [k * n // BUCKETS for k in range(BUCKETS + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part)) for part in parts]


def _column(document: Document, name: str) -> list[float]:
    return [v for row in document.lesions if (v := row.number(name)) is not None]


def _pairs(document: Document, pred: str, truth: str) -> list[tuple[float, float, str]]:
    """Predicted and true values, and case, of the lesions where both are above zero."""
    rows = [(row.number(pred), row.number(truth), row.case) for row in document.lesions]
    return [(p, t, case) for p, t, case in rows if p and t and p > 0 and t > 0]


def _signed(value: float) -> str:
    text = fixed(value, 2)
    return text if text.startswith("−") or value == 0 else f"+{text}"
