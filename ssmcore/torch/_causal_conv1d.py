"""Causal convolution of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._conventions import spread_sequences
from .._spec import ArgumentTypeError
from ..backends._threads import resolve
from ..backends.torch_ import causal_conv1d_tensors, gradients
from ..ops import causal_conv1d as _conv
from ._common import as_array, as_tensor, check_dtypes


def _bld(x: Any, layout: str) -> Any:
    return x.swapaxes(1, 2) if layout == "bdl" else x


@torch.library.custom_op("ssmcore::causal_conv1d_fwd", mutates_args=())
def _conv_fwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None, silu: bool, layout: str
) -> Tensor:
    if x.device.type != "cpu":
        with torch.no_grad():
            out = causal_conv1d_tensors(_bld(x, layout), weight, bias, initial_states, silu=silu)
        return _bld(out, layout).clone(memory_format=torch.contiguous_format)
    choice = backends.choose("causal_conv1d", _conv.ENTRIES)
    out_array = backends.entry(choice, "causal_conv1d_fwd")(
        _bld(as_array(x), layout),
        as_array(weight),
        as_array(bias),
        as_array(initial_states),
        silu=silu,
        channel_first=layout == "bdl",
        num_threads=resolve(None),
    )
    return as_tensor(_bld(out_array, layout), x)


@_conv_fwd.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None, silu: bool, layout: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmcore::causal_conv1d_bwd", mutates_args=())
def _conv_bwd(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    layout: str,
) -> list[Tensor]:
    """Gradients of x, weight, bias and initial_states, empty for an absent argument."""
    tensors = (x, weight, bias, initial_states)
    grads: Sequence[Any]
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
            out = _bld(causal_conv1d_tensors(_bld(inputs[0], layout), *inputs[1:], silu=silu), layout)
            grads = gradients((out,), inputs, (dout,))
        return [x.new_empty(0) if g is None else g.contiguous() for g in grads]
    choice = backends.choose("causal_conv1d", _conv.ENTRIES)
    dx, *others = backends.entry(choice, "causal_conv1d_bwd")(
        _bld(as_array(dout), layout),
        _bld(as_array(x), layout),
        as_array(weight),
        as_array(bias),
        as_array(initial_states),
        silu=silu,
        channel_first=layout == "bdl",
        num_threads=resolve(None),
    )
    grads = (_bld(dx, layout), *others)
    return [x.new_empty(0) if t is None else as_tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_conv_bwd.register_fake
def _(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    layout: str,
) -> list[Tensor]:
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, bias, initial_states)]


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu, ctx.layout = inputs
    ctx.present = [t is not None for t in tensors]
    ctx.save_for_backward(*[t for t in tensors if t is not None])


def _conv_backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    tensors = iter(ctx.saved_tensors)
    arguments: list[Any] = [next(tensors) if present else None for present in ctx.present]
    grads = _conv_bwd(dout, *arguments, ctx.silu, ctx.layout)
    return (*[g if present else None for g, present in zip(grads, ctx.present, strict=True)], None, None)


_conv_fwd.register_autograd(_conv_backward, setup_context=_conv_setup)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
    *,
    seq_idx: Tensor | None = None,
    layout: str = "bdl",
) -> Any:
    """Causal depthwise convolution of tensors; shapes, formula and options as in `ssmcore.causal_conv1d`.

    Differentiable in every tensor but `seq_idx`, through `final_states` too; computed and returned as `selective_scan` is.

    Returns
    -------
    out, or (out, final_states) where `return_final_states`

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Gu and Dao, Mamba, figure 3; the interface follows Dao-AILab's causal-conv1d.
    """
    tensors = dict(zip(_conv.ARGUMENTS, (x, weight, bias, initial_states), strict=True))
    check_dtypes("causal_conv1d", tensors)
    shapes = {name: None if t is None else tuple(t.shape) for name, t in tensors.items()}
    sizes = _conv.check(shapes, activation=activation, layout=layout)
    past = weight.shape[1] - 1
    if seq_idx is not None:
        if not isinstance(seq_idx, Tensor):
            got, remedy = type(seq_idx).__name__, "convert it with torch.as_tensor"
            _conv.SPEC.fail("seq_idx", "a tensor of integers (batch, seqlen)", got, remedy, kind=ArgumentTypeError)
        _conv.check_seq_idx(seq_idx, sizes)
        return _packed(x, weight, bias, initial_states, return_final_states, activation is not None, layout, seq_idx)
    out = _conv_fwd(*tensors.values(), activation is not None, layout)
    if not return_final_states:
        return out
    sequence = x if layout == "bdl" else x.transpose(1, 2)
    kept = past - min(past, sequence.shape[2])
    before = x.new_zeros((*sequence.shape[:2], past)) if initial_states is None else initial_states.to(x.dtype)
    return out, torch.cat([before[:, :, past - kept :], sequence[:, :, sequence.shape[2] - (past - kept) :]], dim=-1)


def _packed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_states: Tensor | None,
    return_final_states: bool,
    silu: bool,
    layout: str,
    seq_idx: Tensor,
) -> Any:
    """One convolution of the sequences of each row, set apart by as many zeros as taps reach back."""
    sequence, past = x.transpose(1, 2) if layout == "bdl" else x, weight.shape[1] - 1
    at, length = spread_sequences(seq_idx.detach().cpu().numpy(), past)
    positions = torch.from_numpy(at).to(x.device)
    rows = torch.arange(len(positions), device=x.device)[:, None]
    apart = sequence.new_zeros((sequence.shape[0], length, sequence.shape[2])).index_put((rows, positions), sequence)
    out = _conv_fwd(apart, weight, bias, initial_states, silu, "bld")[rows, positions]
    padding = (seq_idx < 0).to(x.device)[:, :, None]
    out = torch.where(padding, out.new_zeros(()), out)
    out = (out.transpose(1, 2) if layout == "bdl" else out).contiguous()
    if not return_final_states:
        return out
    before = apart.new_zeros((len(apart), past, apart.shape[2]))
    if initial_states is not None:
        before = initial_states.to(x.dtype).transpose(1, 2)
    ends = torch.arange(past, device=x.device) + (positions[:, -1:] + 1 if sequence.shape[1] else rows * 0)
    return out, torch.cat([before, apart], dim=1)[rows, ends].transpose(1, 2).contiguous()
