"""Centre crop and its adjoint over rows in numba: fills `out`. Twin of binding.pyx."""

from __future__ import annotations

from numba import njit, types

_PLANES = {
    real: (types.Array(real, 3, "C", readonly=True), types.Array(real, 3, "C"))
    for real in (types.float32, types.float64)
}
_SIGNATURES = [types.void(read, types.int64, types.int64, write) for read, write in _PLANES.values()]


@njit(_SIGNATURES, cache=True)
def gate_crop(g, top, left, out):
    """out (outer, height, width) receives the window of g (outer, g_height, g_width) that starts at (top, left)."""
    outer, height, width = out.shape
    for i in range(outer):
        for row in range(height):
            for column in range(width):
                out[i, row, column] = g[i, top + row, left + column]


@njit(_SIGNATURES, cache=True)
def gate_crop_vjp(dout, top, left, dg):
    """dg (outer, g_height, g_width) receives dout in the window and zeros around it."""
    outer, height, width = dout.shape
    dg[:] = 0
    for i in range(outer):
        for row in range(height):
            for column in range(width):
                dg[i, top + row, left + column] = dout[i, row, column]
