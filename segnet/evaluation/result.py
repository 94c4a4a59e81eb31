"""An evaluation as JSON, CSV and plain text."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from segnet.evaluation.conventions import CONVENTION_KEYS, LESION, METRICS, PAPER, Convention
from segnet.evaluation.rows import LesionRow
from segnet.evaluation.sources import few
from segnet.evaluation.summary import Summary
from segnet.metrics import Baseline, HuStatistics
from segnet.runtime.files import write_text
from segnet.runtime.table import format_table, format_value

FORMAT = "segnet-evaluate/2"
_IN_GROUPS = ("dice", "iou", "assd_mm", "hd95_mm")
_SUMMARY_COLUMNS = {
    "score": "score",
    "mean": "mean",
    "ci": "95 % interval",
    "median": "median",
    "quartiles": "quartiles",
    "n_lesions": "lesions",
    "n_patients": "patients",
    "n_left_out": "left out",
    **{key: key for key in CONVENTION_KEYS},
    "source": "from",
}
_LESION_COLUMNS = {
    "case": "case",
    "patient": "patient",
    "dice": "Dice",
    "iou": "IoU",
    "ravd": "RAVD",
    "assd_mm": "ASSD mm",
    "hd95_mm": "HD95 mm",
    "hd_mm": "HD mm",
    "auc": "AUC",
    "auc_source": "from",
    "pred_volume_ml": "ml",
    "truth_volume_ml": "true ml",
    "pred_long_mm": "long mm",
    "truth_long_mm": "true",
    "pred_short_mm": "short mm",
    "truth_short_mm": "true",
    "size_class": "size",
    "status": "status",
}
_CAPTION = (
    "by lesion (level lesion volume; empty skip: two empty masks have no score (-), distances to one are inf;"
    " classes foreground, AUC both; reduction none)"
)
_PLAIN = [f.name for f in fields(LesionRow) if not f.name.endswith("_hu")]
_OF_HU = [f.name for f in fields(HuStatistics)]


def _column(name: str) -> tuple[str, ...]:
    """The convention of a column, by `CONVENTION_KEYS`; text has only a level."""
    if name in METRICS:
        return tuple(replace(METRICS[name].macro(), reduction="none").as_dict().values())
    if name.endswith(("_ml", "_mm")):
        return LESION, "0", "none", "foreground", name[-2:]
    if "_hu_" in name:
        return LESION, "no value, nor without an image", "none", "foreground", "HU"
    return LESION, "", "none", "", ""


_COLUMNS = {
    name: _column(name) for name in (*_PLAIN, *(f"{side}_hu_{name}" for side in ("pred", "truth") for name in _OF_HU))
}
"""Columns of evaluation.csv, each with its convention."""


@dataclass(frozen=True)
class Evaluation:
    """All rows, their summaries, and the checks beside them.

    Attributes
    ----------
    pooled, by_set, by_size : as `summary` (`segnet.evaluation.summary`)
    consistency : whether mean Dice and mean IoU can belong to the same lesions, over all and in each group
    missing : cases without a usable prediction, which counted as empty
    unreadable : (case, reason) of files that could not be used; a mask's case is also among `missing`
    calibration : by region, None without probabilities
    uls23 : the challenge's score, None without simulated clicks
    provenance : program, files, model and time
    """

    rows: tuple[LesionRow, ...]
    summary: dict[str, Summary]
    pooled: dict[str, Summary]
    by_set: dict[str, dict[str, Summary]]
    by_size: dict[str, dict[str, Summary]]
    baseline: Baseline
    consistency: dict[str, Any]
    paper_convention: dict[str, Any]
    missing: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    unmatched_predictions: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None
    uls23: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The document of evaluation.json, described in docs/evaluation.md."""
        baseline = self.baseline
        document = {
            "format": FORMAT,
            "provenance": self.provenance,
            "conventions": self.conventions,
            "summary": _plain(self.summary),
            "pooled": _plain(self.pooled),
            "by_set": {name: _plain(group) for name, group in self.by_set.items()},
            "by_size": {name: _plain(group) for name, group in self.by_size.items()},
            "consistency": self.consistency,
            "all_background_baseline": {
                "lesion": _baseline(baseline.lesion_dice, LESION, "skip", baseline.n_lesions),
                "slice": _baseline(baseline.slice_dice, "slice", "one", baseline.n_slices),
            },
            "paper_convention": self.paper_convention,
            "uls23": self.uls23,
            "calibration": None if self.calibration is None else {"regions": self.calibration},
            "missing_predictions": self.missing,
            "unreadable": [{"case": case, "reason": reason} for case, reason in self.unreadable],
            "unmatched_predictions": self.unmatched_predictions,
            "lesions": [asdict(row) for row in self.rows],
        }
        plain: dict[str, Any] = finite(document)
        return plain

    def to_json(self) -> str:
        """Strict JSON: a number that is not finite (a distance to an empty mask, a skipped Dice) is null."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line per lesion under a heading (see `conventions_csv`); a skipped Dice is empty, an infinite distance ``inf``."""
        lines = []
        for row in self.rows:
            values = [getattr(row, name) for name in _PLAIN]
            for hu in (row.pred_hu, row.truth_hu):
                values += [None if hu is None else getattr(hu, name) for name in _OF_HU]
            lines.append(["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values])
        return _csv(list(_COLUMNS), lines)

    def conventions_csv(self) -> str:
        """One line per column of `to_csv`: its level, what an empty mask does, its reduction, classes and units."""
        return _csv(["column", *CONVENTION_KEYS], [[name, *found] for name, found in _COLUMNS.items()])

    def to_table(self) -> str:
        """Plain text for a terminal: lesions, summaries, baseline, warnings."""
        short = {key: heading for key, heading in _SUMMARY_COLUMNS.items() if key not in ("median", "quartiles")}
        parts = [_CAPTION, format_table([asdict(row) for row in self.rows], _LESION_COLUMNS)]
        parts += ["", format_table(_summary_rows(self.summary), _SUMMARY_COLUMNS)]
        parts += ["", format_table(_summary_rows(self.pooled), short)]
        for title, groups in (("set", self.by_set), ("long axis of the truth", self.by_size)):
            if len(groups) > 1:
                rows = [
                    {"group": name or "(none)", **row}
                    for name, group in groups.items()
                    for row in _summary_rows({k: group[k] for k in _IN_GROUPS})
                ]
                parts += ["", format_table(rows, {"group": title, **_SUMMARY_COLUMNS})]
        if self.uls23 is not None:
            parts += ["", *_uls23_lines(self.uls23)]
        if self.calibration is not None:
            parts += ["", *_calibration_lines(self.calibration)]
        return "\n".join([*parts, "", *self._remarks()]) + "\n"

    def _remarks(self) -> list[str]:
        paper = self.paper_convention
        auc_source = f"from {paper['auc_source']}"
        lines = [
            f"all background instead: Dice {format_value(self.baseline.lesion_dice)} (level lesion volume, empty skip, reduction macro,"
            f" classes foreground, units 1), {format_value(self.baseline.slice_dice)} (level slice, empty one, reduction macro, classes"
            " foreground, units 1)",
            f"paper's convention ({paper['n_slices']} slices, RAVD over {paper['n_slices_ravd']}, distances over"
            f" {paper['n_slices_distances']}; distances are directed, prediction to truth, over mask points):",
            *(
                f"  {name} {format_value(paper[name])} ({convention.text()}{'; ' + auc_source if name == 'auc' else ''})"
                for name, convention in PAPER.items()
            ),
        ]
        lines += [f"WARNING: {flag}" for flag in self.consistency["flags"]]
        if self.missing:
            lines.append(f"missing predictions, counted as empty: {few(self.missing, 20)}")
        lines += [f"could not be used: {case}: {reason}" for case, reason in self.unreadable]
        if self.unmatched_predictions:
            lines.append(f"predictions without a truth, not scored: {few(self.unmatched_predictions, 20)}")
        return lines

    def write(self, folder: Path) -> None:
        """Writes evaluation.json, .csv and .txt, and conventions.csv, into a folder, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "conventions.csv", self.conventions_csv())
        for suffix, text in (("json", self.to_json()), ("csv", self.to_csv()), ("txt", self.to_table())):
            write_text(folder / f"evaluation.{suffix}", text)


def _csv(heading: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(lines)
    return text.getvalue()


def finite(value: Any) -> Any:
    """`value` with None for every float that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(group: Mapping[str, Summary]) -> dict[str, Any]:
    return {name: asdict(summary) for name, summary in group.items()}


def _baseline(dice: float | None, level: str, empty: str, n: int) -> dict[str, Any]:
    return {"dice": dice, **Convention(level, empty, "macro", "foreground", "1").as_dict(), "n": n}


def _summary_rows(group: Mapping[str, Summary]) -> list[dict[str, Any]]:
    return [
        {
            "score": METRICS[name].heading,
            "ci": interval_text(s.ci95_lo, s.ci95_hi),
            "quartiles": interval_text(s.q1, s.q3),
            **asdict(s),
        }
        for name, s in group.items()
    ]


def _uls23_lines(uls23: Mapping[str, Any]) -> list[str]:
    value = {
        key: format_value(uls23[key]) for key in ("score", "dice", "long_axis_error", "short_axis_error", "consistency")
    }
    lines = [
        f"ULS23 score {value['score']} (95 % {interval_text(uls23['ci95_lo'], uls23['ci95_hi'])}; {uls23['clicks']} clicks,"
        f" {uls23['n_lesions']} lesions): Dice {value['dice']}, long axis error {value['long_axis_error']}, short"
        f" axis error {value['short_axis_error']}, consistency {value['consistency']}"
    ]
    lines += [f"  {name}: {text}" for name, text in uls23["conventions"].items()]
    if uls23["n_left_out"]:
        lines.append(f"  without lesion, so without clicks, left out: {uls23['n_left_out']} truths")
    unreadable = uls23["unreadable"]
    return lines + [
        f"  image could not be used, counted as nothing found: {u['case']}: {u['reason']}" for u in unreadable
    ]


def _calibration_lines(regions: Mapping[str, Any]) -> list[str]:
    return [
        f"calibration, {name}: ECE {format_value(r['ece'])}, MCE {format_value(r['mce'])}, Brier {format_value(r['brier'])}"
        f" (level voxel, {r['voxels']} of them, of {r['n_lesions']} lesions with probabilities, {r['n_left_out']} left out; reduction pooled; {len(r['bins'])} bins; classes foreground; units 1)"
        for name, r in regions.items()
    ]


def interval_text(lo: float | None, hi: float | None) -> str:
    """Two bounds for a table."""
    return "-" if lo is None or hi is None else f"{format_value(lo)} to {format_value(hi)}"
