"""Decoding steps of tensors: states that are kept and changed in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import _updates
from .._spec import ArgumentTypeError, Call, OpSpec, fail
from ..backends.torch_ import forward
from ..ops import causal_conv1d as _conv
from ..ops import selective_scan as _scan
from ._common import check_tensors, wide
from ._register import as_result, choose, define

_PLAIN = (Tensor, torch.nn.Parameter)
_FAST = (torch.float32, torch.float64)


def _check(op: str, state: str, tensors: dict[str, Any], integers: dict[str, Tensor | None]) -> None:
    """Raises ArgumentError unless dtypes and devices agree and the state is float32 or as x."""
    check_tensors(op, tensors)
    kept, x = tensors[state], tensors["x"]
    if kept.dtype not in (torch.float32, x.dtype):
        fail(op, state, f"torch.float32 or {x.dtype} like x", kept.dtype, "keep it in float32", ArgumentTypeError)
    for name, indices in integers.items():
        if indices is None:
            continue
        if not isinstance(indices, Tensor) or indices.dtype.is_floating_point or indices.dtype == torch.bool:
            got = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            fail(op, name, "a tensor of integers", got, "convert it with .long()", ArgumentTypeError)
        if indices.device != x.device:
            fail(op, name, f"device {x.device} like x", indices.device, "move it there", ArgumentTypeError)


def _refuse_gradients(op: str, tensors: dict[str, Any]) -> None:
    for name, x in tensors.items() if torch.is_grad_enabled() else ():
        if isinstance(x, Tensor) and x.requires_grad:
            remedy = "a step has no gradient: call it under torch.no_grad(), or train with the whole sequence"
            fail(op, name, "a tensor without gradient", "one that requires grad", remedy)


def _direct(*tensors: Tensor | None) -> bool:
    """Whether NumPy can run on the tensors' memory without a custom op: plain CPU tensors of one wide dtype, unobserved."""
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
    """The tensor's memory. A tensor that requires grad comes here only while grad is disabled, where NumPy may have it."""
    return None if x is None else x.numpy()


def _wide_array(x: Tensor | None, dtype: torch.dtype) -> Any:
    return None if x is None else x.detach().to(dtype).numpy()


def _changed(state: Tensor) -> None:
    """Tells autograd that the memory of a state was written to."""
    if not state.is_inference():
        increment_version(state)


def _keep(state: Tensor, array: Any) -> None:
    """Writes an array of the compute dtype back, if it is a copy of the state."""
    if array.ctypes.data != state.data_ptr():
        state.copy_(torch.from_numpy(array))
    _changed(state)


def _state_update(state: Tensor, x: Tensor, *given: Any) -> Tensor:
    *tensors, dt_softplus, indices, discretization, backend, num_threads = given
    if choose(_scan.SPEC, x, backend) is None:
        return _state_update_plain(state, x, *given[:-2])
    kept, *arrays = (_wide_array(t, wide(x)) for t in (state, x, *tensors))
    arrays += [dt_softplus, _array(indices)]
    options = {"discretization": discretization, "num_threads": num_threads, "backend": backend}
    out = _updates.selective_state_update(kept, *arrays, **options)
    _keep(state, kept)
    return as_result(out, x.dtype)


def _shapes(spec: OpSpec, *tensors: Tensor | None) -> dict[str, tuple[int, ...] | None]:
    return {a.name: None if x is None else tuple(x.shape) for a, x in zip(spec.arguments, tensors, strict=True)}


def _rows(op: str, name: str, indices: Tensor | None, batch: int, state: Tensor) -> tuple[Any, Any]:
    """Indices, on the state's device, of the entries of the batch that have a state, and of their states."""
    given = None if indices is None else indices.cpu().numpy()
    found = _updates.rows_of(op, name, given, batch, len(state))
    used, rows = (torch.as_tensor(i, device=state.device) if indices is not None else i for i in found)
    return used, rows


@torch.no_grad()
def _state_update_plain(state: Tensor, *given: Any) -> Tensor:
    """In torch's own operations, on any device."""
    *tensors, dt_softplus, indices, discretization = given
    _scan.SPEC.check_option("discretization", discretization)
    sizes = _updates.check_scan(_shapes(_updates.SCAN, state, *tensors))
    used, rows = _rows("selective_state_update", "state_batch_indices", indices, sizes["batch"], state)
    arrays = _updates.scan_arguments(used, rows, state, *tensors)
    arrays["initial_state"] = arrays["initial_state"].to(wide(tensors[0]))
    options = {"delta_softplus": dt_softplus, "discretization": discretization}
    y, last, _ = forward(Call(_scan.SPEC, arrays, options))
    state[rows] = last.reshape(state[rows].shape).to(state.dtype)
    out = torch.zeros_like(tensors[0], memory_format=torch.contiguous_format)
    out[used] = y.reshape(out[used].shape)
    return out


_state_op = define(
    "selective_state_update",
    "(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "bool dt_softplus, Tensor? state_batch_indices, str discretization, str? backend, int? num_threads) -> Tensor",
    _state_update,
    lambda state, x, *_: x.new_empty(x.shape),
)


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
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """`ssmcore.selective_state_update` of tensors: one step, which changes `state` in place. It has no gradient.

    Computed in float32, or float64 for float64 x; out has the dtype of x. `state` is float32 or has the dtype of x.

    Raises
    ------
    ArgumentError
        A shape, dtype, device, index or option is wrong, or a tensor requires grad while grad is enabled.
    BackendError
        The backend named cannot run.

    Source: Gu and Dao, Mamba (2023), section 3; Mamba-AHNet, eq. 2.
    """
    op = "selective_state_update"
    tensors = {"state": state, "x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    _refuse_gradients(op, tensors)
    if state_batch_indices is None and backend != "torch" and _direct(*tensors.values()):
        arrays: list[Any] = [*map(_array, tensors.values()), dt_softplus]
        options: dict[str, Any] = {"discretization": discretization, "num_threads": num_threads, "backend": backend}
        out = _updates.selective_state_update(*arrays, **options)
        _changed(state)
        return torch.from_numpy(out)
    _check(op, "state", tensors, {"state_batch_indices": state_batch_indices})
    run = (bool(dt_softplus), state_batch_indices, discretization, backend, num_threads)
    made: Tensor = _state_op(*tensors.values(), *run)
    return made


def _conv_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, *given: Any) -> Tensor:
    activation, cache_seqlens, conv_state_indices, backend, num_threads = given
    if choose(_conv.SPEC, x, backend) is None:
        return _conv_update_plain(x, conv_state, weight, bias, *given[:3])
    wide_x, kept, wide_weight, wide_bias = (_wide_array(t, wide(x)) for t in (x, conv_state, weight, bias))
    integers = _array(cache_seqlens), _array(conv_state_indices)
    out = _updates.causal_conv1d_update(
        wide_x, kept, wide_weight, wide_bias, activation, *integers, num_threads=num_threads, backend=backend
    )
    _keep(conv_state, kept)
    return as_result(out, x.dtype)


@torch.no_grad()
def _conv_update_plain(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, *given: Any) -> Tensor:
    """In torch's own operations, on any device."""
    activation, cache_seqlens, indices = given
    _conv.SPEC.check_option("activation", activation)
    sizes = _updates.check_convolution(_shapes(_updates.CONVOLUTION, conv_state, x, weight, bias))
    used, rows = _rows("causal_conv1d_update", "conv_state_indices", indices, sizes["batch"], conv_state)
    new = (x if x.ndim == 3 else x[:, :, None])[used]
    past, taps, seqlen = sizes["past"], sizes["taps"], new.shape[2]
    known = conv_state[rows]
    places = torch.arange(past, device=x.device).expand(known.shape)
    if cache_seqlens is not None:
        if x.device.type == "cpu":
            _updates.check_seen(cache_seqlens.numpy(), sizes["batch"])
        places = (places + cache_seqlens[used].long()[:, None, None]) % max(past, 1)
        known = known.gather(2, places)
    initial = known[:, :, past - (taps - 1) :]
    arrays = dict(zip(_conv.ARGUMENTS, (new.transpose(1, 2), weight, bias, initial), strict=True))
    y = forward(Call(_conv.SPEC, arrays, {"activation": activation}))[0].transpose(1, 2)
    kept = torch.cat([known, new.to(known.dtype)], dim=2)[:, :, seqlen:]
    if cache_seqlens is not None:
        kept = torch.zeros_like(kept).scatter_(2, (places + seqlen) % max(past, 1), kept)
    conv_state[rows] = kept
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    out[used] = y.reshape(out[used].shape)
    return out


_conv_op = define(
    "causal_conv1d_update",
    "(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, str? activation, Tensor? cache_seqlens, "
    "Tensor? conv_state_indices, str? backend, int? num_threads) -> Tensor",
    _conv_update,
    lambda x, *_: x.new_empty(x.shape),
)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    num_threads: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """`ssmcore.causal_conv1d_update` of tensors: new steps, which change `conv_state` in place.

    Dtypes and errors as in `selective_state_update`.

    Source: Gu and Dao, Mamba (2023), section 3.4; the interface follows Dao-AILab's causal-conv1d.
    """
    op = "causal_conv1d_update"
    tensors = {"x": x, "conv_state": conv_state, "weight": weight, "bias": bias}
    _refuse_gradients(op, tensors)
    alone = cache_seqlens is None and conv_state_indices is None
    if alone and backend != "torch" and _direct(*tensors.values()):
        arrays: list[Any] = [*map(_array, tensors.values()), activation]
        options: dict[str, Any] = {"num_threads": num_threads, "backend": backend}
        out = _updates.causal_conv1d_update(*arrays, **options)
        _changed(conv_state)
        return torch.from_numpy(out)
    integers = {"cache_seqlens": cache_seqlens, "conv_state_indices": conv_state_indices}
    _check(op, "conv_state", tensors, integers)
    run = (activation, cache_seqlens, conv_state_indices, backend, num_threads)
    made: Tensor = _conv_op(*tensors.values(), *run)
    return made
