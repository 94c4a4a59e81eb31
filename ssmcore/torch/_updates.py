"""Steps on kept states of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _updates
from .._spec import ArgumentError, ArgumentTypeError
from ..backends.torch_ import causal_conv1d_tensors, selective_scan_tensors
from ._common import as_tensor, check_dtypes, wide

_PLAIN = (Tensor, torch.nn.Parameter)
_FAST = (torch.float32, torch.float64)


def _refuse_gradients(op: str, tensors: dict[str, Tensor | None]) -> None:
    for name, x in tensors.items():
        if isinstance(x, Tensor) and x.requires_grad:
            raise ArgumentError(
                f"{op}: {name}: expected a tensor without gradient, got one that requires grad; a step has none, so call it "
                f"under torch.no_grad(), or train with the whole sequence"
            )


def _check(op: str, state: str, tensors: dict[str, Tensor | None], integers: dict[str, Tensor | None]) -> None:
    """Raises ArgumentError unless dtypes and devices agree and the state, first of `tensors`, is float32 or as x."""
    check_dtypes(op, tensors)
    kept, x = tensors[state], tensors["x"]
    assert kept is not None
    assert x is not None
    if kept.dtype not in (torch.float32, x.dtype):
        raise ArgumentTypeError(
            f"{op}: {state}: expected torch.float32 or {x.dtype} like x, got {kept.dtype}; keep it in float32"
        )
    for name, indices in integers.items():
        if indices is None:
            continue
        if not isinstance(indices, Tensor) or indices.dtype.is_floating_point or indices.dtype == torch.bool:
            got = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise ArgumentTypeError(f"{op}: {name}: expected a tensor of integers, got {got}; convert it with .long()")
        if indices.device != x.device:
            raise ArgumentTypeError(
                f"{op}: {name}: expected device {x.device} like x, got {indices.device}; move it there"
            )


def _direct(*tensors: Tensor | None) -> bool:
    """Whether all are plain CPU tensors of one wide dtype and nothing watches: then no custom op is needed around NumPy."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    dtype = None
    for x in tensors:
        if x is None:
            continue
        if type(x) not in _PLAIN or not x.is_cpu:
            return False
        dtype = dtype or x.dtype
        if x.dtype is not dtype:
            return False
    return dtype in _FAST


def _array(x: Tensor | None) -> Any:
    """The tensor's memory. One that requires grad has come here with grad disabled, where NumPy may have it."""
    return None if x is None else x.numpy()


class _Kept:
    """The state as an array of the compute dtype, and back where that is a copy."""

    def __init__(self, state: Tensor, dtype: torch.dtype) -> None:
        self.state = state.detach()
        self.array: Any = self.state.to(dtype).numpy()

    def keep(self) -> None:
        if self.array.ctypes.data != self.state.data_ptr():
            self.state.copy_(torch.from_numpy(self.array))


def _wide_arrays(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    return [None if x is None else x.detach().to(dtype).numpy() for x in tensors]


@torch.library.custom_op("ssmcore::selective_state_update", mutates_args=("state",))
def _state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
    discretization: str,
) -> Tensor:
    if x.device.type != "cpu":
        return _state_update_tensors(
            state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, discretization
        )
    dtype = wide(x)
    kept = _Kept(state, dtype)
    arrays: tuple[Any, ...] = tuple(_wide_arrays(dtype, x, dt, A, B, C, D, z, dt_bias))
    options: tuple[Any, ...] = (dt_softplus, _array(state_batch_indices))
    out = _updates.selective_state_update(kept.array, *arrays, *options, discretization=discretization)
    kept.keep()
    return as_tensor(out, x)


@_state_update.register_fake
def _(state: Tensor, x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


def _rows(indices: Tensor | None, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if indices is None:
        return (torch.arange(batch, device=device),) * 2
    used = (indices >= 0).nonzero()[:, 0]
    return used, indices[used].long()


@torch.no_grad()
def _state_update_tensors(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
    discretization: str,
) -> Tensor:
    """By plain torch, on any device."""
    used, rows = _rows(state_batch_indices, x.shape[0], x.device)
    channels, dstate = state.shape[1:-1], state.shape[-1]
    dim = channels.numel()

    def a_step(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.reshape(t.shape[0], 1, dim)[used]

    def matrix(t: Tensor) -> Tensor:
        return t.reshape(t.shape[0], 1, -1, dstate)[used]

    y, last, _ = selective_scan_tensors(
        a_step(x),  # type: ignore[arg-type]
        a_step(dt),  # type: ignore[arg-type]
        A.reshape(dim, dstate),
        matrix(B),
        matrix(C),
        None if D is None else D.reshape(dim),
        a_step(z),
        None if dt_bias is None else dt_bias.reshape(dim),
        state[rows].reshape(len(rows), dim, dstate).to(wide(x)),
        delta_softplus=dt_softplus,
        discretization=discretization,
    )
    state.index_copy_(0, rows, last.reshape(-1, *channels, dstate).to(state.dtype))
    return torch.zeros_like(x, memory_format=torch.contiguous_format).index_copy_(0, used, y.reshape(-1, *channels))


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    discretization: str = "mamba",
) -> Tensor:
    """Advances `state`, in place, by one step; shapes, formula and options as in `ssmcore.selective_state_update`.

    Computed in float32 (float64 for float64 x); `out` has the dtype and shape of x. `state` is float32 or as x. No gradient.

    Raises
    ------
    ArgumentError
        A shape, dtype, device, index or option is wrong, or a tensor requires grad while grad is enabled.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Gu and Dao, Mamba (2023), section 3; Mamba-AHNet, eq. 2.
    """
    op = "selective_state_update"
    if torch.is_grad_enabled():
        names = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
        _refuse_gradients(op, dict(zip(names, (state, x, dt, A, B, C, D, z, dt_bias), strict=True)))
    if state_batch_indices is None and _direct(state, x, dt, A, B, C, D, z, dt_bias):
        return torch.from_numpy(
            _updates.selective_state_update(
                _array(state),
                _array(x),
                _array(dt),
                _array(A),
                _array(B),
                _array(C),
                _array(D),
                _array(z),
                _array(dt_bias),
                dt_softplus,
                discretization=discretization,
            )
        )
    tensors = {"state": state, "x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    _check(op, "state", tensors, {"state_batch_indices": state_batch_indices})
    return _state_update(*tensors.values(), bool(dt_softplus), state_batch_indices, discretization)


@torch.library.custom_op("ssmcore::causal_conv1d_update", mutates_args=("conv_state",))
def _conv_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> Tensor:
    if x.device.type != "cpu":
        return _conv_update_tensors(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
    dtype = wide(x)
    kept = _Kept(conv_state, dtype)
    wide_x, wide_weight, wide_bias = _wide_arrays(dtype, x, weight, bias)
    out = _updates.causal_conv1d_update(
        wide_x, kept.array, wide_weight, wide_bias, activation, _array(cache_seqlens), _array(conv_state_indices)
    )
    kept.keep()
    return as_tensor(out, x)


@_conv_update.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.no_grad()
def _conv_update_tensors(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> Tensor:
    """By plain torch, on any device."""
    used, rows = _rows(conv_state_indices, x.shape[0], x.device)
    new = (x if x.ndim == 3 else x[:, :, None])[used]
    past, taps, seqlen = conv_state.shape[2], weight.shape[1], new.shape[2]
    known = conv_state[rows]
    places = torch.arange(past, device=x.device).expand(len(rows), conv_state.shape[1], past)
    if cache_seqlens is not None:
        places = (places + cache_seqlens[used].long()[:, None, None]) % max(past, 1)
        known = known.gather(2, places)
    initial = known[:, :, past - (taps - 1) :]
    y = causal_conv1d_tensors(new.transpose(1, 2), weight, bias, initial, silu=activation is not None).transpose(1, 2)
    kept = torch.cat([known, new.to(known.dtype)], dim=2)[:, :, seqlen:]
    if cache_seqlens is not None:
        kept = torch.zeros_like(kept).scatter_(2, (places + seqlen) % max(past, 1), kept)
    conv_state.index_copy_(0, rows, kept)
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    return out.index_copy_(0, used, y.reshape(-1, *x.shape[1:]))


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The causal convolution of new steps, `conv_state` changed in place; shapes and options as in `ssmcore.causal_conv1d_update`.

    Computed and returned as `selective_state_update` is.

    Raises
    ------
    ArgumentError
        A shape, dtype, device, index or option is wrong, or a tensor requires grad while grad is enabled.
    BackendError
        The backend named by `use_backend` or SSMCORE_BACKEND cannot run.

    Source: Gu and Dao, Mamba (2023), section 3.4; the interface follows Dao-AILab's causal-conv1d.
    """
    op = "causal_conv1d_update"
    if torch.is_grad_enabled():
        _refuse_gradients(op, {"x": x, "conv_state": conv_state, "weight": weight, "bias": bias})
    if cache_seqlens is None and conv_state_indices is None and _direct(x, conv_state, weight, bias):
        return torch.from_numpy(
            _updates.causal_conv1d_update(_array(x), _array(conv_state), _array(weight), _array(bias), activation)
        )
    tensors = {"x": x, "conv_state": conv_state, "weight": weight, "bias": bias}
    integers = {"cache_seqlens": cache_seqlens, "conv_state_indices": conv_state_indices}
    _check(op, "conv_state", tensors, integers)
    return _conv_update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
