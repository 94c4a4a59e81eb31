"""What the machine allows: `python bench/ceilings.py` prints it, the benchmarks set their figures against it.

bench/ceilings.c is compiled around the kernels' own source with the compiler the kernels are built with, so the ceiling of a scan is its
own instruction mix on a tile that never leaves the first-level cache. Each figure is the best of several runs: a ceiling is
what the processor does when nothing disturbs it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "ssmcore" / "_kernels"
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")
FLAGS = ("-O3", "-fno-math-errno", "-Wno-psabi", "-fPIC", "-shared")


@cache
def library(isa: str) -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp(prefix="ceilings-"))
    out = folder / f"{isa}.so"
    command = [
        os.environ.get("CC", "cc"),
        *FLAGS,
        f"-I{KERNELS / 'selective_scan'}",
        f"-I{KERNELS / 'common'}",
        '-DIMPLEMENTATION="kernel.h"',
        f'-DISA_FILE="isa_{isa}.h"',
        str(ROOT / "bench" / "ceilings.c"),
        "-o",
        str(out),
    ]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(out))
    for name in ("fma_ns", "exp2_ns", "forward_tile_ns", "backward_tile_ns"):
        getattr(loaded, name).restype = ctypes.c_double
    return loaded


def best(function: object, *arguments: int, runs: int = 9) -> float:
    return min(function(*arguments) for _ in range(runs))  # type: ignore[operator]


@cache
def fma_ns(isa: str) -> float:
    """Nanoseconds a multiply-add of floats, one thread."""
    return best(library(isa).fma_ns, ctypes.c_int64(2_000_000))  # type: ignore[arg-type]


@cache
def exp2_ns(isa: str) -> float:
    """Nanoseconds an exponential, one thread."""
    return best(library(isa).exp2_ns, ctypes.c_int64(5_000))  # type: ignore[arg-type]


@cache
def tile_ns(isa: str, discretization: str, *, backward: bool = False, dstate: int = 16) -> float:
    """Nanoseconds an element of the recurrence on a tile in the first-level cache, one thread."""
    loaded = library(isa)
    function = loaded.backward_tile_ns if backward else loaded.forward_tile_ns
    code = DISCRETIZATIONS.index(discretization)
    return best(function, code, ctypes.c_int64(dstate), ctypes.c_int64(2_000))  # type: ignore[arg-type]


@cache
def copy_gb_s() -> float:
    """Bytes read and written a second by a copy far larger than the caches, one thread."""
    import time

    source = np.ones(64 << 20, np.float32)
    target = np.empty_like(source)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds) / 1e9


def main() -> None:
    from ssmcore._kernels.common.binding import ISAS, best_isa

    for isa in ISAS[: ISAS.index(best_isa()) + 1]:
        print(f"{isa}: multiply-add {fma_ns(isa):.4f} ns a float, 2^x {exp2_ns(isa):.4f} ns")
        for disc in DISCRETIZATIONS:
            forward, backward = (tile_ns(isa, disc, backward=b) for b in (False, True))
            print(f"  {disc:9} forward {forward:.4f}, backward {backward:.4f} ns an element of a tile, 16 states")
    print(f"copy: {copy_gb_s():.1f} GB/s read and written")


if __name__ == "__main__":
    main()
