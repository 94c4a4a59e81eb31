"""Reads and checks the files of a report: evaluations, training runs, measured speed, comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from segnet.dataset.split import FILE as SPLIT_FILE
from segnet.errors import InputError
from segnet.evaluation.paired import FORMAT as COMPARISON_FORMAT
from segnet.evaluation.result import FORMAT
from segnet.evaluation.summary import source_of, spread
from segnet.metrics import check_consistency, iou_bounds
from segnet.report.numbers import number
from segnet.training import log

EVALUATION_FILE = "evaluation.json"


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Score(_Document):
    """One number over lesions, its interval over patients, and its conventions."""

    mean: FiniteFloat | None = None
    median: FiniteFloat | None = None
    q1: FiniteFloat | None = None
    q3: FiniteFloat | None = None
    ci95_lo: FiniteFloat | None = None
    ci95_hi: FiniteFloat | None = None
    n_lesions: int | None = None
    n_patients: int | None = None
    n_left_out: int | None = None
    level: str = ""
    empty: str = ""
    reduction: str = ""
    classes: str = ""
    units: str = ""
    source: str = ""


class Lesion(_Document):
    """One row of an evaluation. `pred_hu` and `truth_hu` are as `segnet.metrics.HuStatistics`. Further fields are kept."""

    case: str
    patient: str = ""
    status: str = ""
    set: str = ""
    size_class: str = ""
    pred_hu: dict[str, FiniteFloat] | None = None
    truth_hu: dict[str, FiniteFloat] | None = None

    def number(self, name: str) -> float | None:
        """A finite number of the row, or None."""
        return number(getattr(self, name, None))


class Bin(_Document):
    """Voxels with a predicted probability in [lo, hi): their number, mean probability and share of lesion."""

    lo: FiniteFloat
    hi: FiniteFloat
    n: int
    confidence: FiniteFloat | None = None
    frequency: FiniteFloat | None = None


class Region(_Document):
    """Calibration over one region."""

    ece: FiniteFloat | None = None
    mce: FiniteFloat | None = None
    brier: FiniteFloat | None = None
    voxels: int | None = None
    n_lesions: int | None = None
    n_left_out: int | None = None
    bins: list[Bin] = []


class Calibration(_Document):
    regions: dict[str, Region] = {}


class Consistency(_Document):
    dice_and_iou_agree: bool | None = None
    iou_bounds: tuple[FiniteFloat, FiniteFloat] | None = None
    flags: list[str] = []


class Document(_Document):
    """The evaluation.json of `segnet evaluate`, format "segnet-evaluate/2"."""

    format: str
    provenance: dict[str, Any] = {}
    conventions: dict[str, str] = {}
    summary: dict[str, Score]
    pooled: dict[str, Score] = {}
    by_set: dict[str, dict[str, Score]] = {}
    by_size: dict[str, dict[str, Score]] = {}
    consistency: Consistency = Consistency()
    all_background_baseline: dict[str, dict[str, Any]] | None = None
    paper_convention: dict[str, Any] | None = None
    uls23: dict[str, Any] | None = None
    calibration: Calibration | None = None
    missing_predictions: list[str] = []
    unreadable: list[dict[str, str]] = []
    unmatched_predictions: list[str] = []
    lesions: list[Lesion]


@dataclass(frozen=True)
class Run:
    """A training run: steps and validations of its log, and cases by part of its split.

    With `by_slice`, slices were split, and one case may be in all parts.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    split: dict[str, list[str]] = field(default_factory=dict)
    by_slice: bool = False


def read_evaluation(folder: Path) -> Document:
    """Read `evaluation.json` in a folder, or the file itself.

    Raises
    ------
    InputError
        The file is missing, is not JSON, has another format, lacks a field of it, or names a case twice.
    """
    file = folder / EVALUATION_FILE if folder.is_dir() else folder
    found = _json(file, "evaluation", "run `segnet evaluate -o FOLDER` first")
    told = found.get("format") if isinstance(found, dict) else None
    if told != FORMAT:
        raise InputError(f"evaluation: expected format {FORMAT}, got {told!r} in {file}; run `segnet evaluate` again")
    try:
        document = Document.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"evaluation: expected {FORMAT}, got {first['msg']} at {where} in {file}; run `segnet evaluate` again"
        ) from None
    cases = [row.case for row in document.lesions]
    if not cases:
        raise InputError(f"evaluation: expected at least one lesion, got none in {file}; evaluate some")
    if len(set(cases)) < len(cases):
        twice = next(case for case in cases if cases.count(case) > 1)
        raise InputError(f"evaluation: expected each case once, got {twice!r} twice in {file}; evaluate again")
    return document


def read_run(folder: Path) -> Run:
    """Read the log and the split of a training run.

    Raises
    ------
    InputError
        The folder holds neither, or its split is malformed.
    """
    log_file, split_file = folder / log.FILE, folder / SPLIT_FILE
    if not log_file.is_file() and not split_file.is_file():
        raise InputError(f"model: expected a run's folder with {log.FILE}, got {folder}; name the run's own folder")
    rows = [row for row in log.read(log_file) if isinstance(row, dict)] if log_file.is_file() else []
    split = _json(split_file, "model", "name the run's own folder") if split_file.is_file() else {}
    parts = split if isinstance(split, dict) else {"the split": split}
    for part, cases in parts.items():
        if not isinstance(cases, list | dict):
            raise InputError(
                f"model: expected cases in {part}, got {type(cases).__name__} in {split_file}; train again"
            )
    return Run(
        [row for row in rows if "val_dice" not in row],
        [row for row in rows if row.get("val_dice") is not None],
        {part: list(cases) for part, cases in parts.items()},
        by_slice=any(isinstance(cases, dict) for cases in parts.values()),
    )


def read_bench(file: Path) -> dict[str, Any]:
    """Read the JSON of `segnet bench train --json`.

    Raises
    ------
    InputError
        The file is missing, or holds anything else.
    """
    found = _json(file, "bench", "write it with `segnet bench train --json`")
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "epoch_s_estimate" in r for r in rows) or not rows:
        raise InputError(
            f"bench: expected rows with epoch_s_estimate, got other JSON in {file}; write it with `segnet bench train --json`"
        )
    assert isinstance(found, dict)
    return found


def read_comparison(file: Path) -> dict[str, Any]:
    """Read the comparison.json of `segnet evaluate --against`.

    Raises
    ------
    InputError
        The file is missing or has another format.
    """
    remedy = "write it with `segnet evaluate --against`"
    found = _json(file, "comparison", remedy)
    told = found.get("format") if isinstance(found, dict) else None
    if told != COMPARISON_FORMAT or not isinstance(found.get("metrics"), dict):
        raise InputError(f"comparison: expected format {COMPARISON_FORMAT}, got {told!r} in {file}; {remedy}")
    assert isinstance(found, dict)
    return found


def common_cases(documents: Mapping[str, Document]) -> list[str]:
    """Cases shared by all evaluations, in the order of the first.

    Raises
    ------
    InputError
        They share none.
    """
    names = list(documents)
    shared = set.intersection(*({row.case for row in d.lesions} for d in documents.values()))
    if not shared:
        raise InputError(
            f"evaluation: expected cases that {', '.join(names)} share, got none; evaluate all models on the same truths"
        )
    return [row.case for row in documents[names[0]].lesions if row.case in shared]


def restrict(document: Document, cases: Sequence[str]) -> Document:
    """The evaluation on some of its cases: means, quartiles and intervals are recomputed from its rows.

    Numbers that rows do not hold (pooled, by slice, calibration, the challenge's score) are left out.
    """
    wanted = set(cases)
    rows = [row for row in document.lesions if row.case in wanted]
    if len(rows) == len(document.lesions):
        return document
    summary = _summarise(rows, document.summary)
    mean_dice = summary["dice"].mean if "dice" in summary else None
    mean_iou = summary["iou"].mean if "iou" in summary else None
    consistency = Consistency()
    if mean_dice is not None and mean_iou is not None:
        consistency = Consistency(
            dice_and_iou_agree=check_consistency(mean_dice, mean_iou), iou_bounds=iou_bounds(mean_dice)
        )
    return document.model_copy(
        update={
            "summary": summary,
            "pooled": {},
            "by_set": {
                name: _summarise([r for r in rows if r.set == name], scores)
                for name, scores in document.by_set.items()
                if any(r.set == name for r in rows)
            },
            "by_size": {
                name: _summarise([r for r in rows if r.size_class == name], scores)
                for name, scores in document.by_size.items()
            },
            "consistency": consistency,
            "all_background_baseline": None,
            "paper_convention": None,
            "uls23": None,
            "calibration": None,
            "missing_predictions": [case for case in document.missing_predictions if case in wanted],
            "unreadable": [entry for entry in document.unreadable if entry.get("case") in wanted],
            "lesions": rows,
        }
    )


def _summarise(rows: Sequence[Lesion], like: Mapping[str, Score]) -> dict[str, Score]:
    """Scores of `rows` under the conventions of `like`."""
    auc_source = source_of([str(getattr(row, "auc_source", "")) for row in rows])
    return {
        name: score.model_copy(
            update=asdict(spread([(row.patient, row.number(name)) for row in rows]))
            | ({"source": auc_source} if name.startswith("auc") else {})
        )
        for name, score in like.items()
    }


def _json(file: Path, argument: str, remedy: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{argument}: expected a readable file, got {type(error).__name__} at {file}; {remedy}"
        ) from None
    except ValueError:
        raise InputError(f"{argument}: expected JSON, got something else in {file}; {remedy}") from None
