"""Causal depthwise convolution on the C kernels. Sequences are views (batch, seqlen, dim) with any strides; the other arrays are
C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport real, run, sequence, ssm_sequence, start1, start2, start3

cdef extern from "api.h" nogil:
    ctypedef struct ssm_conv:
        int64_t batch, dim, seqlen, taps
        int silu, num_threads
        ssm_sequence x, dout
        const void *weight
        const void *bias
        const void *initial
        ssm_sequence out, dx
        void *dweight
        void *dbias
        void *dinitial
    int ssmcore_conv_fwd(const void *task, int isa, int is_double)
    int ssmcore_conv_bwd(const void *task, int isa, int is_double)


cdef ssm_conv conv_of(
    const real[:, :, :] x, const real[:, ::1] weight, const real[::1] bias, const real[:, :, ::1] initial, bint silu,
    int num_threads
) noexcept:
    cdef ssm_conv conv
    memset(&conv, 0, sizeof(conv))
    conv.batch = x.shape[0]
    conv.seqlen = x.shape[1]
    conv.dim = x.shape[2]
    conv.taps = weight.shape[1]
    conv.silu = silu
    conv.num_threads = num_threads
    conv.x = sequence(x)
    conv.weight = start2(weight)
    conv.bias = start1(bias)
    if initial is not None and conv.taps > 1:
        conv.initial = start3(initial)
    return conv


def causal_conv1d_fwd(
    const real[:, :, :] x, const real[:, ::1] weight, const real[::1] bias, const real[:, :, ::1] initial,
    real[:, :, :] out, bint silu, int num_threads, int isa
):
    """Fills `out` (batch, seqlen, dim)."""
    if x.shape[0] * x.shape[1] * x.shape[2] == 0:
        return
    cdef ssm_conv conv = conv_of(x, weight, bias, initial, silu, num_threads)
    conv.out = sequence[real](out)
    run("causal_conv1d", ssmcore_conv_fwd, &conv, isa, sizeof(real) == 8)


def causal_conv1d_bwd(
    const real[:, :, :] dout, const real[:, :, :] x, const real[:, ::1] weight, const real[::1] bias,
    const real[:, :, ::1] initial, real[:, :, :] dx, real[:, :, ::1] dweight, real[:, ::1] dbias,
    real[:, :, ::1] dinitial, bint silu, int num_threads, int isa
):
    """Fills `dx`, and `dweight`, `dbias` with a batch axis first, whose sum is left to the caller, and `dinitial`."""
    if x.shape[0] * x.shape[1] * x.shape[2] == 0:
        return
    cdef ssm_conv conv = conv_of(x, weight, bias, initial, silu, num_threads)
    conv.dout = sequence(dout)
    conv.dx = sequence[real](dx)
    conv.dweight = start3(dweight)
    conv.dbias = start2(dbias)
    if conv.taps > 1:
        conv.dinitial = start3(dinitial)
    run("causal_conv1d", ssmcore_conv_bwd, &conv, isa, sizeof(real) == 8)
