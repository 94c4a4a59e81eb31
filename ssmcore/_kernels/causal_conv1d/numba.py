"""Causal depthwise convolution in numba. Twin of the C kernel, on C-contiguous (batch, seqlen, dim)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..common.jit import OPTIONS, kernel
from ..common.vecmath import like, sigmoid


@njit(**OPTIONS)
def _at(x, initial, past, b, t, c):
    """Input at step t, which may lie before the first."""
    if t >= 0:
        return x[b, t, c]
    return initial[b, c, past + t] if initial.size > 0 else like(0.0, x[b, 0, c])


@kernel("r3 r2 r1 r3 w3 int")
def causal_conv1d_fwd(x, weight, bias, initial, out, silu):
    """Fills `out` (batch, seqlen, dim)."""
    batch, seqlen, dim = x.shape
    taps = weight.shape[1]
    past = taps - 1
    rows = np.ascontiguousarray(weight.T)
    for unit in prange(batch * seqlen):
        b, t = unit // seqlen, unit % seqlen
        y = out[b, t]
        for c in range(dim):
            y[c] = bias[c] if bias.size > 0 else like(0.0, y[c])
        for k in range(taps):
            row = rows[k]
            if t - past + k >= 0:
                before = x[b, t - past + k]
                for c in range(dim):
                    y[c] += row[c] * before[c]
            elif initial.size > 0:
                for c in range(dim):
                    y[c] += row[c] * initial[b, c, t + k]
        if silu:
            for c in range(dim):
                y[c] *= sigmoid(y[c])


@kernel("r3 r3 r2 r1 r3 w3 w3 w2 w3 int")
def causal_conv1d_bwd(dout, x, weight, bias, initial, dx, dweight, dbias, dinitial, silu):
    """Fills `dx`, and `dweight`, `dbias` with a batch axis first, whose sum is left to the caller, and `dinitial`."""
    batch, seqlen, dim = x.shape
    taps = weight.shape[1]
    past = taps - 1
    for unit in prange(batch * dim):
        b, c = unit // dim, unit % dim
        w = weight[c]
        dw = dweight[b, c]
        dw[:] = 0
        sum_bias = like(0.0, w[0])
        for i in range(past):
            dinitial[b, c, i] = 0
        for t in range(seqlen):
            dx[b, t, c] = 0
        for t in range(seqlen):
            d = dout[b, t, c]
            if silu:
                y = bias[c] if bias.size > 0 else like(0.0, d)
                for k in range(taps):
                    y += w[k] * _at(x, initial, past, b, t - past + k, c)
                gate = sigmoid(y)
                d *= gate * (like(1.0, y) + y * (like(1.0, y) - gate))
            sum_bias += d
            for k in range(taps):
                s = t - past + k
                dw[k] += d * _at(x, initial, past, b, s, c)
                if s >= 0:
                    dx[b, s, c] += d * w[k]
                else:
                    dinitial[b, c, past + s] += d * w[k]
        if dbias.size > 0:
            dbias[b, c] = sum_bias
