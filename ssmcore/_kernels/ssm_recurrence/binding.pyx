# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=True
"""Time-invariant diagonal systems on the C kernels. Arrays are C-contiguous, real and imaginary parts apart. Shapes are the caller's
to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "api.h" nogil:
    enum: SSMCORE_NO_MEMORY
    enum: SSMCORE_STATES
    ctypedef struct ssm_parts:
        void *real
        void *imaginary
    ctypedef struct ssm_linear:
        int64_t rows, dstate, seqlen
        int num_threads
        ssm_parts A, B, C, state, u, y
    int ssm_linear_run(const ssm_linear *system, int isa, int is_double)

ctypedef fused real:
    float
    double

STATES = SSMCORE_STATES


def ssm_recurrence(
    const real[:, ::1] A,
    const real[:, ::1] A_imaginary,
    const real[:, ::1] B,
    const real[:, ::1] B_imaginary,
    const real[:, ::1] C,
    const real[:, ::1] C_imaginary,
    const real[:, ::1] u,
    const real[:, ::1] u_imaginary,
    real[:, ::1] state,
    real[:, ::1] state_imaginary,
    real[:, ::1] y,
    real[:, ::1] y_imaginary,
    int num_threads,
    int isa,
):
    """Fills `y` (rows, seqlen) and takes `state` (rows, dstate) from before the first step to after the last. dstate is a multiple of
    STATES. Imaginary parts are None for a real system, and that of `u` for a real input. No axis may be empty.
    """
    cdef ssm_linear system
    cdef int status
    memset(&system, 0, sizeof(system))
    system.rows = u.shape[0]
    system.dstate = A.shape[1]
    system.seqlen = u.shape[1]
    system.num_threads = num_threads
    system.A.real = <void *> &A[0, 0]
    system.B.real = <void *> &B[0, 0]
    system.C.real = <void *> &C[0, 0]
    system.u.real = <void *> &u[0, 0]
    system.state.real = <void *> &state[0, 0]
    system.y.real = <void *> &y[0, 0]
    if A_imaginary is not None:
        system.A.imaginary = <void *> &A_imaginary[0, 0]
        system.B.imaginary = <void *> &B_imaginary[0, 0]
        system.C.imaginary = <void *> &C_imaginary[0, 0]
        system.state.imaginary = <void *> &state_imaginary[0, 0]
        system.y.imaginary = <void *> &y_imaginary[0, 0]
    if u_imaginary is not None:
        system.u.imaginary = <void *> &u_imaginary[0, 0]
    with nogil:
        status = ssm_linear_run(&system, isa, sizeof(real) == 8)
    if status == SSMCORE_NO_MEMORY:
        raise MemoryError("ssm_recurrence: no memory for the kernel's scratch; use fewer threads")
    if status:
        raise RuntimeError("ssm_recurrence: this processor does not run the instruction set asked for")
