"""VMamba's extensions (fwd and bwd), its csms6s and its csm_triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import torch as st
from .._spec import check_option, fail

# ---- the extensions ----


def _as_states(last_state: Tensor) -> Tensor:
    """(batch, dim, 1, 2 dstate), float32: the states, where callers look for them, at [:, :, -1, 1::2]."""
    wide = last_state.float()
    return torch.stack([torch.zeros_like(wide), wide], dim=-1).flatten(-2)[:, :, None]


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    options: dict[str, Any] = {"return_last_state": True}
    with torch.no_grad():
        return st.selective_scan(*arguments, **options)


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Any, dout: Tensor, delta_softplus: bool
) -> list[Tensor | None]:
    """Gradients of u, delta, A, B, C, D, z and delta_bias, by a second forward pass."""
    if dout.shape != u.shape:
        expected, got = f"shape {tuple(u.shape)} like u", tuple(dout.shape)
        fail("mamba_bwd", "dout", expected, got, "pass the gradient of out as it came")
    tensors = (u, delta, A, B, C, *others)
    # wide: a wide dout of half-precision u must not be rounded
    leaves: list[Any] = [
        None if t is None else t.detach().to(torch.promote_types(t.dtype, torch.float32)).requires_grad_()
        for t in tensors
    ]
    with torch.enable_grad():
        out: Tensor = st.selective_scan(*[*leaves, delta_softplus])
    given = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(out, given, dout.to(out.dtype)))
    return [None if t is None else next(found).to(t.dtype) for t in tensors]


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
    """[out, x], or with z [out, x, out_z]: the output before the gate, the states, the output after the gate."""
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
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias]; with z also dz, written into a given one, and out_z as asked for."""
    arguments = (u, delta, A, B, C, D, z, delta_bias)
    *grads, found_dz, ddelta_bias = _backward(*arguments, dout=dout, delta_softplus=delta_softplus)
    found = [*grads, ddelta_bias]
    if z is None or found_dz is None:
        return found
    found.append(found_dz if dz is None else dz.copy_(found_dz))
    if recompute_out_z:
        found.append(_forward(*arguments, delta_softplus)[0])
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
    """[out, x]: the output in u's dtype, and the states. `nrows` has no effect."""
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
    """`core_fwd`; with `out_float`, the output of half-precision u is float32."""
    wide = u.float() if out_float and u.dtype != torch.float64 else u
    return core_fwd(wide, delta, A, B, C, D, delta_bias, delta_softplus, nrows)


def ndstate_fwd(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Any, **options: Any
) -> list[Tensor]:
    """`core_fwd` of one state for each channel, without an axis for it: A (dim,), B and C (batch, ngroups, seqlen)."""
    return core_fwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], *others, **options)


def ndstate_bwd(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Any, **options: Any) -> list[Any]:
    """`core_bwd` of the same."""
    grads: list[Any] = core_bwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], *others, **options)
    return [*grads[:2], grads[2][:, 0], grads[3][:, :, 0], grads[4][:, :, 0], *grads[5:]]


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
    """The scan with VMamba's arguments. With `oflex`, the output of half-precision u is float32. `backend` names a CUDA extension
    and has no effect; `ssmcore.use_backend` chooses among ssmcore's."""
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
    def apply(*arguments: Any, **options: Any) -> Tensor:
        return SelectiveScanOflex.apply(*arguments[:10], **(options | {"oflex": False}))


SelectiveScanMamba = SelectiveScanCore


def flops_selective_scan_fn(
    B: int = 1, L: int = 256, D: int = 768, N: int = 16, with_D: bool = True, with_Z: bool = False
) -> int:
    """Operations of a scan as VMamba counts them: 9 for each batch, step, channel and state, 1 each for D and z."""
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
    force_torch : without effect

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
    """The adjoint of `cross_scan_fn`: lays four sequences back and sums them at every position, unless `one_by_one`.

    Options match the `cross_scan_fn` to undo: `out_channel_first` is the layout of y, `in_channel_first` of the result.

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
    # each backward direction first joins its forward one, in upstream's order
    x = (grids[0] + grids[2]) + (grids[1] + grids[3])
    return x if in_channel_first else x.transpose(1, 2).contiguous()


def _applied(name: str, function: Callable[..., Tensor], **options: Any) -> Any:
    """A class whose `apply` is the function with these options, as VMamba has it."""
    return type(name, (), {"apply": staticmethod(lambda x: function(x, **options)), "__doc__": function.__doc__})


CrossScan = CrossScanTriton = _applied("CrossScan", cross_scan_fn)
CrossMerge = CrossMergeTriton = _applied("CrossMerge", cross_merge_fn)
CrossScanTriton1b1 = _applied("CrossScanTriton1b1", cross_scan_fn, one_by_one=True)
CrossScan_Ab_1direction = _applied("CrossScan_Ab_1direction", cross_scan_fn, scans=1)
CrossMerge_Ab_1direction = _applied("CrossMerge_Ab_1direction", cross_merge_fn, scans=1)
CrossScan_Ab_2direction = _applied("CrossScan_Ab_2direction", cross_scan_fn, scans=2)
CrossMerge_Ab_2direction = _applied("CrossMerge_Ab_2direction", cross_merge_fn, scans=2)
