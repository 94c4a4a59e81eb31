"""The scan of scalar decays in numba, a step after the other. Twin of the C kernel, on C-contiguous arrays."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..._conventions import CHECKPOINT_STEPS
from ..common.jit import OPTIONS, kernel
from ..common.vecmath import exp2, like

CHUNK = CHECKPOINT_STEPS
LOG2_E = 1.4426950408889634


@njit(**OPTIONS)
def _starts(starts, b, t):
    return starts.size > 0 and t > 0 and starts[b, t] != 0


@njit(**OPTIONS)
def _copy(to, states):
    for n in range(to.shape[0]):
        for p in range(to.shape[1]):
            to[n, p] = states[n, p]


@njit(**OPTIONS)
def _step(h, decay, x, dt, B):
    """One step of a head's state (dstate, headdim)."""
    for n in range(h.shape[0]):
        gain = dt * B[n]
        row = h[n]
        for p in range(h.shape[1]):
            row[p] = decay * row[p] + gain * x[p]


@kernel("r4 r3 r1 r4 r4 r2 r4 r2 w4 w4 w5 int")
def chunk_scan_fwd(x, dt, A, B, C, D, initial, starts, out, last, kept, block):
    """Fills `out`, `last` and, unless None, `kept` with the states before every chunk. No axis may be empty."""
    batch, seqlen, nheads, headdim = x.shape
    ngroups, dstate = B.shape[2:]
    for unit in prange(batch * nheads):
        b, head = unit // nheads, unit % nheads
        g = head // (nheads // ngroups)
        rate = A[head] * like(LOG2_E, A[head])
        h = np.zeros((dstate, headdim), x.dtype)
        if initial.size > 0:
            _copy(h, initial[b, head].T)
        for t in range(seqlen):
            if kept.size > 0 and t % CHUNK == 0:
                _copy(kept[b, t // CHUNK, head], h)
            decay = exp2(dt[b, t, head] * rate)
            if _starts(starts, b, t):
                h[:] = 0
            _step(h, decay, x[b, t, head], dt[b, t, head], B[b, t, g])
            y = out[b, t, head]
            for p in range(headdim):
                y[p] = D[head, p] * x[b, t, head, p] if D.size > 0 else like(0.0, y[p])
            for n in range(dstate):
                c = C[b, t, g, n]
                for p in range(headdim):
                    y[p] += c * h[n, p]
        _copy(last[b, head].T, h)


@kernel("r4 r4 r4 r3 r1 r4 r4 r2 r2 r5 w4 w3 w2 w5 w5 w3 w4 int")
def chunk_scan_bwd(dout, dlast, x, dt, A, B, C, D, starts, kept, dx, ddt, dA, dB, dC, dD, dinitial, block):
    """Fills the gradients; those of A and D have a batch axis first, those of B and C an axis of blocks of heads, to be summed by
    the caller. No axis may be empty.
    """
    batch, seqlen, nheads, headdim = x.shape
    ngroups, dstate = B.shape[2:]
    members = nheads // ngroups
    nblocks = dB.shape[0]
    for unit in prange(batch * ngroups * nblocks):
        b, g, part = unit // (ngroups * nblocks), unit // nblocks % ngroups, unit % nblocks
        dB[part, b, :, g] = 0
        dC[part, b, :, g] = 0
        h = np.empty((CHUNK + 1, dstate, headdim), x.dtype)
        for head in range(g * members + part * block, g * members + min((part + 1) * block, members)):
            rate = A[head] * like(LOG2_E, A[head])
            dh = np.zeros((dstate, headdim), x.dtype)
            if dlast.size > 0:
                _copy(dh, dlast[b, head].T)
            sum_A = like(0.0, rate)
            if dD.size > 0:
                dD[b, head] = 0
            for chunk in range((seqlen - 1) // CHUNK, -1, -1):
                first, end = chunk * CHUNK, min((chunk + 1) * CHUNK, seqlen)
                _copy(h[0], kept[b, chunk, head])
                for t in range(first, end):
                    after = h[t - first + 1]
                    if _starts(starts, b, t):
                        after[:] = 0
                    else:
                        _copy(after, h[t - first])
                    _step(after, exp2(dt[b, t, head] * rate), x[b, t, head], dt[b, t, head], B[b, t, g])
                for t in range(end - 1, first - 1, -1):
                    before, after = h[t - first], h[t - first + 1]
                    step = dt[b, t, head]
                    decay = exp2(step * rate)
                    fresh = _starts(starts, b, t)
                    dy, at, to = dout[b, t, head], x[b, t, head], dx[b, t, head]
                    dlog, through_x = like(0.0, step), like(0.0, step)
                    for p in range(headdim):
                        to[p] = D[head, p] * dy[p] if D.size > 0 else like(0.0, step)
                        if dD.size > 0:
                            dD[b, head, p] += dy[p] * at[p]
                    for n in range(dstate):
                        c, e = C[b, t, g, n], B[b, t, g, n]
                        through_C, through_B, through_h = like(0.0, step), like(0.0, step), like(0.0, step)
                        for p in range(headdim):
                            d = dh[n, p] + c * dy[p]
                            through_C += dy[p] * after[n, p]
                            through_B += d * at[p]
                            if not fresh:
                                through_h += d * before[n, p]
                            to[p] += step * e * d
                            dh[n, p] = like(0.0, step) if fresh else decay * d
                        dC[part, b, t, g, n] += through_C
                        dB[part, b, t, g, n] += step * through_B
                        dlog += through_h
                        through_x += e * through_B
                    dlog *= decay
                    ddt[b, t, head] = dlog * A[head] + through_x
                    sum_A += dlog * step
            dA[b, head] = sum_A
            _copy(dinitial[b, head].T, dh)
