"""The scan of scalar decays in numba, a step after the other. Twin of binding.pyx, on C-contiguous arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from ..._conventions import CHECKPOINT_STEPS
from ..common.jit import OPTIONS, present, signatures, threads
from ..common.vecmath import exp2, like

CHUNK = CHECKPOINT_STEPS
LOG2_E = 1.4426950408889634


@njit(**OPTIONS)
def _starts(starts, b, t):
    return starts.size > 0 and t > 0 and starts[b, t] != 0


@njit(**OPTIONS)
def _step(h, decay, x, dt, B):
    """One step of a head's state (dstate, headdim)."""
    for n in range(h.shape[0]):
        gain = dt * B[n]
        row = h[n]
        for p in range(h.shape[1]):
            row[p] = decay * row[p] + gain * x[p]


@njit(signatures(4, 3, 1, 4, 4, 2, 4, 2, 4, 4, 5, reads=8, flags=0), parallel=True, **OPTIONS)
def _forward(x, dt, A, B, C, D, initial, starts, out, last, kept):
    batch, seqlen, nheads, headdim = x.shape
    ngroups, dstate = B.shape[2:]
    for unit in prange(batch * nheads):
        b, head = unit // nheads, unit % nheads
        g = head // (nheads // ngroups)
        rate = A[head] * like(LOG2_E, A[head])
        h = np.zeros((dstate, headdim), x.dtype)
        if initial.size > 0:
            h[:] = initial[b, head].T
        for t in range(seqlen):
            if kept.size > 0 and t % CHUNK == 0:
                kept[b, t // CHUNK, head] = h
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
        last[b, head] = h.T


@njit(signatures(4, 4, 4, 3, 1, 4, 4, 2, 2, 5, 4, 3, 2, 5, 5, 3, 4, reads=10, flags=1), parallel=True, **OPTIONS)
def _backward(dout, dlast, x, dt, A, B, C, D, starts, kept, dx, ddt, dA, dB, dC, dD, dinitial, block):
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
                dh[:] = dlast[b, head].T
            sum_A = like(0.0, rate)
            if dD.size > 0:
                dD[b, head] = 0
            for chunk in range((seqlen - 1) // CHUNK, -1, -1):
                first, end = chunk * CHUNK, min((chunk + 1) * CHUNK, seqlen)
                h[0] = kept[b, chunk, head]
                for t in range(first, end):
                    after = h[t - first + 1]
                    if _starts(starts, b, t):
                        after[:] = 0
                    else:
                        after[:] = h[t - first]
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
            dinitial[b, head] = dh.T


def chunk_scan_fwd(
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    initial: Any,
    starts: Any,
    out: Any,
    last: Any,
    kept: Any,
    block: int,
    num_threads: int,
) -> None:
    """Fills `out`, `last` and, unless None, `kept` with the states before every chunk. No axis may be empty."""
    optional = present(D, 2, x.dtype), present(initial, 4, x.dtype), _marks(starts, x.dtype)
    with threads(num_threads):
        _forward(x, dt, A, B, C, *optional, out, last, present(kept, 5, x.dtype))


def chunk_scan_bwd(
    dout: Any,
    dlast: Any,
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    starts: Any,
    kept: Any,
    dx: Any,
    ddt: Any,
    dA: Any,
    dB: Any,
    dC: Any,
    dD: Any,
    dinitial: Any,
    block: int,
    num_threads: int,
) -> None:
    """Fills the gradients; those of A and D have a batch axis first, those of B and C an axis of blocks of heads, to be summed by
    the caller. No axis may be empty.
    """
    dtype = x.dtype
    optional = present(D, 2, dtype), _marks(starts, dtype)
    with threads(num_threads):
        _backward(
            dout,
            present(dlast, 4, dtype),
            x,
            dt,
            A,
            B,
            C,
            *optional,
            kept,
            dx,
            ddt,
            dA,
            dB,
            dC,
            present(dD, 3, dtype),
            dinitial,
            block,
        )


def _marks(starts: Any, dtype: Any) -> Any:
    """The marks of started sequences in the type of the other arrays, which one signature then serves."""
    return np.empty((0, 0), dtype) if starts is None else starts.astype(dtype)
