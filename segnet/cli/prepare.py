"""The command `prepare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segnet.cli.options import PARTIAL, AsJson, Quiet, bar, print_json
from segnet.errors import InputError


def prepare(
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for an HDF5 file of each patient, index and manifest.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", "-i", help="Folder of image and mask pairs, or of sets of them like ULS23; repeatable."
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Table of pairs instead: image, mask and any of case, patient, set.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="With one --input and --masks: pattern of the images, such as {patient}/{case}_ct.nii.gz."),
    ] = None,
    masks: Annotated[str | None, typer.Option(help="Pattern of the masks, with the same {fields} or more.")] = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Pattern whose first group, in a case's name, is the patient.")
    ] = None,
    route: Annotated[
        Literal["hu", "paper"] | None,
        typer.Option(help="hu keeps a CT window; paper makes 8-bit pictures of 256 x 256. Default: hu."),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(help="CT window in HU, lowest and highest value kept. Default: -1000 400."),
    ] = None,
    values: Annotated[
        Literal["hu", "unit", "zscore"] | None,
        typer.Option(help="Stored: int16 HU, or float16 from 0 to 1, or float16 z-scores. Default: hu."),
    ] = None,
    keep_png: Annotated[
        bool | None, typer.Option("--keep-png", help="Keep the pictures of the route paper in png/.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes. Default: one for each processor.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers are used instead: tcp://host:8786.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: the i-th of n runs, counted from 1; a last run without it writes the index."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad case.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Write into a folder with other files, or replace a dataset prepared otherwise."
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check images and masks and write them as HDF5, one file for each patient.

    A second run keeps current files and writes missing or changed ones. Bad cases are left out and listed, with exit code 4.
    """
    from segnet.config import checked_prepare_config
    from segnet.dataset.prepare import prepare as run
    from segnet.io.pair_lists import pairs_from_csv, pairs_from_patterns
    from segnet.io.pairs import find_pairs, gather
    from segnet.runtime.memory import keep_freed_memory
    from ssmcore import available_processors

    keep_freed_memory()
    config = checked_prepare_config({"route": route, "window_hu": window, "values": values, "keep_png": keep_png})
    folders = source or []
    if (table is None) == (not folders) or (images is None) != (masks is None) or (images and len(folders) != 1):
        raise typer.BadParameter("expected --input, or --csv, or one --input with --images and --masks")
    if table is not None:
        pairs = pairs_from_csv(table, patient_regex=patient_regex)
    elif images is not None and masks is not None:
        pairs = pairs_from_patterns(folders[0], images, masks, patient_regex=patient_regex)
    else:
        several = len(folders) > 1
        lists = [
            find_pairs(folder, patient_regex=patient_regex, set_name=folder.absolute().name if several else "")
            for folder in folders
        ]
        pairs = gather(lists)
    result = run(
        pairs,
        out,
        config,
        workers=workers or available_processors(),
        scheduler=scheduler,
        shard=_shard(shard),
        strict=strict,
        overwrite=overwrite,
        images_without_mask=len(pairs.unpaired_images),
        progress=bar("prepare", quiet),
    )
    patients = len({case.patient for case in result.cases})
    if as_json:
        print_json(
            {
                "output": str(out),
                "cases": len(result.cases),
                "patients": patients,
                "patients_written": result.written,
                "patients_kept": result.kept,
                "patients_removed": result.removed,
                "images_without_mask": len(pairs.unpaired_images),
                "complete": result.complete,
                "warnings": {case.case: case.warnings for case in result.cases if case.warnings},
                "left_out": [case.model_dump() for case in result.left_out],
            }
        )
    else:
        print(f"{len(result.cases)} cases of {patients} patients in {out}, {result.kept} patients kept")
        if result.removed:
            print(f"{result.removed} patients removed, since no image of theirs was given")
        if not result.complete:
            print("a shard: after all shards, run once more without --shard to write the index")
    if pairs.unpaired_images:
        print(f"{len(pairs.unpaired_images)} images without a mask left out", file=sys.stderr)
    for prepared in result.cases:
        for warning in prepared.warnings:
            print(f"{prepared.case}: {warning}", file=sys.stderr)
    for case in result.left_out:
        print(f"left out {case.case}: {case.reason}", file=sys.stderr)
    if result.left_out:
        raise typer.Exit(PARTIAL)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit()):
        raise InputError(f"shard: expected i/n such as 1/8, got {text!r}; the first of eight is 1/8")
    return int(number), int(count)
