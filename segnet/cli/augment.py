"""`segnet augment`: pictures of each transform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segnet.cli.options import AsJson, ConfigFile, Preset, print_json


def augment(
    source: Annotated[Path, typer.Option("--input", "-i", help="Folder written by `segnet prepare`.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")],
    case: Annotated[str | None, typer.Option(help="Case to show. Default: the case of median lesion volume.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random choices.")] = 0,
    preset: Annotated[
        Preset | None, typer.Option("--augment", help="Magnitudes to show. Default: the configuration's.")
    ] = None,
    shapes: Annotated[str | None, typer.Option(help="Folder of lesion shapes to paste.", metavar="FOLDER")] = None,
    config: ConfigFile = None,
    patch_px: Annotated[int | None, typer.Option(help="Field of view, in pixels of the image.")] = None,
    input_px: Annotated[
        int | None, typer.Option(help="Side the field of view is resampled to; a multiple of 32.")
    ] = None,
    window: Annotated[tuple[float, float] | None, typer.Option(help="CT window in HU, as prepared.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a training slice under each transform of augmentation, from weak to strong."""
    from segnet.config import load_config
    from segnet.dataset.store import load_dataset
    from segnet.report.augmentation import augmentation_png

    data = {"patch_px": patch_px, "input_px": input_px, "window_hu": window}
    changes = {"preset": preset, "shapes": shapes}
    dataset = load_dataset(source)
    resolved = load_config(config, {"data": data, "augment": changes}, prepared=dataset.config)
    shown = augmentation_png(out, dataset, resolved, case=case, seed=seed)
    if as_json:
        print_json({"output": str(out), "case": shown})
    else:
        print(f"{shown} in {out}")
