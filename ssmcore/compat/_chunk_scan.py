"""The scan of Mamba-2, and the inside of its block, under their names in mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import torch as st
from .._spec import check_count, fail
from ..torch._common import wide
from ..torch._packing import pieces_of
from ._norms import rmsnorm_fn
from ._steps import causal_conv1d_fn

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
        Without effect: the kernels have their own, and the result does not depend on it.
    initial_states : (batch, nheads, headdim, dstate); with cu_seqlens also one for each sequence
    cu_seqlens : (nsequences + 1,) integers
        The first step of each sequence in a batch of 1, and the end. A `seq_idx` beside it must agree.
    return_varlen_states : also return the state after each sequence of cu_seqlens, (nsequences, nheads, headdim, dstate)
    state_dtype : dtype of the returned states; None is float32, or float64 for float64 x
    Others as in `ssmcore.torch.chunk_scan`.

    Returns
    -------
    out, then final_states and varlen_states as asked for

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.

    Source: Dao and Gu, Transformers are SSMs (2024), section 6; the interface is that of state-spaces' mamba.
    """
    check_count(_OP, "chunk_size", chunk_size, 1, "steps of a chunk")
    options: dict[str, Any] = {"dt_softplus": dt_softplus, "dt_limit": tuple(dt_limit), "return_last_state": True}
    if cu_seqlens is None:
        if return_varlen_states:
            fail(_OP, "cu_seqlens", "where each sequence begins, for return_varlen_states", None, "pass it")
        out, final = st.chunk_scan(x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, **options)
        varlen = None
    else:
        sizes = {"batch": x.shape[0], "seqlen": x.shape[1]}
        pieces = pieces_of(_OP, sizes, None, cu_seqlens)
        if seq_idx is not None:
            told = [steps for _, runs in pieces_of(_OP, sizes, seq_idx, None) for steps in runs]
            if told != [steps for _, (steps,) in pieces if steps.start < steps.stop]:
                got = [steps.start for steps in told]
                begin = f"sequences that begin at {got}"
                fail(_OP, "seq_idx", "the sequences of cu_seqlens", begin, "pass one of them")
        count = len(pieces)
        if initial_states is not None and len(initial_states) not in (1, count):
            expected = f"one state, or one for each of {count} sequences"
            fail(_OP, "initial_states", expected, len(initial_states), "pass None to start from zeros")
        outs, states = [], []
        for number, (_, (steps,)) in enumerate(pieces):
            first = None
            if initial_states is not None and (number == 0 or len(initial_states) == count):
                first = initial_states[number : number + 1]
            part: list[Any] = [t if t is None else t[:, steps] for t in (x, dt, B, C, z)]
            y, last = st.chunk_scan(part[0], part[1], A, part[2], part[3], D, part[4], dt_bias, first, **options)
            outs.append(y)
            states.append(last)
        out = torch.cat(outs, dim=1) if outs else x
        varlen = torch.cat(states) if states else x.new_zeros((0, *x.shape[2:], B.shape[3]), dtype=wide(x))
        final = varlen[-1:]
    found = [out]
    if return_final_states:
        found.append(final if state_dtype is None else final.to(state_dtype))
    if return_varlen_states and varlen is not None:
        found.append(varlen if state_dtype is None else varlen.to(state_dtype))
    return tuple(found) if len(found) > 1 else out


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Any:
    """The inside of a Mamba-2 block: convolution of x, B and C; scan; gate by z; optional norm; optional output projection.

    Parameters
    ----------
    zxbcdt : (batch, seqlen, 2 channels + 2 ngroups dstate + nheads)
        Channels that are not scanned may stand before, twice their number.
    conv1d_weight, conv1d_bias : (channels + 2 ngroups dstate, taps), (channels + 2 ngroups dstate,)
    dt_bias, A : (nheads,)
    D : (nheads,) or (nheads, headdim)
    headdim : channels of a head, needed for D of (nheads,)
    rmsnorm_weight : (channels,), or None for a gate alone
    outproj_weight, outproj_bias : output projection, or None for none
    Others as in `mamba_chunk_scan_combined`, and errors too.

    Returns
    -------
    out (batch, seqlen, features), then final_states as asked for

    Source: Dao and Gu, Transformers are SSMs (2024), section 7; the interface is that of state-spaces' mamba.
    """
    name = "mamba_split_conv1d_scan_combined"
    nheads = A.shape[0]
    if D.ndim == 2:
        headdim = D.shape[1]
    if headdim is None:
        fail(name, "headdim", "the channels of a head, where D is (nheads,)", None, "pass it")
    channels, shared = nheads * headdim, conv1d_weight.shape[0] - nheads * headdim
    beside = zxbcdt.shape[-1] - 2 * channels - shared - nheads
    if shared <= 0 or shared % (2 * ngroups) or beside < 0 or beside % 2:
        expected = f"2 {channels} + {shared} + {nheads} channels, or more by an even number"
        fail(name, "zxbcdt", expected, zxbcdt.shape[-1], "make it agree with conv1d_weight, A and ngroups")
    z0, x0, z, xBC, dt = zxbcdt.split([beside // 2, beside // 2, channels, channels + shared, nheads], dim=-1)
    xBC = causal_conv1d_fn(xBC.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx, activation=activation).transpose(
        1, 2
    )
    x, B, C = xBC.split([channels, shared // 2, shared // 2], dim=-1)
    heads = (nheads, headdim)
    # a norm takes the sum before it is rounded, which in float16 may be to infinity
    y, final = mamba_chunk_scan_combined(
        (x if rmsnorm_weight is None else x.to(wide(x))).unflatten(-1, heads),
        dt,
        A,
        B.unflatten(-1, (ngroups, -1)),
        C.unflatten(-1, (ngroups, -1)),
        chunk_size,
        D,
        z.unflatten(-1, heads) if rmsnorm_weight is None else None,
        dt_bias,
        initial_states,
        seq_idx,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=True,
    )
    out = y.flatten(-2)
    if rmsnorm_weight is not None:
        out = rmsnorm_fn(out, rmsnorm_weight, None, z, rmsnorm_eps, channels // ngroups, norm_before_gate).to(x.dtype)
    if beside:
        out = torch.cat([F.silu(z0) * x0, out], dim=-1)
    if outproj_weight is not None:
        out = F.linear(out, outproj_weight, outproj_bias)
    return (out, final) if return_final_states else out
