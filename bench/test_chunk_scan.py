"""The chunk scan beside the matrix product that bounds it, and beside the same chunks written in plain torch.

An element is a multiply-add of the chunked form, triangles counted as triangles; the ceiling is what torch's matrix product takes for
one on as many threads, measured in the same run.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cases import case_of
from oracles import relative_error, widened
from samples import SAMPLES

import ssmcore
import ssmcore.torch as st
from ssmcore.ops import SPECS

SPEC = SPECS["chunk_scan"]
CASES = {sample.name: sample for sample in SAMPLES["chunk_scan"].benchmarks}
CHUNK = 64


@cache
def product_ns(threads: int) -> float:
    """Nanoseconds a multiply-add of torch's product of two square matrices, the best of several."""
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return min(seconds) / size**3 * 1e9


def multiply_adds(case: dict[str, Any], *, backward: bool = False) -> int:
    """Of a forward pass, or of a forward and a backward pass."""
    batch, seqlen, nheads, headdim = case["x"].shape
    ngroups, dstate = case["B"].shape[2:]
    triangle, square = (CHUNK + 1) / 2, dstate * headdim
    forward = ngroups * triangle * dstate + nheads * (triangle * headdim + 2 * square)
    if not backward:
        return int(batch * seqlen * forward)
    back = ngroups * triangle * dstate + nheads * (triangle * 2 * (headdim + dstate) + 4 * square)
    return int(batch * seqlen * (forward + back))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, backend: str, threads: int, measure: Any) -> None:
    case = case_of(CASES[name])

    def run() -> Any:
        return ssmcore.chunk_scan(**case, backend=backend, num_threads=threads)

    error = relative_error(run(), ssmcore.chunk_scan(**widened(case)))
    measure(
        run,
        elements=multiply_adds(case),
        error=error,
        tolerance=SPEC.forward.float32,
        ceiling=product_ns(threads),
        rounds=15 if backend == "cython" else 5,
    )


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v).requires_grad_() for k, v in case_of(CASES[name]).items()}


def both_ways(function: Any, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(function(**given).sum(), list(given.values()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(name: str, threads: int, measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case, given = case_of(CASES[name]), tensors(name)
    monkeypatch.setenv("SSMCORE_NUM_THREADS", str(threads))
    wide = widened(case)
    wanted = ssmcore.chunk_scan_vjp(np.ones_like(wide["x"]), **wide).B
    error = relative_error(both_ways(st.chunk_scan, given)[3].numpy(), wanted)
    measure(
        lambda: both_ways(st.chunk_scan, given),
        elements=multiply_adds(case, backward=True),
        error=error,
        tolerance=SPEC.gradient.float32,
        ceiling=product_ns(threads),
        rounds=9,
    )


def plain_chunks(x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    """The chunked form as one writes it in torch: products for all chunks at once, and a loop over their states."""
    nheads, chunks = x.shape[2], x.shape[1] // CHUNK
    B, C = (m.repeat_interleave(nheads // m.shape[2], 2).unflatten(1, (chunks, CHUNK)) for m in (B, C))
    log = (dt * A).unflatten(1, (chunks, CHUNK)).cumsum(2)
    entering = (dt[..., None] * x).unflatten(1, (chunks, CHUNK))
    above = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    between = (log[:, :, :, None] - log[:, :, None]).masked_fill(above[..., None], -torch.inf).exp()
    scores = torch.einsum("bcihn,bcjhn->bcijh", C, B)
    y = torch.einsum("bcijh,bcjhp->bcihp", scores * between, entering)
    given = torch.einsum("bcjh,bcjhn,bcjhp->bchpn", between[:, :, -1], B, entering)
    h, states = torch.zeros_like(given[:, 0]), []
    for c in range(chunks):
        states.append(h)
        h = log[:, c, -1].exp()[..., None, None] * h + given[:, c]
    y = y + torch.einsum("bcih,bcihn,bchpn->bcihp", log.exp(), C, torch.stack(states, 1))
    return y.flatten(1, 2)


@pytest.mark.parametrize("passes", ["forward", "forward and backward"])
@pytest.mark.parametrize("threads", [1, 2])
def test_plain_torch(threads: int, passes: str, measure: Any) -> None:
    name = next(iter(CASES))
    case, given = case_of(CASES[name]), tensors(name)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    wide = widened(case)
    with torch.no_grad():
        error = relative_error(plain_chunks(**given).numpy(), ssmcore.chunk_scan(**wide))

    def run() -> Any:
        if passes == "forward":
            with torch.no_grad():
                return plain_chunks(**given)
        return both_ways(plain_chunks, given)

    measure(
        run,
        elements=multiply_adds(case, backward=passes != "forward"),
        error=error,
        tolerance=2e-5,  # sums of logarithms in single precision
        ceiling=product_ns(threads),
        rounds=5,
    )
    torch.set_num_threads(before)
