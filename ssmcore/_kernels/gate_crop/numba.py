"""Centre crop and its adjoint over rows in numba: fills `out`. Twin of the C kernel."""

from __future__ import annotations

from ..common.jit import kernel


@kernel("r3 int int w3", parallel=False)
def gate_crop(g, top, left, out):
    """out (outer, height, width) receives the window of g (outer, g_height, g_width) that starts at (top, left)."""
    outer, height, width = out.shape
    for i in range(outer):
        for row in range(height):
            for column in range(width):
                out[i, row, column] = g[i, top + row, left + column]


@kernel("r3 int int w3", parallel=False)
def gate_crop_vjp(dout, top, left, dg):
    """dg (outer, g_height, g_width) receives dout in the window and zeros around it."""
    outer, height, width = dout.shape
    dg[:] = 0
    for i in range(outer):
        for row in range(height):
            for column in range(width):
                dg[i, top + row, left + column] = dout[i, row, column]
