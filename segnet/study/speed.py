"""Speed of networks in training and inference on this machine, and shares of time by kind of layer."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.profiler import profile

from segnet.config import Config, DataConfig, ModelConfig
from segnet.models import build, channels_last, names
from segnet.prediction.engine import optimise
from segnet.prediction.windows import segment
from segnet.runtime.memory import keep_freed_memory
from segnet.training.loop import parameter_groups
from segnet.training.losses import JointLoss

Mode = Literal["train", "infer"]

# Kineto, which is not used here, prints lines of its own whenever torch's profiler runs. Errors of torch are exceptions.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

PAPER_PEAK_GFLOP_S = 672.0
"""Single-precision peak of the paper's processor, 12 cores of a Threadripper 1920X."""
PAPER_SAMPLES = {"DeepLesion": 24580, "bone": 62339, "pancreas": 9760}
"""Training samples of the paper's Table I."""
VOI_SLICES = 128
"""Slices in a volume of interest of the ULS23 challenge; each has 256 px."""
KINDS = (
    ("scan", ("ssmcore::ss2d", "ssmcore_ss2d")),
    ("depthwise convolution", ("ssmcore::depthwise", "ssmcore_depthwise")),
    ("attention gate", ("ssmcore::attention_gate", "ssmcore_attention_gate")),
    ("convolution", ("convolution", "mkldnn", "thnn_conv")),
    ("matrix product", ("aten::mm", "aten::addmm", "aten::bmm")),
    ("norm", ("norm",)),
    ("copies", ("aten::copy_", "aten::cat", "aten::clone", "aten::fill_", "aten::index")),
    (
        "elementwise",
        ("relu", "threshold", "silu", "sigmoid", "aten::mul", "aten::add", "aten::exp", "aten::sum", "aten::neg"),
    ),
    ("optimizer", ("_foreach", "_fused", "Optimizer")),
)
"""Kinds of layers by parts of the profiler's operation names, forward and backward. The first match counts."""


def peak_gflop_s() -> float:
    """Speed of a product of two large matrices on torch's threads."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds) / 1e9


def step_of(
    name: str, mode: Mode, *, batch_size: int, side_px: int, bfloat16: bool = False, voi: bool = False
) -> Callable[[], Tensor]:
    """One training step of a network on noise, one forward pass of its optimised form, or with `voi` the segmentation of a volume."""
    config = Config(model=ModelConfig(name=name))
    torch.manual_seed(0)
    model = channels_last(build(config.model))
    images = torch.rand(batch_size, config.model.inputs, side_px, side_px)
    images = images.contiguous(memory_format=torch.channels_last)
    if mode == "infer":
        engine = optimise(model, bfloat16=bfloat16)
        # a copy is not validated: the network itself names the sides it takes
        data = DataConfig().model_copy(update={"patch_px": side_px, "input_px": side_px})
        low, high = data.window_hu
        volume = np.random.default_rng(0).uniform(low, high, (VOI_SLICES, side_px, side_px)) if voi else None

        @torch.inference_mode()
        def infer() -> Tensor:
            if volume is None:
                return engine(images)[0]
            slices = config.model.in_channels
            return torch.from_numpy(segment(engine, volume, data, slices=slices, batch_size=batch_size))

        return infer
    model.train()
    half = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
    settings = config.train
    groups = parameter_groups(model, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    loss_of = JointLoss(settings.reconstruction_weight)
    masks = torch.zeros(batch_size, side_px, side_px, dtype=torch.long)
    masks[:, side_px // 3 : side_px // 2, side_px // 3 : side_px // 2] = 1

    def train() -> Tensor:
        with half:
            logits, reconstruction = model(images)
        loss = loss_of(logits, reconstruction, images, masks)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip, foreach=True)
        optimizer.step()
        return loss

    return train


def kind_of(operation: str) -> str:
    """Kind of layer of an operation of the profiler, or "other"."""
    return next((kind for kind, marks in KINDS if any(mark in operation for mark in marks)), "other")


def by_kind(step: Callable[[], Tensor]) -> dict[str, float]:
    """Shares of one step's time by kind of layer; the rest is "other"."""
    with profile(use_kineto=False) as recorded:
        step()
    totals = dict.fromkeys([kind for kind, _ in KINDS], 0.0) | {"other": 0.0}
    for event in recorded.key_averages():
        totals[kind_of(event.key)] += event.self_cpu_time_total
    whole = sum(totals.values())
    return {kind: spent / whole for kind, spent in totals.items()}


_RESET_PEAK = Path("/proc/self/clear_refs")


def _resident(field: str) -> int:
    """Bytes of this process's memory: "VmRSS" now, "VmHWM" the peak since the last reset."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def _peak(name: str, mode: Mode, threads: int, sizes: dict[str, Any]) -> int:
    keep_freed_memory()
    torch.set_num_threads(threads)
    step = step_of(name, mode, **sizes)
    _RESET_PEAK.write_text("5")
    before = _resident("VmRSS")
    for _ in range(2):
        step()
    return _resident("VmHWM") - before


def peak_bytes(name: str, mode: Mode, *, threads: int, **sizes: Any) -> int | None:
    """Peak memory of two steps in their own process, beyond the network and its input.

    None where the system does not report it, or ends that process, perhaps for want of memory.
    """
    if not _RESET_PEAK.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, name, mode, threads, sizes).result()
        except (MemoryError, RuntimeError):  # a broken pool is a RuntimeError too
            return None


def measure(
    mode: Mode,
    models: Sequence[str] = (),
    *,
    batch_size: int = 8,
    side_px: int = 256,
    threads: Sequence[int] = (),
    rounds: int = 5,
    bfloat16: bool = False,
    voi: bool = False,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure networks in turns, in one run.

    Parameters
    ----------
    mode : "train", a step of forward, backward and AdamW; or "infer", a forward pass of `segnet.prediction.engine.optimise`'s network
    models : names; all where empty
    batch_size, side_px : number and side of the slices
    threads : numbers of threads to try; torch's own where empty
    rounds : timed steps of each, after one for warm-up
    bfloat16 : convolutions and matrix products in bfloat16; the scan stays float32
    voi : a step of "infer" segments a volume of `VOI_SLICES` slices, `batch_size` at once, without reading and writing
    report : called with a line before each step

    Returns
    -------
    dict
        "peak_gflop_s" by threads, and "rows" by model and threads: `ms_a_slice` with the 20th and 80th percentile,
        `slices_a_second`, `s_a_voi` (with `voi`), `peak_bytes`, `shares` by kind of layer, and `epoch_s_estimate` (in training).
        The estimate is seconds per epoch of the paper's sample counts on its processor, from the ratio of peak speeds.
    """
    sizes: dict[str, Any] = {"batch_size": batch_size, "side_px": side_px, "bfloat16": bfloat16, "voi": voi}
    slices = VOI_SLICES if voi else batch_size
    rows: list[dict[str, Any]] = []
    peaks: dict[int, float] = {}
    before = torch.get_num_threads()
    try:
        for count in threads or (before,):
            torch.set_num_threads(count)
            steps = {name: step_of(name, mode, **sizes) for name in models or names()}
            peaks[count] = peak_gflop_s()
            times: dict[str, list[float]] = {name: [] for name in steps}
            for turn in range(rounds + 1):
                for name, step in steps.items():
                    if report is not None:
                        report(f"{count} threads, round {turn} of {rounds}: {name}")
                    started = time.perf_counter()
                    step()
                    if turn:  # the first is for warm-up
                        times[name].append((time.perf_counter() - started) / slices)
            for name, seconds in times.items():
                row = _row(name, count, seconds)
                if voi:
                    row["s_a_voi"] = row["ms_a_slice"] / 1e3 * VOI_SLICES
                row["shares"] = by_kind(steps[name])
                row["peak_bytes"] = peak_bytes(name, mode, threads=count, **sizes)
                if mode == "train":
                    scale = row["ms_a_slice"] / 1e3 * peaks[count] / PAPER_PEAK_GFLOP_S
                    row["epoch_s_estimate"] = {where: scale * samples for where, samples in PAPER_SAMPLES.items()}
                rows.append(row)
    finally:
        torch.set_num_threads(before)
    return {"mode": mode, **sizes, "rounds": rounds, "peak_gflop_s": peaks, "rows": rows}


def _row(name: str, threads: int, seconds: list[float]) -> dict[str, Any]:
    low, median, high = (float(s) for s in np.percentile(seconds, (20, 50, 80)))
    return {
        "model": name,
        "threads": threads,
        "ms_a_slice": median * 1e3,
        "p20_ms": low * 1e3,
        "p80_ms": high * 1e3,
        "slices_a_second": 1 / median,
    }
