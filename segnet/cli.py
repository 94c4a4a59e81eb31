"""The command line: parse, call, print. Exit codes: 0 done, 2 usage, 3 bad input, 4 part of a batch failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .errors import InputError

BAD_INPUT, PARTIAL = 3, 4

app = typer.Typer(
    name="segnet",
    help="Lesion segmentation from CT with Mamba-AHNet, trained and run on CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Result as JSON on stdout.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with sections model, data, train.")]


class Part(str, Enum):
    train = "train"
    val = "val"
    test = "test"


class Clock(str, Enum):
    wall = "wall"
    processor = "processor"


class ClickSpaceOption(str, Enum):
    voxel = "voxel"
    ras = "ras"
    lps = "lps"


def _bar(title: str, quiet: bool) -> Callable[[int, int], None] | None:
    """A progress callback that draws on stderr."""
    if quiet:
        return None
    from tqdm import tqdm

    bar = tqdm(desc=title, file=sys.stderr, leave=True, dynamic_ncols=True)

    def step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return step


def _step_bar(title: str) -> Callable[[dict[str, Any]], None]:
    """A progress callback for training: share done, time left, rate, loss and the last validation."""
    from tqdm import tqdm

    bar = tqdm(
        desc=title,
        total=100.0,
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed}<{remaining}{postfix}",
    )

    def step(row: dict[str, Any]) -> None:
        best = "-" if row["best_dice"] is None else f"{row['best_dice']:.3f}"
        text = f"step {row['step']}, {row['slices_per_s']:.1f} slices/s, loss {row['loss']:.3f}, validation Dice {best}"
        bar.set_postfix_str(text, refresh=False)
        bar.update(100 * row["done"] - bar.n)

    return step


def _print(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=1, allow_nan=False))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"segnet {__version__}")
        raise typer.Exit


@app.command()
def phantom(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write images/ and labels/ into.")],
    cases: Annotated[int, typer.Option("--cases", "-n", min=1, help="How many volumes.")] = 12,
    patients: Annotated[
        int | None, typer.Option(min=1, help="How many patients they are of. Default: one each.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same volumes.")] = 0,
    shape: Annotated[tuple[int, int, int], typer.Option(help="Voxels along x, y, z.")] = (256, 256, 128),
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Where lesions may lie: lung, liver, kidney, node, spleen, bone; repeatable. Default: anywhere."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make ULS23-like CT volumes with a lesion each, as NIfTI pairs."""
    from .data.phantom import SITES, write_phantoms

    sites = tuple(site) if site else SITES
    write_phantoms(
        out, cases, n_patients=patients, seed=seed, shape=shape, sites=sites, progress=_bar("phantom", quiet)
    )
    print(f"{cases} phantoms in {out}")


@app.command()
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
    from .data.pairs import find_pairs
    from .data.prepare import prepare as run

    found = [find_pairs(folder, patient_regex=patient_regex) for folder in source]
    pairs = [pair for pairs in found for pair in pairs]
    on_error: Any = "skip" if skip_bad else "raise"
    result = run(pairs, out, window_hu=window, on_error=on_error, overwrite=overwrite, progress=_bar("prepare", quiet))
    patients = len({case.patient for case in result.cases})
    if as_json:
        skipped = [{"case": case, "reason": reason} for case, reason in result.skipped]
        _print({"output": str(out), "cases": len(result.cases), "patients": patients, "skipped": skipped})
    else:
        print(f"{len(result.cases)} cases of {patients} patients in {out}")
    if unpaired := sum(len(pairs.unpaired_images) for pairs in found):
        print(f"{unpaired} images without a mask left out", file=sys.stderr)
    for case, reason in result.skipped:
        print(f"left out {case}: {reason}", file=sys.stderr)
    if result.skipped:
        raise typer.Exit(PARTIAL)


@app.command()
def train(
    source: Annotated[Path, typer.Option("--input", "-i", help="Folder written by `segnet prepare`.")],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the run: weights, split, log, curves, pictures.")
    ],
    config: ConfigFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if one has begun there.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="A network's name; see `segnet info --list`.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of training.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Slices a step, of each process.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches a step of the optimizer takes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the schedule.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop when more validations in a row than this are no better.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Deal the patients into so many folds and hold each out in turn: fold-0, fold-1, ..."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Of the folds only this one, from 0, straight into the folder.")
    ] = None,
    base_width: Annotated[int | None, typer.Option(help="b: the stages have 3b, 6b, 12b and 24b channels.")] = None,
    slices: Annotated[
        int | None, typer.Option(help="Slices shown at once, an odd number; the middle one is segmented. Default: 1.")
    ] = None,
    patch_px: Annotated[int | None, typer.Option(help="Field of view, in pixels of the image.")] = None,
    input_px: Annotated[
        int | None, typer.Option(help="Side the field of view is resampled to; a multiple of 32.")
    ] = None,
    window: Annotated[tuple[float, float] | None, typer.Option(help="CT window in HU, as prepared.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, split and augmentation.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch and of the scan.")] = None,
    bfloat16: Annotated[
        bool | None, typer.Option("--bfloat16/--float32", help="bfloat16 but for the scan. Default: float32.")
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
    """Train a network; patients are split into training, validation and test. Under torchrun several processes train as one."""
    from .config import load_config
    from .distributed import process_group, rank
    from .memory import keep_freed_memory
    from .training.loop import train as run

    keep_freed_memory()
    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model, "base_width": base_width, "in_channels": slices},
        "data": {"patch_px": patch_px, "input_px": input_px, "window_hu": window, "folds": folds, "fold": fold},
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
    resolved = load_config(config, flags)
    whole = resolved.data.folds is not None and fold is None
    runs = {out / name: each for name, each in resolved.each_fold().items()} if whole else {out: resolved}
    done = []
    with process_group():
        silent = quiet or rank() > 0
        for folder, settings in runs.items():
            result = run(source, folder, settings, resume=resume, progress=None if silent else _step_bar(folder.name))
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
        _print({"folds": done} if whole else done[0])
    for row in [] if as_json else done:
        print(f"{row['steps']} steps in {row['elapsed_s']:.0f} s; weights, log, curves and pictures in {row['output']}")


@app.command()
def compare(
    source: Annotated[Path, typer.Option("--input", "-i", help="Folder written by `segnet prepare`.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for all runs and the results.")],
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", help="A network, with what is to differ: ahnet,gate_target=skip. Repeat it."),
    ],
    folds: Annotated[int, typer.Option(min=2, help="Parts the patients are dealt into.")] = 3,
    only_fold: Annotated[list[int] | None, typer.Option(help="Of the folds this one, from 0; repeat it.")] = None,
    config: ConfigFile = None,
    minutes: Annotated[float | None, typer.Option(help="Time of each training.")] = None,
    clock: Annotated[
        Clock | None,
        typer.Option(help="Of the minutes: wall, or the processor time of a training's threads. Default: wall."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps of each training instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Slices a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the schedule.")] = None,
    validations: Annotated[int | None, typer.Option(help="In each training.")] = None,
    patch_px: Annotated[int | None, typer.Option(help="Field of view, in pixels of the image.")] = None,
    input_px: Annotated[int | None, typer.Option(help="Side it is resampled to; a multiple of 32.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of each training.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train networks for the same time on the same folds and score them on the patients held out. Stopped, it goes on where it was."""
    from .compare import columns_of
    from .compare import compare as run
    from .report.table import format_table

    flags = {
        "data": {"patch_px": patch_px, "input_px": input_px},
        "train": {
            "minutes": minutes,
            "clock": clock.value if clock else None,
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
        _print(results)
    else:
        print(format_table(results["rows"], columns_of(results)))


@app.command()
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
    from .ensemble import load
    from .predict import SUFFIXES, images_in, predict_file, require_several

    point = _parse_click(click)
    ensemble = load(model, bfloat16=bfloat16)
    if uncertainty:
        require_several(ensemble.models, tta)
    cases = None if part is None else _part(ensemble.paths, part)
    images = images_in(source, cases)
    single = source.is_file()
    if single and not out.name.endswith(SUFFIXES):
        raise InputError(f"output: expected a name ending in .nii.gz for one image, got {out}; name the mask")
    if device != "cpu":
        raise InputError(f"device: expected cpu, got {device!r}; other devices are not offered yet")
    folder = out.parent if single else out
    folder.mkdir(parents=True, exist_ok=True)
    done, failed = [], []
    outer = None if single else _bar("predict", quiet)
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
                progress=_bar(case, quiet) if single else None,
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
        _print({"predictions": [p.as_dict() for p in done], "failed": failed})
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


def _part(models: Sequence[Path], part: Part) -> list[str]:
    """Cases of a part of a run's split, which all runs share."""
    from .training.loop import SPLIT_FILE

    found: list[list[str]] = []
    for model in models:
        file = (model if model.is_dir() else model.parent) / SPLIT_FILE
        try:
            found.append(json.loads(file.read_text())[part.value])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"part: expected {SPLIT_FILE} of the training run beside the model, got {type(error).__name__}; leave --part out"
            ) from None
        if found[-1] != found[0]:
            raise InputError(
                f"part: expected the same {part.value} cases in every run's split, got others in {file} than of {models[0]}, where"
                " a case of one is another's training case; predict with one of them"
            )
    return found[0]


def _pairs_at(source: Path) -> dict[str, Any]:
    """Pairs by case of a folder laid out as one of pairs, none of anything else."""
    from .data.pairs import find_pairs

    try:
        return {pair.case: pair for pair in find_pairs(source)}
    except InputError:
        return {}


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Option("--input", "-i", help="Folder of predicted masks, or one mask.")],
    truths: Annotated[
        Path, typer.Option("--truth", "-t", help="Folder of true masks, of pairs, a prepared folder, or one mask.")
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for evaluation.json, .csv, .txt and overlays.")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Run whose split --part refers to.")] = None,
    part: Annotated[Part | None, typer.Option(help="Only this part of the run's split.")] = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Its first group, found in a case's name, is the patient.")
    ] = None,
    window: Annotated[tuple[float, float], typer.Option(help="CT window of the overlays, in HU.")] = (-1000.0, 400.0),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score masks against the truth: Dice per lesion with its conventions, beside the all-background baseline."""
    from .evaluate import evaluate as run

    if part is not None and model is None:
        raise typer.BadParameter("--part: expected --model beside it; name the run whose split is meant")
    cases = None if part is None or model is None else _part([model], part)
    evaluation = run(predictions, truths, patient_regex=patient_regex, cases=cases, progress=_bar("evaluate", quiet))
    if out is not None:
        from .files import write_text

        out.mkdir(parents=True, exist_ok=True)
        texts = {"json": evaluation.to_json(), "csv": evaluation.to_csv(), "txt": evaluation.to_table()}
        for suffix, text in texts.items():
            write_text(out / f"evaluation.{suffix}", text)
        if (pairs := _pairs_at(truths)) and predictions.is_dir():
            from .report.cases import overlay_cases

            overlay_cases({row.case: row.dice for row in evaluation.rows}, predictions, pairs, out, window_hu=window)
    print(evaluation.to_json() if as_json else evaluation.to_table())


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A network's name; see `segnet info --list`.")] = "mamba-ahnet",
    base_width: Annotated[
        int | None, typer.Option(help="b, the width of the first level. Presets: 8, 16, 32 and 64; 16 is the default.")
    ] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Print the names of all networks instead.")] = False,
    config: ConfigFile = None,
    side_px: Annotated[int, typer.Option(help="Side of the slice that costs are counted for.")] = 256,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration as YAML instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Parameters, multiply-adds, memory and reach of a network, part by part; or the configuration and its defaults."""
    from .config import load_config

    if list_names:
        from .models import names

        if as_json:
            _print({"models": names()})
        else:
            print("\n".join(names()))
        return
    resolved = load_config(config, {"model": {"name": model, "base_width": base_width}})
    if show_config:
        import yaml

        print(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), end="")
        return
    from .info import describe
    from .report.table import format_table

    try:
        description = describe(resolved.model, side_px=side_px)
    except ValueError as error:
        raise InputError(f"side-px: {error}") from None
    if as_json:
        _print(description)
        return
    print(
        f"{description['model']}: {description['parameters'] / 1e6:.2f} M parameters, {description['discretization']} scan"
    )
    height, width = description["receptive_field_px"]
    print(f"{description['input']} -> {description['output']}")
    print(
        f"a training step of a slice of {side_px} px: forward {description['macs'] / 1e9:.2f} G multiply-adds and "
        f"{description['scan_flops'] / 1e9:.2f} GFLOP of scan, {description['activation_bytes'] / 1e6:.0f} MB kept for the backward pass"
    )
    print(f"an output pixel sees {height} by {width} px\n")
    columns = {"part": "part", "parameters": "parameters", "macs": "multiply-adds", "scan_flops": "scan flop"}
    print(format_table(description["parts"], columns))


class BenchMode(str, Enum):
    train = "train"
    infer = "infer"


@app.command()
def bench(
    mode: Annotated[BenchMode, typer.Argument(help="A training step, or a forward pass.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A network's name, of `segnet info --list`; repeat it. Default: all."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices a step.")] = 8,
    side_px: Annotated[int, typer.Option(help="Side of a slice, a multiple of 32.")] = 256,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of threads; repeat it. Default: torch's.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each network.")] = 5,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="bfloat16 but for the scan.")] = False,
    voi: Annotated[
        bool, typer.Option("--voi", help="Of `infer`: segment a whole volume of 128 slices, so many slices at once.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Speed and memory of networks on this machine, in turns in one run; run it on an idle one."""
    if voi and mode is not BenchMode.infer:
        raise typer.BadParameter(f"--voi: expected infer, got {mode.value}; training takes no whole volumes")
    from .memory import keep_freed_memory
    from .report.table import format_table
    from .speed import KINDS, PAPER_SAMPLES, measure

    keep_freed_memory()
    try:
        found = measure(
            mode.value,
            model or (),
            batch_size=batch_size,
            side_px=side_px,
            threads=threads or (),
            rounds=rounds,
            bfloat16=bfloat16,
            voi=voi,
            report=None if quiet else lambda line: print(line, file=sys.stderr, flush=True),
        )
    except ValueError as error:
        raise InputError(f"side-px: {error}") from None
    if as_json:
        _print(found)
        return
    for count, peak in found["peak_gflop_s"].items():
        print(f"{count} threads: a matrix product reaches {peak:.0f} GFLOP/s")
    print(f"batches of {batch_size} slices of {side_px} px, medians of {rounds}\n")
    rows = [{**row, "peak_mb": None if row["peak_bytes"] is None else row["peak_bytes"] / 1e6} for row in found["rows"]]
    speed = {
        "model": "model",
        "threads": "threads",
        "ms_a_slice": "ms a slice",
        "p20_ms": "20th",
        "p80_ms": "80th percentile",
    }
    if voi:
        speed["s_a_voi"] = "s a VOI"
    print(format_table(rows, speed | {"slices_a_second": "slices/s", "peak_mb": "MB"}, digits=1))
    kinds = [*(kind for kind, _ in KINDS), "other"]
    print("\nshares of a step, in per cent\n")
    shares = [{"model": r["model"], "threads": r["threads"], **{k: 100 * r["shares"][k] for k in kinds}} for r in rows]
    print(format_table(shares, ["model", "threads", *kinds], digits=0))
    if mode is BenchMode.train:
        print(
            "\nseconds an epoch in the form of the paper's Table I: an estimate for its processor, from the ratio of peaks\n"
        )
        epochs = [{"model": r["model"], "threads": r["threads"], **r["epoch_s_estimate"]} for r in rows]
        print(format_table(epochs, ["model", "threads", *PAPER_SAMPLES], digits=0))


def main() -> None:
    """Entry point: bad input becomes one line on stderr and exit code 3."""
    try:
        app()
    except InputError as error:
        print(f"segnet: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
