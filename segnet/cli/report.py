"""`segnet report`: evaluations as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segnet.cli.options import AsJson, Quiet, bar, print_json
from segnet.report.defaults import LESIONS, WINDOW_HU


def report(
    evaluations: Annotated[
        list[str],
        typer.Option(
            "--evaluation", "-e", help="[NAME=]FOLDER of `segnet evaluate`; repeat it. The first model leads."
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="NAME=FOLDER of predicted masks. Default: the folder named in the evaluation."
        ),
    ] = None,
    truths: Annotated[
        Path | None, typer.Option("--truth", "-t", help="Folder of image and mask pairs; without it no pictures.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="NAME=FOLDER of a training run, for its curves and the check of its split; repeat it."
        ),
    ] = None,
    bench: Annotated[Path | None, typer.Option(help="JSON of `segnet bench train --json`.")] = None,
    comparison: Annotated[
        Path | None,
        typer.Option(help="comparison.json of `segnet evaluate --against`. Default: computed from the evaluations."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    lesions: Annotated[
        int, typer.Option(min=0, help="Lesions with a section and pictures of their own, the worst first.")
    ] = LESIONS,
    window: Annotated[tuple[float, float], typer.Option(help="CT window of the pictures, in HU.")] = WINDOW_HU,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file of one or several evaluations: scores, charts, pictures. It opens offline and prints."""
    from segnet.io.example import FOLDER, or_example
    from segnet.report.page import Sources, named, write_report

    models = named(evaluations, "evaluation")
    names = list(models)
    written = write_report(
        out,
        Sources(
            evaluations=models,
            predictions=named(predictions or [], "input", names),
            pairs=None if truths is None else or_example(truths, FOLDER),
            runs=named(model or [], "model", names),
            bench=bench,
            comparison=comparison,
        ),
        title=title,
        lesions=lesions,
        window_hu=window,
        progress=bar("pictures", quiet or truths is None),
    )
    if as_json:
        print_json(written)
    else:
        print(f"{written['path']}: {written['lesions']} lesions, {written['bytes'] / 1e6:.1f} MB")
        for warning in written["warnings"]:
            print(f"note: {warning}")
