"""The training loop: AdamW, cosine over the time given, clipping, averaged weights, validation by 3-D Dice per lesion."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config import Config
from ..data.dataset import BatchSource, Case, load_cases
from ..data.prepare import load_dataset
from ..data.split import split_patients
from ..errors import InputError
from ..files import write_text
from ..inference import segment
from ..losses import JointLoss
from ..metrics import dice
from ..models import build, channels_last
from . import checkpoint

SPLIT_FILE, LOG_FILE = "split.json", "log.jsonl"
AVERAGE_EVERY = 4
"""Steps between two updates of the averaged weights, which cost about as much as the optimizer's."""
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a run left. `best_dice` is the mean 3-D Dice per lesion on the validation patients, None without any."""

    folder: Path
    steps: int
    elapsed_s: float
    best_dice: float | None
    history: list[dict[str, Any]]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, A_log, D and the step bias do not."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for parameter in model.parameters():
        keep_it = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
        (keep if keep_it else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def validate(model: nn.Module, cases: list[Case], config: Config) -> float | None:
    """Mean 3-D Dice per lesion, None without cases."""
    was_training = model.training
    model.eval()
    slices = config.model.in_channels
    scores = [dice(segment(model, case.image, config.data, slices=slices) > 0.5, case.mask > 0) for case in cases]
    model.train(was_training)
    return float(np.mean(scores)) if scores else None


def make_split(prepared: Path, config: Config) -> dict[str, list[str]]:
    """Cases of the training, validation and test patients."""
    entries = load_dataset(prepared).cases
    patients = sorted({entry.patient for entry in entries})
    parts = split_patients(patients, fractions=config.data.split_fractions, seed=config.train.seed)
    return {part: sorted(e.case for e in entries if e.patient in set(members)) for part, members in parts.items()}


def train(prepared: Path, out: Path, config: Config, *, report: Report | None = None) -> TrainResult:
    """Trains a network on a prepared dataset and leaves `model.safetensors`, `split.json` and `log.jsonl` in `out`.

    The weights kept are the averaged ones of the best validation.

    Raises
    ------
    InputError
        The dataset or the configuration does not fit, or `out` already holds a run.
    """
    if (out / checkpoint.FILE).exists():
        raise InputError(
            f"out {out}: expected a folder without a trained model, got one with {checkpoint.FILE}; choose another folder"
        )
    dataset = load_dataset(prepared)
    if tuple(dataset.window_hu) != tuple(config.data.window_hu):
        raise InputError(
            f"data.window_hu: expected {tuple(dataset.window_hu)} as the dataset was prepared, got {tuple(config.data.window_hu)};"
            " prepare it again or change the window"
        )
    split = make_split(prepared, config)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / SPLIT_FILE, json.dumps(split, indent=1))

    settings = config.train
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    source = BatchSource(
        load_cases(prepared, split["train"]), config.data, settings.seed, slices=config.model.in_channels
    )
    val_cases = load_cases(prepared, split["val"])
    model = channels_last(build(config.model))
    decay = settings.ema_decay**AVERAGE_EVERY
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    loss_of = JointLoss(settings.reconstruction_weight)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True)

    history: list[dict[str, Any]] = []
    losses: list[float] = []
    best: float | None = None
    began = time.monotonic()
    validated_s = 0.0
    step = 0
    model.train()
    with open(out / LOG_FILE, "w") as log:
        while True:
            elapsed_s = time.monotonic() - began
            progress = step / settings.max_steps if settings.max_steps else elapsed_s / (settings.minutes * 60)
            if progress < 1:
                rate = _rate(progress, settings.warmup_fraction)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate
                losses.append(_step(model, loss_of, optimizer, source, config, step))
                step += 1
                if step % AVERAGE_EVERY == 0 or step < AVERAGE_EVERY:
                    average.update_parameters(model)
            if progress >= 1 or elapsed_s - validated_s >= settings.validate_every_s:
                val_dice = validate(average.module, val_cases, config)
                row = {
                    "step": step,
                    "epoch": round(step * settings.batch_size / len(source.lesion_slices), 3),
                    "elapsed_s": round(time.monotonic() - began, 1),
                    "loss": float(np.mean(losses)) if losses else None,
                    "val_dice": val_dice,
                }
                losses.clear()
                history.append(row)
                log.write(json.dumps(row) + "\n")
                log.flush()
                if val_dice is None or best is None or val_dice >= best:
                    best = val_dice
                    checkpoint.save(average.module, config, out / checkpoint.FILE)
                if report is not None:
                    report(row)
                validated_s = elapsed_s
            if progress >= 1:
                break
    return TrainResult(out, step, time.monotonic() - began, best, history)


def _rate(progress: float, warmup: float) -> float:
    """Linear warm-up, then a half cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _step(
    model: nn.Module,
    loss_of: JointLoss,
    optimizer: torch.optim.Optimizer,
    source: BatchSource,
    config: Config,
    step: int,
) -> float:
    images, masks = source.draw(config.train.batch_size)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.train.bfloat16):
        logits, reconstruction = model(images.contiguous(memory_format=torch.channels_last))
    loss = loss_of(logits, reconstruction, images, masks)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(
            f"loss: expected a finite number, got {value} at step {step}; lower train.learning_rate"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.train.gradient_clip, foreach=True)
    optimizer.step()
    return value
