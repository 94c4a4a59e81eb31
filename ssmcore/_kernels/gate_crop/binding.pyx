"""Centre crop and its adjoint over rows: fills `out`."""
from libc.string cimport memcpy, memset

from ssmcore._kernels.common.views cimport real


def gate_crop(const real[:, :, ::1] g, Py_ssize_t top, Py_ssize_t left, real[:, :, ::1] out):
    """out (outer, height, width) receives the window of g (outer, g_height, g_width) that starts at (top, left)."""
    cdef Py_ssize_t i, row
    cdef Py_ssize_t outer = out.shape[0], height = out.shape[1], width = out.shape[2]
    if outer * height * width == 0:
        return
    with nogil:
        for i in range(outer):
            for row in range(height):
                memcpy(&out[i, row, 0], &g[i, top + row, left], width * sizeof(real))


def gate_crop_vjp(const real[:, :, ::1] dout, Py_ssize_t top, Py_ssize_t left, real[:, :, ::1] dg):
    """dg (outer, g_height, g_width) receives dout in the window and zeros around it."""
    cdef Py_ssize_t i, row
    cdef Py_ssize_t outer = dg.shape[0], height = dout.shape[1], width = dout.shape[2]
    if outer * dg.shape[1] * dg.shape[2] == 0:
        return
    with nogil:
        memset(&dg[0, 0, 0], 0, outer * dg.shape[1] * dg.shape[2] * sizeof(real))
        if width > 0:
            for i in range(outer):
                for row in range(height):
                    memcpy(&dg[i, top + row, left], &dout[i, row, 0], width * sizeof(real))
