"""Images to masks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segnet.cli.options import PARTIAL, AsJson, Models, Part, Quiet, bar, cases_of_part, print_json, thread_count
from segnet.errors import InputError

if TYPE_CHECKING:
    from segnet.prediction.options import VoiSize
    from segnet.prediction.predict import Prediction

ClickSpace = Literal["voxel", "ras", "lps"]


def predict(
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            help="Image, a folder of images, a folder of pairs, or one DICOM series; `example` is the one of the package.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Mask to write (.nii.gz), or a folder for a folder or for --clicks.")
    ],
    model: Models = None,
    click: Annotated[str | None, typer.Option(help="Point in the lesion: x,y,z, or `centre` of the volume.")] = None,
    click_space: Annotated[
        ClickSpace, typer.Option(help="Meaning of x,y,z: voxel indices of the file from 0, or mm in RAS or LPS.")
    ] = "voxel",
    clicks: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns case,x,y,z and perhaps space and lesion: a mask for each line; other images are left out."
        ),
    ] = None,
    voi: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            help="With a click, voxels to the right, to the front and upwards around it that are segmented. Default: all, or 256 256 128 for networks that are not told the click."
        ),
    ] = None,
    voi_slices: Annotated[int | None, typer.Option(min=1, help="Of --voi, the number upwards alone.")] = None,
    voi_mm: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Instead of --voi, mm in the same directions.")
    ] = None,
    skip_padding: Annotated[
        bool,
        typer.Option("--skip-padding", help="Leave out a constant border, as of volumes cut beyond a scan's edge."),
    ] = False,
    part: Annotated[Part | None, typer.Option(help="Of a folder, only this part of the run's split.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch and of the scan. Default: one a core.")
    ] = None,
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
        bool, typer.Option("--bfloat16", help="bfloat16 where a check on the image finds the same mask, else float32.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make results anew that are of another image, model or setting.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment one image or a folder of images.

    Beside each mask stands a .json of the same name: settings, measurements of each lesion, warnings; a folder also gets statistics.csv.
    Run again, it keeps results of the same image, model and settings, and makes those that are missing: that is how a stopped batch goes on.
    Results of other settings are replaced with --overwrite alone; files that segnet did not write, never.

    Exit codes: 0 done, 2 usage, 3 bad input, 4 some images of a folder failed.
    """
    from segnet.io.example import or_example
    from segnet.io.images import images_in, is_one_image
    from segnet.prediction.batch import BatchOptions, plan, predict_batch
    from segnet.prediction.clicks import read_clicks
    from segnet.prediction.model import load
    from segnet.prediction.options import MASK_ENDINGS

    point = _parse_click(click)
    if clicks is not None and point is not None:
        raise typer.BadParameter("--clicks: expected no --click beside it; list every click in the file")
    if point is None and clicks is None and (voi or voi_slices or voi_mm):
        raise typer.BadParameter("--voi: expected --click or --clicks beside it; it lies around a click")
    options = BatchOptions(
        voi=_voi_size(voi, voi_slices, voi_mm),
        skip_padding=skip_padding,
        tta=tta,
        threshold=threshold,
        uncertainty=uncertainty,
        preview=draw_preview if preview else None,
        probabilities=probabilities,
    )
    source = or_example(source)
    listed = None if clicks is None else read_clicks(clicks, click_space)
    single = is_one_image(source) and clicks is None
    if single and not out.name.endswith(MASK_ENDINGS):
        raise InputError(f"output: expected a name ending in .nii.gz for one image, got {out}; name the mask")
    networks = load(model, bfloat16=bfloat16)
    images = images_in(source, None if part is None else cases_of_part(networks.paths, part))
    if not single and out.name.endswith(MASK_ENDINGS):
        raise InputError(f"output: expected a folder for several masks, got {out}; leave the ending out")
    tasks, left_out = plan(images, out, click=point, space=click_space, clicks=listed)
    if single:
        tasks = [replace(tasks[0], mask=out)]
    with thread_count(threads):
        batch = predict_batch(
            tasks,
            networks,
            options,
            overwrite=overwrite,
            table=not single,
            stop_on_failure=single,
            on_done=_warn,
            on_failed=lambda failure: print(f"segnet: {failure['reason']}", file=sys.stderr),
            progress=None if single else bar("predict", quiet),
            slice_progress=(lambda task: bar(task.case, quiet)) if single else None,
        )
    if left_out:
        print(f"segnet: {len(left_out)} images without a click left out", file=sys.stderr)
    if as_json:
        print_json(
            {
                "predictions": batch.predictions,
                "failed": batch.failed,
                "without_click": left_out,
                "statistics": batch.table,
            }
        )
    elif single:
        _print_one(batch.predictions[0])
    else:
        kept = sum(p["state"] == "kept" for p in batch.predictions)
        notes = [f"{kept} of them from before"] * bool(kept) + [f"{len(batch.failed)} failed"] * bool(batch.failed)
        print(f"{len(batch.predictions)} masks in {out}" + "".join(f", {note}" for note in notes))
    if batch.failed:
        raise typer.Exit(PARTIAL)


def draw_preview(path: Path, found: Prediction) -> None:
    """The overlay beside a mask."""
    from segnet.io.names import stem_of
    from segnet.report.overlay import overlay_png

    overlay_png(
        path,
        found.volume.array_zyx,
        found.mask,
        window_hu=found.window_hu,
        spacing_zyx_mm=found.volume.spacing_zyx_mm,
        title=stem_of(found.volume.path),
    )


def _warn(prediction: dict[str, Any]) -> None:
    for warning in prediction["warnings"]:
        print(f"segnet: {prediction['mask']}: {warning}", file=sys.stderr)
    difference = prediction["bfloat16_difference"]
    if difference is not None and prediction["precision"] == "float32":
        print(
            f"segnet: {prediction['image']}: float32 used, for bfloat16 differs: {_difference(difference)}",
            file=sys.stderr,
        )


def _difference(found: dict[str, Any]) -> str:
    return f"Dice {found['dice']:.3f}, probabilities within {found['probability']:.3f} on {found['slices']} slices"


def _print_one(p: dict[str, Any]) -> None:
    kept = ", from before" if p["state"] == "kept" else ""
    size = f"{p['volume_ml']:.2f} ml, {p['long_axis_mm']:.1f} x {p['short_axis_mm']:.1f} mm"
    print(f"{p['mask']}: {size}, {p['elapsed_s']:.1f} s{kept}")
    if p["precision"] == "bfloat16":
        print(f"bfloat16 agrees with float32: {_difference(p['bfloat16_difference'])}")


def _voi_size(
    voi: tuple[int, int, int] | None, slices: int | None, voi_mm: tuple[float, float, float] | None
) -> VoiSize | None:
    """From (x, y, z) as typed to (z, y, x); None where nothing was."""
    from segnet.prediction.options import VoiSize

    if voi_mm is not None:
        if voi is not None or slices is not None:
            raise typer.BadParameter("--voi-mm: expected neither --voi nor --voi-slices beside it; give one of them")
        x_mm, y_mm, z_mm = voi_mm
        return VoiSize(size_zyx_mm=(z_mm, y_mm, x_mm))
    if voi is None and slices is None:
        return None
    z, y, x = VoiSize().shape_zyx if voi is None else voi[::-1]
    return VoiSize((z if slices is None else slices, y, x))


def _parse_click(text: str | None) -> Any:
    if text is None or text in ("centre", "center"):
        return None if text is None else "centre"
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--click: expected x,y,z or centre, got {text!r}; write it as 128,130,64") from None
    return x, y, z
