"""Selective scan on the C kernels, of sequences and of grids: fills `out`, `last_state`, `checkpoints`, and the gradients.

Every sequence is a view (batch, seqlen, dim) with any strides; B and C are (batch, seqlen, ngroups, dstate) with any
strides, or contiguous (dim, dstate). A grid's positions are numbered row by row; what its four directions have each of
their own lies in (batch, position, direction, ...). The other arrays are C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport SSMCORE_CHUNK, real, run, sequence, ssm_sequence, start1, start2, start3, start4, start5

cdef extern from "api.h" nogil:
    ctypedef struct ssm_matrix:
        const void *data
        int64_t batch, time, group, state
        int constant
    ctypedef struct ssm_scan:
        int64_t batch, dim, seqlen, dstate, ngroups
        int64_t directions, width, block, span
        int discretization, delta_softplus, num_threads
        ssm_sequence u, delta, z, dout
        ssm_matrix B, C
        const void *A
        const void *D
        const void *delta_bias
        const void *initial_state
        ssm_sequence out
        void *last_state
        void *checkpoints
        ssm_sequence du, ddelta, dz
        const void *dlast_state
        void *dinitial_state
        void *dA
        void *dB
        void *dC
        void *dD
        void *ddelta_bias
    int ssmcore_scan_fwd(const void *task, int isa, int is_double)
    int ssmcore_scan_bwd(const void *task, int isa, int is_double)

CHUNK = SSMCORE_CHUNK
NARROW, WIDE = 64, 384
cdef enum:
    UNITS = 8
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")


def block_of(dim: int, lots: int, units: int = UNITS) -> int:
    """Channels of a unit of work, of `dim` channels that share B and C, where `lots` such sets are to be done: whole vectors, at most
    WIDE. Blocks shrink to NARROW, in an even number, while there are fewer than `units` units of work.

    A wide unit costs less: it sums its gradients of B and C over the lanes once for all its channels. Many units keep many threads busy.
    The gradients' bits depend on the block, so the backward pass uses UNITS on every machine: four units for each of two threads.
    More threads share what units the shapes give, one for each set and each WIDE channels at least. No bit of the forward pass
    depends on the block."""
    narrow = -(-dim // NARROW) or 1
    if dim > NARROW // 2:
        narrow += narrow % 2
    blocks = max(-(-dim // WIDE), min(narrow, -(-units // max(lots, 1))))
    return -(-dim // blocks // 16) * 16 or 16


def parts_of(batch: int, seqlen: int) -> int:
    """Lots of `span_of` batch entries."""
    return -(-batch // span_of(batch, seqlen))


def span_of(batch: int, seqlen: int) -> int:
    """Batch entries a unit of work covers: together about CHUNK steps, so that what is done once a unit costs little."""
    return max(1, min(batch, CHUNK // max(seqlen, 1)))


cdef ssm_sequence sequences(const real[:, :, :, :] x) noexcept:
    """(batch, position, direction, dim)."""
    cdef ssm_sequence view = sequence(x[:, :, 0])
    view.direction = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_matrix varying(const real[:, :, :, :] x) noexcept:
    cdef ssm_matrix view
    view.constant = False
    view.data = <void *> &x[0, 0, 0, 0]
    view.batch = x.strides[0] // <int64_t> sizeof(real)
    view.time = x.strides[1] // <int64_t> sizeof(real)
    view.group = x.strides[2] // <int64_t> sizeof(real)
    view.state = x.strides[3] // <int64_t> sizeof(real)
    return view


cdef ssm_matrix varying_or_constant(const real[:, :, :, :] x, const real[:, ::1] constant) noexcept:
    if constant is None:
        return varying(x)
    cdef ssm_matrix view
    view.batch = view.time = view.group = view.state = 0
    view.constant = True
    view.data = start2(constant)
    return view


cdef ssm_scan empty_scan(
    const real[:, :, :] u, int64_t dstate, int discretization, bint delta_softplus, int num_threads
) noexcept:
    """Sizes, input and options of a scan of sequences, everything else absent."""
    cdef ssm_scan scan
    memset(&scan, 0, sizeof(scan))
    scan.batch = u.shape[0]
    scan.seqlen = u.shape[1]
    scan.dim = u.shape[2]
    scan.dstate = dstate
    scan.ngroups = 1
    scan.directions = 1
    scan.width = scan.seqlen
    scan.u = sequence(u)
    scan.discretization = discretization
    scan.delta_softplus = delta_softplus
    scan.num_threads = num_threads
    return scan


cdef ssm_scan scan_of(
    const real[:, :, :] u, const real[:, :, :] delta, const real[:, ::1] A, const real[:, :, :, :] B_varying,
    const real[:, ::1] B_constant, const real[:, :, :, :] C_varying, const real[:, ::1] C_constant, const real[::1] D,
    const real[:, :, :] z, const real[::1] delta_bias, int discretization, bint delta_softplus, int num_threads, int64_t units
) except *:
    cdef ssm_scan scan = empty_scan(u, A.shape[1], discretization, delta_softplus, num_threads)
    if B_varying is not None:
        scan.ngroups = B_varying.shape[2]
    elif C_varying is not None:
        scan.ngroups = C_varying.shape[2]
    scan.block = block_of(scan.dim // scan.ngroups, scan.ngroups * parts_of(scan.batch, scan.seqlen), units)
    scan.span = span_of(scan.batch, scan.seqlen)
    scan.delta = sequence(delta)
    scan.z = sequence(z)
    scan.B = varying_or_constant(B_varying, B_constant)
    scan.C = varying_or_constant(C_varying, C_constant)
    scan.A = start2(A)
    scan.D = start1(D)
    scan.delta_bias = start1(delta_bias)
    return scan


cdef ssm_scan grid_of(
    const real[:, :, :] x, const real[:, :, :, :] delta, const real[:, :, ::1] A, const real[:, :, :, :] B,
    const real[:, :, :, :] C, const real[:, ::1] D, const real[:, ::1] delta_bias, int64_t width, int discretization,
    bint delta_softplus, int num_threads, int64_t units
) except *:
    cdef ssm_scan scan = empty_scan(x, A.shape[2], discretization, delta_softplus, num_threads)
    scan.directions = A.shape[0]
    scan.width = width
    scan.block = block_of(scan.dim, parts_of(scan.batch, scan.seqlen), units)
    scan.span = span_of(scan.batch, scan.seqlen)
    scan.delta = sequences(delta)
    scan.B = varying(B)
    scan.C = varying(C)
    scan.A = start3(A)
    scan.D = start2(D)
    scan.delta_bias = start2(delta_bias)
    return scan


def selective_scan_fwd(
    const real[:, :, :] u, const real[:, :, :] delta, const real[:, ::1] A, const real[:, :, :, :] B_varying,
    const real[:, ::1] B_constant, const real[:, :, :, :] C_varying, const real[:, ::1] C_constant, const real[::1] D,
    const real[:, :, :] z, const real[::1] delta_bias, const real[:, :, ::1] initial_state, real[:, :, :] out,
    real[:, :, ::1] last_state, real[:, :, :, ::1] checkpoints, int discretization, bint delta_softplus,
    int num_threads, int isa
):
    """Fills `out` (batch, seqlen, dim), `last_state` (batch, dim, dstate) and, unless None, `checkpoints`
    (batch, nchunks, dstate, dim), the states before every CHUNK-th step."""
    if u.shape[0] * u.shape[2] * A.shape[1] == 0:
        return
    cdef ssm_scan scan = scan_of(
        u, delta, A, B_varying, B_constant, C_varying, C_constant, D, z, delta_bias, discretization, delta_softplus,
        num_threads, max(UNITS, 4 * num_threads)
    )
    scan.out = sequence[real](out)
    scan.last_state = start3(last_state)
    scan.initial_state = start3(initial_state)
    scan.checkpoints = start4(checkpoints)
    run("selective_scan", ssmcore_scan_fwd, &scan, isa, sizeof(real) == 8)


def selective_scan_bwd(
    const real[:, :, :] dout, const real[:, :, ::1] dlast_state, const real[:, :, :] u, const real[:, :, :] delta,
    const real[:, ::1] A, const real[:, :, :, :] B_varying, const real[:, ::1] B_constant,
    const real[:, :, :, :] C_varying, const real[:, ::1] C_constant, const real[::1] D, const real[:, :, :] z,
    const real[::1] delta_bias, const real[:, :, :, ::1] checkpoints, real[:, :, :] du, real[:, :, :] ddelta,
    real[:, :, ::1] dA, real[:, :, :, :, ::1] dB_varying, real[:, :, ::1] dB_constant,
    real[:, :, :, :, ::1] dC_varying, real[:, :, ::1] dC_constant, real[:, ::1] dD, real[:, :, :] dz,
    real[:, ::1] ddelta_bias, real[:, :, ::1] dinitial_state, int discretization, bint delta_softplus, int num_threads,
    int isa
):
    """Fills the gradients. Sums over batch entries and channel blocks are left to the caller: dA, dD, ddelta_bias and
    constant dB, dC have an axis of parts first, one for every span of batch entries; varying dB and dC are (nblocks, batch,
    seqlen, ngroups, dstate)."""
    if u.shape[0] * u.shape[2] * A.shape[1] == 0:
        return
    cdef ssm_scan scan = scan_of(
        u, delta, A, B_varying, B_constant, C_varying, C_constant, D, z, delta_bias, discretization, delta_softplus,
        num_threads, UNITS
    )
    scan.dout = sequence(dout)
    scan.dlast_state = start3(dlast_state)
    scan.checkpoints = start4(checkpoints)
    scan.du = sequence[real](du)
    scan.ddelta = sequence[real](ddelta)
    scan.dz = sequence[real](dz)
    scan.dA = start3(dA)
    scan.dB = start3(dB_constant) if dB_constant is not None else start5(dB_varying)
    scan.dC = start3(dC_constant) if dC_constant is not None else start5(dC_varying)
    scan.dD = start2(dD)
    scan.ddelta_bias = start2(ddelta_bias)
    scan.dinitial_state = start3(dinitial_state)
    run("selective_scan", ssmcore_scan_bwd, &scan, isa, sizeof(real) == 8)


def ss2d_fwd(
    const real[:, :, :] x, const real[:, :, :, :] delta, const real[:, :, ::1] A, const real[:, :, :, :] B,
    const real[:, :, :, :] C, const real[:, ::1] D, const real[:, ::1] delta_bias, real[:, :, :] out,
    real[:, :, :, :, ::1] checkpoints, int64_t width, int discretization, bint delta_softplus, int num_threads, int isa
):
    """Fills `out` (batch, position, dim), the sum of the four directions, and, unless None, `checkpoints` (direction,
    batch, nchunks, dstate, dim)."""
    if x.shape[0] * x.shape[1] * x.shape[2] == 0:
        return
    cdef ssm_scan scan = grid_of(
        x, delta, A, B, C, D, delta_bias, width, discretization, delta_softplus, num_threads, max(UNITS, 4 * num_threads)
    )
    scan.out = sequence[real](out)
    scan.checkpoints = start5(checkpoints)
    run("selective_scan", ssmcore_scan_fwd, &scan, isa, sizeof(real) == 8)


def ss2d_bwd(
    const real[:, :, :] dout, const real[:, :, :] x, const real[:, :, :, :] delta, const real[:, :, ::1] A,
    const real[:, :, :, :] B, const real[:, :, :, :] C, const real[:, ::1] D, const real[:, ::1] delta_bias,
    const real[:, :, :, :, ::1] checkpoints, real[:, :, :] dx, real[:, :, :, :] ddelta, real[:, :, :, ::1] dA,
    real[:, :, :, :, ::1] dB, real[:, :, :, :, ::1] dC, real[:, :, ::1] dD, real[:, :, ::1] ddelta_bias, int64_t width,
    int discretization, bint delta_softplus, int num_threads, int isa
):
    """Fills the gradients. Sums over batch entries and channel blocks are left to the caller: dA, dD and ddelta_bias have an
    axis of parts first, one for every span of batch entries; dB and dC are (nblocks, batch, position, direction, dstate)."""
    if x.shape[0] * x.shape[1] * x.shape[2] == 0:
        return
    cdef ssm_scan scan = grid_of(
        x, delta, A, B, C, D, delta_bias, width, discretization, delta_softplus, num_threads, UNITS
    )
    scan.dout = sequence(dout)
    scan.checkpoints = start5(checkpoints)
    scan.du = sequence[real](dx)
    scan.ddelta = sequences[real](ddelta)
    scan.dA = start4(dA)
    scan.dB = start5(dB)
    scan.dC = start5(dC)
    scan.dD = start3(dD)
    scan.ddelta_bias = start3(ddelta_bias)
    run("selective_scan", ssmcore_scan_bwd, &scan, isa, sizeof(real) == 8)
