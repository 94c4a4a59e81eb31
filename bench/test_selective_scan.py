"""Selective scan: our backends, and what a user would pick instead, in one run. Cases come from the operation's spec."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cases import case_of
from ceilings import tile_ns
from oracles import relative_error, widened
from peers import PEERS
from samples import SAMPLES
from samples.selective_scan import make_case

import ssmcore
from ssmcore.ops.selective_scan import SPEC

CASES = {sample.name: sample for sample in SAMPLES["selective_scan"].benchmarks}
FULL = "B1 D512 L4096 N16 channel-first"
SHORT = "B1 D64 L512 N16"
"""Loops of Python take minutes at full length, so they are timed on this, beside ours on the same."""


@cache
def arguments(name: str) -> dict[str, Any]:
    if name == SHORT:
        return make_case(np.random.default_rng(0), np.float32, batch=1, dim=64, seqlen=512, dstate=16, extras=False)
    return case_of(CASES[name])


@cache
def in_float64(name: str) -> Any:
    """The result in double precision, by the fastest backend held to the reference at that precision."""
    return ssmcore.selective_scan(**widened(arguments(name)))


@cache
def gradient_in_float64(name: str) -> Any:
    """dA of the summed result."""
    wide = widened(arguments(name))
    return ssmcore.selective_scan_vjp(np.ones_like(wide["u"]), **wide).A


def elements(name: str) -> int:
    return arguments(name)["u"].size * arguments(name)["A"].shape[1]


def moved(name: str) -> int:
    """Bytes of the arguments and of the result."""
    arrays = [x for x in arguments(name).values() if isinstance(x, np.ndarray)]
    return sum(x.nbytes for x in arrays) + arguments(name)["u"].nbytes


def ceiling(name: str) -> float:
    """The recurrence alone on a tile in cache; softplus, gate and the way to memory come on top."""
    return tile_ns(ssmcore.cpu_features().isa, arguments(name).get("discretization", "mamba"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", [*CASES, SHORT])
def test_forward(name: str, backend: str, threads: int, measure: Any) -> None:
    case = arguments(name)

    def run() -> Any:
        return ssmcore.selective_scan(**case, backend=backend, num_threads=threads)

    measure(
        run,
        elements=elements(name),
        error=relative_error(run(), in_float64(name)),
        tolerance=SPEC.forward.float32,
        moved=moved(name),
        ceiling=ceiling(name) if backend == "cython" and threads == 1 else None,
    )


@pytest.mark.parametrize("name", CASES)
def test_forward_of_rows_that_straddle_lines(name: str, measure: Any) -> None:
    """As numpy places arrays."""
    case = case_of(CASES[name], offset=16)

    def run() -> Any:
        return ssmcore.selective_scan(**case, backend="cython", num_threads=1)

    error = relative_error(run(), in_float64(name))
    measure(run, elements=elements(name), error=error, tolerance=SPEC.forward.float32, ceiling=ceiling(name))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", [next(iter(CASES)), FULL, SHORT])
def test_forward_and_backward(name: str, backend: str, threads: int, measure: Any) -> None:
    case = arguments(name)
    dout = np.ones_like(case["u"])
    reference = gradient_in_float64(name)

    def run() -> Any:
        return ssmcore.selective_scan_vjp(dout, **case, backend=backend, num_threads=threads)

    measure(
        run,
        elements=elements(name),
        error=relative_error(run().A, reference),
        tolerance=SPEC.gradient.float32,
        rounds=7,
    )


def as_tensors(name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in arguments(name).items() if isinstance(v, np.ndarray)}


@pytest.mark.parametrize("peer", list(PEERS))
@pytest.mark.parametrize("name", [SHORT, FULL])
def test_peer_forward(name: str, peer: str, measure: Any) -> None:
    case = as_tensors(name)

    def run() -> Any:
        with torch.inference_mode():
            return PEERS[peer](case)

    error = relative_error(run(), in_float64(name))
    measure(run, elements=elements(name), error=error, tolerance=1e-4, rounds=5)


@pytest.mark.parametrize(("peer", "name"), [("torch loop", SHORT), ("mambapy", SHORT), ("mambapy", FULL)])
def test_peer_forward_and_backward(peer: str, name: str, measure: Any) -> None:
    case = {k: v.requires_grad_() for k, v in as_tensors(name).items()}

    def run() -> Any:
        PEERS[peer](case).sum().backward()
        gradient, case["A"].grad = case["A"].grad, None
        return gradient

    error = relative_error(run(), gradient_in_float64(name))
    measure(run, elements=elements(name), error=error, tolerance=1e-3, rounds=5)
