"""The operations for tensors: custom ops with fake kernels and gradients, for eager, `torch.compile` and `torch.export`.

On CPU tensors the NumPy backends run on the tensors' own memory; elsewhere plain torch runs. Gradients of gradients are
not offered and raise.

>>> import torch, ssmcore.torch
>>> one = torch.ones(1, 1, 3, dtype=torch.float64)
>>> ssmcore.torch.selective_scan(one, one, torch.zeros(1, 1, dtype=torch.float64), one, one)
tensor([[[1., 2., 3.]]], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import backends
from ._conventions import DIRECTIONS, roll_up, unroll
from ._spec import ArgumentTypeError
from .backends._threads import resolve
from .backends.torch_ import (
    attention_gate_tensors,
    causal_conv1d_tensors,
    depthwise_conv2d_tensors,
    discretize_tensors,
    gate_crop_tensors,
    gradients,
    selective_scan_tensors,
    ss2d_tensors,
)
from .ops import attention_gate as _gate
from .ops import causal_conv1d as _conv
from .ops import depthwise_conv2d as _dwconv
from .ops import discretize as _discretize
from .ops import gate_crop as _gate_crop
from .ops import selective_scan as _scan
from .ops import ss2d as _ss2d

__all__ = [
    "attention_gate",
    "causal_conv1d",
    "cross_merge",
    "cross_scan",
    "depthwise_conv2d",
    "discretize",
    "gate_crop",
    "selective_scan",
    "ss2d",
]

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _array(x: Tensor | None) -> Any:
    """The tensor's memory as an array; bfloat16, which NumPy lacks, widened to float32."""
    if x is None:
        return None
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def _tensor(array: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)


def _wide(x: Tensor) -> torch.dtype:
    """The dtype a scan of x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check_dtypes(op: str, tensors: dict[str, Tensor | None]) -> None:
    first = next(iter(tensors.values()))
    for name, x in tensors.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise ArgumentTypeError(
                f"{op}: {name}: expected a tensor, got {type(x).__name__}; convert it with torch.as_tensor"
            )
        if x.dtype not in _REAL:
            raise ArgumentTypeError(
                f"{op}: {name}: expected a real floating dtype, got {x.dtype}; convert it with {name}.float()"
            )
        assert first is not None
        if x.device != first.device:
            raise ArgumentTypeError(
                f"{op}: {name}: expected device {first.device} like the first argument, got {x.device}; move it there"
            )


# ---- selective_scan ----


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
        *[_array(x) for x in views],
        delta_softplus=delta_softplus,
        discretization=discretization,
        channel_first=layout == "bdl",
        keep_checkpoints=keep_checkpoints,
        num_threads=resolve(None),
    )
    kept = torch.empty(0, dtype=_wide(u)) if kept_array is None else torch.from_numpy(kept_array)
    return _tensor(_scan.uncanonical("out", out_array, layout, 3), u), _tensor(last_array, u), kept


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
    return u.new_empty(u.shape), u.new_empty((batch, dim, dstate)), u.new_empty(kept, dtype=_wide(u))


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
            _array(dout),
            _array(dlast_state),
            *[_array(x) for x in views],
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
        results.append(g.to(like.dtype).clone() if isinstance(g, Tensor) else _tensor(g, like))
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
) -> Any:
    """Selective scan of tensors; shapes, formula and options as in `ssmcore.selective_scan`.

    Differentiable in every tensor, through `last_state` too. Computed in float32 (float64 for float64 input); `out` has
    the dtype and shape of u and is contiguous. bfloat16 and float16 are read and written, the state stays float32.

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
    _check_dtypes("selective_scan", tensors)
    shapes = {name: None if x is None else tuple(x.shape) for name, x in tensors.items()}
    _scan.check(shapes, discretization=discretization, layout=layout)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors.values())
    out, last_state, _ = _scan_fwd(*tensors.values(), bool(delta_softplus), discretization, layout, keep)
    return (out, last_state) if return_last_state else out


# ---- ss2d ----


@torch.library.custom_op("ssmcore::ss2d_fwd", mutates_args=())
def _ss2d_fwd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    discretization: str,
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor]:
    """(out, checkpoints); the latter (direction, batch, nchunks, dstate, dim), or empty."""
    tensors = (x, delta, A, B, C, D, delta_bias)
    options: dict[str, Any] = {
        "delta_softplus": delta_softplus,
        "discretization": discretization,
        "keep_checkpoints": keep_checkpoints,
    }
    if x.device.type != "cpu":
        with torch.no_grad():
            out, kept = ss2d_tensors(*tensors, **options)
        return out.contiguous(), kept if keep_checkpoints else kept.new_empty(0)
    choice = backends.choose("ss2d", _ss2d.ENTRIES)
    out_array, kept_array = backends.entry(choice, "ss2d_fwd")(
        *[_array(t) for t in tensors], **options, num_threads=resolve(None)
    )
    kept = torch.empty(0, dtype=_wide(x)) if kept_array is None else torch.from_numpy(kept_array)
    return _tensor(out_array, x), kept


@_ss2d_fwd.register_fake
def _(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    discretization: str,
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor]:
    batch, height, width, dim = x.shape
    kept = (len(DIRECTIONS), *_scan.checkpoint_shape(batch, dim, height * width, A.shape[2]))
    return x.new_empty(x.shape), x.new_empty(kept if keep_checkpoints else (0,), dtype=_wide(x))


@torch.library.custom_op("ssmcore::ss2d_bwd", mutates_args=())
def _ss2d_bwd(
    dout: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    discretization: str,
) -> list[Tensor]:
    """Gradients in the order of `ARGUMENTS`, empty for an absent argument."""
    tensors = (x, delta, A, B, C, D, delta_bias)
    grads: Sequence[Any]
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
            out, _ = ss2d_tensors(*inputs, delta_softplus=delta_softplus, discretization=discretization)
            grads = gradients((out,), inputs, (dout,))
        return [x.new_empty(0) if g is None else g.contiguous() for g in grads]
    choice = backends.choose("ss2d", _ss2d.ENTRIES)
    grads = backends.entry(choice, "ss2d_bwd")(
        _array(dout),
        *[_array(t) for t in tensors],
        checkpoints.numpy(),
        delta_softplus=delta_softplus,
        discretization=discretization,
        num_threads=resolve(None),
    )
    return [x.new_empty(0) if g is None or t is None else _tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_ss2d_bwd.register_fake
def _(
    dout: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    discretization: str,
) -> list[Tensor]:
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, delta, A, B, C, D, delta_bias)]


def _ss2d_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.discretization, _ = inputs
    ctx.present = [t is not None for t in tensors]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *[t for t in tensors if t is not None])


def _ss2d_backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Any, ...]:
    checkpoints, *given = ctx.saved_tensors
    tensors = iter(given)
    arguments: list[Any] = [next(tensors) if present else None for present in ctx.present]
    grads = _ss2d_bwd(dout, *arguments, checkpoints, ctx.delta_softplus, ctx.discretization)
    return (*[g if present else None for g, present in zip(grads, ctx.present, strict=True)], None, None, None)


_ss2d_fwd.register_autograd(_ss2d_backward, setup_context=_ss2d_setup)


def ss2d(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    discretization: str = "mamba",
) -> Tensor:
    """Four selective scans of a grid, summed; shapes, directions and options as in `ssmcore.ss2d`.

    Differentiable in every tensor, computed and returned as `selective_scan` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, section III-D and eq. 7; Liu et al., VMamba, section 4.2.
    """
    tensors = dict(zip(_ss2d.ARGUMENTS, (x, delta, A, B, C, D, delta_bias), strict=True))
    _check_dtypes("ss2d", tensors)
    shapes = {name: None if t is None else tuple(t.shape) for name, t in tensors.items()}
    _ss2d.check(shapes, discretization=discretization)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors.values())
    out, _ = _ss2d_fwd(*tensors.values(), bool(delta_softplus), discretization, keep)
    return out


def cross_scan(x: Tensor) -> Tensor:
    """The four unrolled sequences of a grid, (batch, height, width, ...) to (batch, 4, height * width, ...); as `ssmcore.cross_scan`.

    Raises
    ------
    ArgumentError
        x has fewer than three axes.

    Source: Liu et al., VMamba, section 4.2.
    """
    _ss2d.check_grid("cross_scan", tuple(x.shape))
    return torch.stack([unroll(x, k) for k in range(len(DIRECTIONS))], dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Sums four unrolled sequences at every position, (batch, 4, height * width, ...) to (batch, height, width, ...).

    Raises
    ------
    ArgumentError
        y has no four directions, or another number of positions.

    Source: Liu et al., VMamba, section 4.2.
    """
    _ss2d.check_sequences("cross_merge", tuple(y.shape), height, width)
    return torch.stack([roll_up(y[:, k], k, height, width) for k in range(len(DIRECTIONS))]).sum(0)


# ---- causal_conv1d ----


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
        _bld(_array(x), layout),
        _array(weight),
        _array(bias),
        _array(initial_states),
        silu=silu,
        channel_first=layout == "bdl",
        num_threads=resolve(None),
    )
    return _tensor(_bld(out_array, layout), x)


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
        _bld(_array(dout), layout),
        _bld(_array(x), layout),
        _array(weight),
        _array(bias),
        _array(initial_states),
        silu=silu,
        channel_first=layout == "bdl",
        num_threads=resolve(None),
    )
    grads = (_bld(dx, layout), *others)
    return [x.new_empty(0) if t is None else _tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


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
    layout: str = "bdl",
) -> Any:
    """Causal depthwise convolution of tensors; shapes, formula and options as in `ssmcore.causal_conv1d`.

    Differentiable in every tensor, through `final_states` too; computed and returned as `selective_scan` is.

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
    _check_dtypes("causal_conv1d", tensors)
    shapes = {name: None if t is None else tuple(t.shape) for name, t in tensors.items()}
    _conv.check(shapes, activation=activation, layout=layout)
    out = _conv_fwd(*tensors.values(), activation is not None, layout)
    if not return_final_states:
        return out
    past = weight.shape[1] - 1
    sequence = x if layout == "bdl" else x.transpose(1, 2)
    kept = past - min(past, sequence.shape[2])
    before = x.new_zeros((*sequence.shape[:2], past)) if initial_states is None else initial_states.to(x.dtype)
    return out, torch.cat([before[:, :, past - kept :], sequence[:, :, sequence.shape[2] - (past - kept) :]], dim=-1)


# ---- depthwise_conv2d ----


@torch.library.custom_op("ssmcore::depthwise_conv2d_fwd", mutates_args=())
def _dwconv_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    if x.device.type != "cpu":
        with torch.no_grad():
            return depthwise_conv2d_tensors(x, weight, bias, silu=silu).clone(memory_format=torch.contiguous_format)
    choice = backends.choose("depthwise_conv2d", _dwconv.ENTRIES)
    out = backends.entry(choice, "depthwise_conv2d_fwd")(
        _array(x), _array(weight), _array(bias), silu=silu, num_threads=resolve(None)
    )
    return _tensor(out, x)


@_dwconv_fwd.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmcore::depthwise_conv2d_bwd", mutates_args=())
def _dwconv_bwd(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> list[Tensor]:
    """Gradients of x, weight and bias, empty for an absent argument."""
    tensors = (x, weight, bias)
    grads: Sequence[Any]
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
            out = depthwise_conv2d_tensors(*inputs, silu=silu)
            grads = gradients((out,), inputs, (dout,))
        return [x.new_empty(0) if g is None else g.contiguous() for g in grads]
    choice = backends.choose("depthwise_conv2d", _dwconv.ENTRIES)
    grads = backends.entry(choice, "depthwise_conv2d_bwd")(
        _array(dout), *[_array(t) for t in tensors], silu=silu, num_threads=resolve(None)
    )
    return [x.new_empty(0) if t is None else _tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_dwconv_bwd.register_fake
def _(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> list[Tensor]:
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, bias)]


def _dwconv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias)


def _dwconv_backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = _dwconv_bwd(dout, x, weight, bias, ctx.silu)
    return dx, dweight, None if bias is None else dbias, None


_dwconv_fwd.register_autograd(_dwconv_backward, setup_context=_dwconv_setup)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """Depthwise 3x3 convolution of channel-last grids; shapes, formula and options as in `ssmcore.depthwise_conv2d`.

    Differentiable in every tensor; computed and returned as `selective_scan` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, eq. 7.
    """
    tensors = dict(zip(_dwconv.ARGUMENTS, (x, weight, bias), strict=True))
    _check_dtypes("depthwise_conv2d", tensors)
    _dwconv.check({n: None if t is None else tuple(t.shape) for n, t in tensors.items()}, activation=activation)
    return _dwconv_fwd(x, weight, bias, activation is not None)


# ---- attention_gate ----


@torch.library.custom_op("ssmcore::attention_gate_fwd", mutates_args=())
def _gate_fwd(
    x: Tensor,
    theta: Tensor,
    phi: Tensor,
    theta_weight: Tensor,
    phi_weight: Tensor,
    shift: Tensor,
    psi: Tensor,
    psi_weight: Tensor,
    psi_shift: Tensor,
    statistics: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """out, q and the statistics used."""
    tensors = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    if x.device.type != "cpu":
        with torch.no_grad():
            out, q, used = attention_gate_tensors(*tensors, eps=eps)
        return out.contiguous(), q, used
    choice = backends.choose("attention_gate", _gate.ENTRIES)
    found = backends.entry(choice, "attention_gate_fwd")(
        *[_array(t) for t in tensors], eps=eps, num_threads=resolve(None)
    )
    return _tensor(found[0], x), torch.from_numpy(found[1]), torch.from_numpy(found[2])


@_gate_fwd.register_fake
def _(x: Tensor, theta: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    wide = x.new_empty(0, dtype=_wide(x))
    return x.new_empty(x.shape), wide.new_empty(theta.shape[:3]), wide.new_empty((2 * theta.shape[3] + 1, 2))


@torch.library.custom_op("ssmcore::attention_gate_bwd", mutates_args=())
def _gate_bwd(
    dout: Tensor,
    x: Tensor,
    theta: Tensor,
    phi: Tensor,
    theta_weight: Tensor,
    phi_weight: Tensor,
    shift: Tensor,
    psi: Tensor,
    psi_weight: Tensor,
    psi_shift: Tensor,
    statistics: Tensor,
    q: Tensor,
    given: bool,
    eps: float,
) -> list[Tensor]:
    """Gradients of the first nine arguments after dout."""
    tensors = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift)
    if x.device.type != "cpu":
        with torch.enable_grad():
            inputs: list[Any] = [t.detach().requires_grad_() for t in tensors]
            out = attention_gate_tensors(*inputs, statistics if given else None, eps=eps)[0]
            return [g.contiguous() for g in gradients((out,), inputs, (dout,)) if g is not None]
    choice = backends.choose("attention_gate", _gate.ENTRIES)
    grads = backends.entry(choice, "attention_gate_bwd")(
        *[_array(t) for t in (dout, *tensors, statistics, q)], given=given, eps=eps, num_threads=resolve(None)
    )
    return [_tensor(g, t) for t, g in zip(tensors, grads, strict=True)]


@_gate_bwd.register_fake
def _(dout: Tensor, *others: Any) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in others[:9]]


def _gate_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, statistics, ctx.eps = inputs
    _, q, used = output
    ctx.given = statistics is not None
    ctx.mark_non_differentiable(q, used)
    ctx.save_for_backward(*tensors, used, q)


def _gate_backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Any, ...]:
    return (*_gate_bwd(dout, *ctx.saved_tensors, ctx.given, ctx.eps), None, None)


_gate_fwd.register_autograd(_gate_backward, setup_context=_gate_setup)


def attention_gate(
    x: Tensor,
    theta: Tensor,
    phi: Tensor,
    theta_weight: Tensor,
    phi_weight: Tensor,
    shift: Tensor,
    psi: Tensor,
    psi_weight: Tensor,
    psi_shift: Tensor,
    statistics: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Gated x and the statistics used; shapes, formula and options as in `ssmcore.attention_gate`.

    Differentiable in every tensor but `statistics`; computed and returned as `selective_scan` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or option is wrong.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Mamba-AHNet, algorithm 3.
    """
    arguments = (x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics)
    tensors = dict(zip(_gate.ARGUMENTS, arguments, strict=True))
    _check_dtypes("attention_gate", tensors)
    _gate.check({n: None if t is None else tuple(t.shape) for n, t in tensors.items()})
    out, _, used = _gate_fwd(*arguments, eps)
    return out, used


# ---- gate_crop ----


@torch.library.custom_op("ssmcore::gate_crop", mutates_args=())
def _crop(g: Tensor, size: Sequence[int]) -> Tensor:
    if g.device.type != "cpu":
        return gate_crop_tensors(g, size)
    choice = backends.choose("gate_crop", _gate_crop.ENTRIES)
    return _tensor(backends.entry(choice, "gate_crop")(_array(g), tuple(size)), g)


@_crop.register_fake
def _(g: Tensor, size: Sequence[int]) -> Tensor:
    return g.new_empty((*g.shape[: g.ndim - len(size)], *size))


@torch.library.custom_op("ssmcore::gate_crop_vjp", mutates_args=())
def _crop_vjp(dout: Tensor, g_size: Sequence[int]) -> Tensor:
    if dout.device.type != "cpu":
        pads: list[int] = []
        for full, part in zip(reversed(list(g_size)), reversed(dout.shape), strict=False):
            pads += [(full - part) // 2, full - part - (full - part) // 2]
        return torch.nn.functional.pad(dout, pads)
    choice = backends.choose("gate_crop", _gate_crop.ENTRIES)
    return _tensor(backends.entry(choice, "gate_crop_vjp")(_array(dout), tuple(g_size)), dout)


@_crop_vjp.register_fake
def _(dout: Tensor, g_size: Sequence[int]) -> Tensor:
    return dout.new_empty((*dout.shape[: dout.ndim - len(g_size)], *g_size))


def _crop_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, size = inputs
    ctx.g_size = list(g.shape[g.ndim - len(size) :])
    ctx.size = list(size)


def _crop_backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
    return _crop_vjp(dout, ctx.g_size), None


def _crop_vjp_backward(ctx: Any, ddg: Tensor) -> tuple[Tensor, None]:
    return _crop(ddg, ctx.size), None


def _crop_vjp_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dout, g_size = inputs
    ctx.size = list(dout.shape[dout.ndim - len(g_size) :])


_crop.register_autograd(_crop_backward, setup_context=_crop_setup)
_crop_vjp.register_autograd(_crop_vjp_backward, setup_context=_crop_vjp_setup)


def gate_crop(g: Tensor, size: Sequence[int]) -> Tensor:
    """Centre of the trailing axes of g, as `ssmcore.gate_crop`; differentiable any number of times.

    Parameters
    ----------
    g : (..., *g_size)
    size : trailing axes of the result, each at most that of g

    Raises
    ------
    ArgumentError
        `size` is larger than g or has more axes.

    Source: Mamba-AHNet, algorithm 3, steps 1 to 4.
    """
    _check_dtypes("gate_crop", {"g": g})
    return _crop(g, list(_gate_crop.check(tuple(g.shape), tuple(size))))


# ---- discretize ----


def discretize(
    A: Tensor, B: Tensor, delta: Tensor, *, method: str = "zoh", structure: str = "diagonal"
) -> tuple[Tensor, Tensor]:
    """A_bar and B_bar of x' = A x + B u at step delta, as `ssmcore.discretize`, in torch's own operations on any device.

    Raises
    ------
    ArgumentError
        A dtype, device or option is wrong.

    Source: Mamba-AHNet, eq. 2.
    """
    _check_dtypes("discretize", {"A": A, "B": B, "delta": delta})
    _discretize.SPEC.check_option("method", method)
    _discretize.SPEC.check_option("structure", structure)
    return discretize_tensors(A, B, delta, method=method, structure=structure)
