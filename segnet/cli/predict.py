"""Images to masks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .options import (
    PARTIAL,
    AsJson,
    ClickSpaceOption,
    Part,
    Quiet,
    bar,
    cases_of_part,
    print_json,
)


def predict(
    source: Annotated[Path, typer.Option("--input", "-i", help="NIfTI image, a folder of them, or a folder of pairs.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Mask to write (.nii.gz), or a folder for a folder.")],
    model: Annotated[
        list[Path],
        typer.Option(
            "--model",
            "-m",
            help="Run folder, model.safetensors, or a folder of folds; repeat it to average several networks.",
        ),
    ],
    click: Annotated[str | None, typer.Option(help="Point in the lesion: x,y,z, or `centre` of the volume.")] = None,
    click_space: Annotated[
        ClickSpaceOption, typer.Option(help="Meaning of x,y,z: voxel indices of the file from 0, or mm in RAS or LPS.")
    ] = ClickSpaceOption.voxel,
    part: Annotated[Part | None, typer.Option(help="Of a folder, only this part of the run's split.")] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="A torch device.")] = "cpu",
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over eight turns and flips of a slice: slower, a little better.")
    ] = False,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of the lesion probability.")] = 0.5,
    preview: Annotated[bool, typer.Option(help="An overlay PNG beside each mask.")] = True,
    probabilities: Annotated[bool, typer.Option(help="Also <case>_probability.nii.gz.")] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Also <case>_uncertainty.nii.gz: standard deviation of the networks and views."
        ),
    ] = False,
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="bfloat16 where a check on the image finds the same mask, else float32."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment one image or a folder of images."""
    from ..ensemble import load
    from ..predict import SUFFIXES, images_in, predict_file, require_several

    point = _parse_click(click)
    ensemble = load(model, bfloat16=bfloat16)
    if uncertainty:
        require_several(ensemble.models, tta)
    cases = None if part is None else cases_of_part(ensemble.paths, part)
    images = images_in(source, cases)
    single = source.is_file()
    if single and not out.name.endswith(SUFFIXES):
        raise InputError(f"output: expected a name ending in .nii.gz for one image, got {out}; name the mask")
    if device != "cpu":
        raise InputError(f"device: expected cpu, got {device!r}; other devices are not offered yet")
    folder = out.parent if single else out
    folder.mkdir(parents=True, exist_ok=True)
    done, failed = [], []
    outer = None if single else bar("predict", quiet)
    for number, (case, image) in enumerate(images.items(), 1):
        mask = out if single else folder / f"{case}.nii.gz"
        stem = mask.name.removesuffix(".gz").removesuffix(".nii")
        try:
            prediction = predict_file(
                image,
                mask,
                ensemble.models,
                ensemble.config,
                click=point,
                click_space=click_space.value,
                half=ensemble.halves,
                tta=tta,
                threshold=threshold,
                preview=folder / f"{stem}.png" if preview else None,
                probabilities=folder / f"{stem}_probability.nii.gz" if probabilities else None,
                uncertainty=folder / f"{stem}_uncertainty.nii.gz" if uncertainty else None,
                progress=bar(case, quiet) if single else None,
            )
            done.append(prediction)
            if bfloat16 and prediction.precision == "float32":
                print(
                    f"segnet: {image}: float32 used, for bfloat16 differs: {prediction.bfloat16_difference}",
                    file=sys.stderr,
                )
        except InputError as error:
            if single:
                raise
            failed.append({"image": str(image), "reason": str(error)})
            print(f"segnet: {error}", file=sys.stderr)
        if outer is not None:
            outer(number, len(images))
    if as_json:
        print_json({"predictions": [p.as_dict() for p in done], "failed": failed})
    elif single:
        p = done[0]
        print(f"{p.mask}: {p.volume_ml:.2f} ml, {p.long_axis_mm:.1f} x {p.short_axis_mm:.1f} mm, {p.elapsed_s:.1f} s")
        if p.precision == "bfloat16":
            print(f"bfloat16 agrees with float32: {p.bfloat16_difference}")
    else:
        print(f"{len(done)} masks in {folder}" + (f", {len(failed)} images failed" if failed else ""))
    if failed:
        raise typer.Exit(PARTIAL)


def _parse_click(text: str | None) -> Any:
    if text is None or text in ("centre", "center"):
        return None if text is None else "centre"
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--click: expected x,y,z or centre, got {text!r}; write it as 128,130,64") from None
    return x, y, z
