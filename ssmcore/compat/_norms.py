"""Norms under their names in mamba_ssm.ops.triton."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, rms: bool) -> Tensor:
    """Over the last axis; x, weight and bias wide."""
    if not rms:
        x = x - x.mean(-1, keepdim=True)
    out = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
    return out if bias is None else out + bias


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """``norm(dropout(rowscale x) + dropout(x1) + residual)`` over the last axis, computed in float32 (float64 for float64).

    Returns
    -------
    out, then as asked for
        with weight1, a second norm of the same sum;
        with `prenorm`, the sum itself, in the dtype of `residual`, else in float32 if `residual_in_fp32`, else in x's;
        with `return_dropout_mask`, the masks of both dropouts.
    """
    masks: list[Tensor | None] = []

    def dropped(part: Tensor) -> Tensor:
        if dropout_p == 0:
            masks.append(None)
            return part
        kept = torch.rand(part.shape, device=part.device) >= dropout_p
        masks.append(kept)
        return part * kept / (1 - dropout_p)

    scaled = _wide(x) if rowscale is None else _wide(x) * rowscale[..., None]
    total = dropped(scaled)
    if x1 is None:
        masks.append(None)
    else:
        total = total + dropped(_wide(x1))
    if residual is not None:
        total = total + _wide(residual)
    out = [_norm(total, weight, bias, eps, rms=is_rms_norm).to(x.dtype)]
    if weight1 is not None:
        out.append(_norm(total, weight1, bias1, eps, rms=is_rms_norm).to(x.dtype))
    if prenorm:
        kept_in = torch.float32 if residual_in_fp32 else x.dtype
        out.append(total.to(kept_in if residual is None else residual.dtype))
    found: list[Any] = [*out, *masks] if return_dropout_mask else [*out]
    return found[0] if len(found) == 1 else tuple(found)


_NAMES = [name for name in signature(layer_norm_fn).parameters if name != "is_rms_norm"]


def rms_norm_fn(*arguments: Any, **options: Any) -> Any:
    """`layer_norm_fn` without the mean: its arguments without `is_rms_norm`, in their order."""
    return layer_norm_fn(**dict(zip(_NAMES[: len(arguments)], arguments, strict=True)), **options, is_rms_norm=True)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis of x plus a residual.

    Parameters
    ----------
    hidden_size : size of that axis
    eps : added to the mean square
    dropout_p : of x, before the residual, in training
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0 else None
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        dropout_p = self.drop.p if self.drop is not None and self.training else 0.0
        options = {"prenorm": prenorm, "residual_in_fp32": residual_in_fp32}
        return rms_norm_fn(x, self.weight, None, residual, eps=self.eps, dropout_p=dropout_p, **options)


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """``norm(x) silu(z)``, or ``norm(x silu(z))`` unless `norm_before_gate`, over each `group_size` entries of the last axis.

    Raises
    ------
    ValueError
        `group_size` does not divide the last axis.
    """
    size = x.shape[-1] if group_size is None else group_size
    if x.shape[-1] % size:
        raise ValueError(f"layernorm_fn: group_size: expected a divisor of {x.shape[-1]}, got {size}; choose another")
    wide, gate = _wide(x), None if z is None else F.silu(_wide(z))
    if gate is not None and not norm_before_gate:
        wide = wide * gate
    groups = (-1, size)
    out = _norm(
        wide.unflatten(-1, groups),
        weight.unflatten(-1, groups),
        None if bias is None else bias.unflatten(-1, groups),
        eps,
        rms=is_rms_norm,
    ).flatten(-2)
    return (out * gate if gate is not None and norm_before_gate else out).to(x.dtype)


rmsnorm_fn = partial(layernorm_fn, is_rms_norm=True)


class GatedLayerNorm(nn.Module):
    """`layernorm_fn` with its weight and bias: LayerNorm of mamba_ssm.ops.triton.layernorm_gated."""

    rms = False
    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        bias = None if self.rms else nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return layernorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate, self.rms)


class GatedRMSNorm(GatedLayerNorm):
    """`rmsnorm_fn` with its weight: RMSNorm of mamba_ssm.ops.triton.layernorm_gated."""

    rms = True
