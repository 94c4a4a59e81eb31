"""Compiled kernels: libssmcore, C for each instruction set on threads of its own, called through Cython."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._conventions import CHECKPOINT_STEPS, DIRECTIONS
from .._kernels.common import binding
from .._spec import Call
from ._results import compute_dtype, empty, limits, target
from ._threads import work_per_thread
from .protocol import Operations, Results

__all__ = ["OPERATIONS", "about", "has_threads", "isa", "limits", "usable_isas"]

Array = NDArray[Any]
Arrays = list[Any]
_ISA_ENVIRONMENT = "SSMCORE_ISA"
_PORTABLE = ("discretize", "gate_crop")
"""Operations whose kernels are compiled once, and not for each instruction set."""

OPERATIONS = Operations()


def usable_isas() -> tuple[str, ...]:
    """The instruction sets compiled in that this processor runs, narrowest first."""
    return binding.ISAS[: binding.ISAS.index(binding.best_isa()) + 1]


def isa() -> str:
    """The instruction set in use: SSMCORE_ISA where set, else the widest this processor runs.

    Raises
    ------
    ValueError
        SSMCORE_ISA names one that is unknown or not run by this processor.
    """
    return binding.ISAS[_code_of(os.environ.get(_ISA_ENVIRONMENT))]


def has_threads() -> bool:
    """Whether the kernels run on several threads."""
    return binding.has_threads()


@cache
def _code_of(wanted: str | None) -> int:
    usable = usable_isas()
    if wanted and wanted not in usable:
        raise ValueError(
            f"{_ISA_ENVIRONMENT}: expected one of {', '.join(usable)} on this processor, got {wanted!r}; unset it"
        )
    return binding.ISAS.index(wanted or usable[-1])


def about(op: str) -> str:
    threads = "several threads" if has_threads() else "one thread"
    return f"compiled C kernels, {isa()}, {threads}" if op not in _PORTABLE else f"compiled kernels, {threads}"


def _run(call: Call) -> tuple[int, int, int]:
    """The last arguments of every operation: threads, instruction set, and the work that a further thread is woken for."""
    return call.num_threads, _code_of(os.environ.get(_ISA_ENVIRONMENT)), work_per_thread()


def _code(call: Call) -> int:
    return binding.DISCRETIZATIONS.index(call.options["discretization"])


def _sequence(call: Call, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Unset (batch, seqlen, dim), in memory as the caller's layout is."""
    if call.options["layout"] == "bdl":
        return empty((shape[0], shape[2], shape[1]), dtype).swapaxes(1, 2)
    return empty(shape, dtype)


def _into(call: Call, index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The caller's array for an output, or an unset one."""
    wanted = target(call, index, dtype)
    return empty(shape, dtype) if wanted is None else wanted


def _like(*arrays: Array | None) -> list[Any]:
    """Unset gradients, in the shapes and dtypes of their arguments."""
    return [None if a is None else empty(a.shape, a.dtype) for a in arrays]


def _state(state: Array | None, shape: tuple[int, ...], x: Array) -> Array:
    """The unset gradient of a state, which may be absent."""
    return empty(shape, compute_dtype(x.dtype) if state is None else state.dtype)


def _broadcast_to(array: Array, shape: tuple[int, ...]) -> Array:
    """np.broadcast_to, which takes as long as a small kernel, where it has something to do."""
    return array if array.shape == shape else np.broadcast_to(array, shape)


# ---- discretize ----


def _broadcast(call: Call) -> tuple[Array, Array, Array, np.dtype[Any]]:
    A, B, delta = call.arrays.values()
    shape = A.shape
    if B.shape != shape or delta.shape != shape[:-1]:
        shape = np.broadcast_shapes(A.shape, B.shape, (*delta.shape, 1))
    dtype = compute_dtype(np.result_type(A, B, delta))
    A, B, delta = (_broadcast_to(A, shape), _broadcast_to(B, shape), _broadcast_to(delta, shape[:-1]))
    return A.astype(dtype, copy=False), B, delta, dtype  # the first array's type is that of the computation


@OPERATIONS
def discretize(call: Call) -> Results:
    A, B, delta, dtype = _broadcast(call)
    A_bar, B_bar = empty(A.shape, dtype), empty(A.shape, dtype)
    binding.discretize(A, B, delta, A_bar, B_bar, binding.DISCRETIZATIONS.index(call.method), *_run(call))
    return A_bar, B_bar


@OPERATIONS
def discretize_vjp(call: Call) -> Results:
    A, B, delta, dtype = _broadcast(call)
    dA_bar, dB_bar = call.douts
    dA, dB, ddelta = (empty(a.shape, dtype) for a in (A, B, delta))
    code = binding.DISCRETIZATIONS.index(call.method)
    binding.discretize_vjp(dA_bar, dB_bar, A, B, delta, dA, dB, ddelta, code, *_run(call))
    return dA, dB, ddelta


# ---- ssm_recurrence ----


@OPERATIONS
def ssm_recurrence(call: Call) -> Results:
    lead, dtype = call.lead, np.result_type(*call.arrays.values())
    dtype = dtype if dtype.kind == "c" else compute_dtype(dtype)
    rows = math.prod(lead)

    def as_rows(array: Array) -> Array:
        return _broadcast_to(array, (*lead, array.shape[-1])).reshape(rows, array.shape[-1])

    read = [as_rows(array) for array in call.arrays.values()]
    y, last = empty(read[3].shape, dtype), empty(read[4].shape, dtype)
    binding.ssm_recurrence(*read, y, last, *_run(call))
    return y.reshape(*lead, y.shape[1]), last.reshape(*lead, last.shape[1])


# ---- gate_crop ----


@OPERATIONS
def gate_crop(call: Call) -> Results:
    g = call.g
    out = _into(call, 0, (*g.shape[: g.ndim - len(call.size)], *call.size), g.dtype)
    binding.gate_crop(g, out, *_run(call))
    return (out,)


@OPERATIONS
def gate_crop_vjp(call: Call) -> Results:
    (dout,) = call.douts
    dg = empty((*dout.shape[: dout.ndim - len(call.g_size)], *call.g_size), dout.dtype)
    binding.gate_crop_vjp(dout, dg, *_run(call))
    return (dg,)


# ---- selective_scan ----


@OPERATIONS
def selective_scan(call: Call) -> Results:
    read = (*call.arrays.values(),)
    u, A = read[0], read[2]
    (batch, seqlen, dim), dstate, wide = u.shape, A.shape[1], compute_dtype(u.dtype)
    out, last_state = target(call, 0, u.dtype), _into(call, 1, (batch, dim, dstate), wide)
    out = _sequence(call, u.shape, u.dtype) if out is None else out
    checkpoints = empty((batch, -(-seqlen // CHECKPOINT_STEPS), dstate, dim), wide) if call.keep else None
    softplus = call.options["delta_softplus"]
    binding.selective_scan(*read, out, last_state, checkpoints, _code(call), softplus, *_run(call))
    return out, last_state, checkpoints


@OPERATIONS
def selective_scan_vjp(call: Call) -> Results:
    checkpoints = call.kept[0] if call.kept else selective_scan(replace(call, keep=True))[2]
    given: Arrays = [*call.arrays.values(), checkpoints, *call.douts]
    u, delta, A, B, C, D, z, delta_bias, initial_state, checkpoints, *douts = given
    du, ddelta, dz = (None if a is None else _sequence(call, a.shape, a.dtype) for a in (u, delta, z))
    dA, dB, dC, dD, dbias = _like(A, B, C, D, delta_bias)
    dinitial = _state(initial_state, (u.shape[0], *A.shape), u)
    read = (*douts, u, delta, A, B, C, D, z, delta_bias, checkpoints)
    written = (du, ddelta, dA, dB, dC, dD, dz, dbias, dinitial)
    binding.selective_scan_vjp(*read, *written, _code(call), call.options["delta_softplus"], *_run(call))
    return written


# ---- ss2d ----


@OPERATIONS
def ss2d(call: Call) -> Results:
    read = (*call.arrays.values(),)
    x, dstate = read[0], read[2].shape[-1]
    batch, height, width, dim = x.shape
    out = _into(call, 0, x.shape, x.dtype)
    shape = (len(DIRECTIONS), batch, -(-height * width // CHECKPOINT_STEPS), dstate, dim)
    checkpoints = empty(shape, compute_dtype(x.dtype)) if call.keep else None
    binding.ss2d(*read, out, checkpoints, _code(call), call.options["delta_softplus"], *_run(call))
    return out, checkpoints


@OPERATIONS
def ss2d_vjp(call: Call) -> Results:
    checkpoints = call.kept[0] if call.kept else ss2d(replace(call, keep=True))[1]
    given: Arrays = [*call.arrays.values(), checkpoints, *call.douts]
    *read, dout = given
    written = _like(*read[:-1])
    binding.ss2d_vjp(dout, *read, *written, _code(call), call.options["delta_softplus"], *_run(call))
    return tuple(written)


# ---- chunk_scan ----


@OPERATIONS
def chunk_scan(call: Call) -> Results:
    read = (*call.arrays.values(),)
    x, B = read[0], read[3]
    (batch, seqlen, nheads, headdim), dstate, wide = x.shape, B.shape[-1], compute_dtype(x.dtype)
    out, last_state = _into(call, 0, x.shape, x.dtype), empty((batch, nheads, headdim, dstate), wide)
    shape = (batch, -(-seqlen // CHECKPOINT_STEPS), nheads, dstate, headdim)
    checkpoints = empty(shape, wide) if call.keep else None
    binding.chunk_scan(*read, out, last_state, checkpoints, *_run(call))
    return out, last_state, checkpoints


@OPERATIONS
def chunk_scan_vjp(call: Call) -> Results:
    checkpoints = call.kept[0] if call.kept else chunk_scan(replace(call, keep=True))[2]
    given: Arrays = [*call.arrays.values(), checkpoints, *call.douts]
    x, dt, A, B, C, D, initial_state, starts, checkpoints, *douts = given
    written = _like(x, dt, A, B, C, D)
    dinitial = _state(initial_state, (x.shape[0], *x.shape[2:], B.shape[-1]), x)
    binding.chunk_scan_vjp(*douts, x, dt, A, B, C, D, starts, checkpoints, *written, dinitial, *_run(call))
    return *written, dinitial


# ---- causal_conv1d ----


@OPERATIONS
def causal_conv1d(call: Call) -> Results:
    read = (*call.arrays.values(),)
    x, out = read[0], target(call, 0, read[0].dtype)
    out = _sequence(call, x.shape, x.dtype) if out is None else out
    binding.causal_conv1d(*read, out, None, call.options["activation"] is not None, *_run(call))
    return (out,)


@OPERATIONS
def causal_conv1d_update(call: Call) -> Results:
    """A call of one step, whose initial state changes in place."""
    x, weight, bias, state = call.arrays.values()
    binding.causal_conv1d(
        x, weight, bias, state, *call.into, state, call.options["activation"] is not None, *_run(call)
    )
    return call.into


@OPERATIONS
def causal_conv1d_vjp(call: Call) -> Results:
    x, weight, bias, initial_state, dout = (*call.arrays.values(), *call.douts)
    dx = _sequence(call, x.shape, x.dtype)
    dweight, dbias = _like(weight, bias)
    dinitial = _state(initial_state, (x.shape[0], x.shape[2], weight.shape[1] - 1), x)
    written = (dx, dweight, dbias, dinitial)
    silu = call.options["activation"] is not None
    binding.causal_conv1d_vjp(dout, x, weight, bias, initial_state, *written, silu, *_run(call))
    return written


# ---- depthwise_conv2d ----


@OPERATIONS
def depthwise_conv2d(call: Call) -> Results:
    read = (*call.arrays.values(),)
    out = _into(call, 0, read[0].shape, read[0].dtype)
    binding.depthwise_conv2d(*read, out, call.options["activation"] is not None, *_run(call))
    return (out,)


@OPERATIONS
def depthwise_conv2d_vjp(call: Call) -> Results:
    *read, dout = [*call.arrays.values(), *call.douts]
    written = _like(*read)
    binding.depthwise_conv2d_vjp(dout, *read, *written, call.options["activation"] is not None, *_run(call))
    return tuple(written)


# ---- attention_gate ----


@OPERATIONS
def attention_gate(call: Call) -> Results:
    read = (*call.arrays.values(),)
    x, theta = read[:2]
    wide = compute_dtype(x.dtype)
    out = _into(call, 0, x.shape, x.dtype)
    q, used = empty(theta.shape[:3], wide), np.empty((2 * theta.shape[3] + 1, 2), wide)
    binding.attention_gate(*read, out, q, used, call.options["eps"], *_run(call))
    return out, q, used


@OPERATIONS
def attention_gate_vjp(call: Call) -> Results:
    kept = call.kept or attention_gate(call)[1:]
    *read, dout = [*call.arrays.values(), *kept, *call.douts]
    written = _like(*read[:9])
    binding.attention_gate_vjp(dout, *read, *written, call.options["eps"], *_run(call))
    return tuple(written)
