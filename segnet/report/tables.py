"""The report's tables: what each cell says, with the numbers behind it and the conventions under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segnet.report.documents import Document, Lesion, Score
from segnet.report.numbers import MISSING, count, fixed, metric, number, order, span

_CONVENTIONS = ("level", "reduction", "classes", "empty", "units")


@dataclass(frozen=True)
class Column:
    """A heading; `better` is "up" or "down" where one direction is better."""

    label: str
    better: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """What is printed; `value` is the number behind it, `below` a second, quiet line."""

    text: str
    value: float | None = None
    below: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first cell of a row is its heading; `conventions` are the lines printed under it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    conventions: tuple[str, ...] = ()


def score_table(caption: str, scores: Mapping[str, Mapping[str, Score]], series: Mapping[str, int]) -> Table | None:
    """Models by metrics, in the form of the paper's Tables II to IV: means with their intervals. None without a metric."""
    names = order({m for of in scores.values() for m in of})
    if not names:
        return None
    units = {m: next((of[m].units for of in scores.values() if m in of), "") for m in names}
    columns = [Column("Model", numeric=False), Column("Lesions")]
    columns += [_column(m, units[m]) for m in names]
    rows = []
    for model, of in scores.items():
        told = of.get("dice") or next(iter(of.values()), None)
        n = told.n_lesions if told else None
        patients = told.n_patients if told else None
        cells = [Cell(model, series=series[model]), Cell(MISSING if n is None else f"{n:,}", n, _patients(patients))]
        cells += [_mean(of.get(m), metric(m).digits, n) for m in names]
        rows.append(tuple(cells))
    return Table(caption, tuple(columns), tuple(rows), tuple(_conventions(scores, names)))


def size_table(documents: Mapping[str, Document], series: Mapping[str, int]) -> Table | None:
    """Dice, IoU and errors of the axes by size of the lesion and model."""
    shown = ("dice", "iou", "hd95_mm", "long_axis_error", "short_axis_error")
    labels = list(dict.fromkeys(label for d in documents.values() for label in d.by_size))
    names = [m for m in shown if any(m in of for d in documents.values() for of in d.by_size.values())]
    if not labels or not names:
        return None
    units = {"hd95_mm": "mm"}
    columns = (
        Column("Long axis of the truth", numeric=False),
        Column("Model", numeric=False),
        Column("Lesions"),
        *(_column(m, units.get(m, "1")) for m in names),
    )
    rows = []
    for label in labels:
        for model, document in documents.items():
            of = document.by_size.get(label, {})
            n = of["dice"].n_lesions if "dice" in of else None
            rows.append(
                (
                    Cell(label),
                    Cell(model, series=series[model]),
                    Cell(MISSING if n is None else f"{n:,}", n),
                    *(_mean(of.get(m), metric(m).digits, n) for m in names),
                )
            )
    every = {f"{model}, {label}": of for model, d in documents.items() for label, of in d.by_size.items()}
    return Table("Scores by size", columns, tuple(rows), tuple(_conventions(every, names)))


def paper_table(documents: Mapping[str, Document], series: Mapping[str, int]) -> Table | None:
    """The paper's own convention, slice by slice, which flatters."""
    keys = (
        ("dice", "DSC", "up", 4),
        ("ravd", "RAVD", "down", 4),
        ("asd_px", "ASD, px", "down", 4),
        ("mhd_px", "MHD, px", "down", 4),
        ("auc", "AUC", "up", 4),
        ("iou", "IoU", "up", 4),
    )
    blocks = {name: d.paper_convention for name, d in documents.items() if d.paper_convention}
    if not blocks:
        return None
    rows, lines = [], []
    for name, block in blocks.items():
        n = number(block.get("n_slices"))
        cells = [Cell(name, series=series[name]), Cell(MISSING if n is None else f"{int(n):,}", n)]
        for key, _, _, digits in keys:
            value, of = number(block.get(key)), number(block.get(_SLICES.get(key, "n_slices")))
            cells.append(Cell(fixed(value, digits), value, "" if of in (None, n) else f"n = {int(of):,}"))
        rows.append(tuple(cells))
        for line in _paper_lines(block, [(key, label.split(",")[0]) for key, label, _, _ in keys]):
            if line not in lines:
                lines.append(line)
    columns = (
        Column("Model", numeric=False),
        Column("Slices"),
        *(Column(label, better) for _, label, better, _ in keys),
    )
    return Table("The paper's convention", columns, tuple(rows), tuple(sentence(line) for line in lines))


def uls23_table(documents: Mapping[str, Document], series: Mapping[str, int]) -> Table | None:
    """The challenge's score and its parts, for the models that have it."""
    keys = (
        ("score", "Score", "up"),
        ("dice", "Dice", "up"),
        ("long_axis_error", "Long-axis error", "down"),
        ("short_axis_error", "Short-axis error", "down"),
        ("consistency", "Consistency", "up"),
    )
    rows = []
    for name, document in documents.items():
        block = document.uls23
        if block is None:
            continue
        cells = [Cell(name, series=series[name])]
        for key, _, _ in keys:
            value = number(block.get(key))
            interval = span(block.get("ci95_lo"), block.get("ci95_hi"), 3) if key == "score" else ""
            cells.append(Cell(fixed(value, 3), value, "" if interval == MISSING else interval))
        for key in ("clicks", "n_lesions"):
            value = number(block.get(key))
            cells.append(Cell(MISSING if value is None else f"{int(value):,}", value))
        rows.append(tuple(cells))
    if not rows:
        return None
    columns = (
        Column("Model", numeric=False),
        *(Column(label, better) for _, label, better in keys),
        Column("Clicks a lesion"),
        Column("Lesions"),
    )
    formula = "Score = 0.8 · Dice + 0.05 · (1 − long-axis error) + 0.05 · (1 − short-axis error) + 0.1 · consistency."
    extra = []
    for told in (d.uls23.get("conventions") for d in documents.values() if d.uls23):
        if isinstance(told, Mapping):
            extra.append(sentence("; ".join(f"{k}: {told[k]}" for k in _CONVENTIONS if told.get(k))))
            extra += [f"{str(k).capitalize()}: {sentence(str(v))}" for k, v in told.items() if k not in _CONVENTIONS]
    return Table("The ULS23 challenge's score", columns, tuple(rows), (formula, *dict.fromkeys(extra)))


def time_table(bench: Mapping[str, Any]) -> Table:
    """Seconds an epoch in the form of the paper's Table I, an estimate, beside what was measured."""
    rows = bench["rows"]
    where = list(dict.fromkeys(k for row in rows for k in row["epoch_s_estimate"]))
    columns = (
        Column("Model", numeric=False),
        Column("Threads"),
        Column("Measured, ms a slice", "down"),
        Column("Measured, slices/s", "up"),
        *(Column(f"{name}, s an epoch (estimate)", "down") for name in where),
    )
    cells = []
    for row in rows:
        line = [Cell(str(row.get("model", MISSING))), Cell(str(row.get("threads", MISSING)))]
        for key in ("ms_a_slice", "slices_a_second"):
            value = number(row.get(key))
            line.append(Cell(fixed(value, 1), value))
        for name in where:
            value = number(row["epoch_s_estimate"].get(name))
            line.append(Cell(fixed(value, 0), value))
        cells.append(tuple(line))
    batch, side, rounds = (bench.get(k, MISSING) for k in ("batch_size", "side_px", "rounds"))
    return Table(
        "Time of training, in the form of the paper's Table I",
        columns,
        tuple(cells),
        (
            f"Measured: median of {rounds} steps on batches of {batch} slices of {side} px, on the machine that ran the benchmark.",
            "Estimate: seconds an epoch of the paper's sample counts on the paper's processor, from the ratio of peak speeds; not measured there.",
        ),
    )


_SLICES = {"ravd": "n_slices_ravd", "asd_px": "n_slices_distances", "mhd_px": "n_slices_distances"}
"""Over how many slices a measure is, where not over all."""
_SOURCES = {
    "probability": "probabilities",
    "mask": "masks",
    "mixed": "probabilities where there were some, else masks",
}
_HU = ("mean", "sd", "min", "p5", "median", "p95", "max")


def lesion_tables(rows: Mapping[str, Lesion], series: Mapping[str, int]) -> tuple[Table, Table | None]:
    """Measurements of one lesion, the truth's and each model's, and its density where an evaluation has it."""
    first = next(iter(rows.values()))
    own = [m for m in ("dice", "iou", "assd_mm", "hd95_mm") if any(r.number(m) is not None for r in rows.values())]
    sizes = (("volume_ml", "Volume, ml", 3), ("long_mm", "Long axis, mm", 1), ("short_mm", "Short axis, mm", 1))
    columns = (
        Column("Mask", numeric=False),
        *(Column(label) for _, label, _ in sizes),
        *(_column(m, "mm" if m.endswith("_mm") else "1") for m in own),
    )

    def line(name: str, row: Lesion, side: str, index: int | None) -> tuple[Cell, ...]:
        cells = [Cell(name, series=index)]
        for key, _, digits in sizes:
            value = row.number(f"{side}_{key}")
            cells.append(Cell(fixed(value, digits), value))
        for m in own:
            value = row.number(m) if side == "pred" else None
            cells.append(Cell("" if side == "truth" else fixed(value, metric(m).digits), value))
        return tuple(cells)

    body = [line("Truth", first, "truth", None)]
    body += [line(name, row, "pred", series[name]) for name, row in rows.items()]
    density = [("Truth", first, "truth", None), *((n, r, "pred", series[n]) for n, r in rows.items())]
    told = [(name, _density(row, side), index) for name, row, side, index in density]
    measures = Table("Measurements", columns, tuple(body))
    if not any(value is not None for _, values, _ in told for value in values):
        return measures, None
    headings = ("Mean", "SD", "Minimum", "5th percentile", "Median", "95th percentile", "Maximum")
    lines = tuple((Cell(name, series=index), *(Cell(fixed(v, 0), v) for v in values)) for name, values, index in told)
    return measures, Table("Density, HU", (Column("Mask", numeric=False), *map(Column, headings)), lines)


def _density(row: Lesion, side: str) -> list[float | None]:
    """HU inside the true or predicted mask, as `segnet.metrics.HuStatistics` names them."""
    found = row.truth_hu if side == "truth" else row.pred_hu
    return [None if found is None else found.get(key) for key in _HU]


def _column(name: str, units: str) -> Column:
    m = metric(name)
    label = m.label if units in ("", "1") else f"{m.label}, {units}"
    return Column(label, m.better)


def _mean(score: Score | None, digits: int, n: int | None) -> Cell:
    """A mean, its interval, and over how many lesions it is where that is not `n`, which the row says."""
    if score is None or score.mean is None:
        return Cell(MISSING)
    interval = span(score.ci95_lo, score.ci95_hi, digits)
    below = [] if interval == MISSING else [interval]
    if score.n_lesions is not None and score.n_lesions != n:
        below.append(f"n = {score.n_lesions:,}")
    return Cell(fixed(score.mean, digits), score.mean, "; ".join(below))


def _patients(n: int | None) -> str:
    return "" if n is None else count(n, "patient")


def _conventions(scores: Mapping[str, Mapping[str, Score]], names: Sequence[str]) -> list[str]:
    """Lines that say how the numbers of a table were made; what all of them share is said once."""
    every = [(m, of[m]) for of in scores.values() for m in names if m in of]
    shared = []
    for key in ("level", "reduction", "classes"):
        values = list(dict.fromkeys(getattr(s, key) for _, s in every if getattr(s, key)))
        if len(values) == 1:
            shared.append(f"{key}: {values[0]}")
        elif values:
            usual = max(values, key=lambda v: sum(getattr(s, key) == v for _, s in every))
            others = [
                f"{v} for {', '.join(metric(m).label for m in names if _has(every, m, key, v))}"
                for v in values
                if v != usual
            ]
            shared.append(f"{key}: {usual}, but {', '.join(others)}")
    lines = [sentence("; ".join(shared))] if shared else []
    rules: dict[str, list[str]] = {}
    for m in names:
        for rule in dict.fromkeys(s.empty for name, s in every if name == m and s.empty):
            rules.setdefault(rule, []).append(metric(m).label)
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
    sources = list(dict.fromkeys((metric(m).label, s.source) for m, s in every if m.startswith("auc") and s.source))
    if sources:
        lines.append("Computed from: " + "; ".join(f"{label}: {_SOURCES.get(of, of)}" for label, of in sources) + ".")
    if any(s.ci95_lo is not None for _, s in every):
        lines.append("Below each mean: its 95 % interval, by bootstrap over patients.")
    return lines


def _has(every: Sequence[tuple[str, Score]], name: str, key: str, value: str) -> bool:
    return any(m == name and getattr(s, key) == value for m, s in every)


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _paper_lines(block: Mapping[str, Any], labels: Sequence[tuple[str, str]]) -> list[str]:
    """The block's conventions, those that several numbers share said once."""
    conventions = block.get("conventions")
    shared: dict[str, list[str]] = {}
    for key, label in labels:
        own = conventions.get(key) if isinstance(conventions, Mapping) else None
        if isinstance(own, Mapping):
            shared.setdefault("; ".join(f"{k}: {own[k]}" for k in _CONVENTIONS if own.get(k)), []).append(label)
    lines = [f"{', '.join(of)}: {text}" for text, of in shared.items()]
    if isinstance(block.get("distances"), str):
        lines.append(f"Distances: {block['distances']}")
    if isinstance(block.get("auc_source"), str):
        lines.append(f"AUC is computed from {_SOURCES.get(block['auc_source'], block['auc_source'])}")
    return lines
