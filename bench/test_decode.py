"""A decode step of Mamba-130m's mixer on kept states, for arrays and for tensors, beside the same in plain torch.

An element is one of the state, or of the convolution's weight; a step is so short that most of its time is the calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ssmcore
import ssmcore.torch as st
from ssmcore.ops import SPECS

DIM, DSTATE, TAPS = 1536, 16, 4


def step_case(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    x, dt, z = (normal(1, DIM) for _ in range(3))
    case = {"state": normal(1, DIM, DSTATE), "x": x, "dt": dt, "A": -np.exp(normal(DIM, DSTATE))}
    return case | {"B": normal(1, DSTATE), "C": normal(1, DSTATE), "D": normal(DIM), "z": z, "dt_bias": normal(DIM)}


def plain_step(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    dt_bias: torch.Tensor,
) -> torch.Tensor:
    """As one writes it in torch."""
    dt = F.softplus(dt + dt_bias)
    state.copy_(state * torch.exp(dt[..., None] * A) + (dt * x)[..., None] * B[:, None])
    return (torch.einsum("bdn,bn->bd", state, C) + D * x) * F.silu(z)


def plain_convolution(
    x: torch.Tensor, conv_state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    conv_state.copy_(torch.cat([conv_state[..., 1:], x[..., None]], dim=-1))
    return F.silu((conv_state * weight).sum(-1) + bias)


@pytest.mark.parametrize("by", ["arrays", "tensors", "plain torch"])
@torch.no_grad()
def test_state_update(by: str, measure: Any) -> None:
    case = step_case()
    wide = {k: v.astype(np.float64) for k, v in case.items()}
    wanted = ssmcore.selective_state_update(**wide, dt_softplus=True, backend="numpy")
    given: Any = case if by == "arrays" else {k: torch.from_numpy(v) for k, v in case.items()}
    start = given["state"].copy() if by == "arrays" else given["state"].clone()

    def run() -> Any:
        if by == "arrays":
            return ssmcore.selective_state_update(**given, dt_softplus=True)
        return st.selective_state_update(**given, dt_softplus=True) if by == "tensors" else plain_step(**given)

    error = float(np.abs(np.asarray(run()) - wanted).max() / np.abs(wanted).max())
    given["state"][...] = start
    measure(run, elements=DIM * DSTATE, error=error, tolerance=SPECS["selective_scan"].forward.float32, rounds=2000)


@pytest.mark.parametrize("by", ["arrays", "tensors", "plain torch"])
@torch.no_grad()
def test_convolution_update(by: str, measure: Any) -> None:
    rng = np.random.default_rng(1)
    shapes = {"x": (1, DIM), "conv_state": (1, DIM, TAPS), "weight": (DIM, TAPS), "bias": (DIM,)}
    case = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    wide = {k: v.astype(np.float64) for k, v in case.items()}
    wanted = ssmcore.causal_conv1d_update(**wide, activation="silu", backend="numpy")
    given: Any = case if by == "arrays" else {k: torch.from_numpy(v) for k, v in case.items()}

    def run() -> Any:
        if by == "arrays":
            return ssmcore.causal_conv1d_update(**given, activation="silu")
        return st.causal_conv1d_update(**given, activation="silu") if by == "tensors" else plain_convolution(**given)

    error = float(np.abs(np.asarray(run()) - wanted).max() / np.abs(wanted).max())
    measure(run, elements=DIM * TAPS, error=error, tolerance=SPECS["causal_conv1d"].forward.float32, rounds=2000)
