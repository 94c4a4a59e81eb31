# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=True
"""Selective scan on the C kernels: fills `out`, `last_state`, `checkpoints`, and the gradients.

Every sequence is a view (batch, seqlen, dim) with any strides; B and C are (batch, seqlen, ngroups, dstate) with any
strides, or contiguous (dim, dstate). The other arrays are C-contiguous. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t

cdef extern from "selective_scan.h" nogil:
    enum: SSMCORE_CHUNK
    enum: SSMCORE_BLOCK
    enum: SSMCORE_NO_MEMORY
    enum: SSMCORE_NO_ISA
    ctypedef struct ssm_in:
        const void *data
        int64_t batch, time, dim
    ctypedef struct ssm_out:
        void *data
        int64_t batch, time, dim
    ctypedef struct ssm_matrix:
        const void *data
        int64_t batch, time, group, state
        int constant
    ctypedef struct ssm_scan:
        int64_t batch, dim, seqlen, dstate, ngroups
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
    int ssm_has_openmp()
    int ssm_scan_fwd(const ssm_scan *scan, int isa, int is_double)
    int ssm_scan_bwd(const ssm_scan *scan, int isa, int is_double)

CHUNK = SSMCORE_CHUNK
BLOCK = SSMCORE_BLOCK
ISAS = ("generic", "avx2", "avx512")
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")

ctypedef fused real:
    float
    double


def best_isa() -> str:
    """The widest instruction set compiled in that this processor runs."""
    return ISAS[ssm_best_isa()]


def has_openmp() -> bool:
    """Whether the kernels were compiled with OpenMP, without which they run on one thread."""
    return ssm_has_openmp() != 0


cdef ssm_in reads(const real[:, :, :] x) noexcept:
    cdef ssm_in view
    view.data = NULL
    view.batch = view.time = view.dim = 0
    if x is not None:
        view.data = <const void *> &x[0, 0, 0]
        view.batch = x.strides[0] // <int64_t> sizeof(real)
        view.time = x.strides[1] // <int64_t> sizeof(real)
        view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_out writes(real[:, :, :] x) noexcept:
    cdef ssm_out view
    view.data = NULL
    view.batch = view.time = view.dim = 0
    if x is not None:
        view.data = <void *> &x[0, 0, 0]
        view.batch = x.strides[0] // <int64_t> sizeof(real)
        view.time = x.strides[1] // <int64_t> sizeof(real)
        view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef ssm_matrix matrix(const real[:, :, :, :] varying, const real[:, ::1] constant) noexcept:
    cdef ssm_matrix view
    view.batch = view.time = view.group = view.state = 0
    view.constant = constant is not None
    if constant is not None:
        view.data = <const void *> &constant[0, 0]
    else:
        view.data = <const void *> &varying[0, 0, 0, 0]
        view.batch = varying.strides[0] // <int64_t> sizeof(real)
        view.time = varying.strides[1] // <int64_t> sizeof(real)
        view.group = varying.strides[2] // <int64_t> sizeof(real)
        view.state = varying.strides[3] // <int64_t> sizeof(real)
    return view


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
) noexcept:
    cdef ssm_scan scan
    scan.batch = u.shape[0]
    scan.seqlen = u.shape[1]
    scan.dim = u.shape[2]
    scan.dstate = A.shape[1]
    scan.ngroups = 1
    if B_varying is not None:
        scan.ngroups = B_varying.shape[2]
    elif C_varying is not None:
        scan.ngroups = C_varying.shape[2]
    scan.u = reads(u)
    scan.delta = reads(delta)
    scan.z = reads(z)
    scan.B = matrix(B_varying, B_constant)
    scan.C = matrix(C_varying, C_constant)
    scan.A = <const void *> &A[0, 0]
    scan.D = <const void *> &D[0] if D is not None else NULL
    scan.delta_bias = <const void *> &delta_bias[0] if delta_bias is not None else NULL
    scan.initial_state = NULL
    scan.dlast_state = NULL
    scan.last_state = scan.checkpoints = scan.dinitial_state = NULL
    scan.dA = scan.dB = scan.dC = scan.dD = scan.ddelta_bias = NULL
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
    constant dB, dC keep their batch axis, varying dB and dC are (nblocks, batch, seqlen, ngroups, dstate)."""
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
