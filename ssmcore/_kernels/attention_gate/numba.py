"""The passes of an attention gate in numba. Twin of the C kernel, on C-contiguous grids."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..common.jit import OPTIONS, kernel
from ..common.vecmath import like, sigmoid


@njit(**OPTIONS)
def _strip(index, height, rows):
    """Batch entry and rows [y0, y1) of a unit of work."""
    strips = (height + rows - 1) // rows
    y0 = index % strips * rows
    return index // strips, y0, min(y0 + rows, height)


@njit(**OPTIONS)
def _add_moment(grid, b, y0, y1, mean, total, squares):
    for y in range(y0, y1):
        for i in range(grid.shape[2]):
            row = grid[b, y, i]
            for c in range(len(total)):
                value = row[c] - mean[c]
                total[c] += value * value if squares else value


@kernel("r4 r4 w3 int")
def moments(theta, phi, partial, rows):
    """Fills `partial` with means and sums of squares about them, of theta and of phi."""
    _, height, width, dim = theta.shape
    for index in prange(len(partial)):
        b, y0, y1 = _strip(index, height, rows)
        nothing = np.zeros(dim, theta.dtype)
        for which in range(2):
            grid = theta if which == 0 else phi
            mean, squares = partial[index, 2 * which], partial[index, 2 * which + 1]
            mean[:] = 0
            squares[:] = 0
            _add_moment(grid, b, y0, y1, nothing, mean, False)
            for c in range(dim):
                mean[c] /= (y1 - y0) * width
            _add_moment(grid, b, y0, y1, mean, squares, True)


@njit(**OPTIONS)
def _compared(theta, phi, k, c):
    return theta[c] * k[0, c] + (phi[c] * k[1, c] + k[2, c])


@kernel("r4 r4 r2 w3 int")
def compare(theta, phi, k, q, rows):
    """Fills `q` (batch, height, width), the sum over channels of psi relu(a)."""
    batch, height, width, dim = theta.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            t, p, total = theta[b, y, i], phi[b, y, i], like(0.0, k[0, 0])
            for c in range(dim):
                a = _compared(t, p, k, c)
                total += (like(0.0, a) if a < 0 else a) * k[3, c]
            q[b, y, i] = total


@kernel("r4 r3 real real w4 int")
def apply(x, q, gain, offset, out, rows):
    """Fills `out` with x times sigmoid(gain q + offset)."""
    batch, height, width, channels = x.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            rate = sigmoid(gain * q[b, y, i] + offset)
            for c in range(channels):
                out[b, y, i, c] = x[b, y, i, c] * rate


@kernel("r4 r4 r3 real real w4 w3 int")
def retract(dout, x, q, gain, offset, dx, dq, rows):
    """Fills `dx`, and `dq` with the gradient of gain q + offset."""
    batch, height, width, channels = x.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            rate = sigmoid(gain * q[b, y, i] + offset)
            total = like(0.0, rate)
            for c in range(channels):
                total += dout[b, y, i, c] * x[b, y, i, c]
            for c in range(channels):
                dx[b, y, i, c] = dout[b, y, i, c] * rate
            dq[b, y, i] = total * rate * (like(1.0, rate) - rate)


@kernel("r4 r4 r2 r3 w3 int")
def sums(theta, phi, k, dq, partial, rows):
    """Fills `partial` with the sums of da, da (theta - mean), da (phi - mean) and dq relu(a), da = dq psi where a > 0."""
    _, height, width, dim = theta.shape
    for index in prange(len(partial)):
        b, y0, y1 = _strip(index, height, rows)
        total = partial[index]
        total[:] = 0
        for y in range(y0, y1):
            for i in range(width):
                t, p, d = theta[b, y, i], phi[b, y, i], dq[b, y, i]
                for c in range(dim):
                    a = _compared(t, p, k, c)
                    da = d * k[3, c] if a > 0 else like(0.0, a)
                    total[0, c] += da
                    total[1, c] += da * (t[c] - k[4, c])
                    total[2, c] += da * (p[c] - k[5, c])
                    total[3, c] += (like(0.0, a) if a < 0 else a) * d


@kernel("r4 r4 r2 r3 w4 w4 int")
def spread(theta, phi, k, dq, dtheta, dphi, rows):
    """Fills `dtheta` and `dphi`: da scaled, what the statistics take off it added."""
    batch, height, width, dim = theta.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            t, p, d = theta[b, y, i], phi[b, y, i], dq[b, y, i]
            for c in range(dim):
                da = d * k[3, c] if _compared(t, p, k, c) > 0 else like(0.0, d)
                dtheta[b, y, i, c] = k[0, c] * da + (k[6, c] + k[7, c] * (t[c] - k[4, c]))
                dphi[b, y, i, c] = k[1, c] * da + (k[8, c] + k[9, c] * (p[c] - k[5, c]))
