"""Depthwise 3x3 convolution in numba. Twin of the C kernel, on C-contiguous (batch, height, width, dim)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..common.jit import OPTIONS, kernel
from ..common.vecmath import like, sigmoid


@njit(**OPTIONS)
def _row(x, rows, bias, b, y, y_row):
    """Sums before SiLU of one row of positions, (width, dim)."""
    height, width, dim = x.shape[1:]
    for i in range(width):
        sums = y_row[i]
        for c in range(dim):
            sums[c] = bias[c] if bias.size > 0 else like(0.0, sums[c])
        for k in range(9):
            at_y, at_x = y + k // 3 - 1, i + k % 3 - 1
            if 0 <= at_y < height and 0 <= at_x < width:
                row, near = rows[k], x[b, at_y, at_x]
                for c in range(dim):
                    sums[c] += row[c] * near[c]


@kernel("r4 r3 r1 w4 int")
def depthwise_conv2d_fwd(x, weight, bias, out, silu):
    """Fills `out` (batch, height, width, dim)."""
    batch, height, width, dim = x.shape
    rows = np.ascontiguousarray(weight.reshape(dim, 9).T)
    for unit in prange(batch * height):
        b, y = unit // height, unit % height
        _row(x, rows, bias, b, y, out[b, y])
        if silu:
            for i in range(width):
                sums = out[b, y, i]
                for c in range(dim):
                    sums[c] *= sigmoid(sums[c])


@kernel("r4 r4 r3 r1 w4 w4 w2 int")
def depthwise_conv2d_bwd(dout, x, weight, bias, dx, dweight, dbias, silu):
    """Fills `dx`, and `dweight`, `dbias` with a batch axis first, whose sum is left to the caller."""
    batch, height, width, dim = x.shape
    rows = np.ascontiguousarray(weight.reshape(dim, 9).T)
    for b in prange(batch):
        drows = np.zeros((9, dim), x.dtype)
        sum_bias = np.zeros(dim, x.dtype)
        y_row = np.empty((width, dim), x.dtype)
        d = np.empty(dim, x.dtype)
        dx[b] = 0
        for y in range(height):
            if silu:
                _row(x, rows, bias, b, y, y_row)
            for i in range(width):
                given, sums = dout[b, y, i], y_row[i]
                for c in range(dim):
                    d[c] = given[c]
                    if silu:
                        gate = sigmoid(sums[c])
                        d[c] *= gate * (like(1.0, gate) + sums[c] * (like(1.0, gate) - gate))
                    sum_bias[c] += d[c]
                for k in range(9):
                    at_y, at_x = y + k // 3 - 1, i + k % 3 - 1
                    if 0 <= at_y < height and 0 <= at_x < width:
                        row, drow, near, dnear = rows[k], drows[k], x[b, at_y, at_x], dx[b, at_y, at_x]
                        for c in range(dim):
                            drow[c] += d[c] * near[c]
                            dnear[c] += d[c] * row[c]
        for c in range(dim):
            for k in range(9):
                dweight[b, c, k // 3, k % 3] = drows[k, c]
            if dbias.size > 0:
                dbias[b, c] = sum_bias[c]
