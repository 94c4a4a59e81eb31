"""VMamba's extensions (fwd and bwd), its csms6s and its csm_triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import torch as st
from .._spec import check_option, fail
from ..ops import selective_scan as _scan
from ..torch._selective_scan import _scan_bwd, _scan_fwd

CSMS6S = (
    "CrossMerge",
    "CrossMerge_Ab_1direction",
    "CrossMerge_Ab_2direction",
    "CrossScan",
    "CrossScan_Ab_1direction",
    "CrossScan_Ab_2direction",
    "SelectiveScanCore",
    "SelectiveScanMamba",
    "SelectiveScanOflex",
    "flops_selective_scan_fn",
    "selective_scan_flop_jit",
    "selective_scan_fn",
    "selective_scan_torch",
)
CSM_TRITON = ("CrossMergeTriton", "CrossScanTriton", "CrossScanTriton1b1", "cross_merge_fn", "cross_scan_fn")


# ---- the extensions ----


def _as_states(last_state: Tensor) -> Tensor:
    """(batch, dim, 1, 2 dstate), float32: the states, where callers look for them, at [:, :, -1, 1::2]."""
    wide = last_state.float()
    return torch.stack([torch.zeros_like(wide), wide], dim=-1).flatten(-2)[:, :, None]


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out, last = st.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)
    return out, last


def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    delta_softplus: bool,
) -> list[Tensor | None]:
    """Gradients of u, delta, A, B, C, D, z and delta_bias. The states on the way are computed again."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, None)
    shapes = {name: None if t is None else tuple(t.shape) for name, t in zip(_scan.ARGUMENTS, tensors, strict=True)}
    _scan.check(shapes, discretization="mamba", layout="bdl")
    if dout.shape != u.shape:
        fail(
            "mamba_bwd",
            "dout",
            f"shape {tuple(u.shape)} like u",
            tuple(dout.shape),
            "pass the gradient of out as it came",
        )
    with torch.no_grad():
        _, _, checkpoints = _scan_fwd(*tensors, bool(delta_softplus), "mamba", "bdl", True)
        grads = _scan_bwd(dout, None, *tensors, checkpoints, bool(delta_softplus), "mamba", "bdl")
    return [g if t is not None else None for g, t in zip(grads[:8], tensors, strict=False)]


def mamba_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> list[Tensor]:
    """[out, x], or [out, x, out_z] with z: the output before and after the gate, and the states."""
    out, last = _forward(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    if z is None:
        return [out, _as_states(last)]
    gated, _ = _forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return [out, _as_states(last), gated]


def mamba_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None = None,
    out: Tensor | None = None,
    dz: Tensor | None = None,
    delta_softplus: bool = False,
    recompute_out_z: bool = False,
) -> list[Tensor | None]:
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias], with z also dz, written to the one given, and where asked out_z."""
    *grads, found_dz, ddelta_bias = _backward(u, delta, A, B, C, D, z, delta_bias, dout, delta_softplus)
    found = [*grads, ddelta_bias]
    if z is None or found_dz is None:
        return found
    found.append(found_dz if dz is None else dz.copy_(found_dz))
    if recompute_out_z:
        found.append(_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)[0])
    return found


def core_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
) -> list[Tensor]:
    """[out, x]: the output in u's dtype, and the states. `nrows` chose among CUDA kernels and chooses nothing here."""
    return mamba_fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)


def core_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
) -> list[Tensor | None]:
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias]."""
    return mamba_bwd(u, delta, A, B, C, D, None, delta_bias, dout, x, None, None, delta_softplus)


def oflex_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
    out_float: bool = True,
) -> list[Tensor]:
    """`core_fwd`, whose output is float32 where `out_float`, of half-precision u too."""
    wide = u.float() if out_float and u.dtype != torch.float64 else u
    return core_fwd(wide, delta, A, B, C, D, delta_bias, delta_softplus, nrows)


def ndstate_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
) -> list[Tensor]:
    """`core_fwd` of one state a channel, without an axis for it: A (dim,), B and C (batch, ngroups, seqlen)."""
    return core_fwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], D, delta_bias, delta_softplus, nrows)


def ndstate_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
) -> list[Tensor | None]:
    """`core_bwd` of the same."""
    du, ddelta, dA, dB, dC, *others = core_bwd(
        u, delta, A[:, None], B[:, :, None], C[:, :, None], D, delta_bias, dout, x, delta_softplus, nrows
    )
    assert dA is not None
    assert dB is not None
    assert dC is not None
    return [du, ddelta, dA[:, 0], dB[:, :, 0], dC[:, :, 0], *others]


# ---- csms6s ----


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    oflex: bool = True,
    backend: str | None = None,
) -> Tensor:
    """The scan with VMamba's arguments: of half-precision u the output is float32 where `oflex`. `backend` named a CUDA extension and
    chooses nothing here; ssmcore's are chosen by `ssmcore.use_backend`."""
    wide = u.float() if oflex and u.dtype != torch.float64 else u
    out: Tensor = st.selective_scan(wide, delta, A, B, C, D, None, delta_bias, delta_softplus)
    return out


selective_scan_torch = selective_scan_fn


class SelectiveScanOflex:
    """`selective_scan_fn` under the name of VMamba's function object."""

    @staticmethod
    def apply(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        nrows: int = 1,
        backnrows: int = 1,
        oflex: bool = True,
    ) -> Tensor:
        return selective_scan_fn(u, delta, A, B, C, D, delta_bias, delta_softplus, oflex)


class SelectiveScanCore:
    """The same, with the output in u's dtype."""

    @staticmethod
    def apply(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        nrows: int = 1,
        backnrows: int = 1,
        oflex: bool = True,
    ) -> Tensor:
        return selective_scan_fn(u, delta, A, B, C, D, delta_bias, delta_softplus, oflex=False)


SelectiveScanMamba = SelectiveScanCore


def flops_selective_scan_fn(
    B: int = 1, L: int = 256, D: int = 768, N: int = 16, with_D: bool = True, with_Z: bool = False
) -> int:
    """Operations of a scan as the field counts them: 9 for each batch, step, channel and state, 1 each for D and z."""
    return B * D * L * (9 * N + with_D + with_Z)


def selective_scan_flop_jit(inputs: Any, outputs: Any, *_: Any, **__: Any) -> int:
    """The same from a traced graph's inputs u, delta, A."""
    (batch, dim, length), (_, dstate) = inputs[0].type().sizes(), inputs[2].type().sizes()
    return flops_selective_scan_fn(batch, length, dim, dstate)


# ---- csm_triton ----

_SCANS = (0, 1, 2, 3)
_DIRECTIONS = 4


def _walked(x: Tensor, k: int, scans: int) -> Tensor:
    """A grid (..., height, width) as the sequence that direction k of a scan walks."""
    if scans == 3:
        return torch.rot90(x, k, (-2, -1)).flatten(-2)
    sequence = (x.transpose(-2, -1) if scans == 0 and k % 2 else x).flatten(-2)
    return sequence.flip(-1) if scans != 1 and k >= 2 else sequence


def _laid(y: Tensor, k: int, scans: int, height: int, width: int) -> Tensor:
    """The inverse of `_walked`."""
    turned = (width, height) if scans in (0, 3) and k % 2 else (height, width)
    if scans == 3:
        return torch.rot90(y.unflatten(-1, turned), -k, (-2, -1))
    if scans != 1 and k >= 2:
        y = y.flip(-1)
    grid = y.unflatten(-1, turned)
    return grid.transpose(-2, -1) if scans == 0 and k % 2 else grid


def _check(op: str, x: Tensor, layouts: str, axes: int, scans: int) -> None:
    check_option(op, "scans", scans, _SCANS)
    if x.ndim != axes:
        fail(op, "x", layouts, tuple(x.shape), "give height and width an axis each")


def _check_directions(op: str, directions: int) -> None:
    if directions != _DIRECTIONS:
        fail(op, "x", "4 directions", directions, "stack one grid for each, or pass one_by_one=False")


def cross_scan_fn(
    x: Tensor,
    in_channel_first: bool = True,
    out_channel_first: bool = True,
    one_by_one: bool = False,
    scans: int = 0,
    force_torch: bool = False,
) -> Tensor:
    """A grid, or one for each direction, as four sequences.

    Parameters
    ----------
    x : (batch, dim, height, width), with `one_by_one` (batch, 4, dim, height, width)
        Unless `in_channel_first`: (batch, height, width, dim), (batch, height, width, 4, dim).
    scans : 0 by rows and by columns, then both backwards; 1 four times by rows; 2 twice by rows, twice backwards; 3 the grid turned
        by 0, 90, 180 and 270 degrees
    force_torch : chose between Triton and torch and chooses nothing here

    Returns
    -------
    (batch, 4, dim, height * width), or (batch, height * width, 4, dim) unless `out_channel_first`

    Raises
    ------
    ArgumentError
        x has other axes, or `scans` is unknown.

    Source: Liu et al., VMamba, section 4.2.
    """
    layout = "(batch, 4, dim, height, width)" if one_by_one else "(batch, dim, height, width)"
    last = "(batch, height, width, 4, dim)" if one_by_one else "(batch, height, width, dim)"
    _check("cross_scan_fn", x, layout if in_channel_first else last, 5 if one_by_one else 4, scans)
    if one_by_one:
        grids = x if in_channel_first else x.permute(0, 3, 4, 1, 2)
        _check_directions("cross_scan_fn", grids.shape[1])
        y = torch.stack([_walked(grids[:, k], k, scans) for k in range(_DIRECTIONS)], dim=1)
    else:
        grid = x if in_channel_first else x.permute(0, 3, 1, 2)
        y = torch.stack([_walked(grid, k, scans) for k in range(_DIRECTIONS)], dim=1)
    return y if out_channel_first else y.permute(0, 3, 1, 2).contiguous()


def cross_merge_fn(
    y: Tensor,
    in_channel_first: bool = True,
    out_channel_first: bool = True,
    one_by_one: bool = False,
    scans: int = 0,
    force_torch: bool = False,
) -> Tensor:
    """Four sequences laid back and summed at every position, or, with `one_by_one`, not summed: the adjoint of `cross_scan_fn`.

    Its options are those of the `cross_scan_fn` it undoes, so that `out_channel_first` says how y lies and `in_channel_first` how
    the result does.

    Parameters
    ----------
    y : (batch, 4, dim, height, width), or (batch, height, width, 4, dim) unless `out_channel_first`

    Returns
    -------
    (batch, dim, height * width), with `one_by_one` (batch, 4, dim, height * width)
        Unless `in_channel_first`: (batch, height * width, dim), (batch, height * width, 4, dim).

    Raises
    ------
    ArgumentError
        y has other axes, or `scans` is unknown.

    Source: Liu et al., VMamba, section 4.2.
    """
    layout = "(batch, 4, dim, height, width)" if out_channel_first else "(batch, height, width, 4, dim)"
    _check("cross_merge_fn", y, layout, 5, scans)
    sequences = y if out_channel_first else y.permute(0, 3, 4, 1, 2)
    _check_directions("cross_merge_fn", sequences.shape[1])
    height, width = sequences.shape[-2:]
    grids = [_laid(sequences[:, k].flatten(-2), k, scans, height, width).flatten(-2) for k in range(_DIRECTIONS)]
    if one_by_one:
        x = torch.stack(grids, dim=1)
        return x if in_channel_first else x.permute(0, 3, 1, 2).contiguous()
    # backwards directions first onto their forward ones, as upstream adds them
    x = (grids[0] + grids[2]) + (grids[1] + grids[3])
    return x if in_channel_first else x.transpose(1, 2).contiguous()


def _applied(name: str, function: Callable[..., Tensor], **options: Any) -> Any:
    """A class whose `apply` is the function with some options: how VMamba names the same."""
    return type(name, (), {"apply": staticmethod(lambda x: function(x, **options)), "__doc__": function.__doc__})


CrossScan = CrossScanTriton = _applied("CrossScan", cross_scan_fn)
CrossMerge = CrossMergeTriton = _applied("CrossMerge", cross_merge_fn)
CrossScanTriton1b1 = _applied("CrossScanTriton1b1", cross_scan_fn, one_by_one=True)
CrossScan_Ab_1direction = _applied("CrossScan_Ab_1direction", cross_scan_fn, scans=1)
CrossMerge_Ab_1direction = _applied("CrossMerge_Ab_1direction", cross_merge_fn, scans=1)
CrossScan_Ab_2direction = _applied("CrossScan_Ab_2direction", cross_scan_fn, scans=2)
CrossMerge_Ab_2direction = _applied("CrossMerge_Ab_2direction", cross_merge_fn, scans=2)
