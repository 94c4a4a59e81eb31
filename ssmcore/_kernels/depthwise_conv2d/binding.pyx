"""Depthwise 3x3 convolution on the C kernels. Grids are views (batch, height, width, dim) with any strides; the other arrays are
C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport grid, real, run, ssm_grid, start1, start2, start3, start4

cdef extern from "api.h" nogil:
    ctypedef struct ssm_dwconv:
        int64_t batch, height, width, dim
        int silu, num_threads
        ssm_grid x, dout, out, dx
        const void *weight
        const void *bias
        void *dweight
        void *dbias
    int ssmcore_dwconv_fwd(const void *task, int isa, int is_double)
    int ssmcore_dwconv_bwd(const void *task, int isa, int is_double)


cdef ssm_dwconv conv_of(
    const real[:, :, :, :] x, const real[:, :, ::1] weight, const real[::1] bias, bint silu, int num_threads
) noexcept:
    cdef ssm_dwconv conv
    memset(&conv, 0, sizeof(conv))
    conv.batch = x.shape[0]
    conv.height = x.shape[1]
    conv.width = x.shape[2]
    conv.dim = x.shape[3]
    conv.silu = silu
    conv.num_threads = num_threads
    conv.x = grid(x)
    conv.weight = start3(weight)
    conv.bias = start1(bias)
    return conv


def depthwise_conv2d_fwd(
    const real[:, :, :, :] x, const real[:, :, ::1] weight, const real[::1] bias, real[:, :, :, :] out, bint silu,
    int num_threads, int isa
):
    """Fills `out` (batch, height, width, dim)."""
    if x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3] == 0:
        return
    cdef ssm_dwconv conv = conv_of(x, weight, bias, silu, num_threads)
    conv.out = grid[real](out)
    run("depthwise_conv2d", ssmcore_dwconv_fwd, &conv, isa, sizeof(real) == 8)


def depthwise_conv2d_bwd(
    const real[:, :, :, :] dout, const real[:, :, :, :] x, const real[:, :, ::1] weight, const real[::1] bias,
    real[:, :, :, :] dx, real[:, :, :, ::1] dweight, real[:, ::1] dbias, bint silu, int num_threads, int isa
):
    """Fills `dx`, and `dweight`, `dbias` with a batch axis first, whose sum is left to the caller."""
    if x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3] == 0:
        return
    cdef ssm_dwconv conv = conv_of(x, weight, bias, silu, num_threads)
    conv.dout = grid(dout)
    conv.dx = grid[real](dx)
    conv.dweight = start4(dweight)
    conv.dbias = start2(dbias)
    run("depthwise_conv2d", ssmcore_dwconv_bwd, &conv, isa, sizeof(real) == 8)
