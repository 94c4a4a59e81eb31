"""The page's tables: texts of cells, the numbers behind them, and the conventions below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segnet.report.documents import Document, Lesion, Score
from segnet.report.numbers import MISSING, count, fixed, metric, number, order, span

_CONVENTIONS = ("level", "reduction", "classes", "empty", "units")
_SOURCES = {"probability": "probabilities", "mask": "masks", "mixed": "probabilities where there were some, else masks"}
_PAPER = (
    ("dice", "DSC", "up", "n_slices"),
    ("ravd", "RAVD", "down", "n_slices_ravd"),
    ("asd_px", "ASD, px", "down", "n_slices_distances"),
    ("mhd_px", "MHD, px", "down", "n_slices_distances"),
    ("auc", "AUC", "up", "n_slices"),
    ("iou", "IoU", "up", "n_slices"),
)
"""Key, heading, better direction, and key of the number of slices."""
_ULS23 = (
    ("score", "Score", "up"),
    ("dice", "Dice", "up"),
    ("long_axis_error", "Long-axis error", "down"),
    ("short_axis_error", "Short-axis error", "down"),
    ("consistency", "Consistency", "up"),
)
_SIZES = (("volume_ml", "Volume, ml", 3), ("long_mm", "Long axis, mm", 1), ("short_mm", "Short axis, mm", 1))
_HU = {
    "mean": "Mean",
    "sd": "SD",
    "min": "Minimum",
    "p5": "5th percentile",
    "median": "Median",
    "p95": "95th percentile",
    "max": "Maximum",
}


@dataclass(frozen=True)
class Column:
    """A heading. `better` is "up" or "down" where one direction is better."""

    label: str
    better: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """`text` is printed, `value` is the number behind it, `below` is a second, quiet line."""

    text: str
    value: float | None = None
    below: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Table:
    """The first cell of each row is its heading. `conventions` are lines below the table."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    conventions: tuple[str, ...] = ()


def cell(value: object, digits: int, below: str = "") -> Cell:
    """A number with fixed decimals; no second line where there is no number for it."""
    return Cell(fixed(value, digits), number(value), "" if below == MISSING else below)


def whole(value: object, below: str = "") -> Cell:
    """A count with separators of thousands."""
    n = number(value)
    return Cell(MISSING if n is None else f"{int(n):,}", n, below)


def score_table(caption: str, scores: Mapping[str, Mapping[str, Score]], series: Mapping[str, int]) -> Table | None:
    """Means with their intervals, models by metrics, as in the paper's Tables II to IV. None without a metric."""
    names = order({m for of in scores.values() for m in of})
    if not names:
        return None
    rows = []
    for model, of in scores.items():
        told = of.get("dice") or next(iter(of.values()), Score())
        patients = "" if told.n_patients is None else count(told.n_patients, "patient")
        means = [_mean(of.get(m), metric(m).digits, told.n_lesions) for m in names]
        rows.append((Cell(model, series=series[model]), whole(told.n_lesions, patients), *means))
    units = {m: next(of[m].units for of in scores.values() if m in of) for m in names}
    columns = (Column("Model", numeric=False), Column("Lesions"), *(_column(m, units[m]) for m in names))
    return Table(caption, columns, tuple(rows), _conventions(scores, names))


def size_table(documents: Mapping[str, Document], series: Mapping[str, int]) -> Table | None:
    """Dice, IoU, HD95 and errors of the axes by size of the lesion and model. None without sizes."""
    shown = ("dice", "iou", "hd95_mm", "long_axis_error", "short_axis_error")
    labels = list(dict.fromkeys(label for d in documents.values() for label in d.by_size))
    names = [m for m in shown if any(m in of for d in documents.values() for of in d.by_size.values())]
    if not labels or not names:
        return None
    rows = []
    for label in labels:
        for model, document in documents.items():
            of = document.by_size.get(label, {})
            n = of["dice"].n_lesions if "dice" in of else None
            means = [_mean(of.get(m), metric(m).digits, n) for m in names]
            rows.append((Cell(label), Cell(model, series=series[model]), whole(n), *means))
    columns = (
        Column("Long axis of the truth", numeric=False),
        Column("Model", numeric=False),
        Column("Lesions"),
        *(_column(m, "mm" if m.endswith("_mm") else "1") for m in names),
    )
    every = {f"{model}, {label}": of for model, d in documents.items() for label, of in d.by_size.items()}
    return Table("Scores by size", columns, tuple(rows), _conventions(every, names))


def paper_table(documents: Mapping[str, Document], series: Mapping[str, int]) -> Table | None:
    """Scores by slice in the paper's convention, which flatters. None where no evaluation has them."""
    rows: list[tuple[Cell, ...]] = []
    lines: dict[str, None] = {}
    for name, block in ((name, d.paper_convention) for name, d in documents.items()):
        if not block:
            continue
        n = number(block.get("n_slices"))
        cells = [Cell(name, series=series[name]), whole(n)]
        for key, _, _, slices in _PAPER:
            of = number(block.get(slices, n))
            cells.append(cell(block.get(key), 4, "" if of in (None, n) else f"n = {whole(of).text}"))
        rows.append(tuple(cells))
        lines |= dict.fromkeys(_paper_lines(block))
    columns = (Column("Model", numeric=False), Column("Slices"), *(Column(label, up) for _, label, up, _ in _PAPER))
    return Table("The paper's convention", columns, tuple(rows), tuple(map(sentence, lines))) if rows else None


def uls23_table(documents: Mapping[str, Document], series: Mapping[str, int]) -> Table | None:
    """The challenge's score and its parts. None where no evaluation has it."""
    blocks = {name: d.uls23 for name, d in documents.items() if d.uls23 is not None}
    rows = []
    lines = ["Score = 0.8 · Dice + 0.05 · (1 − long-axis error) + 0.05 · (1 − short-axis error) + 0.1 · consistency."]
    for name, block in blocks.items():
        interval = span(block.get("ci95_lo"), block.get("ci95_hi"), 3)
        parts = [cell(block.get(key), 3, interval if key == "score" else "") for key, _, _ in _ULS23]
        rows.append((Cell(name, series=series[name]), *parts, *(whole(block.get(k)) for k in ("clicks", "n_lesions"))))
        told = block.get("conventions")
        if isinstance(told, Mapping):
            lines.append(sentence("; ".join(f"{k}: {told[k]}" for k in _CONVENTIONS if told.get(k))))
            lines += [f"{str(k).capitalize()}: {sentence(str(v))}" for k, v in told.items() if k not in _CONVENTIONS]
    columns = (
        Column("Model", numeric=False),
        *(Column(label, better) for _, label, better in _ULS23),
        Column("Clicks a lesion"),
        Column("Lesions"),
    )
    return Table("The ULS23 challenge's score", columns, tuple(rows), tuple(dict.fromkeys(lines))) if rows else None


def time_table(bench: Mapping[str, Any]) -> Table:
    """Seconds per epoch as in the paper's Table I, an estimate, beside the measured speed."""
    where = list(dict.fromkeys(k for row in bench["rows"] for k in row["epoch_s_estimate"]))
    rows = tuple(
        (
            Cell(str(row.get("model", MISSING))),
            Cell(str(row.get("threads", MISSING))),
            *(cell(row.get(key), 1) for key in ("ms_a_slice", "slices_a_second")),
            *(cell(row["epoch_s_estimate"].get(name), 0) for name in where),
        )
        for row in bench["rows"]
    )
    columns = (
        Column("Model", numeric=False),
        Column("Threads"),
        Column("Measured, ms a slice", "down"),
        Column("Measured, slices/s", "up"),
        *(Column(f"{name}, s an epoch (estimate)", "down") for name in where),
    )
    batch, side, rounds = (bench.get(k, MISSING) for k in ("batch_size", "side_px", "rounds"))
    lines = (
        f"Measured: median of {rounds} steps on batches of {batch} slices of {side} px, on the machine that ran the benchmark.",
        "Estimate: seconds per epoch of the paper's sample counts on the paper's processor, from the ratio of peak speeds; not measured there.",
    )
    return Table("Time of training, in the form of the paper's Table I", columns, rows, lines)


def lesion_tables(rows: Mapping[str, Lesion], series: Mapping[str, int]) -> tuple[Table, Table | None]:
    """Measurements of one lesion in the truth and in each model's mask, and its density where an evaluation has it."""
    own = [m for m in ("dice", "iou", "assd_mm", "hd95_mm") if any(r.number(m) is not None for r in rows.values())]
    masks = [(Cell("Truth"), next(iter(rows.values())), "truth")]
    masks += [(Cell(name, series=series[name]), row, "pred") for name, row in rows.items()]
    measures = tuple(
        (
            head,
            *(cell(row.number(f"{side}_{key}"), digits) for key, _, digits in _SIZES),
            *(Cell("") if side == "truth" else cell(row.number(m), metric(m).digits) for m in own),
        )
        for head, row, side in masks
    )
    columns = (
        Column("Mask", numeric=False),
        *(Column(label) for _, label, _ in _SIZES),
        *(_column(m, "mm" if m.endswith("_mm") else "1") for m in own),
    )
    density = []
    for head, row, side in masks:
        hu = (row.truth_hu if side == "truth" else row.pred_hu) or {}
        density.append((head, *(cell(hu.get(key), 0) for key in _HU)))
    known = any(c.value is not None for line in density for c in line)
    return Table("Measurements", columns, measures), Table(
        "Density, HU", (Column("Mask", numeric=False), *map(Column, _HU.values())), tuple(density)
    ) if known else None


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _column(name: str, units: str) -> Column:
    m = metric(name)
    return Column(m.label if units in ("", "1") else f"{m.label}, {units}", m.better)


def _mean(score: Score | None, digits: int, n: int | None) -> Cell:
    """A mean; below it the interval, and the number of lesions where it is not the row's `n`."""
    if score is None or score.mean is None:
        return Cell(MISSING)
    interval = span(score.ci95_lo, score.ci95_hi, digits)
    below = [] if interval == MISSING else [interval]
    if score.n_lesions is not None and score.n_lesions != n:
        below.append(f"n = {score.n_lesions:,}")
    return cell(score.mean, digits, "; ".join(below))


def _conventions(scores: Mapping[str, Mapping[str, Score]], names: Sequence[str]) -> tuple[str, ...]:
    """Lines on the conventions of a table's numbers. A convention that several numbers share is written once."""
    every = [(m, of[m]) for of in scores.values() for m in names if m in of]
    shared = []
    for key in ("level", "reduction", "classes"):
        of_value = _grouped((getattr(s, key), m) for m, s in every)
        if not of_value:
            continue
        usual = max(of_value, key=lambda v: sum(getattr(s, key) == v for _, s in every))
        others = [f"{v} for {', '.join(labels)}" for v, labels in of_value.items() if v != usual]
        shared.append(f"{key}: {usual}" + (f", but {', '.join(others)}" if others else ""))
    lines = [sentence("; ".join(shared))] if shared else []
    rules = _grouped((s.empty, m) for m, s in every)
    if rules:
        lines.append("Empty masks: " + "; ".join(f"{', '.join(of)}: {rule}" for rule, of in rules.items()) + ".")
    left = [
        f"{metric(m).label} {of[m].n_left_out} ({model})"
        for model, of in scores.items()
        for m in names
        if m in of and of[m].n_left_out
    ]
    if left:
        lines.append(f"Lesions without a value, left out: {', '.join(left)}.")
    sources = dict.fromkeys((metric(m).label, s.source) for m, s in every if m.startswith("auc") and s.source)
    if sources:
        lines.append("Computed from: " + "; ".join(f"{label}: {_SOURCES.get(of, of)}" for label, of in sources) + ".")
    if any(s.ci95_lo is not None for _, s in every):
        lines.append("Below each mean: its 95 % interval, by bootstrap over patients.")
    return tuple(lines)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Labels of the metrics by convention; empty conventions are left out."""
    found: dict[str, dict[str, None]] = {}
    for value, name in pairs:
        if value:
            found.setdefault(value, {})[metric(name).label] = None
    return {value: list(labels) for value, labels in found.items()}


def _paper_lines(block: Mapping[str, Any]) -> list[str]:
    """Conventions of the paper's numbers; those that several numbers share are written once."""
    conventions = block.get("conventions")
    shared: dict[str, list[str]] = {}
    for key, label, _, _ in _PAPER:
        own = conventions.get(key) if isinstance(conventions, Mapping) else None
        if isinstance(own, Mapping):
            text = "; ".join(f"{k}: {own[k]}" for k in _CONVENTIONS if own.get(k))
            shared.setdefault(text, []).append(label.split(",")[0])
    lines = [f"{', '.join(of)}: {text}" for text, of in shared.items()]
    if isinstance(block.get("distances"), str):
        lines.append(f"Distances: {block['distances']}")
    if isinstance(block.get("auc_source"), str):
        lines.append(f"AUC is computed from {_SOURCES.get(block['auc_source'], block['auc_source'])}")
    return lines
