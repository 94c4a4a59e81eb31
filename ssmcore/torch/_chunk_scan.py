"""Chunk scan of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import backends
from .._conventions import CHECKPOINT_STEPS
from .._spec import ArgumentTypeError
from ..backends._threads import resolve
from ..backends.torch_ import chunk_scan_tensors, gradients
from ..ops import chunk_scan as _chunk
from ._common import as_array, as_state, as_tensor, check_dtypes, wide


@torch.library.custom_op("ssmcore::chunk_scan_fwd", mutates_args=())
def _chunk_fwd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_states: Tensor | None,
    starts: Tensor | None,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, final_states, states before every chunk); the last empty unless kept."""
    tensors = (x, dt, A, B, C, D, initial_states, starts)
    if x.device.type != "cpu":
        with torch.no_grad():
            out, final, states = chunk_scan_tensors(*tensors, keep_states=keep_states)
        return out.contiguous(), final.clone(), states.contiguous()
    choice = backends.choose("chunk_scan", _chunk.ENTRIES)
    out_array, final_array, kept = backends.entry(choice, "chunk_scan_fwd")(
        *[as_array(t) for t in tensors], keep_states=keep_states, num_threads=resolve(None)
    )
    states = torch.empty(0, dtype=wide(x)) if kept is None else torch.from_numpy(kept)
    return as_tensor(out_array, x), as_state(final_array, x), states


@_chunk_fwd.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_states: Tensor | None,
    starts: Tensor | None,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, seqlen, nheads, headdim = x.shape
    dstate = B.shape[3]
    kept = (batch, -(-seqlen // CHECKPOINT_STEPS), nheads, dstate, headdim) if keep_states else (0,)
    return (
        x.new_empty(x.shape),
        x.new_empty((batch, nheads, headdim, dstate), dtype=wide(x)),
        x.new_empty(kept, dtype=wide(x)),
    )


@torch.library.custom_op("ssmcore::chunk_scan_bwd", mutates_args=())
def _chunk_bwd(
    dout: Tensor,
    dfinal_states: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_states: Tensor | None,
    starts: Tensor | None,
    states: Tensor,
) -> list[Tensor]:
    """Gradients of x, dt, A, B, C, D and initial_states, empty for an absent argument; the last always."""
    tensors = (x, dt, A, B, C, D, initial_states)
    like = (x, dt, A, B, C, D, x)
    grads: Sequence[Any]
    if x.device.type != "cpu":
        zero = x.new_zeros((x.shape[0], *x.shape[2:], B.shape[3]))
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors[:-1]]
            inputs.append((zero if initial_states is None else initial_states).detach().requires_grad_())
            out, final, _ = chunk_scan_tensors(*(*inputs, starts))
            grads = gradients((out, final), inputs, (dout, dfinal_states))
        return [x.new_empty(0) if g is None else g.contiguous() for g in grads]
    choice = backends.choose("chunk_scan", _chunk.ENTRIES)
    grads = backends.entry(choice, "chunk_scan_bwd")(
        as_array(dout),
        as_array(dfinal_states),
        *[as_array(t) for t in tensors],
        as_array(starts),
        states.numpy(),
        num_threads=resolve(None),
    )
    return [x.new_empty(0) if t is None else as_tensor(g, t) for t, g in zip(like, grads, strict=True)]


@_chunk_bwd.register_fake
def _(
    dout: Tensor,
    dfinal_states: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_states: Tensor | None,
    starts: Tensor | None,
    states: Tensor,
) -> list[Tensor]:
    grads = [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, dt, A, B, C, D)]
    return [*grads, x.new_empty((x.shape[0], *x.shape[2:], B.shape[3]))]


def _chunk_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _ = inputs
    ctx.present = [t is not None for t in tensors]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], *[t for t in tensors if t is not None])


def _chunk_backward(ctx: Any, dout: Tensor | None, dfinal_states: Tensor | None, _: None) -> tuple[Any, ...]:
    if dout is None and dfinal_states is None:
        return (None,) * 9
    states, *given = ctx.saved_tensors
    tensors = iter(given)
    arguments: list[Any] = [next(tensors) if present else None for present in ctx.present]
    dout = torch.zeros_like(arguments[0]) if dout is None else dout
    grads = _chunk_bwd(dout, dfinal_states, *arguments, states)
    return (*[g if present else None for g, present in zip(grads, ctx.present, strict=False)], None, None)


_chunk_fwd.register_autograd(_chunk_backward, setup_context=_chunk_setup)


def chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    *,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
) -> Any:
    """Mamba-2's scan of tensors; shapes, formula and options as in `ssmcore.chunk_scan`.

    Differentiable in every floating tensor, through `final_states` too; computed and returned as `selective_scan` is.

    Returns
    -------
    out, or (out, final_states) where `return_final_states`

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Dao and Gu, Transformers are SSMs (2024), section 6.
    """
    tensors = dict(zip(_chunk.ARGUMENTS, (x, dt, A, B, C, D, z, dt_bias, initial_states), strict=True))
    check_dtypes("chunk_scan", tensors)
    shapes = {name: None if t is None else tuple(t.shape) for name, t in tensors.items()}
    sizes = _chunk.check(shapes, dt_limit=dt_limit)
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
    inputs = (x, step, A, B, C, D, initial_states)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    out, final_states, _ = _chunk_fwd(*inputs, starts, keep)
    if z is not None:
        out = (out * F.silu(z)).to(x.dtype)
    return (out, final_states) if return_final_states else out


def _starts(seq_idx: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, seqlen) of uint8, 1 where a step belongs to another sequence than the one before."""
    if not isinstance(seq_idx, Tensor) or seq_idx.dtype not in (torch.int32, torch.int64) or seq_idx.shape != shape:
        got = f"{seq_idx.dtype} {tuple(seq_idx.shape)}" if isinstance(seq_idx, Tensor) else type(seq_idx).__name__
        _chunk.SPEC.fail(
            "seq_idx", f"integers {shape}", got, "number the sequence that each step belongs to", kind=ArgumentTypeError
        )
    starts = torch.zeros(shape, dtype=torch.uint8, device=seq_idx.device)
    starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return starts
