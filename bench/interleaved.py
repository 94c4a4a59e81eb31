"""A convolution and a scan in turns, against each alone: `python bench/interleaved.py`.

Threads of one that spin while the other computes would show here as a convolution or a scan that takes longer in turns than alone.
So would data that the one drives out of the other's caches; a copy of as many bytes as the convolution moves, on one thread, in the
convolution's place, tells how much that is. All but the copy run on two threads; the runs alone and in turns alternate, so that a
machine that drifts drifts for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import cases  # noqa: F401, puts the tests' samples on the path
import numpy as np
import torch
from samples.selective_scan import make_case

import ssmcore.torch

ROUNDS, REPEATS = 25, 8


def work() -> dict[str, Callable[[], Any]]:
    x, weight = torch.rand(8, 48, 64, 64).contiguous(memory_format=torch.channels_last), torch.rand(48, 48, 3, 3)
    case = make_case(np.random.default_rng(0), np.float32, batch=2, dim=192, seqlen=1024, dstate=16, extras=False)
    scan = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
    source, target = x.numpy().copy(), np.empty_like(x.numpy())
    return {
        "convolution": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        "scan": lambda: ssmcore.torch.selective_scan(**scan),
        "copy": lambda: np.copyto(target, source),
    }


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    functions = work()
    turns = (("scan", "convolution"), ("convolution", "scan"), ("scan", "copy"))
    alone: dict[str, list[float]] = {name: [] for name in functions}
    after: dict[tuple[str, str], list[float]] = {pair: [] for pair in turns}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            function()  # after another: the first of a row is not alone
            alone[name] += [seconds(function) for _ in range(REPEATS)]
        for name, other in turns:
            for _ in range(REPEATS):
                functions[other]()
                after[name, other].append(seconds(functions[name]))
    for (name, other), times in after.items():
        one, turn = np.median(alone[name]) * 1e3, np.median(times) * 1e3
        print(f"{name:12} alone {one:6.2f} ms, in turns with a {other:12} {turn:6.2f} ms: {turn / one - 1:+.1%}")


if __name__ == "__main__":
    main()
