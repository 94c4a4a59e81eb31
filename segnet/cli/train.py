"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segnet.cli.options import AsJson, ConfigFile, Preset, Quiet, Split, print_json, step_bar
from segnet.errors import InputError


def train(
    source: Annotated[Path, typer.Option("--input", "-i", help="Folder written by `segnet prepare`.")],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the run: weights, split, log, curves, pictures.")
    ],
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the folder, if there is one.")] = False,
    model: Annotated[str | None, typer.Option(help="A network's name; see `segnet info --list`.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of training.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Slices of a step, for each process.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches for each step of the optimizer.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after more than this many validations in a row without improvement.")
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(
            help="Patients, stratified by set and lesion size; patients at random; or slices, as in the paper, which leaks. Default: stratified."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Split the patients into this many folds and hold out each in turn: fold-0, fold-1, ..."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Train only this fold, counted from 0, directly in the folder.")
    ] = None,
    base_width: Annotated[int | None, typer.Option(help="b: the stages have 3b, 6b, 12b and 24b channels.")] = None,
    slices: Annotated[
        int | None, typer.Option(help="Input slices, an odd number; the middle one is segmented. Default: 1.")
    ] = None,
    patch_px: Annotated[int | None, typer.Option(help="Field of view, in pixels of the image.")] = None,
    input_px: Annotated[int | None, typer.Option(help="Side of the network's input, a multiple of 32.")] = None,
    window: Annotated[tuple[float, float] | None, typer.Option(help="CT window in HU, as prepared.")] = None,
    augment: Annotated[Preset | None, typer.Option(help="Strength of the augmentation. Default: default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, split and augmentation.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch and of the scan.")] = None,
    bfloat16: Annotated[
        bool | None, typer.Option("--bfloat16/--float32", help="bfloat16, except for the scan. Default: float32.")
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="Refuse operations that may differ from run to run.")
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard/--no-tensorboard", help="Also write for TensorBoard. Default: yes.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a network. Patients are split into training, validation and test. Under torchrun several processes train as one."""
    from segnet.config import load_config
    from segnet.dataset.store import load_dataset
    from segnet.report.run import draw_run
    from segnet.runtime.distributed import process_group, rank
    from segnet.runtime.memory import keep_freed_memory
    from segnet.training.loop import train as run

    keep_freed_memory()
    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model, "base_width": base_width, "in_channels": slices},
        "data": {
            "patch_px": patch_px,
            "input_px": input_px,
            "window_hu": window,
            "split": split,
            "folds": folds,
            "fold": fold,
        },
        "augment": {"preset": augment},
        "train": {
            "minutes": minutes,
            "max_steps": max_steps,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "learning_rate": learning_rate,
            "patience": patience,
            "seed": seed,
            "threads": threads,
            "bfloat16": bfloat16,
            "deterministic": deterministic,
            "tensorboard": tensorboard,
        },
    }
    dataset = load_dataset(source)
    resolved = load_config(config, flags, prepared=dataset.config)
    if fold is not None and resolved.data.folds is None:
        raise InputError(f"fold: expected --folds as well, got --fold {fold} alone; give the number of folds")
    whole = resolved.data.folds is not None and resolved.data.fold is None
    runs = {out / name: each for name, each in resolved.each_fold().items()} if whole else {out: resolved}
    done = []
    with process_group():
        silent = quiet or rank() > 0
        for folder, settings in runs.items():
            progress = None if silent else step_bar(folder.name)
            result = run(dataset, folder, settings, resume=resume, progress=progress, on_end=draw_run)
            done.append(
                {
                    "output": str(folder),
                    "steps": result.steps,
                    "elapsed_s": round(result.elapsed_s, 1),
                    "best_val_dice": result.best_dice,
                }
            )
        if rank() > 0:
            return
    if as_json:
        print_json({"folds": done} if whole else done[0])
    for row in [] if as_json else done:
        print(f"{row['steps']} steps in {row['elapsed_s']:.0f} s; weights, log, curves and pictures in {row['output']}")
