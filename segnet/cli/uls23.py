"""The ULS23 challenge's container."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from segnet.cli.options import PARTIAL, AsJson, Models, Quiet, bar, print_json, thread_count


def uls23_process(
    model: Models = None,
    source: Annotated[
        Path, typer.Option("--input", "-i", help="Holds images/stacked-3d-ct-lesion-volumes and the spacings.")
    ] = Path("/input"),
    out: Annotated[Path, typer.Option("--output", "-o", help="For images/ct-binary-uls.")] = Path("/output"),
    voi_slices: Annotated[int, typer.Option(min=1, help="Slices of each volume in a stack.")] = 128,
    tta: Annotated[bool, typer.Option("--tta", help="Mean over eight turns and flips of a slice.")] = False,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of the lesion probability.")] = 0.5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch and of the scan.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment stacked volumes of interest as the ULS23 challenge's container does: the lesion at each one's centre.

    Exit codes: 0 done, 2 usage, 3 bad input, 4 some stacks failed.
    """
    from segnet.prediction.model import load
    from segnet.prediction.uls23 import process

    with thread_count(threads):
        done, failed = process(
            source,
            out,
            load(model),
            voi_slices=voi_slices,
            tta=tta,
            threshold=threshold,
            on_failed=lambda failure: print(f"segnet: {failure.reason}", file=sys.stderr),
            progress=lambda name: bar(name, quiet),
        )
    for stack in done:
        for number, warnings in enumerate(stack.warnings, 1):
            for warning in warnings:
                print(f"segnet: {stack.mask}, volume {number}: {warning}", file=sys.stderr)
    if as_json:
        print_json({"stacks": [asdict(stack) for stack in done], "failed": [asdict(failure) for failure in failed]})
    else:
        for stack in done:
            print(f"{stack.mask}: {len(stack.lesion_voxels)} volumes, {stack.elapsed_s:.1f} s")
    if failed:
        raise typer.Exit(PARTIAL)
