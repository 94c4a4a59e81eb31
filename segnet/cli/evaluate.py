"""Masks against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .options import (
    AsJson,
    Part,
    Quiet,
    bar,
    cases_of_part,
)


def evaluate(
    predictions: Annotated[Path, typer.Option("--input", "-i", help="Folder of predicted masks, or one mask.")],
    truths: Annotated[
        Path, typer.Option("--truth", "-t", help="Folder of true masks, of pairs, a prepared folder, or one mask.")
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for evaluation.json, .csv, .txt and overlays.")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Run whose split --part refers to.")] = None,
    part: Annotated[Part | None, typer.Option(help="Only this part of the run's split.")] = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Its first group, found in a case's name, is the patient.")
    ] = None,
    window: Annotated[tuple[float, float], typer.Option(help="CT window of the overlays, in HU.")] = (-1000.0, 400.0),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score masks against the truth: Dice per lesion with its conventions, beside the all-background baseline."""
    from ..evaluate import evaluate as run

    if part is not None and model is None:
        raise typer.BadParameter("--part: expected --model beside it; name the run whose split is meant")
    cases = None if part is None or model is None else cases_of_part([model], part)
    evaluation = run(predictions, truths, patient_regex=patient_regex, cases=cases, progress=bar("evaluate", quiet))
    if out is not None:
        from ..files import write_text

        out.mkdir(parents=True, exist_ok=True)
        texts = {"json": evaluation.to_json(), "csv": evaluation.to_csv(), "txt": evaluation.to_table()}
        for suffix, text in texts.items():
            write_text(out / f"evaluation.{suffix}", text)
        if (pairs := _pairs_at(truths)) and predictions.is_dir():
            from ..report.cases import overlay_cases

            overlay_cases({row.case: row.dice for row in evaluation.rows}, predictions, pairs, out, window_hu=window)
    print(evaluation.to_json() if as_json else evaluation.to_table())


def _pairs_at(source: Path) -> dict[str, Any]:
    """Pairs by case of a folder laid out as one of pairs, none of anything else."""
    from ..data.pairs import find_pairs

    try:
        return {pair.case: pair for pair in find_pairs(source)}
    except InputError:
        return {}
