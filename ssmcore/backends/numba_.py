"""Kernels compiled by numba at first use and cached: the fast path where there is no C compiler.

The operations allocate, hand C-contiguous arrays to kernels, and sum the partial gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from typing import Any, NamedTuple

import numba  # noqa: F401  the backend is refused here where numba is missing
import numpy as np
from numpy.typing import NDArray

from .._conventions import CHECKPOINT_STEPS, centre
from .._spec import Call
from ._by_scans import ss2d_by_scans, ss2d_vjp_by_scans
from ._results import as_arguments, compute_dtype, empty, limits, target
from .protocol import Operations, Results

__all__ = ["OPERATIONS", "about", "limits"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Kernels:
    """The kernels of one operation, imported at its first call."""

    name: str

    @cached_property
    def module(self) -> Any:
        return import_module(self.name)

    def code(self, discretization: str) -> int:
        return int(self.module.DISCRETIZATIONS.index(discretization))

    def end(self, call: Call, *settings: Any) -> tuple[Any, ...]:
        """The arguments after the arrays."""
        return (*settings, call.num_threads)


OPERATIONS = Operations()


def _operation(run: Callable[[Kernels, Call], Results]) -> Callable[[Kernels, Call], Results]:
    op = run.__name__.removesuffix("_vjp")
    OPERATIONS[run.__name__] = partial(run, Kernels(f"ssmcore._kernels.{op}.numba"))
    return run


def about(op: str) -> str:
    kernels = "numba kernels, on numba's threads"
    return f"four scans by {kernels}" if op == "ss2d" else kernels


def cast(dtype: np.dtype[Any], *arrays: Array | None) -> list[Any]:
    """The arrays as `dtype`, C-contiguous and aligned, copied only where they are not that already."""
    found = [None if a is None else np.ascontiguousarray(a, dtype=dtype) for a in arrays]
    return [a if a is None or a.flags.aligned else a.copy() for a in found]


def narrow(dtype: np.dtype[Any], *arrays: Array | None) -> Results:
    return tuple(None if a is None else a.astype(dtype, copy=False) for a in arrays)


def sum_first(parts: Array | None) -> Array | None:
    """The sum over the first axis, without a copy where it has one entry."""
    return parts if parts is None else parts[0] if len(parts) == 1 else parts.sum(axis=0)


class MatrixGradient(NamedTuple):
    """Where a kernel writes the gradient of B or C: one of the two, and the sum that finishes it."""

    varying: Array | None
    constant: Array | None

    @classmethod
    def like(cls, matrix: Array, parts: int, nblocks: int) -> MatrixGradient:
        if matrix.ndim == 2:
            return cls(None, empty((parts, *matrix.shape), matrix.dtype))
        # no block where there is no channel: the sum over none of them is the zero gradient
        return cls(empty((nblocks, *matrix.shape), matrix.dtype), None)

    def total(self) -> Array | None:
        return sum_first(self.constant if self.varying is None else self.varying)


def split(matrix: Array) -> tuple[Array | None, Array | None]:
    """(varying, None) or (None, constant), the two being different arguments of a kernel."""
    return (None, np.ascontiguousarray(matrix)) if matrix.ndim == 2 else (matrix, None)


# ---- discretize ----


def _flat(array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(np.broadcast_to(array, shape), dtype=dtype).reshape(-1)


def _diagonal(kernels: Kernels, call: Call) -> tuple[Any, ...]:
    """A and delta, flat and of the common shape (..., dstate), with A_bar and gain of them, and that shape."""
    A, B, delta = call.arrays.values()
    dtype = compute_dtype(np.result_type(A, B, delta))
    shape = np.broadcast_shapes(A.shape, B.shape, (*delta.shape, 1))
    A, delta = _flat(A, shape, dtype), _flat(delta[..., None], shape, dtype)
    A_bar, gain = empty(A.shape, dtype), empty(A.shape, dtype)
    kernels.module.discretize(A, delta, kernels.code(call.method), A_bar, gain, call.num_threads)
    return A, delta, A_bar, gain, shape


@_operation
def discretize(kernels: Kernels, call: Call) -> Results:
    _, _, A_bar, gain, shape = _diagonal(kernels, call)
    return A_bar.reshape(shape), gain.reshape(shape) * call.B


@_operation
def discretize_vjp(kernels: Kernels, call: Call) -> Results:
    dA_bar, dB_bar = call.douts
    A, delta, _, gain, shape = _diagonal(kernels, call)
    dA, ddelta = empty(A.shape, A.dtype), empty(A.shape, A.dtype)
    flat_dA_bar, dgain = _flat(dA_bar, dA_bar.shape, A.dtype), _flat(dB_bar * call.B, shape, A.dtype)
    kernels.module.discretize_vjp(flat_dA_bar, dgain, A, delta, kernels.code(call.method), dA, ddelta, call.num_threads)
    return dA.reshape(shape), dB_bar * gain.reshape(shape), ddelta.reshape(shape).sum(axis=-1)


# ---- ssm_recurrence ----


@_operation
def ssm_recurrence(kernels: Kernels, call: Call) -> Results:
    A_bar, B_bar, C, u, initial_state = call.arrays.values()
    lead, dtype = call.lead, np.result_type(A_bar, B_bar, C, u, initial_state)
    real = np.dtype(np.float64 if dtype in (np.float64, np.complex128) else np.float32)
    rows, dstate, seqlen = math.prod(lead), A_bar.shape[-1], u.shape[-1]
    width = -(-dstate // kernels.module.STATES) * kernels.module.STATES
    both = dtype.kind == "c"

    def parts(array: Array, last: int, imaginary: bool) -> list[Any]:
        """(rows, last) of real and imaginary parts, zeros after what there is."""
        found = []
        for part in (array.real, array.imag)[: 1 + imaginary]:
            wide = np.zeros((rows, last), real)
            wide.reshape(*lead, last)[..., : array.shape[-1]] = part
            found.append(wide)
        return [*found, None][:2]

    state = parts(initial_state, width, both)
    y: list[Any] = [empty((rows, seqlen), real), empty((rows, seqlen), real) if both else None]
    if rows and seqlen:
        systems = [part for array in (A_bar, B_bar, C) for part in parts(array, width, both)]
        inputs = parts(u, seqlen, u.dtype.kind == "c")
        kernels.module.ssm_recurrence(*systems, *inputs, *state, *y, *kernels.end(call))
    out, last = (x[0] + 1j * x[1] if both else x[0] for x in (y, state))
    return out.reshape(*lead, seqlen), last.reshape(*lead, width)[..., :dstate].copy()


# ---- gate_crop ----


def _planes(full: tuple[int, ...], size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
    """The last two axes before and after the crop, and the crop's first row and column; a single axis is a row."""
    before, after = (x[-2:] if len(x) > 1 else (1, *x) for x in (full, size))
    top, left = ((f - p) // 2 for f, p in zip(before, after, strict=True))
    return before, after, top, left


def _outer_window(lead: int, full: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the crop lies in the axes before the last two: slices of views, while the kernels copy planes."""
    starts = ((f - p) // 2 for f, p in zip(full[:-2], size[:-2], strict=True))
    return (slice(None),) * lead + tuple(slice(s, s + p) for s, p in zip(starts, size[:-2], strict=False))


@_operation
def gate_crop(kernels: Kernels, call: Call) -> Results:
    g, size = call.g, call.size
    dtype, lead = compute_dtype(g.dtype), g.ndim - len(size)
    shape, full = (*g.shape[:lead], *size), g.shape[lead:]
    before, after, top, left = _planes(full, size)
    out = target(call, 0, dtype, contiguous=True)
    out = empty(shape, dtype) if out is None else out
    planes = math.prod((*g.shape[:lead], *size[:-2]))
    source = np.ascontiguousarray(g[_outer_window(lead, full, size)], dtype=dtype).reshape(planes, *before)
    kernels.module.gate_crop(source, top, left, out.reshape(planes, *after))
    return narrow(g.dtype, out)


@_operation
def gate_crop_vjp(kernels: Kernels, call: Call) -> Results:
    (dout,), full = call.douts, call.g_size
    dtype, lead = compute_dtype(dout.dtype), dout.ndim - len(full)
    size = dout.shape[lead:]
    before, after, top, left = _planes(full, size)
    planes = empty((*dout.shape[:lead], *size[:-2], *full[-2:]), dtype)
    count = math.prod((*dout.shape[:lead], *size[:-2]))
    source = np.ascontiguousarray(dout, dtype=dtype).reshape(count, *after)
    kernels.module.gate_crop_vjp(source, top, left, planes.reshape(count, *before))
    if len(full) <= 2:
        return narrow(dout.dtype, planes)
    dg = np.zeros((*dout.shape[:lead], *full), dout.dtype)
    dg[_outer_window(lead, full, size)] = planes
    return (dg,)


# ---- selective_scan ----


@_operation
def selective_scan(kernels: Kernels, call: Call) -> Results:
    u, delta, A, B, C, D, z, delta_bias, initial_state = call.arrays.values()
    options = call.options  # an attribute of the call is looked up in its arrays first
    end = kernels.end(call, kernels.code(options["discretization"]), options["delta_softplus"])
    dtype, (batch, seqlen, dim), dstate = compute_dtype(u.dtype), u.shape, A.shape[1]
    out, last_state = (target(call, index, dtype, contiguous=True) for index in range(2))
    out = empty(u.shape, dtype) if out is None else out
    last_state = empty((batch, dim, dstate), dtype) if last_state is None else last_state
    checkpoints = empty((batch, -(-seqlen // CHECKPOINT_STEPS), dstate, dim), dtype) if call.keep else None
    u, delta, A, B, C, D, z, delta_bias, initial_state = cast(dtype, *call.arrays.values())
    inputs = (u, delta, A, *split(B), *split(C), D, z, delta_bias, initial_state)
    kernels.module.selective_scan_fwd(*inputs, out, last_state, checkpoints, *end)
    return *narrow(call.u.dtype, out), last_state, checkpoints


@_operation
def selective_scan_vjp(kernels: Kernels, call: Call) -> Results:
    dout, dlast_state = call.douts
    u, delta, A, B, C, D, z, delta_bias, _ = call.arrays.values()
    dtype, (batch, seqlen, dim) = compute_dtype(u.dtype), u.shape
    checkpoints = call.kept[0] if call.kept else selective_scan(kernels, replace(call, keep=True))[2]
    wide_u, delta, A, B, C, D, z, delta_bias = cast(dtype, u, delta, A, B, C, D, z, delta_bias)
    dout, dlast_state, checkpoints = cast(dtype, dout, dlast_state, checkpoints)
    ngroups = next((m.shape[2] for m in (B, C) if m.ndim == 4), 1)
    parts = kernels.module.parts_of(batch, seqlen)
    nblocks = -(-(dim // ngroups) // kernels.module.block_of(dim // ngroups, parts * ngroups))
    du, ddelta = (empty(u.shape, dtype) for _ in range(2))
    dz = None if z is None else empty(u.shape, dtype)
    dB, dC = MatrixGradient.like(B, parts, nblocks), MatrixGradient.like(C, parts, nblocks)
    dA, dinitial_state = (empty((n, *A.shape), dtype) for n in (parts, batch))
    dD, dbias = (None if given is None else empty((parts, dim), dtype) for given in (D, delta_bias))
    inputs = (dout, dlast_state, wide_u, delta, A, *split(B), *split(C), D, z, delta_bias, checkpoints)
    end = kernels.end(call, kernels.code(call.discretization), call.delta_softplus)
    kernels.module.selective_scan_bwd(*inputs, du, ddelta, dA, *dB, *dC, dD, dz, dbias, dinitial_state, *end)
    sums = (sum_first(dA), dB.total(), dC.total(), sum_first(dD))
    return as_arguments(call, du, ddelta, *sums, dz, sum_first(dbias), dinitial_state)


# ---- causal_conv1d ----


@_operation
def causal_conv1d(kernels: Kernels, call: Call) -> Results:
    x, weight, bias, initial_state = call.arrays.values()
    end = kernels.end(call, call.options["activation"] is not None)
    dtype = compute_dtype(x.dtype)
    out = target(call, 0, dtype, contiguous=True)
    out = empty(x.shape, dtype) if out is None else out
    wide_x, weight, bias, initial_state = cast(dtype, x, weight, bias, initial_state)
    kernels.module.causal_conv1d_fwd(wide_x, weight, bias, initial_state, out, *end)
    return narrow(x.dtype, out)


@_operation
def causal_conv1d_vjp(kernels: Kernels, call: Call) -> Results:
    (dout,) = call.douts
    x, weight, bias, initial_state = call.arrays.values()
    dtype, (batch, _, dim), taps = compute_dtype(x.dtype), x.shape, weight.shape[1]
    wide_dout, wide_x, weight, bias, initial_state = cast(dtype, dout, x, weight, bias, initial_state)
    dx = empty(x.shape, dtype)
    # zeros, which stay where the sequence has no step
    dweight, dinitial = (np.zeros((batch, dim, n), dtype) for n in (taps, taps - 1))
    dbias = None if bias is None else np.zeros((batch, dim), dtype)
    end = kernels.end(call, call.activation is not None)
    kernels.module.causal_conv1d_bwd(wide_dout, wide_x, weight, bias, initial_state, dx, dweight, dbias, dinitial, *end)
    return as_arguments(call, dx, sum_first(dweight), sum_first(dbias), dinitial)


# ---- chunk_scan ----


def _head_block(batch: int, nheads: int, ngroups: int) -> int:
    """Heads a unit covers: few enough that there are units to share out, else several, which share the product of C and B."""
    return max(1, min(4, batch * nheads // 8, nheads // ngroups))


@_operation
def chunk_scan(kernels: Kernels, call: Call) -> Results:
    x, dt, A, B, C, D, initial_state, starts = call.arrays.values()
    dtype, (batch, seqlen, nheads, headdim), (ngroups, dstate) = compute_dtype(x.dtype), x.shape, B.shape[2:]
    shape = (batch, -(-seqlen // CHECKPOINT_STEPS), nheads, dstate, headdim)
    checkpoints = empty(shape, dtype) if call.keep else None
    out = target(call, 0, dtype, contiguous=True)
    out = empty(x.shape, dtype) if out is None else out
    last = empty((batch, nheads, headdim, dstate), dtype)
    if out.size == 0:
        last[...] = 0 if initial_state is None else initial_state
    else:
        starts = None if starts is None else np.ascontiguousarray(starts)
        wide_x, dt, A, B, C, D, initial_state = cast(dtype, x, dt, A, B, C, D, initial_state)
        end = kernels.end(call, _head_block(batch, nheads, ngroups))
        kernels.module.chunk_scan_fwd(wide_x, dt, A, B, C, D, initial_state, starts, out, last, checkpoints, *end)
    return *narrow(x.dtype, out), last, checkpoints


@_operation
def chunk_scan_vjp(kernels: Kernels, call: Call) -> Results:
    dout, dlast = call.douts
    x, dt, A, B, C, D, _, starts = call.arrays.values()
    dtype, (batch, _, nheads, headdim), (ngroups, dstate) = compute_dtype(x.dtype), x.shape, B.shape[2:]
    checkpoints = call.kept[0] if call.kept else chunk_scan(kernels, replace(call, keep=True))[2]
    block = _head_block(batch, nheads, ngroups)
    nblocks = -(-(nheads // ngroups) // block)
    dx, ddt = empty(x.shape, dtype), empty(dt.shape, dtype)
    dA, dB, dC = (empty((n, *a.shape), dtype) for n, a in ((batch, A), (nblocks, B), (nblocks, C)))
    dD = None if D is None else empty((batch, nheads, headdim), dtype)
    dinitial = empty((batch, nheads, headdim, dstate), dtype)
    if dx.size == 0:
        for gradient in (ddt, dA, dB, dC, *([] if dD is None else [dD])):
            gradient[...] = 0
        dinitial[...] = 0 if dlast is None else dlast
    else:
        starts = None if starts is None else np.ascontiguousarray(starts)
        wide_dout, wide_x, dt, A, B, C, D = cast(dtype, dout, x, dt, A, B, C, D)
        dlast, checkpoints = cast(dtype, dlast, checkpoints)
        inputs = (wide_dout, dlast, wide_x, dt, A, B, C, D, starts, checkpoints)
        kernels.module.chunk_scan_bwd(*inputs, dx, ddt, dA, dB, dC, dD, dinitial, *kernels.end(call, block))
    return as_arguments(call, dx, ddt, sum_first(dA), sum_first(dB), sum_first(dC), sum_first(dD), dinitial)


# ---- depthwise_conv2d ----


@_operation
def depthwise_conv2d(kernels: Kernels, call: Call) -> Results:
    x, weight, bias = call.arrays.values()
    dtype = compute_dtype(x.dtype)
    out = target(call, 0, dtype, contiguous=True)
    out = empty(x.shape, dtype) if out is None else out
    wide_x, weight, bias = cast(dtype, x, weight, bias)
    kernels.module.depthwise_conv2d_fwd(wide_x, weight, bias, out, *kernels.end(call, call.activation is not None))
    return narrow(x.dtype, out)


@_operation
def depthwise_conv2d_vjp(kernels: Kernels, call: Call) -> Results:
    (dout,) = call.douts
    x, weight, bias = call.arrays.values()
    dtype = compute_dtype(x.dtype)
    wide_dout, wide_x, weight, bias = cast(dtype, dout, x, weight, bias)
    dx = empty(x.shape, dtype)
    # zeros, which stay where the grid has no position
    dweight, dbias = (None if g is None else np.zeros((x.shape[0], *g.shape), dtype) for g in (weight, bias))
    end = kernels.end(call, call.activation is not None)
    kernels.module.depthwise_conv2d_bwd(wide_dout, wide_x, weight, bias, dx, dweight, dbias, *end)
    return as_arguments(call, dx, sum_first(dweight), sum_first(dbias))


# ---- attention_gate ----


@_operation
def attention_gate(kernels: Kernels, call: Call) -> Results:
    x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics = call.arrays.values()
    dtype = compute_dtype(x.dtype)
    wide_x, wide_theta, window = cast(dtype, x, theta, phi[centre(phi, theta)])
    rows = _strip_rows(theta)
    end = kernels.end(call, rows)
    used = np.empty((2 * theta.shape[3] + 1, 2))
    if statistics is None:
        counts, partial_sums = _strips(theta, rows, dtype)
        kernels.module.moments(wide_theta, window, partial_sums, *end)
        used[:-1] = _joined_moments(partial_sums, counts)
    else:
        used[:] = statistics
    coefficients = _coefficients(used, theta_weight, phi_weight, shift, psi, call.eps)
    out = target(call, 0, dtype, contiguous=True)
    out = empty(x.shape, dtype) if out is None else out
    q = empty(theta.shape[:3], dtype)
    kernels.module.compare(wide_theta, window, coefficients.astype(dtype), q, *end)
    if statistics is None:
        mean = q.mean(dtype=np.float64)
        used[-1] = mean, np.square(q - mean).mean(dtype=np.float64)
    gain = float(psi_weight[0]) / np.sqrt(used[-1, 1] + call.eps)
    kernels.module.apply(wide_x, q, gain, float(psi_shift[0]) - gain * used[-1, 0], out, *end)
    return *narrow(x.dtype, out), q, used.astype(dtype)


@_operation
def attention_gate_vjp(kernels: Kernels, call: Call) -> Results:
    (dout,) = call.douts
    x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, given = call.arrays.values()
    q, statistics = call.kept or attention_gate(kernels, call)[1:]
    dtype, dim = compute_dtype(x.dtype), theta.shape[3]
    wide_dout, wide_x, wide_theta, window = cast(dtype, dout, x, theta, phi[centre(phi, theta)])
    (wide_q,) = cast(dtype, q)
    rows = _strip_rows(theta)
    end = kernels.end(call, rows)
    used = statistics.astype(np.float64)
    deviation = np.sqrt(used[:, 1] + call.eps)
    gain = float(psi_weight[0]) / deviation[-1]
    dx, dm = empty(x.shape, dtype), empty(q.shape, dtype)
    offset = float(psi_shift[0]) - gain * used[-1, 0]
    kernels.module.retract(wide_dout, wide_x, wide_q, gain, offset, dx, dm, *end)
    q_hat = (wide_q - used[-1, 0]) / deviation[-1]
    dpsi_shift, dpsi_weight = dm.sum(dtype=np.float64), (dm * q_hat).sum(dtype=np.float64)
    # the mean over no position is never used
    positions = max(q.size, 1)
    # no gradient goes through statistics that were given
    dq = dm if given is not None else dm - dpsi_shift / positions - q_hat * (dpsi_weight / positions)
    dq = np.ascontiguousarray(dq * gain, dtype=dtype)
    coefficients = _coefficients(used, theta_weight, phi_weight, shift, psi, call.eps)
    _, partial_sums = _strips(theta, rows, dtype)
    kernels.module.sums(wide_theta, window, coefficients.astype(dtype), dq, partial_sums, *end)
    da, da_theta, da_phi, dpsi = partial_sums.sum(axis=0, dtype=np.float64)
    if given is None:
        means, covariances = np.tile(da / positions, (2, 1)), np.stack([da_theta, da_phi]) / positions
        scales, variances = coefficients[:2], used[:-1, 1].reshape(2, dim) + call.eps
        coefficients[6::2] = -scales * means
        coefficients[7::2] = -scales * covariances / variances
    dtheta = empty(theta.shape, dtype)
    dphi = (empty if phi.shape == theta.shape else np.zeros)(phi.shape, dtype)
    written = empty(theta.shape, dtype)
    kernels.module.spread(wide_theta, window, coefficients.astype(dtype), dq, dtheta, written, *end)
    dphi[centre(phi, theta)] = written
    sums = (da_theta / deviation[:dim], da_phi / deviation[dim:-1], da, dpsi)
    ends = (np.array([dpsi_weight]), np.array([dpsi_shift]))
    return as_arguments(call, dx, dtheta, dphi, *sums, *ends)


def _strip_rows(grid: Array) -> int:
    """Rows of (batch, height, width, dim) that make a unit of work: some 500 positions. Sums depend on nothing else."""
    width: int = grid.shape[2]
    return max(1, 512 // max(width, 1))


def _strips(grid: Array, rows: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Positions of each strip, and unset memory (strips, 4, dim) for its sums."""
    batch, height, width, dim = grid.shape
    heights = np.minimum(rows, height - np.arange(0, height, rows))
    counts = np.tile(heights * width, batch)
    return counts, empty((len(counts), 4, dim), dtype)


def _joined_moments(partial: Array, counts: Array) -> Array:
    """(2 dim, 2): mean and variance of theta and phi from each strip's mean and sum of squares about it."""
    means, squares = partial[:, ::2].astype(np.float64), partial[:, 1::2].astype(np.float64)
    share = (counts / counts.sum())[:, None, None]
    mean = (share * means).sum(axis=0)
    variance = squares.sum(axis=0) / counts.sum() + (share * (means - mean) ** 2).sum(axis=0)
    return np.stack([mean.ravel(), variance.ravel()], axis=1)


def _coefficients(
    statistics: Array, theta_weight: Array, phi_weight: Array, shift: Array, psi: Array, eps: float
) -> Array:
    """The coefficients of attention_gate/api.h; those of gradients through statistics are 0."""
    dim = len(shift)
    (mean_theta, var_theta), (mean_phi, var_phi) = statistics[:dim].T, statistics[dim:-1].T
    rows = np.zeros((10, dim))
    rows[0], rows[1] = theta_weight / np.sqrt(var_theta + eps), phi_weight / np.sqrt(var_phi + eps)
    rows[2] = shift - rows[0] * mean_theta - rows[1] * mean_phi
    rows[3], rows[4], rows[5] = psi, mean_theta, mean_phi
    return rows


OPERATIONS["ss2d"] = partial(ss2d_by_scans, OPERATIONS["selective_scan"])
OPERATIONS["ss2d_vjp"] = partial(ss2d_vjp_by_scans, OPERATIONS["selective_scan_vjp"])
