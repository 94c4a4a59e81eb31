"""`segnet compare`: networks trained on the same folds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segnet.cli.options import AsJson, ConfigFile, Quiet, Split, print_json


def compare(
    source: Annotated[Path, typer.Option("--input", "-i", help="Folder written by `segnet prepare`.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for all runs and the results.")],
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", help="A network with its own settings: ahnet,gate_target=skip. Repeat it."),
    ],
    folds: Annotated[int, typer.Option(min=2, help="Parts the patients are dealt into.")] = 3,
    split: Annotated[Split | None, typer.Option(help="stratified or patient, as for training.")] = None,
    only_fold: Annotated[list[int] | None, typer.Option(help="Train this fold alone, from 0; repeat it.")] = None,
    config: ConfigFile = None,
    minutes: Annotated[float | None, typer.Option(help="Time of each training.")] = None,
    clock: Annotated[
        Literal["wall", "processor"] | None,
        typer.Option(help="Clock of the minutes: wall, or processor time of a training's threads. Default: wall."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps of each training instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Slices per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    validations: Annotated[int | None, typer.Option(help="Validations in each training.")] = None,
    patch_px: Annotated[int | None, typer.Option(help="Field of view, in pixels of the image.")] = None,
    input_px: Annotated[int | None, typer.Option(help="Side it is resampled to; a multiple of 32.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each training. Default: all processors, shared by the workers.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train networks for the same time on the same folds and score them on held-out patients. A stopped run resumes."""
    from segnet.runtime.memory import keep_freed_memory
    from segnet.runtime.table import format_table
    from segnet.study.compare import columns_of
    from segnet.study.compare import compare as run

    keep_freed_memory()
    flags = {
        "data": {"patch_px": patch_px, "input_px": input_px, "split": split},
        "train": {
            "minutes": minutes,
            "clock": clock,
            "max_steps": max_steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "validations": validations,
            "threads": threads,
        },
    }
    results = run(
        source,
        out,
        model,
        folds=folds,
        base=config,
        flags=flags,
        only_folds=only_fold or (),
        workers=workers,
        report=None if quiet else lambda line: print(line, file=sys.stderr, flush=True),
    )
    if as_json:
        print_json(results)
    else:
        print(format_table(results["rows"], columns_of(results)))
