# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=True
"""Depthwise 3x3 convolution on the C kernels. Grids are views (batch, height, width, dim) with any strides; the other arrays are
C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "api.h" nogil:
    enum: SSMCORE_NO_MEMORY
    ctypedef struct ssm_grid:
        void *data
        int64_t batch, row, column, dim
    ctypedef struct ssm_dwconv:
        int64_t batch, height, width, dim
        int silu, num_threads
        ssm_grid x, dout, out, dx
        const void *weight
        const void *bias
        void *dweight
        void *dbias
    int ssm_dwconv_fwd(const ssm_dwconv *conv, int isa, int is_double)
    int ssm_dwconv_bwd(const ssm_dwconv *conv, int isa, int is_double)

ctypedef fused real:
    float
    double


cdef ssm_grid grid(const real[:, :, :, :] x) noexcept:
    cdef ssm_grid view
    view.data = <void *> &x[0, 0, 0, 0]
    view.batch = x.strides[0] // <int64_t> sizeof(real)
    view.row = x.strides[1] // <int64_t> sizeof(real)
    view.column = x.strides[2] // <int64_t> sizeof(real)
    view.dim = x.strides[3] // <int64_t> sizeof(real)
    return view


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
    conv.weight = <const void *> &weight[0, 0, 0]
    if bias is not None:
        conv.bias = <const void *> &bias[0]
    return conv


cdef int finish(int status) except -1:
    if status == SSMCORE_NO_MEMORY:
        raise MemoryError("depthwise_conv2d: no memory for the kernel's scratch; use fewer threads")
    if status:
        raise RuntimeError("depthwise_conv2d: this processor does not run the instruction set asked for")
    return 0


def depthwise_conv2d_fwd(
    const real[:, :, :, :] x,
    const real[:, :, ::1] weight,
    const real[::1] bias,
    real[:, :, :, :] out,
    bint silu,
    int num_threads,
    int isa,
):
    """Fills `out` (batch, height, width, dim)."""
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] == 0 or x.shape[3] == 0:
        return
    cdef ssm_dwconv conv = conv_of(x, weight, bias, silu, num_threads)
    cdef int status
    conv.out = grid[real](out)
    with nogil:
        status = ssm_dwconv_fwd(&conv, isa, sizeof(real) == 8)
    finish(status)


def depthwise_conv2d_bwd(
    const real[:, :, :, :] dout,
    const real[:, :, :, :] x,
    const real[:, :, ::1] weight,
    const real[::1] bias,
    real[:, :, :, :] dx,
    real[:, :, :, ::1] dweight,
    real[:, ::1] dbias,
    bint silu,
    int num_threads,
    int isa,
):
    """Fills `dx`, and `dweight`, `dbias` with a batch axis first, whose sum is left to the caller."""
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] == 0 or x.shape[3] == 0:
        return
    cdef ssm_dwconv conv = conv_of(x, weight, bias, silu, num_threads)
    cdef int status
    conv.dout = grid(dout)
    conv.dx = grid[real](dx)
    conv.dweight = <void *> &dweight[0, 0, 0, 0]
    if dbias is not None:
        conv.dbias = <void *> &dbias[0, 0]
    with nogil:
        status = ssm_dwconv_bwd(&conv, isa, sizeof(real) == 8)
    finish(status)
