"""Image files to a dataset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    PARTIAL,
    AsJson,
    Quiet,
    bar,
    print_json,
)


def prepare(
    source: Annotated[
        list[Path], typer.Option("--input", "-i", help="Folder of NIfTI images and masks; repeat it for several.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for one HDF5 file a patient.")],
    window: Annotated[tuple[float, float], typer.Option(help="CT window in HU: lowest and highest value kept.")] = (
        -1000.0,
        400.0,
    ),
    patient_regex: Annotated[
        str | None, typer.Option(help="Its first group, found in a case's name, is the patient.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List bad cases and go on; exit code 4.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Write also into a folder that holds other files.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check images and masks and write them as HDF5, one file a patient."""
    from ..data.pairs import find_pairs
    from ..data.prepare import prepare as run

    found = [find_pairs(folder, patient_regex=patient_regex) for folder in source]
    pairs = [pair for pairs in found for pair in pairs]
    on_error: Any = "skip" if skip_bad else "raise"
    result = run(pairs, out, window_hu=window, on_error=on_error, overwrite=overwrite, progress=bar("prepare", quiet))
    patients = len({case.patient for case in result.cases})
    if as_json:
        skipped = [{"case": case, "reason": reason} for case, reason in result.skipped]
        print_json({"output": str(out), "cases": len(result.cases), "patients": patients, "skipped": skipped})
    else:
        print(f"{len(result.cases)} cases of {patients} patients in {out}")
    if unpaired := sum(len(pairs.unpaired_images) for pairs in found):
        print(f"{unpaired} images without a mask left out", file=sys.stderr)
    for case, reason in result.skipped:
        print(f"left out {case}: {reason}", file=sys.stderr)
    if result.skipped:
        raise typer.Exit(PARTIAL)
