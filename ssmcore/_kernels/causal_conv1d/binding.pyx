# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=True
"""Causal depthwise convolution on the C kernels. Sequences are views (batch, seqlen, dim) with any strides; the other arrays are
C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "api.h" nogil:
    enum: SSMCORE_NO_MEMORY
    ctypedef struct ssm_in:
        const void *data
        int64_t batch, time, dim, direction
    ctypedef struct ssm_out:
        void *data
        int64_t batch, time, dim, direction
    ctypedef struct ssm_conv:
        int64_t batch, dim, seqlen, taps
        int silu, num_threads
        ssm_in x, dout
        const void *weight
        const void *bias
        const void *initial
        ssm_out out, dx
        void *dweight
        void *dbias
        void *dinitial
    int ssm_conv_fwd(const ssm_conv *conv, int isa, int is_double)
    int ssm_conv_bwd(const ssm_conv *conv, int isa, int is_double)

ctypedef fused real:
    float
    double


cdef ssm_in reads(const real[:, :, :] x) noexcept:
    cdef ssm_in view
    memset(&view, 0, sizeof(view))
    view.data = <const void *> &x[0, 0, 0]
    view.batch = x.strides[0] // <int64_t> sizeof(real)
    view.time = x.strides[1] // <int64_t> sizeof(real)
    view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_out writes(real[:, :, :] x) noexcept:
    cdef ssm_out view
    memset(&view, 0, sizeof(view))
    view.data = <void *> &x[0, 0, 0]
    view.batch = x.strides[0] // <int64_t> sizeof(real)
    view.time = x.strides[1] // <int64_t> sizeof(real)
    view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_conv conv_of(
    const real[:, :, :] x,
    const real[:, ::1] weight,
    const real[::1] bias,
    const real[:, :, ::1] initial,
    bint silu,
    int num_threads,
) noexcept:
    cdef ssm_conv conv
    memset(&conv, 0, sizeof(conv))
    conv.batch = x.shape[0]
    conv.seqlen = x.shape[1]
    conv.dim = x.shape[2]
    conv.taps = weight.shape[1]
    conv.silu = silu
    conv.num_threads = num_threads
    conv.x = reads(x)
    conv.weight = <const void *> &weight[0, 0]
    if bias is not None:
        conv.bias = <const void *> &bias[0]
    if initial is not None and conv.taps > 1:
        conv.initial = <const void *> &initial[0, 0, 0]
    return conv


cdef int finish(int status) except -1:
    if status == SSMCORE_NO_MEMORY:
        raise MemoryError("causal_conv1d: no memory for the kernel's scratch; use fewer threads")
    if status:
        raise RuntimeError("causal_conv1d: this processor does not run the instruction set asked for")
    return 0


def causal_conv1d_fwd(
    const real[:, :, :] x,
    const real[:, ::1] weight,
    const real[::1] bias,
    const real[:, :, ::1] initial,
    real[:, :, :] out,
    bint silu,
    int num_threads,
    int isa,
):
    """Fills `out` (batch, seqlen, dim)."""
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] == 0:
        return
    cdef ssm_conv conv = conv_of(x, weight, bias, initial, silu, num_threads)
    cdef int status
    conv.out = writes(out)
    with nogil:
        status = ssm_conv_fwd(&conv, isa, sizeof(real) == 8)
    finish(status)


def causal_conv1d_bwd(
    const real[:, :, :] dout,
    const real[:, :, :] x,
    const real[:, ::1] weight,
    const real[::1] bias,
    const real[:, :, ::1] initial,
    real[:, :, :] dx,
    real[:, :, ::1] dweight,
    real[:, ::1] dbias,
    real[:, :, ::1] dinitial,
    bint silu,
    int num_threads,
    int isa,
):
    """Fills `dx`, and `dweight`, `dbias` with a batch axis first, whose sum is left to the caller, and `dinitial`."""
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] == 0:
        return
    cdef ssm_conv conv = conv_of(x, weight, bias, initial, silu, num_threads)
    cdef int status
    conv.dout = reads(dout)
    conv.dx = writes(dx)
    conv.dweight = <void *> &dweight[0, 0, 0]
    if dbias is not None:
        conv.dbias = <void *> &dbias[0, 0]
    if conv.taps > 1:
        conv.dinitial = <void *> &dinitial[0, 0, 0]
    with nogil:
        status = ssm_conv_bwd(&conv, isa, sizeof(real) == 8)
    finish(status)
