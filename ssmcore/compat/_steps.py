"""Convolution and decoding steps under their names in causal_conv1d and mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import torch as st

# upstream records no gradient of a step
causal_conv1d_update = torch.no_grad()(st.causal_conv1d_update)
selective_state_update = torch.no_grad()(st.selective_state_update)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | str | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Any:
    """`ssmcore.torch.causal_conv1d` with causal_conv1d's arguments. Its first releases had `activation` in the place of `seq_idx`.

    `final_states_out` is filled with the final states, which are then returned too.
    """
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    options: dict[str, Any] = {"return_last_state": return_final_states or final_states_out is not None}
    found = st.causal_conv1d(x, weight, bias, initial_states, activation=activation, seq_idx=seq_idx, **options)
    if final_states_out is None:
        return found
    out, states = found
    with torch.no_grad():
        final_states_out.copy_(states)
    return out, final_states_out


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Any:
    """The same in torch's own convolution."""
    past, dtype = weight.shape[1] - 1, torch.promote_types(x.dtype, weight.dtype)
    before = x.new_zeros((*x.shape[:2], past)) if initial_states is None else initial_states
    extended = torch.cat([before.to(dtype), x.to(dtype)], dim=-1)
    y = F.conv1d(extended, weight[:, None].to(dtype), None if bias is None else bias.to(dtype), groups=x.shape[1])
    out = (y if activation is None else F.silu(y)).to(x.dtype)
    if not return_final_states:
        return out
    states = extended[:, :, extended.shape[2] - past :].to(x.dtype)
    return out, states if final_states_out is None else final_states_out.copy_(states)
