"""Selective scan in numba: fills `out`, `last_state`, `checkpoints`, and the gradients. Twin of the C kernel.

Sequences are C-contiguous (batch, seqlen, dim); B and C are (batch, seqlen, ngroups, dstate) or constant (dim, dstate).
Channels are the innermost loop, over a block of up to BLOCK of one group, which vectorises.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from ..common.jit import OPTIONS, kernel
from ..common.vecmath import LOG2_E, exp2, exp2_inside, like, second_difference, sigmoid, softplus

CHUNK = 64
BLOCK = 128
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")
TAME_MAMBA = 3
TAME_REACH = 120.0  # the largest -log2(A_bar) that needs no guards
FORWARD_BLOCK = 512
NEAR = 0.34  # |x| below which e^x - 1 is taken from its series


def block_of(dim: int, lots: int) -> int:
    """Channels a unit of work covers, of `dim` that share B and C, whatever the `lots` of them: up to BLOCK, evenly, in an even number
    of blocks where there are enough for two. Sums over channels depend on it, so it depends on nothing else."""
    blocks = max(-(-dim // BLOCK), 1)
    if dim > BLOCK // 2:
        blocks += blocks % 2
    return max(-(-dim // blocks), 1)


_block_of = njit(**OPTIONS)(block_of)


def parts_of(batch: int, seqlen: int) -> int:
    """Lots of batch entries that a unit of work covers: each entry is one."""
    return batch


@njit(**OPTIONS)
def _zoh(x):
    """e^x, phi = (e^x - 1)/x and phi'."""
    one, near = like(1.0, x), like(NEAR, x)
    e = exp2(x * like(LOG2_E, x))
    q = second_difference(min(max(x, -near), near))
    close = abs(x) <= near
    phi = one + x * q if close else (e - one) / x
    dphi = one + (x - one) * q if close else (e - phi) / x
    return e, phi, dphi


def _entry(matrix, i):
    """Entry of B or C for channel i: an array has one a channel, a number serves all."""
    raise NotImplementedError


@overload(_entry, inline="always")
def _entry_of(matrix, i):
    if isinstance(matrix, types.Array):
        return lambda matrix, i: matrix[i]
    return lambda matrix, i: matrix


# A loop is vectorised where few enough pairs of its arrays could overlap: so each writes one array, at most two.


@njit(**OPTIONS)
def _advance(disc, dt, A, dtu, b, c, h, y):
    """One step of one state for a row of channels: h = A_bar h + gain dt u b, y += c h. A is that of `_rates`."""
    if disc == TAME_MAMBA:
        for i in range(len(dt)):
            h[i] = exp2_inside(dt[i] * A[i]) * h[i] + dtu[i] * _entry(b, i)
            y[i] += _entry(c, i) * h[i]
    elif disc == 0:
        for i in range(len(dt)):
            h[i] = exp2(dt[i] * A[i]) * h[i] + dtu[i] * _entry(b, i)
            y[i] += _entry(c, i) * h[i]
    elif disc == 1:
        one, half = like(1.0, A[0]), like(0.5, A[0])
        for i in range(len(dt)):
            x = dt[i] * A[i] * half
            q = one / (one - x)
            h[i] = (one + x) * q * h[i] + dtu[i] * _entry(b, i) * q
            y[i] += _entry(c, i) * h[i]
    else:
        for i in range(len(dt)):
            e, phi, _ = _zoh(dt[i] * A[i])
            h[i] = e * h[i] + phi * dtu[i] * _entry(b, i)
            y[i] += _entry(c, i) * h[i]


@njit(**OPTIONS)
def _retreat(disc, dt, dtu, A, b, c, dy, before, after, g, dx, dh, dA, sum_A, sum_B):
    """The adjoint of `_advance`: dh goes from after the step to before it, dA, sum_A and sum_B add up.

    g is left as gain dL/dh, whose product with dtu is the gradient of b; that of c is dy times after."""
    half, two, one = like(0.5, A[0]), like(2.0, A[0]), like(1.0, A[0])
    for i in range(len(dt)):
        g[i] = dh[i] + _entry(c, i) * dy[i]
    if disc == 0:
        for i in range(len(dt)):
            dh[i] = g[i] * exp2(dt[i] * A[i] * like(LOG2_E, dt[i]))
        for i in range(len(dt)):
            dx[i] = dh[i] * before[i]
    elif disc == 1:
        for i in range(len(dt)):
            dx[i] = one / (one - dt[i] * A[i] * half)
        for i in range(len(dt)):
            dh[i] = g[i] * (two * dx[i] - one)
        for i in range(len(dt)):
            g[i] *= dx[i]
        for i in range(len(dt)):
            dx[i] *= g[i] * (before[i] + dtu[i] * _entry(b, i) * half)
    else:
        for i in range(len(dt)):
            e, phi, dphi = _zoh(dt[i] * A[i])
            dh[i] = g[i] * e
            dx[i] = dh[i] * before[i] + g[i] * dtu[i] * _entry(b, i) * dphi
            g[i] *= phi
    for i in range(len(dt)):
        sum_B[i] += g[i] * _entry(b, i)
    for i in range(len(dt)):
        sum_A[i] += dx[i] * A[i]
    for i in range(len(dt)):
        dA[i] += dx[i] * dt[i]


@njit(**OPTIONS)
def _dot(a, b):
    total = like(0.0, a[0])
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(**OPTIONS)
def _add_product(total, a, b):
    for i in range(len(total)):
        total[i] += a[i] * b[i]


@njit(**OPTIONS)
def _steps(delta, bias, u, positive, dt, dtu):
    for i in range(len(dt)):
        step = delta[i]
        if len(bias) > 0:
            step += bias[i]
        if positive:
            step = softplus(step)
        dt[i] = step
        dtu[i] = step * u[i]


@njit(**OPTIONS)
def _columns(rows, c0, c1):
    """Rows [c0, c1) of (channels, dstate) as (dstate, channels)."""
    columns = np.empty((rows.shape[1], c1 - c0), rows.dtype)
    for n in range(rows.shape[1]):
        for i in range(c1 - c0):
            columns[n, i] = rows[c0 + i, n]
    return columns


@njit(**OPTIONS)
def _store(columns, rows, c0):
    """Puts back what `_columns` takes."""
    for n in range(columns.shape[0]):
        for i in range(columns.shape[1]):
            rows[c0 + i, n] = columns[n, i]


@njit(**OPTIONS)
def _rates(disc, A, c0, c1):
    """A as (dstate, channels), for mamba times log2(e), and the largest -A of each channel, infinity where one is positive or not a
    number."""
    rates = _columns(A, c0, c1)
    scale = like(LOG2_E, A[0, 0]) if disc == 0 else like(1.0, A[0, 0])
    reach = np.zeros(c1 - c0, A.dtype)
    for n in range(len(rates)):
        for i in range(len(reach)):
            rates[n, i] *= scale
            reach[i] = max(reach[i], -rates[n, i]) if rates[n, i] <= 0 else np.inf
    return rates, reach


@njit(**OPTIONS)
def _tamed(disc, dt, reach):
    """TAME_MAMBA instead of mamba where no exponential of a step needs guards."""
    tame = 0
    limit = like(TAME_REACH, dt[0])
    for i in range(len(dt)):
        tame += 1 if dt[i] >= 0 and dt[i] * reach[i] <= limit else 0
    return TAME_MAMBA if disc == 0 and tame == len(dt) else disc


@njit(**OPTIONS)
def _entries(matrix, constant, bi, t, g, n, row):
    """Entries of B or C for a row of channels: the constant's, or `row`, filled with the varying one's number."""
    if matrix.size == 0:
        return constant[n]
    for i in range(len(row)):
        row[i] = matrix[bi, t, g, n]
    return row


@njit(**OPTIONS)
def _blocks(per_group, size):
    return (per_group + size - 1) // size


@njit(**OPTIONS)
def _unit(index, dim, ngroups, size):
    """Batch entry, group, block and channels [c0, c1) of a unit of work of up to `size` channels."""
    per_group = dim // ngroups
    nblocks = _blocks(per_group, size)
    block = index % nblocks
    g = index // nblocks % ngroups
    c0 = g * per_group + block * size
    return index // nblocks // ngroups, g, block, c0, min(c0 + size, (g + 1) * per_group)


@njit(**OPTIONS)
def _groups(B, C):
    """Groups of B or C, whichever varies; 1 where neither does."""
    return max(B.shape[2], C.shape[2], 1)


@njit(**OPTIONS)
def _forward_block(lots, per_group, threads):
    """Channels of a unit of the forward pass, which no result depends on: long rows, but work for every thread."""
    width = max(per_group, 1)
    blocks = max(-(-width // FORWARD_BLOCK), -(-threads // max(lots, 1)))
    return -(-width // blocks // 16) * 16


@kernel("r3 r3 r2 r4 r2 r4 r2 r1 r3 r1 r3 w3 w3 w4 int int", pass_threads=True)
def selective_scan_fwd(
    u, delta, A, B, B_constant, C, C_constant, D, z, bias, initial_state, out, last_state, checkpoints, disc, softplus,
    num_threads,
):  # fmt: skip
    """Fills `out` (batch, seqlen, dim), `last_state` (batch, dim, dstate) and, unless None, `checkpoints`
    (batch, nchunks, dstate, dim), the states before every CHUNK-th step."""
    batch, seqlen, dim = u.shape
    dstate, ngroups = A.shape[1], _groups(B, C)
    per_group = dim // ngroups
    size = _forward_block(batch * ngroups, per_group, num_threads)
    for index in prange(batch * ngroups * _blocks(per_group, size)):
        bi, g, _, c0, c1 = _unit(index, dim, ngroups, size)
        width = c1 - c0
        rows = np.empty((5, width), u.dtype)
        dt, dtu, y, b, c = rows[0], rows[1], rows[2], rows[3], rows[4]
        Bt, Ct = _columns(B_constant, c0, c1), _columns(C_constant, c0, c1)
        rates, reach = _rates(disc, A, c0, c1)
        h = np.zeros((dstate, width), u.dtype)
        if initial_state.size > 0:
            h = _columns(initial_state[bi], c0, c1)
        for t in range(seqlen):
            if checkpoints.size > 0 and t % CHUNK == 0:
                for n in range(dstate):
                    for i in range(width):
                        checkpoints[bi, t // CHUNK, n, c0 + i] = h[n, i]
            ut = u[bi, t, c0:c1]
            _steps(delta[bi, t, c0:c1], bias[c0:c1], ut, softplus, dt, dtu)
            way = _tamed(disc, dt, reach)
            y[:] = 0
            for n in range(dstate):
                if B.size > 0 and C.size > 0:
                    _advance(way, dt, rates[n], dtu, B[bi, t, g, n], C[bi, t, g, n], h[n], y)
                else:
                    b_row, c_row = _entries(B, Bt, bi, t, g, n, b), _entries(C, Ct, bi, t, g, n, c)
                    _advance(way, dt, rates[n], dtu, b_row, c_row, h[n], y)
            if D.size > 0:
                for i in range(width):
                    y[i] += D[c0 + i] * ut[i]
            if z.size > 0:
                for i in range(width):
                    zi = z[bi, t, c0 + i]
                    y[i] *= zi * sigmoid(zi)
            for i in range(width):
                out[bi, t, c0 + i] = y[i]
        _store(h, last_state[bi], c0)


@kernel("r3 r3 r3 r3 r2 r4 r2 r4 r2 r1 r3 r1 r4 w3 w3 w3 w5 w3 w5 w3 w2 w3 w2 w3 int int")
def selective_scan_bwd(
    dout, dlast_state, u, delta, A, B, B_constant, C, C_constant, D, z, bias, checkpoints,
    du, ddelta, dA, dB, dB_constant, dC, dC_constant, dD, dz, ddelta_bias, dinitial_state, disc, softplus,
):  # fmt: skip
    """Fills the gradients. Sums over batch entries and channel blocks are left to the caller: dA, dD, ddelta_bias and
    constant dB, dC have an axis of parts first, one for every span of batch entries; varying dB and dC are (nblocks, batch,
    seqlen, ngroups, dstate)."""
    batch, seqlen, dim = u.shape
    dstate, ngroups = A.shape[1], _groups(B, C)
    per_group = dim // ngroups
    nchunks = (seqlen + CHUNK - 1) // CHUNK
    size = _block_of(per_group, batch * ngroups)
    for index in prange(batch * ngroups * _blocks(per_group, size)):
        bi, g, block, c0, c1 = _unit(index, dim, ngroups, size)
        width = c1 - c0
        rows = np.zeros((9, width), u.dtype)
        gain, dx, dy, sum_A, sum_B, sum_D, sum_bias, b, c = (
            rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], rows[8],
        )  # fmt: skip
        Bt, Ct = _columns(B_constant, c0, c1), _columns(C_constant, c0, c1)
        At = _columns(A, c0, c1)
        rates, reach = _rates(disc, A, c0, c1)
        dAt = np.zeros((dstate, width), u.dtype)
        db, dc = np.zeros((dstate, width), u.dtype), np.zeros((dstate, width), u.dtype)
        dh = np.zeros((dstate, width), u.dtype)
        if dlast_state.size > 0:
            dh = _columns(dlast_state[bi], c0, c1)
        h = np.empty((CHUNK + 1, dstate, width), u.dtype)
        tile = np.empty((3, CHUNK, width), u.dtype)
        dt, dtu, y = tile[0], tile[1], tile[2]
        for chunk in range(nchunks - 1, -1, -1):
            t0 = chunk * CHUNK
            steps = min(CHUNK, seqlen - t0)
            for n in range(dstate):
                for i in range(width):
                    h[0, n, i] = checkpoints[bi, chunk, n, c0 + i]
            for k in range(steps):
                t = t0 + k
                _steps(delta[bi, t, c0:c1], bias[c0:c1], u[bi, t, c0:c1], softplus, dt[k], dtu[k])
                way = _tamed(disc, dt[k], reach)
                y[k] = 0
                for n in range(dstate):
                    for i in range(width):
                        h[k + 1, n, i] = h[k, n, i]
                    if B.size > 0 and C.size > 0:
                        _advance(way, dt[k], rates[n], dtu[k], B[bi, t, g, n], C[bi, t, g, n], h[k + 1, n], y[k])
                    else:
                        b_row, c_row = _entries(B, Bt, bi, t, g, n, b), _entries(C, Ct, bi, t, g, n, c)
                        _advance(way, dt[k], rates[n], dtu[k], b_row, c_row, h[k + 1, n], y[k])
            for k in range(steps - 1, -1, -1):
                t = t0 + k
                ut = u[bi, t, c0:c1]
                for i in range(width):
                    dy[i] = dout[bi, t, c0 + i]
                if z.size > 0:
                    for i in range(width):
                        zi = z[bi, t, c0 + i]
                        gate = sigmoid(zi)
                        total = y[k, i]
                        if D.size > 0:
                            total += D[c0 + i] * ut[i]
                        dz[bi, t, c0 + i] = dy[i] * total * gate * (1 + zi * (1 - gate))
                        dy[i] *= zi * gate
                sum_A[:] = 0
                sum_B[:] = 0
                for n in range(dstate):
                    before, after = h[k, n], h[k + 1, n]
                    flows = (before, after, gain, dx, dh[n], dAt[n], sum_A, sum_B)
                    if B.size > 0 and C.size > 0:
                        _retreat(disc, dt[k], dtu[k], At[n], B[bi, t, g, n], C[bi, t, g, n], dy, *flows)
                    else:
                        b_row, c_row = _entries(B, Bt, bi, t, g, n, b), _entries(C, Ct, bi, t, g, n, c)
                        _retreat(disc, dt[k], dtu[k], At[n], b_row, c_row, dy, *flows)
                    if B.size > 0:
                        dB[block, bi, t, g, n] = _dot(gain, dtu[k])
                    else:
                        _add_product(db[n], gain, dtu[k])
                    if C.size > 0:
                        dC[block, bi, t, g, n] = _dot(dy, after)
                    else:
                        _add_product(dc[n], dy, after)
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
                            slope *= sigmoid(raw)
                    du[bi, t, c0 + i] = total
                    ddelta[bi, t, c0 + i] = slope
                    sum_bias[i] += slope
        _store(dAt, dA[bi], c0)
        _store(dh, dinitial_state[bi], c0)
        if B_constant.size > 0:
            _store(db, dB_constant[bi], c0)
        if C_constant.size > 0:
            _store(dc, dC_constant[bi], c0)
        for i in range(width):
            if D.size > 0:
                dD[bi, c0 + i] = sum_D[i]
            if bias.size > 0:
                ddelta_bias[bi, c0 + i] = sum_bias[i]
