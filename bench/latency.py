"""Microseconds of the smallest call of each operation, from C and from Python: `python bench/latency.py`, on an idle machine.

The C program is latency.c. Both call the library of this checkout, on one thread, in float32; the best of many rounds counts.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cpuinfo import get_cpu_info

import ssmcore

ROUNDS, CALLS = 40, 200


def from_c() -> dict[str, float]:
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("latency.py needs a C compiler, cc")
    library = Path(ssmcore.get_library())
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "latency"
        source, include = Path(__file__).with_suffix(".c"), f"-I{ssmcore.get_include()}"
        command = [
            compiler,
            "-O2",
            "-Wall",
            include,
            str(source),
            str(library),
            f"-Wl,-rpath,{library.parent}",
            "-o",
            str(program),
        ]
        subprocess.run(command, check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: float(us) for name, us in (line.split() for line in lines)}


def calls() -> dict[str, Callable[[], Any]]:
    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)

    sequence, matrix, grid, channels, one = ones(1, 4, 8), ones(1, 4, 4), ones(1, 2, 2, 8), ones(8), ones(1)
    delta, system, systems, matrices = ones(1, 2, 2, 4, 8), ones(8, 4), ones(4, 8, 4), ones(1, 2, 2, 4, 4)
    heads, steps, groups, big = ones(1, 4, 2, 8), ones(1, 4, 2), ones(1, 4, 1, 4), ones(1, 4, 4)
    return {
        "selective_scan": lambda: ssmcore.selective_scan(sequence, sequence, system, matrix, matrix, layout="bld"),
        "ss2d": lambda: ssmcore.ss2d(grid, delta, systems, matrices, matrices),
        "chunk_scan": lambda: ssmcore.chunk_scan(heads, steps, -ones(2), groups, groups),
        "causal_conv1d": lambda: ssmcore.causal_conv1d(sequence, system, channels, activation="silu", layout="bld"),
        "depthwise_conv2d": lambda: ssmcore.depthwise_conv2d(grid, ones(8, 3, 3), channels, activation="silu"),
        "attention_gate": lambda: ssmcore.attention_gate(grid, grid, grid, *[channels] * 4, one, one),
        "gate_crop": lambda: ssmcore.gate_crop(big, (2, 2)),
        "discretize": lambda: ssmcore.discretize(system, system, channels),
        "ssm_recurrence": lambda: ssmcore.ssm_recurrence(system, system, system, ones(8, 5)),
    }


def main() -> None:
    c = from_c()
    print(f"{get_cpu_info()['brand_raw']}; microseconds a call, one thread")
    print(f"{'operation':18} {'C':>8} {'Python':>8}")
    for name, call in calls().items():
        call()
        python = min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6
        print(f"{name:18} {c[name]:8.2f} {python:8.1f}")


if __name__ == "__main__":
    main()
