"""The scan of Mamba-2 under its name in mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import torch as st
from .._spec import check_count, fail
from ..torch._packing import pieces_of

_OP = "mamba_chunk_scan_combined"


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Any:
    """`ssmcore.torch.chunk_scan` with mamba_ssm's arguments.

    Parameters
    ----------
    chunk_size : at least 1
        Without effect: the result does not depend on it, and the kernels have their own.
    initial_states : (batch, nheads, headdim, dstate); with cu_seqlens also one for each sequence
    cu_seqlens : (nsequences + 1,) integers
        Where the sequences of a batch of 1 begin, and the end.
    return_varlen_states : also return the state after each sequence of cu_seqlens, (nsequences, nheads, headdim, dstate)
    state_dtype : of the states returned, that of x where None
    Others as in `ssmcore.torch.chunk_scan`.

    Returns
    -------
    out, then final_states and varlen_states where they are asked for

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.

    Source: Dao and Gu, Transformers are SSMs (2024), section 6; the interface is that of state-spaces' mamba.
    """
    check_count(_OP, "chunk_size", chunk_size, 1, "steps of a chunk")
    options: dict[str, Any] = {"dt_softplus": dt_softplus, "dt_limit": tuple(dt_limit), "return_final_states": True}
    if cu_seqlens is None:
        if return_varlen_states:
            fail(_OP, "cu_seqlens", "where each sequence begins, for return_varlen_states", None, "pass it")
        out, final = st.chunk_scan(x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, **options)
        varlen = None
    else:
        pieces = pieces_of(_OP, {"batch": x.shape[0], "seqlen": x.shape[1]}, seq_idx, cu_seqlens)
        count = len(pieces)
        if initial_states is not None and len(initial_states) not in (1, count):
            expected = f"one state, or one for each of {count} sequences"
            fail(_OP, "initial_states", expected, len(initial_states), "pass None to start from zeros")
        outs, states = [], []
        for number, (_, (steps,)) in enumerate(pieces):
            first = None
            if initial_states is not None and (number == 0 or len(initial_states) == count):
                first = initial_states[number : number + 1]
            part = [t if t is None else t[:, steps] for t in (x, dt, B, C, z)]
            y, last = st.chunk_scan(part[0], part[1], A, part[2], part[3], D, part[4], dt_bias, first, **options)  # type: ignore[arg-type]
            outs.append(y)
            states.append(last)
        out = torch.cat(outs, dim=1) if outs else x
        varlen = torch.cat(states) if states else x.new_zeros((0, *x.shape[2:], B.shape[3]))
        final = varlen[-1:]
    found = [out]
    if return_final_states:
        found.append(final if state_dtype is None else final.to(state_dtype))
    if return_varlen_states and varlen is not None:
        found.append(varlen if state_dtype is None else varlen.to(state_dtype))
    return tuple(found) if len(found) > 1 else out
