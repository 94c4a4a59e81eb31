"""Options, exit codes, progress on stderr and JSON on stdout, shared by the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from segnet.errors import InputError

BAD_INPUT, PARTIAL = 3, 4

Part = Literal["train", "val", "test"]
Preset = Literal["default", "strong"]
Split = Literal["stratified", "patient", "slice-paper"]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Result as JSON on stdout.")]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        "-m",
        help="Run folder, model.safetensors, or a folder of folds; repeat it to average several networks. Default: the"
        " weights of the package (`segnet info --weights`).",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file with sections model, data, augment, train.")
]


def bar(title: str, quiet: bool) -> Callable[[int, int], None] | None:
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


def step_bar(title: str) -> Callable[[dict[str, Any]], None]:
    """A progress callback for training: share done, time left, rate, loss and best validation."""
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


@contextmanager
def thread_count(count: int | None) -> Iterator[None]:
    """Sets the number of threads of torch and of the scan, if given, and restores it."""
    if count is None:
        yield
        return
    from segnet.runtime.threads import threads

    with threads(count):
        yield


def print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=1, allow_nan=False))


def cases_of_part(models: Sequence[Path], part: Part) -> list[str]:
    """Cases of one part of the split that all runs share."""
    from segnet.dataset.split import FILE as SPLIT_FILE

    found: list[list[str]] = []
    for model in models:
        file = (model if model.is_dir() else model.parent) / SPLIT_FILE
        try:
            found.append(json.loads(file.read_text())[part])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"part: expected {SPLIT_FILE} of the training run beside the model, got {type(error).__name__}; leave --part out"
            ) from None
        if isinstance(found[-1], dict):
            raise InputError(
                f"part: expected a run split by patient, got one split by slice in {file}, without {part} cases; leave --part out"
            )
        if found[-1] != found[0]:
            raise InputError(
                f"part: expected the same {part} cases in every run's split, got others in {file} than of {models[0]}; predict with one of"
                " them, since a case of one may be another's training case"
            )
    return found[0]
