"""The passes of an attention gate in numba. Twin of binding.pyx, on C-contiguous grids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from ..common.jit import OPTIONS, signatures, threads
from ..common.vecmath import like, sigmoid

PARALLEL = {"parallel": True, **OPTIONS}


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


@njit(signatures(4, 4, 3, reads=2, flags=1), **PARALLEL)
def _moments(theta, phi, partial, rows):
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


@njit(signatures(4, 4, 2, 3, reads=3, flags=0), **PARALLEL)
def _compare(theta, phi, k, q):
    batch, height, width, dim = theta.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            t, p, total = theta[b, y, i], phi[b, y, i], like(0.0, k[0, 0])
            for c in range(dim):
                a = _compared(t, p, k, c)
                total += (like(0.0, a) if a < 0 else a) * k[3, c]
            q[b, y, i] = total


@njit(signatures(4, 3, 1, 4, reads=3, flags=0), **PARALLEL)
def _apply(x, q, line, out):
    batch, height, width, channels = x.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            rate = sigmoid(line[0] * q[b, y, i] + line[1])
            for c in range(channels):
                out[b, y, i, c] = x[b, y, i, c] * rate


@njit(signatures(4, 4, 3, 1, 4, 3, reads=4, flags=0), **PARALLEL)
def _retract(dout, x, q, line, dx, dq):
    batch, height, width, channels = x.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            rate = sigmoid(line[0] * q[b, y, i] + line[1])
            total = like(0.0, rate)
            for c in range(channels):
                total += dout[b, y, i, c] * x[b, y, i, c]
            for c in range(channels):
                dx[b, y, i, c] = dout[b, y, i, c] * rate
            dq[b, y, i] = total * rate * (like(1.0, rate) - rate)


@njit(signatures(4, 4, 2, 3, 3, reads=4, flags=1), **PARALLEL)
def _sums(theta, phi, k, dq, partial, rows):
    _, height, width, dim = theta.shape
    for index in prange(len(partial)):
        b, y0, y1 = _strip(index, height, rows)
        sums = partial[index]
        sums[:] = 0
        for y in range(y0, y1):
            for i in range(width):
                t, p, d = theta[b, y, i], phi[b, y, i], dq[b, y, i]
                for c in range(dim):
                    a = _compared(t, p, k, c)
                    da = d * k[3, c] if a > 0 else like(0.0, a)
                    sums[0, c] += da
                    sums[1, c] += da * (t[c] - k[4, c])
                    sums[2, c] += da * (p[c] - k[5, c])
                    sums[3, c] += (like(0.0, a) if a < 0 else a) * d


@njit(signatures(4, 4, 2, 3, 4, 4, reads=4, flags=0), **PARALLEL)
def _spread(theta, phi, k, dq, dtheta, dphi):
    batch, height, width, dim = theta.shape
    for index in prange(batch * height):
        b, y = index // height, index % height
        for i in range(width):
            t, p, d = theta[b, y, i], phi[b, y, i], dq[b, y, i]
            for c in range(dim):
                da = d * k[3, c] if _compared(t, p, k, c) > 0 else like(0.0, d)
                dtheta[b, y, i, c] = k[0, c] * da + (k[6, c] + k[7, c] * (t[c] - k[4, c]))
                dphi[b, y, i, c] = k[1, c] * da + (k[8, c] + k[9, c] * (p[c] - k[5, c]))


def moments(theta: Any, phi: Any, partial: Any, rows: int, num_threads: int) -> None:
    """Fills `partial` with means and sums of squares about them, of theta and of phi."""
    with threads(num_threads):
        _moments(theta, phi, partial, rows)


def compare(theta: Any, phi: Any, coefficients: Any, q: Any, rows: int, num_threads: int) -> None:
    """Fills `q` (batch, height, width), the sum over channels of psi relu(a)."""
    with threads(num_threads):
        _compare(theta, phi, coefficients, q)


def apply(x: Any, q: Any, gain: float, offset: float, out: Any, rows: int, num_threads: int) -> None:
    """Fills `out` with x times sigmoid(gain q + offset)."""
    with threads(num_threads):
        _apply(x, q, np.array([gain, offset], x.dtype), out)


def retract(
    dout: Any, x: Any, q: Any, gain: float, offset: float, dx: Any, dq: Any, rows: int, num_threads: int
) -> None:
    """Fills `dx`, and `dq` with the gradient of gain q + offset."""
    with threads(num_threads):
        _retract(dout, x, q, np.array([gain, offset], x.dtype), dx, dq)


def sums(theta: Any, phi: Any, coefficients: Any, dq: Any, partial: Any, rows: int, num_threads: int) -> None:
    """Fills `partial` with the sums of da, da (theta - mean), da (phi - mean) and dq relu(a), da = dq psi where a > 0."""
    with threads(num_threads):
        _sums(theta, phi, coefficients, dq, partial, rows)


def spread(
    theta: Any, phi: Any, coefficients: Any, dq: Any, dtheta: Any, dphi: Any, rows: int, num_threads: int
) -> None:
    """Fills `dtheta` and `dphi`: da scaled, what the statistics take off it added."""
    with threads(num_threads):
        _spread(theta, phi, coefficients, dq, dtheta, dphi)
