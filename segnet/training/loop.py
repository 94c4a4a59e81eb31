"""The training loop: AdamW, cosine over the time given, clipping, averaged weights, validation by 3-D Dice per lesion."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segnet.config import Config, TrainConfig
from segnet.dataset.batches import BatchSource
from segnet.dataset.clicked import ClickedSource
from segnet.dataset.split import FILE as SPLIT_FILE
from segnet.dataset.split import make_slice_split, make_split
from segnet.dataset.store import Case, Cases, PreparedDataset, load_dataset
from segnet.errors import InputError
from segnet.metrics import dice
from segnet.models import build, channels_last, checkpoint
from segnet.models.batch_norm import synchronised
from segnet.prediction.clicked import runner, segment_clicked
from segnet.prediction.clicks import click_positions
from segnet.prediction.windows import VIEWS, segment
from segnet.runtime import distributed
from segnet.runtime.files import remove_leftovers, write_text
from segnet.runtime.locks import locked
from segnet.runtime.threads import threads
from segnet.training import state
from segnet.training.guard import bad_gradients, first_bad_layer
from segnet.training.log import FILE as LOG_FILE
from segnet.training.log import Log, read
from segnet.training.losses import JointLoss
from segnet.training.state import Progress

AVERAGE_EVERY = 4
"""Steps between two updates of the averaged weights. An update costs about as much as one of the optimizer."""
VALIDATION_SHARE = 0.2
"""Largest share of a run of given minutes that validation takes."""
Row = dict[str, Any]
Report = Callable[[Row], None]


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run. `best_dice` is the mean 3-D Dice per lesion of the validation patients, None without any."""

    folder: Path
    steps: int
    elapsed_s: float
    best_dice: float | None
    history: list[Row]


@dataclass(frozen=True)
class FinishedRun:
    """A run at its end, as `on_end` of `train` is given it.

    Attributes
    ----------
    folder : of the run; holds the best weights, the split and the log
    history : one row for each validation
    validation : the validation cases
    dice_by_case : 3-D Dice of the best weights on each validation case
    """

    folder: Path
    history: list[Row]
    validation: Cases
    dice_by_case: dict[str, float]


OnEnd = Callable[[FinishedRun], None]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay, the matrices; and without: biases, norms, A_log, D and the bias of delta."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for parameter in model.parameters():
        keep_it = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
        (keep if keep_it else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def scores(
    model: nn.Module, cases: Cases, config: Config, only: Mapping[str, Sequence[int]] | None = None
) -> dict[str, float]:
    """3-D Dice of each case, of the whole volume or of `only` these slices. Several processes share the cases."""
    was_training = model.training
    model.eval()
    found = []
    for case in cases[distributed.rank() :: distributed.world_size()]:
        at = None if only is None else only[case.name]
        kept = slice(None) if at is None else at
        lesion = lesion_in(model, case, config, at)
        found.append((case.name, dice(lesion[kept], case.mask[kept] > 0, empty="one")))
    model.train(was_training)
    return dict(sorted(distributed.gather_objects(found)))


def lesion_in(model: nn.Module, case: Case, config: Config, at: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """The mask of a case that a network finds, of slices `at`; one that is told the click gets one in the middle of the true lesion."""
    if config.data.fields is None:
        return segment(model, case.image, config.data, slices=config.model.in_channels, at=at) > 0.5
    (click,) = click_positions(case.mask > 0, case.spacing_zyx_mm, 1)
    found = segment_clicked(runner([model], VIEWS[:1]), case.image, case.spacing_zyx_mm, config.data, click)
    lesion = np.zeros(case.mask.shape, np.bool_)
    lesion[found.box] = found.mask
    return lesion


def train(
    prepared: Path | PreparedDataset,
    out: Path,
    config: Config,
    *,
    resume: bool = False,
    progress: Report | None = None,
    on_end: OnEnd | None = None,
) -> TrainResult:
    """Trains a network on a prepared dataset.

    Leaves in `out` the averaged weights of the best validation (`model.safetensors`), `split.json`, `log.jsonl` and `tensorboard/`.
    While it runs, `state.safetensors` holds everything needed to resume after a stop at any moment. A run whose length is given in
    steps then repeats the steps of an unbroken run bit for bit.

    Parameters
    ----------
    prepared : the dataset's folder, or its index
    resume : resume the run in `out`, if there is one; a finished run is left unchanged
    progress : called with the row of each step, "done" (the finished share of the run) and "best_dice" so far
    on_end : called once, by the first process, after the last validation, such as `segnet.report.run.draw_run`.
        A resumed run that had already ended does not call it

    Raises
    ------
    InputError
        The dataset or the configuration does not fit, or `out` holds a run and `resume` is not set.
    FloatingPointError
        The loss or a gradient is not finite. The message names layer and step.
    """
    run_exists, finished = (out / state.FILE).exists(), (out / checkpoint.FILE).exists()
    if (run_exists or finished) and not resume:
        held = "an unfinished one: resume it, or" if run_exists else "one: "
        raise InputError(f"out {out}: expected a folder without a run, got {held} choose another folder")
    dataset = load_dataset(prepared)
    dataset.check(config.data)
    by_slice = config.data.split == "slice-paper"
    split = make_slice_split(dataset, config) if by_slice else make_split(dataset, config)
    if run_exists:
        state.check_same(state.began_with(out / state.FILE), config)
    elif finished:
        state.check_same(checkpoint.load(out)[1], config)
    if run_exists or finished:
        check_split(out, split)
    if finished and not run_exists:
        return _finished(out)
    if by_slice:
        warnings.warn(
            "data.split slice-paper: slices of one lesion are in training, validation and test; the scores say nothing about new patients",
            stacklevel=2,
        )
    first = distributed.rank() == 0
    if first:
        out.mkdir(parents=True, exist_ok=True)
    refusal = f"out: expected a folder in which nobody else trains, got {out} with a run at work; wait for it to end"
    with _settings(config), locked(out, refusal) if first else nullcontext():
        if first and ((out / state.FILE).exists(), (out / checkpoint.FILE).exists()) != (run_exists, finished):
            raise InputError(refusal)  # the other run has just ended
        run = _Run(dataset, split, out, config)
        if first:
            remove_leftovers(out)
            write_text(out / SPLIT_FILE, json.dumps(split, indent=1))
        if resume and run_exists:
            run.load()
        run.go(progress, on_end)
    return TrainResult(out, run.at.step, run.at.elapsed_s, run.at.best_dice, run.at.history)


def check_split(out: Path, split: Mapping[str, Any]) -> None:
    """Raises InputError unless a run in `out` began with this split."""
    if (out / SPLIT_FILE).exists() and json.loads((out / SPLIT_FILE).read_text(encoding="utf-8")) != split:
        raise InputError(
            f"resume: expected the split that the run began with, got another than {out / SPLIT_FILE}: cases were added, removed or resized;"
            " restore the dataset, or begin another run"
        )


def _finished(out: Path) -> TrainResult:
    """The outcome of a finished run, from its log."""
    rows = [row for row in read(out / LOG_FILE) if "val_dice" in row]
    dices = [row["val_dice"] for row in rows if row["val_dice"] is not None]
    return TrainResult(out, rows[-1]["step"], rows[-1]["elapsed_s"], max(dices, default=None), rows)


@contextmanager
def _settings(config: Config) -> Iterator[None]:
    """Sets threads and determinism of this process, and restores them."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(config.train.deterministic or before)
    try:
        with threads(config.train.threads):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _clock(settings: TrainConfig) -> Callable[[], float]:
    """The seconds that count as the run's minutes."""
    if settings.clock == "wall":
        return time.monotonic
    threads = torch.get_num_threads()
    return lambda: time.process_time() / threads


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving averages whose n-th update keeps min(decay, (1 + n) / (10 + n)), so that the first steps do not dominate."""

    def update(averaged: Any, current: Any, count: Any) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)

    return update


class _Run:
    """Network, data, optimizer and progress of one run."""

    def __init__(self, dataset: PreparedDataset, split: Mapping[str, Any], out: Path, config: Config) -> None:
        settings = config.train
        self.out, self.config = out, config
        torch.manual_seed(settings.seed)
        only = split if config.data.split == "slice-paper" else {}
        cases = Cases(dataset, sorted(split["train"]))
        self.source: BatchSource | ClickedSource
        if config.data.fields is not None:
            self.source = ClickedSource(cases, config.data, settings.seed, augment=config.augment)
        else:
            self.source = BatchSource(
                cases,
                config.data,
                settings.seed,
                slices=config.model.in_channels,
                only=only.get("train"),
                augment=config.augment,
            )
        self.val_cases, self.val_slices = Cases(dataset, sorted(split["val"])), only.get("val")
        self.model = synchronised(channels_last(build(config.model)))
        average = averaging(settings.ema_decay**AVERAGE_EVERY)
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.loss_of = JointLoss(settings.reconstruction_weight)
        groups = parameter_groups(self.model, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.at = Progress()
        self.now = _clock(settings)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average}

    def save(self) -> None:
        state.save(self.out / state.FILE, self.config, self.at, self._modules, self.optimizer, self.source.rng)

    def load(self) -> None:
        self.at = state.load(self.out / state.FILE, self.config, self._modules, self.optimizer, self.source.rng)

    def go(self, progress: Report | None, on_end: OnEnd | None) -> None:
        """Trains until time or steps are used up, or validation no longer improves."""
        settings, at = self.config.train, self.at
        first = distributed.rank() == 0
        log = Log(self.out, kept=at.rows, after=at.step, board=settings.tensorboard) if first else None
        saved = time.monotonic()
        began = self.now() - at.elapsed_s

        def tell(row: Row) -> None:
            at.rows += 1
            if log is not None:
                log.write(row)

        self.model.train()
        if at.planned is None:
            at.planned = self.plan()
        while True:
            at.elapsed_s = distributed.first_says(self.now() - began)
            done = at.step / settings.max_steps if settings.max_steps else at.elapsed_s / (settings.minutes * 60)
            validates = done >= min(1.0, (at.validations + 1) / at.planned)
            if validates and first and not (self.out / state.FILE).exists():
                self.save()  # weights without a state mean a finished run
            if done < 1:
                row = self.step(_rate(done, settings.warmup_fraction))
                tell(row)
                if progress is not None:
                    progress({**row, "done": done, "best_dice": at.best_dice})
            if validates:
                row = self.validate(save_best=first)
                at.elapsed_s = distributed.first_says(self.now() - began)
                row["elapsed_s"] = round(at.elapsed_s, 1)
                at.history.append(row)
                tell(row)
            if done >= 1 or (settings.patience is not None and at.since_best > settings.patience):
                break
            if first and (validates or time.monotonic() - saved >= settings.save_every_s):
                self.save()
                saved = time.monotonic()
        if log is not None:
            log.close()
            if on_end is not None:
                on_end(FinishedRun(self.out, at.history, self.val_cases, at.dice_by_case))
            (self.out / state.FILE).unlink(missing_ok=True)

    def plan(self) -> int:
        """Number of validations: the number asked for, or fewer if they would take over `VALIDATION_SHARE` of the given minutes.

        The time of one case, measured now, decides.
        """
        settings, entries = self.config.train, self.val_cases.entries
        if settings.max_steps is not None or not entries:
            return settings.validations
        for _ in range(2):  # the first one warms up
            began = self.now()
            scores(self.model, self.val_cases[:1], self.config, self.val_slices)
            one_s = self.now() - began
        as_many = sum(math.prod(e.shape_zyx) for e in entries) / math.prod(entries[0].shape_zyx)
        affordable = VALIDATION_SHARE * settings.minutes * 60 * distributed.world_size() / max(as_many * one_s, 1e-9)
        return distributed.first_says(max(1, min(settings.validations, int(affordable))))

    def step(self, rate: float) -> Row:
        """One step of the optimizer, on `accumulate` batches."""
        settings, at = self.config.train, self.at
        started = self.now()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._backward() for _ in range(settings.accumulate))
        distributed.sum_gradients(self.model.parameters())
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip, foreach=True))
        if not math.isfinite(norm):
            bad = bad_gradients(self.model)
            raise FloatingPointError(
                f"gradient: expected finite numbers, got {norm} at step {at.step}, in {bad[0]} and {len(bad) - 1} more;"
                " begin another run with a lower train.learning_rate"
            )
        self.optimizer.step()
        at.step += 1
        if at.step % AVERAGE_EVERY == 0 or at.step < AVERAGE_EVERY:
            self.average.update_parameters(self.model)
        at.losses.append(loss)
        return {
            "step": at.step,
            "epoch": self._epoch(),
            "elapsed_s": round(at.elapsed_s, 1),
            "loss": loss,
            "learning_rate": settings.learning_rate * rate,
            "gradient_norm": norm,
            "slices_per_s": round(self._slices_a_step / (self.now() - started), 2),
        }

    @property
    def _slices_a_step(self) -> int:
        return self.config.train.batch_size * self.config.train.accumulate * distributed.world_size()

    def _epoch(self) -> float:
        """Slices drawn, as a multiple of the training slices with lesion."""
        return round(self.at.step * self._slices_a_step / len(self.source.sampler.lesion), 3)

    def _backward(self) -> float:
        """Loss of one batch, the parts of all processes together; adds its gradients."""
        settings, gather = self.config.train, distributed.gather
        count = settings.batch_size * distributed.world_size()
        images, masks = self.source.draw(count, distributed.own_part(count), gather)
        seen = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            logits, reconstruction = self.model(seen)
        if reconstruction is not None:
            reconstruction, images = gather(reconstruction), gather(images[:, : self.config.model.in_channels])
        loss: Tensor = self.loss_of(gather(logits), reconstruction, images, gather(masks)) / settings.accumulate
        value = float(loss.detach())
        if not math.isfinite(value):
            layer = first_bad_layer(self.model, seen)
            raise FloatingPointError(
                f"loss: expected a finite number, got {value} at step {self.at.step}, first in {layer or 'the loss itself'};"
                " begin another run with a lower train.learning_rate"
            )
        loss.backward()
        return value

    def validate(self, *, save_best: bool) -> Row:
        """Scores the averaged weights, and keeps them if no earlier ones were better."""
        at = self.at
        by_case = scores(self.average.module, self.val_cases, self.config, self.val_slices)
        val_dice = float(np.mean(list(by_case.values()))) if by_case else None
        at.validations += 1
        at.since_best += 1
        if val_dice is None or at.best_dice is None or val_dice >= at.best_dice:
            at.best_dice, at.since_best = val_dice, 0
            at.dice_by_case = by_case
            if save_best:
                checkpoint.save(self.average.module, self.config, self.out / checkpoint.FILE)
        row = {
            "step": at.step,
            "epoch": self._epoch(),
            "loss": float(np.mean(at.losses)) if at.losses else None,
            "val_dice": val_dice,
        }
        at.losses.clear()
        return row


def _rate(progress: float, warmup: float) -> float:
    """Linear warm-up, then a half cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
