"""Selective scan of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..backends._threads import resolve
from ..backends.torch_ import gradients, selective_scan_tensors
from ..ops import selective_scan as _scan
from ._common import as_array, as_state, as_tensor, check_dtypes, wide
from ._packing import pieces_of


def _scan_shapes(u: Tensor, A: Tensor, layout: str) -> tuple[int, int, int, int]:
    batch, dim, seqlen = u.shape if layout == "bdl" else (u.shape[0], u.shape[2], u.shape[1])
    return batch, dim, seqlen, A.shape[1]


@torch.library.custom_op("ssmcore::selective_scan_fwd", mutates_args=())
def _scan_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    discretization: str,
    layout: str,
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, last_state, checkpoints); the last as `ops.selective_scan.checkpoint_shape`, or empty."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    views: list[Any] = [_scan.canonical(name, x, layout) for name, x in zip(_scan.ARGUMENTS, tensors, strict=True)]
    if u.device.type != "cpu":
        with torch.no_grad():
            out, last, kept = selective_scan_tensors(
                *views, delta_softplus=delta_softplus, discretization=discretization, keep_checkpoints=keep_checkpoints
            )
        return _scan.uncanonical("out", out, layout, 3).clone(), last.clone(), kept
    choice = backends.choose("selective_scan", _scan.ENTRIES)
    out_array, last_array, kept_array = backends.entry(choice, "selective_scan_fwd")(
        *[as_array(x) for x in views],
        delta_softplus=delta_softplus,
        discretization=discretization,
        channel_first=layout == "bdl",
        keep_checkpoints=keep_checkpoints,
        num_threads=resolve(None),
    )
    kept = torch.empty(0, dtype=wide(u)) if kept_array is None else torch.from_numpy(kept_array)
    return as_tensor(_scan.uncanonical("out", out_array, layout, 3), u), as_state(last_array, u), kept


@_scan_fwd.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    discretization: str,
    layout: str,
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, dim, seqlen, dstate = _scan_shapes(u, A, layout)
    kept = _scan.checkpoint_shape(batch, dim, seqlen, dstate) if keep_checkpoints else (0,)
    last_state, checkpoints = (u.new_empty(shape, dtype=wide(u)) for shape in ((batch, dim, dstate), kept))
    return u.new_empty(u.shape), last_state, checkpoints


@torch.library.custom_op("ssmcore::selective_scan_bwd", mutates_args=())
def _scan_bwd(
    dout: Tensor,
    dlast_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    discretization: str,
    layout: str,
) -> list[Tensor]:
    """Gradients in the order of `ARGUMENTS`, empty for an absent argument; that of initial_state always."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    views: list[Any] = [_scan.canonical(name, x, layout) for name, x in zip(_scan.ARGUMENTS, tensors, strict=True)]
    dout = _scan.canonical("out", dout, layout)
    grads: Sequence[Any]
    if u.device.type != "cpu":
        batch, dim, _, dstate = _scan_shapes(u, A, layout)
        views[-1] = u.new_zeros((batch, dim, dstate)) if initial_state is None else initial_state
        with torch.enable_grad():
            inputs: list[Any] = [None if x is None else x.detach().requires_grad_() for x in views]
            out, last, _ = selective_scan_tensors(*inputs, delta_softplus=delta_softplus, discretization=discretization)
            grads = gradients((out, last), inputs, (dout, dlast_state))
    else:
        choice = backends.choose("selective_scan", _scan.ENTRIES)
        grads = backends.entry(choice, "selective_scan_bwd")(
            as_array(dout),
            as_array(dlast_state),
            *[as_array(x) for x in views],
            checkpoints.numpy(),
            delta_softplus=delta_softplus,
            discretization=discretization,
            channel_first=layout == "bdl",
            num_threads=resolve(None),
        )
    results = []
    for name, x, g in zip(_scan.ARGUMENTS, tensors, grads, strict=True):
        if g is None:
            results.append(u.new_empty(0))
            continue
        g = _scan.uncanonical(name, g, layout, 3 if x is None else x.ndim)
        like = u if x is None else x
        results.append(g.to(like.dtype).clone() if isinstance(g, Tensor) else as_tensor(g, like))
    return results


@_scan_bwd.register_fake
def _(
    dout: Tensor,
    dlast_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    discretization: str,
    layout: str,
) -> list[Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    batch, dim, _, dstate = _scan_shapes(u, A, layout)
    grads = [u.new_empty(0) if x is None else x.new_empty(x.shape) for x in tensors]
    return [*grads, (u if initial_state is None else initial_state).new_empty((batch, dim, dstate))]


def _scan_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.discretization, ctx.layout, ctx.keep = inputs
    ctx.present = [x is not None for x in tensors]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], *[x for x in tensors if x is not None])


def _scan_backward(ctx: Any, dout: Tensor | None, dlast_state: Tensor | None, _: None) -> tuple[Any, ...]:
    if dout is None and dlast_state is None:
        return (None,) * (len(ctx.present) + 4)
    checkpoints, *given = ctx.saved_tensors
    tensors = iter(given)
    arguments: list[Any] = [next(tensors) if present else None for present in ctx.present]
    u = arguments[0]
    grads = _scan_bwd(
        torch.zeros_like(u) if dout is None else dout,
        dlast_state,
        *arguments,
        checkpoints,
        ctx.delta_softplus,
        ctx.discretization,
        ctx.layout,
    )
    return (*[g if present else None for g, present in zip(grads, ctx.present, strict=True)], None, None, None, None)


_scan_fwd.register_autograd(_scan_backward, setup_context=_scan_setup)


def selective_scan(
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
    *,
    discretization: str = "mamba",
    initial_state: Tensor | None = None,
    layout: str = "bdl",
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> Any:
    """Selective scan of tensors; shapes, formula and options as in `ssmcore.selective_scan`.

    Differentiable in every tensor, through `last_state` too. Computed in float32 (float64 for float64 input); `out` has
    the dtype and shape of u and is contiguous. bfloat16 and float16 are read and written, the state and `last_state` stay float32. A complex A runs
    as a loop of plain torch.

    Parameters
    ----------
    seq_idx : (batch, seqlen) integers
        Several sequences packed into each row: where it changes, one begins, from a state of zero. `initial_state` is that of a
        row's first sequence, `last_state` that of its last.
    cu_seqlens : (nsequences + 1) integers, from 0 to seqlen
        The same for a batch of one: where the sequences begin, and the end. `initial_state` and `last_state` are
        (nsequences, dim, dstate).

    Returns
    -------
    out, or (out, last_state) where `return_last_state`

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, eq. 2; Gu and Dao, Mamba, algorithm 2.
    """
    tensors = dict(zip(_scan.ARGUMENTS, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True))
    check_dtypes("selective_scan", tensors, complex_too=_scan.MAY_BE_COMPLEX)
    dtypes = {name: None if x is None else x.dtype for name, x in tensors.items()}
    _scan.check_complex(dtypes, lambda dtype: dtype.is_complex)
    shapes = {name: None if x is None else tuple(x.shape) for name, x in tensors.items()}
    if seq_idx is not None or cu_seqlens is not None:
        sizes = _scan.check(shapes | {"initial_state": None}, discretization=discretization, layout=layout)
        pieces = pieces_of("selective_scan", sizes, seq_idx, cu_seqlens)
        states = sizes["batch"] if cu_seqlens is None else len(pieces)
        expected = (states, sizes["dim"], sizes["dstate"])
        if initial_state is not None and shapes["initial_state"] != expected:
            _scan.SPEC.fail(
                "initial_state", f"shape {expected}", shapes["initial_state"], "pass one state for each sequence"
            )
        options = {"delta_softplus": bool(delta_softplus), "discretization": discretization, "layout": layout}
        return _packed(tensors, pieces, options, return_last_state, by_row=cu_seqlens is None)
    _scan.check(shapes, discretization=discretization, layout=layout)
    if A.is_complex():
        views: list[Any] = [_scan.canonical(name, x, layout) for name, x in tensors.items()]
        out, last_state, _ = selective_scan_tensors(
            *views, delta_softplus=bool(delta_softplus), discretization=discretization
        )
        out = _scan.uncanonical("out", out, layout, 3)
        return (out, last_state) if return_last_state else out
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors.values())
    out, last_state, _ = _scan_fwd(*tensors.values(), bool(delta_softplus), discretization, layout, keep)
    return (out, last_state) if return_last_state else out


def _piece(name: str, x: Tensor | None, rows: slice, steps: slice, layout: str) -> Tensor | None:
    """An argument but initial_state, of some rows and steps."""
    if x is None or name in ("A", "D", "delta_bias") or (name in ("B", "C") and x.ndim == 2):
        return x
    return x[rows, ..., steps] if layout == "bdl" else x[rows, steps]


def _packed(
    tensors: dict[str, Tensor | None],
    pieces: list[tuple[slice, list[slice]]],
    options: dict[str, Any],
    return_last_state: bool,
    *,
    by_row: bool,
) -> Any:
    """A scan of every sequence. `pieces`: rows of the batch and the steps of their sequences, or, unless `by_row`, a sequence each."""
    layout, initial = options["layout"], tensors["initial_state"]
    others = {name: x for name, x in tensors.items() if name != "initial_state"}
    outs, lasts = [], []
    along = -1 if layout == "bdl" else 1
    for number, (rows, sequences) in enumerate(pieces):
        parts = []
        for first, steps in enumerate(sequences):
            state = None
            if initial is not None and first == 0:
                state = initial[rows] if by_row else initial[number : number + 1]
            given = {name: _piece(name, x, rows, steps, layout) for name, x in others.items()}
            y, last = selective_scan(**given, initial_state=state, return_last_state=True, **options)  # type: ignore[arg-type]
            parts.append(y)
        outs.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=along))
        lasts.append(last)
    if not outs:
        u, A = others["u"], others["A"]
        assert u is not None
        assert A is not None
        outs, lasts = [u * 0], [A.new_zeros((0, *A.shape))]
    out = torch.cat(outs, dim=0 if by_row else along)
    return (out, torch.cat(lasts)) if return_last_state else out
