"""SS2D beside what it is made of: the four scans alone, and the same kernels with unrolled copies and a merge."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import case_of
from ceilings import tile_ns
from oracles import relative_error, widened
from samples import SAMPLES

import ssmcore
from ssmcore._conventions import DIRECTIONS, unroll
from ssmcore._spec import Call
from ssmcore.backends._by_scans import ss2d_by_scans
from ssmcore.backends.cython_ import OPERATIONS
from ssmcore.ops.ss2d import SPEC

CASES = {sample.name: sample for sample in SAMPLES["ss2d"].benchmarks}


@cache
def arguments(name: str) -> dict[str, Any]:
    return case_of(CASES[name])


@cache
def in_float64(name: str) -> Any:
    return ssmcore.ss2d(**widened(arguments(name)))


@cache
def gradient_in_float64(name: str) -> Any:
    wide = widened(arguments(name))
    return ssmcore.ss2d_vjp(np.ones_like(wide["x"]), **wide).A


@cache
def sequences(name: str) -> list[dict[str, Any]]:
    """The four scans' arguments, already unrolled and contiguous."""
    case = arguments(name)
    options = {k: v for k, v in case.items() if not isinstance(v, np.ndarray)} | {"layout": "bld"}
    scans = []
    for k in range(len(DIRECTIONS)):
        grids = {"u": case["x"]} | {n: case[n][:, :, :, k] for n in ("delta", "B", "C")}
        scan = {n: np.ascontiguousarray(unroll(g, k)) for n, g in grids.items()}
        scans.append(scan | {n: case[n][k] for n in ("A", "D", "delta_bias")} | options)
    return scans


def ceiling(name: str) -> float:
    return tile_ns(ssmcore.cpu_features().isa, arguments(name).get("discretization", "mamba"))


def elements(name: str) -> int:
    case = arguments(name)
    return len(DIRECTIONS) * case["x"].size * case["A"].shape[-1]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, backend: str, threads: int, measure: Any) -> None:
    def run() -> Any:
        return ssmcore.ss2d(**arguments(name), backend=backend, num_threads=threads)

    measure(
        run,
        elements=elements(name),
        error=relative_error(run(), in_float64(name)),
        tolerance=SPEC.forward.float32,
        ceiling=ceiling(name) if backend == "cython" and threads == 1 else None,
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_four_scans_alone(name: str, threads: int, measure: Any) -> None:
    """The scans of sequences that someone else unrolled, and nobody adds up."""

    def run() -> Any:
        return [ssmcore.selective_scan(**scan, backend="cython", num_threads=threads) for scan in sequences(name)]

    wanted = [ssmcore.selective_scan(**widened(scan)) for scan in sequences(name)]
    error = max(relative_error(got, w) for got, w in zip(run(), wanted, strict=True))
    measure(run, elements=elements(name), error=error, tolerance=SPEC.forward.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_with_copies(name: str, threads: int, measure: Any) -> None:
    """Cross-scan, the same kernels, cross-merge."""
    case = {"discretization": "mamba", **arguments(name)}
    arrays = {n: case.pop(n) for n in ("x", "delta", "A", "B", "C", "D", "delta_bias")}
    call = Call(SPEC, arrays, case, num_threads=threads)

    def run() -> Any:
        return ss2d_by_scans(OPERATIONS["selective_scan"], call)[0]

    measure(run, elements=elements(name), error=relative_error(run(), in_float64(name)), tolerance=SPEC.forward.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(name: str, threads: int, measure: Any) -> None:
    dout = np.ones_like(arguments(name)["x"])

    def run() -> Any:
        return ssmcore.ss2d_vjp(dout, **arguments(name), backend="cython", num_threads=threads)

    error = relative_error(run().A, gradient_in_float64(name))
    measure(run, elements=elements(name), error=error, tolerance=SPEC.gradient.float32, rounds=7)
