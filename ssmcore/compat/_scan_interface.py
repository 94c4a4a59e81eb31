"""Scan and inner function under their names in mamba_ssm.ops.selective_scan_interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import torch as st
from .._spec import Call
from ..backends.torch_ import forward
from ..ops.selective_scan import ARGUMENTS, SPEC, canonical
from ._steps import causal_conv1d_ref

mamba_inner_fn = st.mamba_inner


def _complex_steps(matrix: Tensor) -> Tensor:
    """Varying B or C of a complex A: real and imaginary parts take turns along the sequence."""
    if matrix.ndim == 2 or matrix.is_complex():
        return matrix
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    return torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """`ssmcore.torch.selective_scan`, differentiable through the last state too, which upstream's is not.

    With a complex A, varying B and C are real with a last axis of 2 seqlen: real and imaginary parts take turns.
    """
    if A.is_complex():
        B, C = _complex_steps(B), _complex_steps(C)
    options: dict[str, Any] = {"return_last_state": return_last_state}
    return st.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, **options)


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """`selective_scan_fn` as a loop of torch's own operations."""
    if A.is_complex():
        B, C = _complex_steps(B), _complex_steps(C)
    wide = u.to(torch.promote_types(u.dtype, torch.float32))
    tensors = (wide, delta, A, B, C, D, z, delta_bias, None)
    views = {name: canonical(name, x, "bdl") for name, x in zip(ARGUMENTS, tensors, strict=True)}
    out, last_state, _ = forward(Call(SPEC, views, {"delta_softplus": delta_softplus, "discretization": "mamba"}))
    out = out.transpose(1, 2).to(u.dtype)
    return (out, last_state) if return_last_state else out


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    *others: Any,
    **options: Any,
) -> Tensor:
    """`mamba_inner_fn` without its output projection: (batch, dim, seqlen)."""
    options |= {"out_proj_weight": None, "out_proj_bias": None}
    names = ("A", "B", "C", "D", "delta_bias", "B_proj_bias", "C_proj_bias", "delta_softplus", "checkpoint_lvl")
    named = dict(zip(names[: len(others)], others, strict=True))
    return st.mamba_inner(xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, **named, **options)


def _projected(u: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """delta, B and C, channel-first."""
    x_proj_weight, delta_proj_weight, dstate, B, C, B_proj_bias, C_proj_bias = given
    rank = delta_proj_weight.shape[1]
    projected = F.linear(u.transpose(1, 2), x_proj_weight)
    delta = F.linear(projected[..., :rank], delta_proj_weight).transpose(1, 2)
    if B is None:
        part = projected[..., rank : rank + dstate]
        B = (part if B_proj_bias is None else part + B_proj_bias).transpose(1, 2)
    if C is None:
        part = projected[..., projected.shape[-1] - dstate :]
        C = (part if C_proj_bias is None else part + C_proj_bias).transpose(1, 2)
    return delta, B, C


def mamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` in torch's own operations."""
    x, z = xz.chunk(2, dim=1)
    u = causal_conv1d_ref(x, conv1d_weight.flatten(1), conv1d_bias, activation="silu")
    projections = (x_proj_weight, delta_proj_weight, A.shape[1], B, C, B_proj_bias, C_proj_bias)
    delta, B, C = _projected(u, *projections)
    y = selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` whose scan runs forwards with A and backwards with A_b. The output projection takes the sum.

    Source: Zhu et al., Vision Mamba (2024), the first of its bidirectional blocks.
    """
    x, z = xz.chunk(2, dim=1)
    u = st.causal_conv1d(x, conv1d_weight.flatten(1), conv1d_bias, activation="silu")
    projections = (x_proj_weight, delta_proj_weight, A.shape[1], B, C, B_proj_bias, C_proj_bias)
    delta, B, C = _projected(u, *projections)

    def back(t: Tensor) -> Tensor:
        return t if t.ndim == 2 else t.flip(-1)

    forwards = st.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    backwards = st.selective_scan(back(u), back(delta), A_b, back(B), back(C), D, back(z), delta_bias, delta_softplus)
    return F.linear((forwards + back(backwards)).transpose(1, 2), out_proj_weight, out_proj_bias)
