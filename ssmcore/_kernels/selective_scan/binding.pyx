# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=True
"""Selective scan on the C kernels, of sequences and of grids: fills `out`, `last_state`, `checkpoints`, and the gradients.

Every sequence is a view (batch, seqlen, dim) with any strides; B and C are (batch, seqlen, ngroups, dstate) with any
strides, or contiguous (dim, dstate). A grid's positions are numbered row by row; what its four directions have each of
their own lies in (batch, position, direction, ...). The other arrays are C-contiguous. Shapes are the caller's to check.
"""
import os

from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "api.h" nogil:
    enum: SSMCORE_CHUNK
    enum: SSMCORE_NO_MEMORY
    enum: SSMCORE_NO_ISA
    ctypedef struct ssm_in:
        const void *data
        int64_t batch, time, dim, direction
    ctypedef struct ssm_out:
        void *data
        int64_t batch, time, dim, direction
    ctypedef struct ssm_matrix:
        const void *data
        int64_t batch, time, group, state
        int constant
    ctypedef struct ssm_scan:
        int64_t batch, dim, seqlen, dstate, ngroups
        int64_t directions, width, block, span
        int discretization, delta_softplus, num_threads
        ssm_in u, delta, z, dout
        ssm_matrix B, C
        const void *A
        const void *D
        const void *delta_bias
        const void *initial_state
        ssm_out out
        void *last_state
        void *checkpoints
        ssm_out du, ddelta, dz
        const void *dlast_state
        void *dinitial_state
        void *dA
        void *dB
        void *dC
        void *dD
        void *ddelta_bias
    int ssm_best_isa()
    int ssm_openmp_threads()
    int ssm_scan_fwd(const ssm_scan *scan, int isa, int is_double)
    int ssm_scan_bwd(const ssm_scan *scan, int isa, int is_double)

CHUNK = SSMCORE_CHUNK
NARROW, WIDE = 64, 384
UNITS = 4 * (os.cpu_count() or 1)
ISAS = ("generic", "avx2", "avx512")
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")

ctypedef fused real:
    float
    double


def best_isa() -> str:
    """The widest instruction set compiled in that this processor runs."""
    return ISAS[ssm_best_isa()]


def block_of(dim: int, lots: int) -> int:
    """Channels a unit of work covers, of `dim` that share B and C, where there are `lots` of such channels to do: up to WIDE, evenly,
    in whole vectors. Down to NARROW, and in an even number of blocks where there are enough for two, since threads come in pairs,
    while units are fewer than UNITS, four a processor: a unit adds up its gradients of B and C over the lanes once for all
    its channels, so wide blocks take less time, as long as no thread waits.

    Sums over channels depend on it, so it depends on the machine and the shapes, and not on how many threads run."""
    narrow = -(-dim // NARROW) or 1
    if dim > NARROW // 2:
        narrow += narrow % 2
    blocks = max(-(-dim // WIDE), min(narrow, -(-UNITS // max(lots, 1))))
    return -(-dim // blocks // 16) * 16 or 16


def parts_of(batch: int, seqlen: int) -> int:
    """Lots of `span_of` batch entries."""
    return -(-batch // span_of(batch, seqlen))


def span_of(batch: int, seqlen: int) -> int:
    """Batch entries a unit of work covers: together about CHUNK steps, so that what is done once a unit costs little."""
    return max(1, min(batch, CHUNK // max(seqlen, 1)))


def openmp_threads() -> int:
    """Threads OpenMP would use now, by OMP_NUM_THREADS or threadpoolctl; 0 for kernels compiled without, which run on one."""
    return ssm_openmp_threads()


cdef ssm_in reads(const real[:, :, :] x) noexcept:
    cdef ssm_in view
    view.data = NULL
    view.batch = view.time = view.dim = view.direction = 0
    if x is not None:
        view.data = <const void *> &x[0, 0, 0]
        view.batch = x.strides[0] // <int64_t> sizeof(real)
        view.time = x.strides[1] // <int64_t> sizeof(real)
        view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_out writes(real[:, :, :] x) noexcept:
    cdef ssm_out view
    view.data = NULL
    view.batch = view.time = view.dim = view.direction = 0
    if x is not None:
        view.data = <void *> &x[0, 0, 0]
        view.batch = x.strides[0] // <int64_t> sizeof(real)
        view.time = x.strides[1] // <int64_t> sizeof(real)
        view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_in reads_each(const real[:, :, :, :] x) noexcept:
    """(batch, position, direction, dim)."""
    cdef ssm_in view = reads(x[:, :, 0])
    view.direction = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_out writes_each(real[:, :, :, :] x) noexcept:
    cdef ssm_out view = writes(x[:, :, 0])
    view.direction = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_matrix varying(const real[:, :, :, :] x) noexcept:
    cdef ssm_matrix view
    view.constant = False
    view.data = <const void *> &x[0, 0, 0, 0]
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
    view.data = <const void *> &constant[0, 0]
    return view


cdef ssm_scan empty_scan(const real[:, :, :] u, int64_t dstate) noexcept:
    """Sizes and input of a scan of sequences, everything else absent."""
    cdef ssm_scan scan
    memset(&scan, 0, sizeof(scan))
    scan.batch = u.shape[0]
    scan.seqlen = u.shape[1]
    scan.dim = u.shape[2]
    scan.dstate = dstate
    scan.ngroups = 1
    scan.directions = 1
    scan.width = scan.seqlen
    scan.u = reads(u)
    return scan


cdef ssm_scan scan_of(
    const real[:, :, :] u,
    const real[:, :, :] delta,
    const real[:, ::1] A,
    const real[:, :, :, :] B_varying,
    const real[:, ::1] B_constant,
    const real[:, :, :, :] C_varying,
    const real[:, ::1] C_constant,
    const real[::1] D,
    const real[:, :, :] z,
    const real[::1] delta_bias,
) except *:
    cdef ssm_scan scan = empty_scan(u, A.shape[1])
    if B_varying is not None:
        scan.ngroups = B_varying.shape[2]
    elif C_varying is not None:
        scan.ngroups = C_varying.shape[2]
    scan.block = block_of(scan.dim // scan.ngroups, scan.ngroups * parts_of(scan.batch, scan.seqlen))
    scan.span = span_of(scan.batch, scan.seqlen)
    scan.delta = reads(delta)
    scan.z = reads(z)
    scan.B = varying_or_constant(B_varying, B_constant)
    scan.C = varying_or_constant(C_varying, C_constant)
    scan.A = <const void *> &A[0, 0]
    scan.D = <const void *> &D[0] if D is not None else NULL
    scan.delta_bias = <const void *> &delta_bias[0] if delta_bias is not None else NULL
    return scan


cdef ssm_scan grid_of(
    const real[:, :, :] x,
    const real[:, :, :, :] delta,
    const real[:, :, ::1] A,
    const real[:, :, :, :] B,
    const real[:, :, :, :] C,
    const real[:, ::1] D,
    const real[:, ::1] delta_bias,
    int64_t width,
) except *:
    cdef ssm_scan scan = empty_scan(x, A.shape[2])
    scan.directions = A.shape[0]
    scan.width = width
    scan.block = block_of(scan.dim, parts_of(scan.batch, scan.seqlen))
    scan.span = span_of(scan.batch, scan.seqlen)
    scan.delta = reads_each(delta)
    scan.B = varying(B)
    scan.C = varying(C)
    scan.A = <const void *> &A[0, 0, 0]
    scan.D = <const void *> &D[0, 0] if D is not None else NULL
    scan.delta_bias = <const void *> &delta_bias[0, 0] if delta_bias is not None else NULL
    return scan


cdef int finish(int status) except -1:
    if status == SSMCORE_NO_MEMORY:
        raise MemoryError("selective_scan: no memory for the kernel's scratch; use fewer threads or a smaller dstate")
    if status == SSMCORE_NO_ISA:
        raise RuntimeError("selective_scan: this processor does not run the instruction set asked for")
    return 0


def selective_scan_fwd(
    const real[:, :, :] u,
    const real[:, :, :] delta,
    const real[:, ::1] A,
    const real[:, :, :, :] B_varying,
    const real[:, ::1] B_constant,
    const real[:, :, :, :] C_varying,
    const real[:, ::1] C_constant,
    const real[::1] D,
    const real[:, :, :] z,
    const real[::1] delta_bias,
    const real[:, :, ::1] initial_state,
    real[:, :, :] out,
    real[:, :, ::1] last_state,
    real[:, :, :, ::1] checkpoints,
    int discretization,
    bint delta_softplus,
    int num_threads,
    int isa,
):
    """Fills `out` (batch, seqlen, dim), `last_state` (batch, dim, dstate) and, unless None, `checkpoints`
    (batch, nchunks, dstate, dim), the states before every CHUNK-th step."""
    if u.shape[0] == 0 or u.shape[2] == 0 or A.shape[1] == 0:
        return
    cdef ssm_scan scan = scan_of(u, delta, A, B_varying, B_constant, C_varying, C_constant, D, z, delta_bias)
    cdef int status
    scan.discretization = discretization
    scan.delta_softplus = delta_softplus
    scan.num_threads = num_threads
    scan.out = writes(out)
    scan.last_state = <void *> &last_state[0, 0, 0]
    if initial_state is not None:
        scan.initial_state = <const void *> &initial_state[0, 0, 0]
    if checkpoints is not None:
        scan.checkpoints = <void *> &checkpoints[0, 0, 0, 0]
    with nogil:
        status = ssm_scan_fwd(&scan, isa, sizeof(real) == 8)
    finish(status)


def selective_scan_bwd(
    const real[:, :, :] dout,
    const real[:, :, ::1] dlast_state,
    const real[:, :, :] u,
    const real[:, :, :] delta,
    const real[:, ::1] A,
    const real[:, :, :, :] B_varying,
    const real[:, ::1] B_constant,
    const real[:, :, :, :] C_varying,
    const real[:, ::1] C_constant,
    const real[::1] D,
    const real[:, :, :] z,
    const real[::1] delta_bias,
    const real[:, :, :, ::1] checkpoints,
    real[:, :, :] du,
    real[:, :, :] ddelta,
    real[:, :, ::1] dA,
    real[:, :, :, :, ::1] dB_varying,
    real[:, :, ::1] dB_constant,
    real[:, :, :, :, ::1] dC_varying,
    real[:, :, ::1] dC_constant,
    real[:, ::1] dD,
    real[:, :, :] dz,
    real[:, ::1] ddelta_bias,
    real[:, :, ::1] dinitial_state,
    int discretization,
    bint delta_softplus,
    int num_threads,
    int isa,
):
    """Fills the gradients. Sums over batch entries and channel blocks are left to the caller: dA, dD, ddelta_bias and
    constant dB, dC have an axis of parts first, one for every span of batch entries; varying dB and dC are (nblocks, batch,
    seqlen, ngroups, dstate)."""
    if u.shape[0] == 0 or u.shape[2] == 0 or A.shape[1] == 0:
        return
    cdef ssm_scan scan = scan_of(u, delta, A, B_varying, B_constant, C_varying, C_constant, D, z, delta_bias)
    cdef int status
    scan.discretization = discretization
    scan.delta_softplus = delta_softplus
    scan.num_threads = num_threads
    scan.dout = reads(dout)
    if dlast_state is not None:
        scan.dlast_state = <const void *> &dlast_state[0, 0, 0]
    scan.checkpoints = <void *> &checkpoints[0, 0, 0, 0]
    scan.du = writes(du)
    scan.ddelta = writes(ddelta)
    scan.dz = writes(dz)
    scan.dA = <void *> &dA[0, 0, 0]
    scan.dB = <void *> &dB_constant[0, 0, 0] if dB_constant is not None else <void *> &dB_varying[0, 0, 0, 0, 0]
    scan.dC = <void *> &dC_constant[0, 0, 0] if dC_constant is not None else <void *> &dC_varying[0, 0, 0, 0, 0]
    scan.dD = <void *> &dD[0, 0] if dD is not None else NULL
    scan.ddelta_bias = <void *> &ddelta_bias[0, 0] if ddelta_bias is not None else NULL
    scan.dinitial_state = <void *> &dinitial_state[0, 0, 0]
    with nogil:
        status = ssm_scan_bwd(&scan, isa, sizeof(real) == 8)
    finish(status)


def ss2d_fwd(
    const real[:, :, :] x,
    const real[:, :, :, :] delta,
    const real[:, :, ::1] A,
    const real[:, :, :, :] B,
    const real[:, :, :, :] C,
    const real[:, ::1] D,
    const real[:, ::1] delta_bias,
    real[:, :, :] out,
    real[:, :, :, :, ::1] checkpoints,
    int64_t width,
    int discretization,
    bint delta_softplus,
    int num_threads,
    int isa,
):
    """Fills `out` (batch, position, dim), the sum of the four directions, and, unless None, `checkpoints` (direction,
    batch, nchunks, dstate, dim)."""
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] == 0:
        return
    cdef ssm_scan scan = grid_of(x, delta, A, B, C, D, delta_bias, width)
    cdef int status
    scan.discretization = discretization
    scan.delta_softplus = delta_softplus
    scan.num_threads = num_threads
    scan.out = writes(out)
    if checkpoints is not None:
        scan.checkpoints = <void *> &checkpoints[0, 0, 0, 0, 0]
    with nogil:
        status = ssm_scan_fwd(&scan, isa, sizeof(real) == 8)
    finish(status)


def ss2d_bwd(
    const real[:, :, :] dout,
    const real[:, :, :] x,
    const real[:, :, :, :] delta,
    const real[:, :, ::1] A,
    const real[:, :, :, :] B,
    const real[:, :, :, :] C,
    const real[:, ::1] D,
    const real[:, ::1] delta_bias,
    const real[:, :, :, :, ::1] checkpoints,
    real[:, :, :] dx,
    real[:, :, :, :] ddelta,
    real[:, :, :, ::1] dA,
    real[:, :, :, :, ::1] dB,
    real[:, :, :, :, ::1] dC,
    real[:, :, ::1] dD,
    real[:, :, ::1] ddelta_bias,
    int64_t width,
    int discretization,
    bint delta_softplus,
    int num_threads,
    int isa,
):
    """Fills the gradients. Sums over batch entries and channel blocks are left to the caller: dA, dD and ddelta_bias have an
    axis of parts first, one for every span of batch entries; dB and dC are (nblocks, batch, position, direction, dstate)."""
    if x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] == 0:
        return
    cdef ssm_scan scan = grid_of(x, delta, A, B, C, D, delta_bias, width)
    cdef int status
    scan.discretization = discretization
    scan.delta_softplus = delta_softplus
    scan.num_threads = num_threads
    scan.dout = reads(dout)
    scan.checkpoints = <void *> &checkpoints[0, 0, 0, 0, 0]
    scan.du = writes(dx)
    scan.ddelta = writes_each(ddelta)
    scan.dA = <void *> &dA[0, 0, 0, 0]
    scan.dB = <void *> &dB[0, 0, 0, 0, 0]
    scan.dC = <void *> &dC[0, 0, 0, 0, 0]
    scan.dD = <void *> &dD[0, 0, 0] if dD is not None else NULL
    scan.ddelta_bias = <void *> &ddelta_bias[0, 0, 0] if ddelta_bias is not None else NULL
    with nogil:
        status = ssm_scan_bwd(&scan, isa, sizeof(real) == 8)
    finish(status)
