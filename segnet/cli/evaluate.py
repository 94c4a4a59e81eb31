"""Masks against the truth."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segnet.cli.options import PARTIAL, AsJson, Part, Quiet, bar, cases_of_part
from segnet.errors import InputError
from segnet.report.defaults import WINDOW_HU

if TYPE_CHECKING:
    from segnet.dataset.store import PreparedDataset
    from segnet.evaluation.result import Evaluation


def evaluate(
    predictions: Annotated[Path, typer.Option("--input", "-i", help="Folder of predicted masks, or one mask.")],
    truths: Annotated[
        Path,
        typer.Option(
            "--truth",
            "-t",
            help="Folder of true masks, of pairs, a prepared folder, or one mask; `example` is the one of the package.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for evaluation.json, .csv and .txt, conventions.csv, overlays."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Run whose split --part refers to, and that --clicks runs.")
    ] = None,
    part: Annotated[Part | None, typer.Option(help="Only this part of the run's split.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Masks of another model: also the difference to them, tested by patient.")
    ] = None,
    clicks: Annotated[
        int | None, typer.Option(min=2, help="Also the ULS23 score of --model, by so many clicks in each lesion.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the clicks.")] = 0,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images named after the cases, where the truths have none.")
    ] = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Its first group, found in a case's name, is the patient.")
    ] = None,
    window: Annotated[tuple[float, float], typer.Option(help="CT window of the overlays, in HU.")] = WINDOW_HU,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with one case in memory.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score masks against the truth: Dice per lesion with its conventions, beside the all-background baseline."""
    from segnet.dataset.store import INDEX, load_dataset
    from segnet.evaluation.evaluate import evaluate as run
    from segnet.evaluation.paired import pair
    from segnet.io.example import MASK, or_example

    truths = or_example(truths, MASK)
    if part is not None and model is None:
        raise typer.BadParameter("--part: expected --model beside it; name the run whose split is meant")
    if clicks is not None and model is None:
        raise typer.BadParameter("--clicks: expected --model beside it; name the run that segments at the clicks")
    if out is not None:
        from segnet.report.overlay import require_window

        require_window(window)
    cases = None if part is None or model is None else cases_of_part([model], part)
    source = load_dataset(truths) if (truths / INDEX).is_file() else truths  # an index is read once
    options: dict[str, Any] = {"patient_regex": patient_regex, "cases": cases, "images": images}
    evaluation = run(
        predictions,
        source,
        **options,
        model=None if model is None else str(model.resolve()),
        part=part,
        workers=workers,
        progress=bar("evaluate", quiet),
    )
    other = comparison = None
    if against is not None:
        other = run(against, source, **options, workers=workers, progress=bar("against", quiet))
        comparison = pair(evaluation, other)
    if clicks is not None and model is not None:
        evaluation = _with_clicks(evaluation, source, model, clicks, seed, options, quiet)
    if out is not None:
        evaluation.write(out)
        if comparison is not None:
            comparison.write(out)
    if as_json:
        document = evaluation.as_dict()
        if comparison is not None:
            document["comparison"] = json.loads(comparison.to_json())
        print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(evaluation.to_table())
        if comparison is not None:
            print(comparison.to_table())
    unreadable = [*evaluation.unreadable, *(other.unreadable if other is not None else ())]
    unreadable += [(u["case"], u["reason"]) for u in (evaluation.uls23 or {}).get("unreadable", ())]
    if out is not None:
        sys.stdout.flush()
        unreadable += _overlays(evaluation, predictions, truths, out, window)
    for case, reason in dict.fromkeys(unreadable):
        print(f"segnet: {case}: {reason}", file=sys.stderr)
    if unreadable:
        raise typer.Exit(PARTIAL)


def _with_clicks(
    evaluation: Evaluation,
    truths: Path | PreparedDataset,
    model: Path,
    clicks: int,
    seed: int,
    options: dict[str, Any],
    quiet: bool,
) -> Evaluation:
    """The evaluation with the challenge's score of a run."""
    from dataclasses import replace

    from segnet.evaluation.click_score import challenge_score, network
    from segnet.evaluation.evaluate import truths_of
    from segnet.prediction.model import load

    score = challenge_score(
        truths_of(truths, **options), network(load(model)), clicks=clicks, seed=seed, progress=bar("clicks", quiet)
    )
    return replace(evaluation, uls23=score)


def _overlays(
    evaluation: Evaluation, predictions: Path, truths: Path, out: Path, window: tuple[float, float]
) -> tuple[tuple[str, str], ...]:
    """Draws the telling cases that have images; gives (case, reason) of failures."""
    pairs = _pairs_at(truths)
    if not pairs or not predictions.is_dir():
        return ()
    from segnet.report.cases import overlay_cases

    scored = {row.case: row.dice for row in evaluation.rows if row.status == "scored"}
    return tuple(overlay_cases(scored, predictions, pairs, out, window_hu=window))


def _pairs_at(source: Path) -> dict[str, Any]:
    """Pairs by case of a folder of pairs, none of any other path."""
    from segnet.io.pairs import find_pairs

    try:
        return {pair.case: pair for pair in find_pairs(source)}
    except InputError:
        return {}
