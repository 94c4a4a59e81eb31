"""What a busy machine leaves of the speed on an idle one: `python bench/busy.py`.

Every program runs on two threads for a few seconds at a time: alone, and beside processes that compute without a pause. The states take
turns, so that a machine that drifts drifts for all. Two threads beside one such process on two processors have a fair share of 0.67 of
the idle speed, and beside three of them 0.40.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segnet.runtime.spin import bound_spin

bound_spin()  # as `segnet` does, before torch is loaded

import cases  # noqa: E402, F401, puts the tests' samples on the path
import numpy as np  # noqa: E402
import torch  # noqa: E402
from cpuinfo import get_cpu_info  # noqa: E402
from samples.selective_scan import make_case  # noqa: E402

import ssmcore.torch  # noqa: E402
from segnet.config import Config  # noqa: E402
from segnet.models import build  # noqa: E402
from segnet.training.losses import JointLoss  # noqa: E402

THREADS = 2
BESIDE = (0, 1, 3)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute, in the meantime."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        time.sleep(0.3 * bool(running))
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def scan() -> Callable[[], object]:
    case = make_case(np.random.default_rng(0), np.float32, batch=1, dim=512, seqlen=4096, dstate=16, extras=False)
    return lambda: ssmcore.selective_scan(**case, num_threads=THREADS)


def ss2d() -> Callable[[], object]:
    shapes = {
        "x": (2, 32, 32, 96),
        "delta": (2, 32, 32, 4, 96),
        "A": (4, 96, 16),
        "B": (2, 32, 32, 4, 16),
        "C": (2, 32, 32, 4, 16),
    }
    rng = np.random.default_rng(0)
    tensors = {name: torch.from_numpy(rng.random(shape, np.float32)) for name, shape in shapes.items()}
    tensors["A"] = -1 - tensors["A"]
    tensors["delta"] = 0.1 * tensors["delta"]
    for tensor in tensors.values():
        tensor.requires_grad_()

    def both() -> None:
        ssmcore.torch.ss2d(**tensors).sum().backward()

    return both


def training_step() -> Callable[[], object]:
    settings = Config.model_validate({"model": {"name": "mamba-ahnet"}})
    torch.manual_seed(0)
    model = build(settings.model).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.rand(8, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(8, 64, 64) > 0.9).long()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loss_of = JointLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(*model(images), images, masks).backward()
        optimizer.step()

    return step


PROGRAMS = {"scan": scan, "ss2d, forward and backward": ss2d, "a training step of mamba-ahnet": training_step}


def rate(function: Callable[[], object], seconds: float) -> float:
    """Calls a second."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        function()
        count += 1
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", choices=list(PROGRAMS))
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    print(f"{get_cpu_info().get('brand_raw', 'unknown')}; {ssmcore.cpu_features()}; torch {torch.__version__}")
    print("| program | calls/s, idle | " + " | ".join(f"beside {n}, of idle" for n in BESIDE[1:]) + " |")
    print("|---|---:|" + "---:|" * (len(BESIDE) - 1))
    for name, make in PROGRAMS.items():
        if chosen.only not in (None, name):
            continue
        function = make()
        function()
        rates: dict[int, list[float]] = {n: [] for n in BESIDE}
        for _ in range(chosen.rounds):
            for n in BESIDE:
                with busy(n):
                    rates[n].append(rate(function, chosen.seconds))
        idle = statistics.median(rates[0])
        parts = []
        for n in BESIDE[1:]:
            shares = [one / alone for one, alone in zip(rates[n], rates[0], strict=True)]
            parts.append(f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})")
        print(f"| {name} | {idle:.1f} | " + " | ".join(parts) + " |", flush=True)


if __name__ == "__main__":
    main()
