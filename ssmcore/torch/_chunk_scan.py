"""Chunk scan of tensors."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from .._spec import ArgumentTypeError
from ..ops import chunk_scan as _chunk
from ._common import check_tensors, wide
from ._register import TensorOp

_KERNEL = ("x", "dt", "A", "B", "C", "D", _chunk.ARGUMENTS[-1], "starts")
_OP = TensorOp(_chunk.SPEC, arguments=_KERNEL)


# fmt: off
@overload
def chunk_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, initial_state: Tensor | None = None, seq_idx: Tensor | None = None, *,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")), return_last_state: Literal[False] = False,
    num_threads: int | None = None, backend: str | None = None,
) -> Tensor: ...
@overload
def chunk_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, initial_state: Tensor | None = None, seq_idx: Tensor | None = None, *,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")), return_last_state: Literal[True] = ...,
    num_threads: int | None = None, backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def chunk_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, initial_state: Tensor | None = None, seq_idx: Tensor | None = None, *,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")), return_last_state: bool = ...,
    num_threads: int | None = None, backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
# fmt: on
def chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    seq_idx: Tensor | None = None,
    *,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_last_state: bool = False,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`ssmcore.chunk_scan` of tensors, differentiable in all but `seq_idx`; devices, dtypes and errors as in `selective_scan`.

    Source: Dao and Gu, Transformers are SSMs (2024), section 6.
    """
    tensors = dict(zip(_chunk.ARGUMENTS, (x, dt, A, B, C, D, z, dt_bias, initial_state), strict=True))
    sizes = _chunk.check(check_tensors("chunk_scan", tensors), dt_limit=dt_limit)
    starts = None if seq_idx is None else _starts(seq_idx, (sizes["batch"], sizes["seqlen"]))
    step = dt.to(wide(x))
    if dt_bias is not None:
        step = step + dt_bias
    if dt_softplus:
        step = F.softplus(step)
    if not dt_softplus or dt_limit != (0.0, float("inf")):
        step = step.clamp(*dt_limit)
    if D is not None and D.ndim == 1:
        D = D[:, None].expand(x.shape[2:])
    # the gate takes the sum before it is rounded
    inputs = (x if z is None else x.to(wide(x)), step, A, B, C, D, initial_state, starts)
    out, last_state, _ = _OP(*inputs, backend=backend, num_threads=num_threads)
    if z is not None:
        out = (out * F.silu(z.to(out.dtype))).to(x.dtype)
    return (out, last_state) if return_last_state else out


def _starts(seq_idx: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, seqlen) of uint8, 1 where a step belongs to another sequence than the one before."""
    if not isinstance(seq_idx, Tensor) or seq_idx.dtype not in (torch.int32, torch.int64) or seq_idx.shape != shape:
        got = f"{seq_idx.dtype} {tuple(seq_idx.shape)}" if isinstance(seq_idx, Tensor) else type(seq_idx).__name__
        remedy = "number the sequence that each step belongs to"
        _chunk.SPEC.fail("seq_idx", f"integers {shape}", got, remedy, kind=ArgumentTypeError)
    starts = torch.zeros(shape, dtype=torch.uint8, device=seq_idx.device)
    starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return starts
