"""Selective scan of tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .. import backends
from .._spec import Call
from ..backends.torch_ import forward
from ..ops import selective_scan as _scan
from ._common import check_tensors
from ._packing import Pieces, pieces_of
from ._register import TensorOp

scan_op = TensorOp(_scan.SPEC, "bool delta_softplus", "str discretization", "str layout")


# fmt: off
@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: Literal[False] = False, *, discretization: str = "mamba",
    initial_state: Tensor | None = None, layout: str = "bdl", seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None, num_threads: int | None = None, backend: str | None = None,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: Literal[True] = ..., *, discretization: str = "mamba",
    initial_state: Tensor | None = None, layout: str = "bdl", seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None, num_threads: int | None = None, backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: bool = ..., *, discretization: str = "mamba",
    initial_state: Tensor | None = None, layout: str = "bdl", seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None, num_threads: int | None = None, backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
# fmt: on
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
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`ssmcore.selective_scan` of tensors, differentiable in all of them, through `last_state` too.

    On the CPU a backend runs on the tensors' own memory; elsewhere, and for the backend "torch", torch's own operations run.
    A complex A always runs in torch's own operations. bfloat16 and float16 are computed in float32; out has the dtype of u.

    Parameters
    ----------
    seq_idx : (batch, seqlen) integers
        Several sequences in each row: a sequence begins where the number changes, from a state of zero. `initial_state`
        belongs to a row's first sequence, `last_state` to its last.
    cu_seqlens : (nsequences + 1,) integers, from 0 to seqlen
        The same for a batch of one: the first step of each sequence, and the end. `initial_state` and `last_state` are
        (nsequences, dim, dstate).

    Returns
    -------
    out, or (out, last_state)
        out contiguous; last_state in float32, or float64 for float64 u.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, eq. 2; Gu and Dao, Mamba, algorithm 2.
    """
    tensors = dict(zip(_scan.ARGUMENTS, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True))
    shapes = check_tensors("selective_scan", tensors, complex_too=_scan.MAY_BE_COMPLEX)
    dtypes = {name: None if x is None else x.dtype for name, x in tensors.items()}
    _scan.check_complex(dtypes, lambda dtype: dtype.is_complex)
    packed = seq_idx is not None or cu_seqlens is not None
    checked = shapes | {"initial_state": None} if packed else shapes
    sizes = _scan.check(checked, discretization=discretization, layout=layout)
    views = {name: _scan.canonical(name, x, layout) for name, x in tensors.items()}
    options: dict[str, Any] = {"delta_softplus": bool(delta_softplus), "discretization": discretization}
    if A.is_complex():
        backends.choose(_scan.SPEC, backend or "torch", frozenset({"complex"}))

        def scan(*given: Any) -> Any:
            return forward(Call(_scan.SPEC, dict(zip(_scan.ARGUMENTS, given, strict=True)), options))
    else:
        scan = partial(scan_op, **options, layout=layout, backend=backend, num_threads=num_threads)
    if packed:
        pieces = pieces_of("selective_scan", sizes, seq_idx, cu_seqlens)
        states = sizes["batch"] if cu_seqlens is None else len(pieces)
        expected = (states, sizes["dim"], sizes["dstate"])
        if shapes["initial_state"] not in (None, expected):
            remedy = "pass one state for each sequence"
            _scan.SPEC.fail("initial_state", f"shape {expected}", shapes["initial_state"], remedy)
        out, last_state = _packed(scan, views, pieces, by_row=cu_seqlens is None)
    else:
        out, last_state, _ = scan(*views.values())
    out = _scan.uncanonical("out", out, layout, 3)
    return (out, last_state) if return_last_state else out


def _packed(scan: Callable[..., Any], views: dict[str, Any], pieces: Pieces, *, by_row: bool) -> tuple[Tensor, Tensor]:
    """A scan of every sequence. `pieces` are rows of the batch with the steps of their sequences, or, unless `by_row`, sequences."""
    initial, outs, lasts = views["initial_state"], [], []
    for number, (rows, sequences) in enumerate(pieces):
        state = None if initial is None else initial[rows if by_row else slice(number, number + 1)]
        parts = []
        for steps in sequences:
            given = {n: x[rows, steps] if x is not None and x.ndim > 2 else x for n, x in views.items()}
            y, state, _ = scan(*(given | {"initial_state": state}).values())
            parts.append(y)
            last, state = state, None
        outs.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        lasts.append(last)
    if not outs:
        return views["u"] * 0, views["A"].new_zeros((0, *views["A"].shape))
    return torch.cat(outs, dim=0 if by_row else 1), torch.cat(lasts)
