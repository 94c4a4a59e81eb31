"""The functions that Mamba mixers of transformers call, on ssmcore's kernels.

Each replaces a function and has its arguments. It calls the original for tensors outside the CPU and for unknown arguments.
Sequences are (batch, dim, seqlen) views of memory laid out as (batch, seqlen, dim), which the kernels use in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import torch as ops

Function = Callable[..., Any]
_ACTIVATIONS = (None, "silu", "swish")


def _applies(x: Tensor, others: dict[str, Any]) -> bool:
    return x.device.type == "cpu" and all(value is None for value in others.values())


def _recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records operations on the tensors."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _wide(x: Tensor) -> Tensor:
    """x in the dtype of computation: float32 for bfloat16 and float16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _state_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """One step of the scan from `state`, in place."""
    if _recorded(state, x, dt, A, B, C, D, z, dt_bias):
        before = state.clone()  # the gradient needs it, and state is about to change
        x, dt, B, C = (t.unsqueeze(1) for t in (_wide(x), dt, B, C))
        z = None if z is None else z.unsqueeze(1)
        arguments = (x, dt, A, B, C, D, z, dt_bias, dt_softplus)
        out, last = ops.selective_scan(*arguments, return_last_state=True, initial_state=before, layout="bld")
        state.copy_(last)
        return out.squeeze(1)
    with torch.no_grad():  # grad may be enabled although nothing is recorded
        y = ops.selective_state_update(state, _wide(x), dt, A, B, C, D, z, dt_bias, dt_softplus)
    return y


def _conv_step(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """One step of the convolution from `conv_state`, in place."""
    known = torch.cat([conv_state[..., 1:], x], dim=-1)
    conv_state.copy_(known)
    out = (_wide(known[..., known.shape[-1] - weight.shape[-1] :]) * weight).sum(-1)
    if bias is not None:
        out = out + bias
    return (F.silu(out) if activation else out).to(x.dtype).unsqueeze(-1)


def _causal_conv1d_update(original: Function) -> Function:
    def causal_conv1d_update(
        hidden_states: Tensor,
        conv_state: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **others: Any,
    ) -> Any:
        if activation in _ACTIVATIONS and hidden_states.shape[-1] == 1 and _applies(hidden_states, others):
            return _conv_step(hidden_states, conv_state, weight, bias, activation)
        return original(hidden_states, conv_state, weight, bias, activation=activation, **others)

    return causal_conv1d_update


def _causal_conv1d_fn(original: Function) -> Function:
    def causal_conv1d_fn(
        hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **others: Any
    ) -> Any:
        if activation in _ACTIVATIONS and _applies(hidden_states, others):
            x = hidden_states.transpose(1, 2)
            return ops.causal_conv1d(x, weight, bias, activation=activation, layout="bld").transpose(1, 2)
        return original(hidden_states, weight, bias, activation=activation, **others)

    return causal_conv1d_fn


def _mamba_inner_fn(original: Function) -> Function:
    def mamba_inner_fn(xz: Tensor, *arguments: Any, **others: Any) -> Any:
        # without it the mixer goes on through the convolution and the scan
        return None if xz.device.type == "cpu" else original(xz, *arguments, **others)

    return mamba_inner_fn


def _mamba_selective_state_update(original: Function) -> Function:
    def mamba_selective_state_update(
        state: Tensor,
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        dt_bias: Tensor | None = None,
        dt_softplus: bool = False,
        z: Tensor | None = None,
        **others: Any,
    ) -> Any:
        if _applies(hidden_states, others):
            return _state_step(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)
        return original(state, hidden_states, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=dt_softplus, z=z, **others)

    return mamba_selective_state_update


def _mamba_selective_scan(original: Function) -> Function:
    def mamba_selective_scan(
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        use_mambapy: bool = False,
        use_associative_scan: bool = False,
        **others: Any,
    ) -> Any:
        if not _applies(hidden_states, others):
            return original(
                hidden_states,
                dt,
                A,
                B,
                C,
                D,
                z=z,
                delta_bias=delta_bias,
                delta_softplus=delta_softplus,
                return_last_state=return_last_state,
                use_mambapy=use_mambapy,
                use_associative_scan=use_associative_scan,
                **others,
            )
        out, last_state = ops.selective_scan(
            _wide(hidden_states).transpose(1, 2),
            dt.transpose(1, 2),
            A,
            B.transpose(1, 2),
            C.transpose(1, 2),
            D,
            None if z is None else z.transpose(1, 2),
            delta_bias,
            delta_softplus,
            return_last_state=True,
            layout="bld",
        )
        return (out.transpose(1, 2), last_state) if return_last_state else out.transpose(1, 2)

    return mamba_selective_scan


REPLACEMENTS: dict[str, Callable[[Function], Function]] = {
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
    "mamba_inner_fn": _mamba_inner_fn,
    "mamba_selective_scan": _mamba_selective_scan,
    "mamba_selective_state_update": _mamba_selective_state_update,
}
