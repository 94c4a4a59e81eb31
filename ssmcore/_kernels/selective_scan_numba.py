"""Selective scan in numba: fills `out`, `last_state`, `checkpoints`, and the gradients. Twin of selective_scan_cython.

Sequences are C-contiguous (batch, seqlen, dim); B and C are (batch, seqlen, ngroups, dstate) or constant (dim, dstate).
Channels are the innermost loop, over a block of up to BLOCK of one group, which vectorises.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange, types

from .threads_numba import threads
from .vecmath_numba import exp2, like, second_difference

CHUNK = 64
BLOCK = 128
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")
LOG2_E = 1.44269504088896340736
NEAR = 0.34  # |x| below which e^x - 1 is taken from its series

# contract and reassoc let sums be vectorised and fused; NaN, infinity and signed limits stay as IEEE has them
_inline = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


def _signatures(*ranks: int, reads: int, flags: int) -> list[Any]:
    """Explicit signatures for float32 and float64: the first `reads` arrays read-only, then outputs, then integers."""
    signatures = []
    for real in (types.float32, types.float64):
        arrays = [types.Array(real, rank, "C", readonly=i < reads) for i, rank in enumerate(ranks)]
        signatures.append(types.void(*arrays, *[types.int64] * flags))
    return signatures


def block_of(dim: int) -> int:
    """Channels a unit of work covers. Sums over channels depend on it, so it depends on nothing else."""
    return BLOCK


@njit(**_inline)
def _sigmoid(x):
    return like(1 / (1 + math.exp(-np.float64(x))), x)


@njit(**_inline)
def _softplus(x):
    wide = np.float64(x)
    return x if wide > 20 else like(math.log1p(math.exp(wide)), x)


@njit(**_inline)
def _zoh(x):
    """e^x, phi = (e^x - 1)/x and phi'."""
    one, near = like(1.0, x), like(NEAR, x)
    e = exp2(x * like(LOG2_E, x))
    q = second_difference(min(max(x, -near), near))
    close = abs(x) <= near
    phi = one + x * q if close else (e - one) / x
    dphi = one + (x - one) * q if close else (e - phi) / x
    return e, phi, dphi


@njit(**_inline)
def _advance(disc, dt, A, dtu, b, h):
    """One step of one state for a row of channels: h = A_bar h + gain dt u b."""
    if disc == 0:
        for i in range(len(dt)):
            h[i] = exp2(dt[i] * A[i] * like(LOG2_E, dt[i])) * h[i] + dtu[i] * b[i]
    elif disc == 1:
        one, half = like(1.0, A[0]), like(0.5, A[0])
        for i in range(len(dt)):
            x = dt[i] * A[i] * half
            q = one / (one - x)
            h[i] = (one + x) * q * h[i] + dtu[i] * b[i] * q
    else:
        for i in range(len(dt)):
            e, phi, _ = _zoh(dt[i] * A[i])
            h[i] = e * h[i] + phi * dtu[i] * b[i]


@njit(**_inline)
def _read_out(c, h, y):
    for i in range(len(y)):
        y[i] += c[i] * h[i]


@njit(**_inline)
def _retreat(disc, dt, u, dtu, A, b, c, dy, before, after, dh, dA, sum_A, sum_B, db, dc):
    """The adjoint of `_advance` and `_read_out`: dh goes from after the step to before it, the others add up."""
    half, two, one = like(0.5, A[0]), like(2.0, A[0]), like(1.0, A[0])
    for i in range(len(dt)):
        dc[i] += dy[i] * after[i]
        g = dh[i] + c[i] * dy[i]
        x = dt[i] * A[i]
        if disc == 0:
            enter = g
            dh[i] = g * exp2(x * like(LOG2_E, x))
            dx = dh[i] * before[i]
        elif disc == 1:
            q = one / (one - x * half)
            enter = g * q
            dh[i] = g * (two * q - one)
            dx = enter * q * (before[i] + dtu[i] * b[i] * half)
        else:
            e, phi, dphi = _zoh(x)
            enter = g * phi
            dh[i] = g * e
            dx = dh[i] * before[i] + g * dtu[i] * b[i] * dphi
        db[i] += enter * dtu[i]
        sum_B[i] += enter * b[i]
        sum_A[i] += dx * A[i]
        dA[i] += dx * dt[i]


@njit(**_inline)
def _steps(delta, bias, u, softplus, dt, dtu):
    for i in range(len(dt)):
        step = delta[i]
        if len(bias) > 0:
            step += bias[i]
        if softplus:
            step = _softplus(step)
        dt[i] = step
        dtu[i] = step * u[i]


@njit(**_inline)
def _row_of(varying, constant, bi, t, g, n, row):
    """The entries of B or C for a row of channels, repeated where all share one."""
    if varying.size > 0:
        row[:] = varying[bi, t, g, n]
    else:
        row[:] = constant[:, n]


@njit(**_inline)
def _unit(index, dim, ngroups):
    """Batch entry, group, block and channels [c0, c1) of a unit of work."""
    per_group = dim // ngroups
    nblocks = (per_group + BLOCK - 1) // BLOCK
    block = index % nblocks
    g = index // nblocks % ngroups
    c0 = g * per_group + block * BLOCK
    return index // nblocks // ngroups, g, block, c0, min(c0 + BLOCK, (g + 1) * per_group)


@njit(
    _signatures(3, 3, 2, 4, 2, 4, 2, 1, 3, 1, 3, 3, 3, 4, reads=11, flags=5),
    parallel=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz"},
)
def _forward(
    u,
    delta,
    A,
    B,
    B_constant,
    C,
    C_constant,
    D,
    z,
    bias,
    initial_state,
    out,
    last_state,
    checkpoints,
    disc,
    softplus,
    gated,
    ngroups,
    keep,
):
    batch, seqlen, dim = u.shape
    dstate = A.shape[1]
    per_group = dim // ngroups
    for index in prange(batch * ngroups * ((per_group + BLOCK - 1) // BLOCK)):
        bi, g, _, c0, c1 = _unit(index, dim, ngroups)
        width = c1 - c0
        rows = np.empty((6, width), u.dtype)
        dt, dtu, y, b, c = rows[0], rows[1], rows[2], rows[3], rows[4]
        At = np.ascontiguousarray(A[c0:c1].T)
        h = np.zeros((dstate, width), u.dtype)
        if initial_state.size > 0:
            h[:] = initial_state[bi, c0:c1].T
        for t in range(seqlen):
            if keep and t % CHUNK == 0:
                checkpoints[bi, t // CHUNK, :, c0:c1] = h
            ut = u[bi, t, c0:c1]
            _steps(delta[bi, t, c0:c1], bias[c0:c1], ut, softplus, dt, dtu)
            y[:] = 0
            for n in range(dstate):
                _row_of(B, B_constant[c0:c1], bi, t, g, n, b)
                _row_of(C, C_constant[c0:c1], bi, t, g, n, c)
                _advance(disc, dt, At[n], dtu, b, h[n])
                _read_out(c, h[n], y)
            if D.size > 0:
                for i in range(width):
                    y[i] += D[c0 + i] * ut[i]
            if gated:
                for i in range(width):
                    zi = z[bi, t, c0 + i]
                    y[i] *= zi * _sigmoid(zi)
            out[bi, t, c0:c1] = y
        last_state[bi, c0:c1] = h.T


@njit(
    _signatures(3, 3, 3, 3, 2, 4, 2, 4, 2, 1, 3, 1, 4, 3, 3, 3, 5, 3, 5, 3, 2, 3, 2, 3, reads=13, flags=4),
    parallel=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz"},
)
def _backward(
    dout,
    dlast_state,
    u,
    delta,
    A,
    B,
    B_constant,
    C,
    C_constant,
    D,
    z,
    bias,
    checkpoints,
    du,
    ddelta,
    dA,
    dB,
    dB_constant,
    dC,
    dC_constant,
    dD,
    dz,
    ddelta_bias,
    dinitial_state,
    disc,
    softplus,
    gated,
    ngroups,
):
    batch, seqlen, dim = u.shape
    dstate = A.shape[1]
    per_group = dim // ngroups
    nchunks = (seqlen + CHUNK - 1) // CHUNK
    for index in prange(batch * ngroups * ((per_group + BLOCK - 1) // BLOCK)):
        bi, g, block, c0, c1 = _unit(index, dim, ngroups)
        width = c1 - c0
        rows = np.empty((7, width), u.dtype)
        b, c, dy, sum_A, sum_B, sum_D, sum_bias = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6]
        sum_D[:] = 0
        sum_bias[:] = 0
        At = np.ascontiguousarray(A[c0:c1].T)
        dAt = np.zeros((dstate, width), u.dtype)
        db, dc = np.zeros((dstate, width), u.dtype), np.zeros((dstate, width), u.dtype)
        dh = np.zeros((dstate, width), u.dtype)
        if dlast_state.size > 0:
            dh[:] = dlast_state[bi, c0:c1].T
        h = np.empty((CHUNK + 1, dstate, width), u.dtype)
        dt, dtu, y = (
            np.empty((CHUNK, width), u.dtype),
            np.empty((CHUNK, width), u.dtype),
            np.empty((CHUNK, width), u.dtype),
        )
        for chunk in range(nchunks - 1, -1, -1):
            t0 = chunk * CHUNK
            steps = min(CHUNK, seqlen - t0)
            h[0] = checkpoints[bi, chunk, :, c0:c1]
            for k in range(steps):
                t = t0 + k
                _steps(delta[bi, t, c0:c1], bias[c0:c1], u[bi, t, c0:c1], softplus, dt[k], dtu[k])
                y[k] = 0
                h[k + 1] = h[k]
                for n in range(dstate):
                    _row_of(B, B_constant[c0:c1], bi, t, g, n, b)
                    _advance(disc, dt[k], At[n], dtu[k], b, h[k + 1, n])
                    if gated:
                        _row_of(C, C_constant[c0:c1], bi, t, g, n, c)
                        _read_out(c, h[k + 1, n], y[k])
            for k in range(steps - 1, -1, -1):
                t = t0 + k
                ut = u[bi, t, c0:c1]
                for i in range(width):
                    dy[i] = dout[bi, t, c0 + i]
                if gated:
                    for i in range(width):
                        zi = z[bi, t, c0 + i]
                        gate = _sigmoid(zi)
                        total = y[k, i]
                        if D.size > 0:
                            total += D[c0 + i] * ut[i]
                        dz[bi, t, c0 + i] = dy[i] * total * gate * (1 + zi * (1 - gate))
                        dy[i] *= zi * gate
                sum_A[:] = 0
                sum_B[:] = 0
                for n in range(dstate):
                    _row_of(B, B_constant[c0:c1], bi, t, g, n, b)
                    _row_of(C, C_constant[c0:c1], bi, t, g, n, c)
                    if B.size > 0:
                        db[n] = 0
                    if C.size > 0:
                        dc[n] = 0
                    _retreat(
                        disc,
                        dt[k],
                        ut,
                        dtu[k],
                        At[n],
                        b,
                        c,
                        dy,
                        h[k, n],
                        h[k + 1, n],
                        dh[n],
                        dAt[n],
                        sum_A,
                        sum_B,
                        db[n],
                        dc[n],
                    )
                    if B.size > 0:
                        dB[block, bi, t, g, n] = db[n].sum()
                    if C.size > 0:
                        dC[block, bi, t, g, n] = dc[n].sum()
                for i in range(width):
                    slope = sum_A[i] + ut[i] * sum_B[i]
                    total = dt[k, i] * sum_B[i]
                    if D.size > 0:
                        total += D[c0 + i] * dy[i]
                        sum_D[i] += dy[i] * ut[i]
                    if softplus:
                        raw = delta[bi, t, c0 + i]
                        if bias.size > 0:
                            raw += bias[c0 + i]
                        if raw <= 20:
                            slope *= _sigmoid(raw)
                    du[bi, t, c0 + i] = total
                    ddelta[bi, t, c0 + i] = slope
                    sum_bias[i] += slope
        dA[bi, c0:c1] = dAt.T
        dinitial_state[bi, c0:c1] = dh.T
        if B_constant.size > 0:
            dB_constant[bi, c0:c1] = db.T
        if C_constant.size > 0:
            dC_constant[bi, c0:c1] = dc.T
        if D.size > 0:
            dD[bi, c0:c1] = sum_D
        if bias.size > 0:
            ddelta_bias[bi, c0:c1] = sum_bias


def _present(array: Any, rank: int, dtype: Any) -> Any:
    """The array, or an empty one that stands for an absent one."""
    return np.empty((0,) * rank, dtype) if array is None else array


def _groups(*matrices: Any) -> int:
    return next((m.shape[2] for m in matrices if m is not None), 1)


def selective_scan_fwd(
    u: Any,
    delta: Any,
    A: Any,
    B_varying: Any,
    B_constant: Any,
    C_varying: Any,
    C_constant: Any,
    D: Any,
    z: Any,
    delta_bias: Any,
    initial_state: Any,
    out: Any,
    last_state: Any,
    checkpoints: Any,
    discretization: int,
    delta_softplus: bool,
    num_threads: int,
) -> None:
    """Fills `out` (batch, seqlen, dim), `last_state` (batch, dim, dstate) and, unless None, `checkpoints`
    (batch, nchunks, dstate, dim), the states before every CHUNK-th step."""
    given = (u, delta, A, B_varying, B_constant, C_varying, C_constant, D, z, delta_bias, initial_state)
    ranks = (3, 3, 2, 4, 2, 4, 2, 1, 3, 1, 3)
    reads = [_present(a, rank, u.dtype) for a, rank in zip(given, ranks, strict=True)]
    flags = (discretization, int(delta_softplus), int(z is not None), _groups(B_varying, C_varying))
    with threads(num_threads):
        _forward(*reads, out, last_state, _present(checkpoints, 4, u.dtype), *flags, int(checkpoints is not None))


def selective_scan_bwd(
    dout: Any,
    dlast_state: Any,
    u: Any,
    delta: Any,
    A: Any,
    B_varying: Any,
    B_constant: Any,
    C_varying: Any,
    C_constant: Any,
    D: Any,
    z: Any,
    delta_bias: Any,
    checkpoints: Any,
    du: Any,
    ddelta: Any,
    dA: Any,
    dB_varying: Any,
    dB_constant: Any,
    dC_varying: Any,
    dC_constant: Any,
    dD: Any,
    dz: Any,
    ddelta_bias: Any,
    dinitial_state: Any,
    discretization: int,
    delta_softplus: bool,
    num_threads: int,
) -> None:
    """Fills the gradients. Sums over batch entries and channel blocks are left to the caller: dA, dD, ddelta_bias and
    constant dB, dC keep their batch axis, varying dB and dC are (nblocks, batch, seqlen, ngroups, dstate)."""
    given = (
        dout, dlast_state, u, delta, A, B_varying, B_constant, C_varying, C_constant, D, z, delta_bias, checkpoints, du,
        ddelta, dA, dB_varying, dB_constant, dC_varying, dC_constant, dD, dz, ddelta_bias, dinitial_state,
    )  # fmt: skip
    ranks = (3, 3, 3, 3, 2, 4, 2, 4, 2, 1, 3, 1, 4, 3, 3, 3, 5, 3, 5, 3, 2, 3, 2, 3)
    arrays = [_present(a, rank, u.dtype) for a, rank in zip(given, ranks, strict=True)]
    with threads(num_threads):
        _backward(*arrays, discretization, int(delta_softplus), int(z is not None), _groups(B_varying, C_varying))
