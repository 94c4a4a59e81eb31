"""Causal convolution of tensors."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from .._conventions import spread_sequences
from .._spec import ArgumentTypeError
from ..ops import causal_conv1d as _conv
from ._common import check_tensors
from ._register import TensorOp

conv_op = TensorOp(_conv.SPEC, "str? activation", "str layout")


# fmt: off
@overload
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False, activation: str | None = None, *, seq_idx: Tensor | None = None,
    layout: str = "bdl", num_threads: int | None = None, backend: str | None = None,
) -> Tensor: ...
@overload
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None,
    return_last_state: Literal[True] = ..., activation: str | None = None, *, seq_idx: Tensor | None = None,
    layout: str = "bdl", num_threads: int | None = None, backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None,
    return_last_state: bool = ..., activation: str | None = None, *, seq_idx: Tensor | None = None,
    layout: str = "bdl", num_threads: int | None = None, backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
# fmt: on
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    activation: str | None = None,
    *,
    seq_idx: Tensor | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`ssmcore.causal_conv1d` of tensors, differentiable in all but `seq_idx`; devices, dtypes and errors as in `selective_scan`.

    Source: Gu and Dao, Mamba, figure 3; the interface follows Dao-AILab's causal-conv1d.
    """
    tensors = dict(zip(_conv.ARGUMENTS, (x, weight, bias, initial_state), strict=True))
    sizes = _conv.check(check_tensors("causal_conv1d", tensors), activation=activation, layout=layout)
    options: dict[str, Any] = {"activation": activation, "backend": backend, "num_threads": num_threads}
    sequence, past, seqlen = x.transpose(1, 2) if layout == "bdl" else x, sizes["taps"] - 1, sizes["seqlen"]
    ends: Any = None
    if seq_idx is None:
        out = conv_op(sequence, weight, bias, initial_state, layout=layout, **options)
    else:
        if not isinstance(seq_idx, Tensor):
            got, remedy = type(seq_idx).__name__, "convert it with torch.as_tensor"
            _conv.SPEC.fail("seq_idx", "a tensor of integers (batch, seqlen)", got, remedy, kind=ArgumentTypeError)
        _conv.SPEC.check_seq_idx(seq_idx, sizes)
        # one convolution, with zeros between the sequences: as many as the taps reach back
        at, length = spread_sequences(seq_idx.detach().cpu().numpy(), past)
        positions = torch.from_numpy(at).to(x.device)
        rows = torch.arange(sizes["batch"], device=x.device)[:, None]
        sequence = sequence.new_zeros((sizes["batch"], length, sizes["dim"])).index_put((rows, positions), sequence)
        out = conv_op(sequence, weight, bias, initial_state, layout="bld", **options)[rows, positions]
        out = out.masked_fill((seq_idx < 0).to(x.device)[:, :, None], 0)
        ends = rows, torch.arange(past, device=x.device) + (positions[:, -1:] + 1 if seqlen else rows * 0)
    out = (out.transpose(1, 2) if layout == "bdl" else out).contiguous()
    if not return_last_state:
        return out
    if initial_state is None:
        before = sequence.new_zeros((sizes["batch"], past, sizes["dim"]))
    else:
        before = initial_state.to(x.dtype).transpose(1, 2)
    if ends is None:
        taken = min(past, seqlen)
        last = torch.cat([before[:, taken:], sequence[:, seqlen - taken :]], dim=1)
    else:
        last = torch.cat([before, sequence], dim=1)[ends]
    return out, last.transpose(1, 2).contiguous()
