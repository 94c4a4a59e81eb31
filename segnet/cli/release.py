"""`segnet release`: trained weights made ready for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segnet.cli.options import AsJson, print_json


def release(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, checkpoints or folders of folds: the members of one ensemble.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for <network>-1.safetensors and so on.")],
    licence: Annotated[str, typer.Option(help="Of the weights, such as CC-BY-4.0.")],
    attribution: Annotated[str, typer.Option(help="Data sets, their licences and their sources.")],
    sites: Annotated[str, typer.Option(help="Lesions and places in the training data, such as `lung nodules`.")],
    commit: Annotated[str, typer.Option(help="Commit of the source that trained them.")] = "unknown",
    as_json: AsJson = False,
) -> None:
    """Write trained weights for others: in half precision, with their licence and their origin.

    Weights in the package's folder segnet/models/weights are used wherever no model is named. Files of the same name are replaced.
    """
    from segnet import __version__
    from segnet.io.weights import Release
    from segnet.prediction.release import release_runs

    facts = Release(licence=licence, attribution=attribution, sites=sites, segnet=__version__, commit=commit)
    files = release_runs(runs, out, facts)
    if as_json:
        print_json({"files": [{"file": str(file), "bytes": file.stat().st_size} for file in files]})
        return
    for file in files:
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
