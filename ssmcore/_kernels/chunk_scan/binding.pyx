"""The scan of scalar decays by chunks, on the C kernels. `x`, `B`, `C` and `dout` are views whose last axis lies in one piece; the
other arrays are C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport real, run, start1, start2, start3, start4, start5

cdef extern from "api.h" nogil:
    ctypedef struct ssm_rows:
        void *data
        int64_t batch, time, head
    ctypedef struct ssm_chunks:
        int64_t batch, seqlen, nheads, ngroups, headdim, dstate, block
        int num_threads
        ssm_rows x, B, C, dout
        const void *dt
        const void *A
        const void *D
        const void *initial
        const unsigned char *starts
        void *out
        void *last
        void *kept
        const void *dlast
        void *dx
        void *ddt
        void *dinitial
        void *dA
        void *dD
        void *dB
        void *dC
    int ssmcore_chunks_fwd(const void *task, int isa, int is_double)
    int ssmcore_chunks_bwd(const void *task, int isa, int is_double)


cdef ssm_rows rows_of(const real[:, :, :, :] x) noexcept:
    cdef ssm_rows view
    view.data = <void *> &x[0, 0, 0, 0]
    view.batch = x.strides[0] // <int64_t> sizeof(real)
    view.time = x.strides[1] // <int64_t> sizeof(real)
    view.head = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_chunks chunks_of(
    const real[:, :, :, :] x, const real[:, :, ::1] dt, const real[::1] A, const real[:, :, :, :] B,
    const real[:, :, :, :] C, const real[:, ::1] D, const unsigned char[:, ::1] starts, int64_t block, int num_threads
) noexcept:
    cdef ssm_chunks chunks
    memset(&chunks, 0, sizeof(chunks))
    chunks.batch = x.shape[0]
    chunks.seqlen = x.shape[1]
    chunks.nheads = x.shape[2]
    chunks.headdim = x.shape[3]
    chunks.ngroups = B.shape[2]
    chunks.dstate = B.shape[3]
    chunks.block = block
    chunks.num_threads = num_threads
    chunks.x = rows_of(x)
    chunks.B = rows_of(B)
    chunks.C = rows_of(C)
    chunks.dt = start3(dt)
    chunks.A = start1(A)
    chunks.D = start2(D)
    if starts is not None:
        chunks.starts = &starts[0, 0]
    return chunks


def chunk_scan_fwd(
    const real[:, :, :, :] x, const real[:, :, ::1] dt, const real[::1] A, const real[:, :, :, :] B,
    const real[:, :, :, :] C, const real[:, ::1] D, const real[:, :, :, ::1] initial,
    const unsigned char[:, ::1] starts, real[:, :, :, ::1] out, real[:, :, :, ::1] last, real[:, :, :, :, ::1] kept,
    int64_t block, int num_threads, int isa
):
    """Fills `out`, `last` and, unless None, `kept` with the states before every chunk. No axis may be empty."""
    cdef ssm_chunks chunks = chunks_of(x, dt, A, B, C, D, starts, block, num_threads)
    chunks.initial = start4(initial)
    chunks.out = start4(out)
    chunks.last = start4(last)
    chunks.kept = start5(kept)
    run("chunk_scan", ssmcore_chunks_fwd, &chunks, isa, sizeof(real) == 8)


def chunk_scan_bwd(
    const real[:, :, :, :] dout, const real[:, :, :, ::1] dlast, const real[:, :, :, :] x, const real[:, :, ::1] dt,
    const real[::1] A, const real[:, :, :, :] B, const real[:, :, :, :] C, const real[:, ::1] D,
    const unsigned char[:, ::1] starts, real[:, :, :, :, ::1] kept, real[:, :, :, ::1] dx, real[:, :, ::1] ddt,
    real[:, ::1] dA, real[:, :, :, :, ::1] dB, real[:, :, :, :, ::1] dC, real[:, :, ::1] dD,
    real[:, :, :, ::1] dinitial, int64_t block, int num_threads, int isa
):
    """Fills the gradients; those of A and D have a batch axis first, those of B and C an axis of blocks of heads, to be summed by
    the caller. No axis may be empty.
    """
    cdef ssm_chunks chunks = chunks_of(x, dt, A, B, C, D, starts, block, num_threads)
    chunks.dout = rows_of(dout)
    chunks.dlast = start4(dlast)
    chunks.kept = start5(kept)
    chunks.dx = start4(dx)
    chunks.ddt = start3(ddt)
    chunks.dA = start2(dA)
    chunks.dB = start5(dB)
    chunks.dC = start5(dC)
    chunks.dD = start3(dD)
    chunks.dinitial = start4(dinitial)
    run("chunk_scan", ssmcore_chunks_bwd, &chunks, isa, sizeof(real) == 8)
