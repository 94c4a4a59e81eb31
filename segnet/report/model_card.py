"""A model card: facts from a run's files about its network, and its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segnet import __version__
from segnet.config import Config
from segnet.dataset.split import FILE as SPLIT_FILE
from segnet.errors import InputError
from segnet.io.pairs import patient_id
from segnet.models import checkpoint
from segnet.runtime.table import format_value
from segnet.training import log

FILE = "MODEL_CARD.md"
PARTS = {"train": "training", "val": "validation", "test": "test, never seen in training"}
LICENCE = "none stated: before you pass the weights on, add one, and the attributions that the training data require"
USE = "Research on the segmentation of lesions in CT: outlining a lesion that a reader has clicked, whose mask a reader then checks."
LIMITS = [
    "No medical device: not for diagnosis, therapy or any decision on a patient.",
    "Made for CT in Hounsfield units. Nothing is known of its results on MR, on other windows, or on sites, scanners and kinds of lesion"
    " that the training data lack.",
    "It segments slice by slice whatever resembles its training lesions, and marks other structures too, above all without a click.",
    "Lesions much larger than its field of view are cut off or missed.",
    "Validation Dice chose the weights, so it is optimistic; measure on the test part with `segnet evaluate`.",
]


def model_card(run_folder: Path, *, licence: str = LICENCE) -> str:
    """Markdown from a run's checkpoint, split and log.

    Parameters
    ----------
    run_folder : holds `model.safetensors`; without `split.json` or `log.jsonl` their facts are called unknown
    licence : of the weights, one line

    Raises
    ------
    InputError
        There is no checkpoint, or its split cannot be read.
    """
    model, config = checkpoint.load(run_folder)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = log.read(run_folder / log.FILE) if (run_folder / log.FILE).is_file() else []
    sections = {
        "Network": _network(config, parameters),
        "Training data": _data(_split(run_folder), config),
        "Training": _training(rows, config),
        "Validation": _validation(rows),
        "Intended use": [USE],
        "Limits": LIMITS,
        "Licence": [licence],
    }
    body = "\n\n".join(
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items()
    )
    return f"# {config.model.name}\n\nLesion segmentation from CT by segnet {__version__}.\n\n{body}\n"


def _network(config: Config, parameters: int) -> list[str]:
    data, model = config.data, config.model
    low, high = data.window_hu
    shown = "8-bit grey of each slice's own range" if data.route == "paper" else f"{low:g} to {high:g} HU"
    return [
        f"`{model.name}`, width {model.base_width}, {parameters / 1e6:.2f} M parameters",
        f"in: {model.in_channels} axial slice{'s' if model.in_channels > 1 else ''} of {data.patch_px} x {data.patch_px} pixels of the image,"
        f" resampled to {data.input_px} x {data.input_px}; {shown}",
        f"out: probabilities of {model.classes} classes, the first of them background",
    ]


def _split(run_folder: Path) -> dict[str, list[str]]:
    file = run_folder / SPLIT_FILE
    if not file.is_file():
        return {}
    try:
        split = json.loads(file.read_text(encoding="utf-8"))
        return {part: [str(case) for case in split[part]] for part in PARTS}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"split {file}: expected cases of train, val and test, got {type(error).__name__}; restore the run's own"
        ) from error


def _data(split: dict[str, list[str]], config: Config) -> list[str]:
    if not split:
        return ["unknown: the run has no split.json"]
    by_slice = config.data.split == "slice-paper"
    lines = (
        ["split by slice: slices of one lesion are in all parts, so scores carry no information on new patients"]
        if by_slice
        else []
    )
    for part, name in PARTS.items():
        patients = len({patient_id(case) for case in split[part]})
        lines.append(
            f"{part if by_slice else name}: {len(split[part])} lesions of {patients} patients, by the names of cases"
        )
    if config.data.folds is not None:
        lines.append(f"fold {config.data.fold} of {config.data.folds} is the test part")
    return lines


def _training(rows: list[dict[str, Any]], config: Config) -> list[str]:
    settings = config.train
    recipe = (
        f"AdamW, peak rate {settings.learning_rate:g}, weight decay {settings.weight_decay:g}, batches of {settings.batch_size},"
        f" seed {settings.seed}; averaged weights"
    )
    if not rows:
        return [recipe, "steps and time unknown: the run has no log.jsonl"]
    return [recipe, f"{rows[-1]['step']} steps in {max(row.get('elapsed_s', 0) for row in rows) / 60:.1f} minutes"]


def _validation(rows: list[dict[str, Any]]) -> list[str]:
    found = [row for row in rows if row.get("val_dice") is not None]
    if not found:
        return ["none was made, or the run has no log.jsonl"]
    best = max(found, key=lambda row: float(row["val_dice"]))
    return [
        f"mean 3-D Dice per lesion {format_value(best['val_dice'])}, without a click, at step {best['step']}, the best of {len(found)} validations"
    ]
