"""Time-invariant diagonal systems on the C kernels. Arrays are C-contiguous, real and imaginary parts apart. Shapes are the caller's
to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport real, run, start2

cdef extern from "api.h" nogil:
    enum: SSMCORE_STATES
    ctypedef struct ssm_parts:
        void *real
        void *imaginary
    ctypedef struct ssm_linear:
        int64_t rows, dstate, seqlen
        int num_threads
        ssm_parts A, B, C, state, u, y
    int ssmcore_linear_run(const void *task, int isa, int is_double)

STATES = SSMCORE_STATES


def ssm_recurrence(
    const real[:, ::1] A, const real[:, ::1] A_imaginary, const real[:, ::1] B, const real[:, ::1] B_imaginary,
    const real[:, ::1] C, const real[:, ::1] C_imaginary, const real[:, ::1] u, const real[:, ::1] u_imaginary,
    real[:, ::1] state, real[:, ::1] state_imaginary, real[:, ::1] y, real[:, ::1] y_imaginary, int num_threads,
    int isa
):
    """Fills `y` (rows, seqlen) and takes `state` (rows, dstate) from before the first step to after the last. dstate is a multiple of
    STATES. Imaginary parts are None for a real system, and that of `u` for a real input. No axis may be empty.
    """
    cdef ssm_linear system
    memset(&system, 0, sizeof(system))
    system.rows = u.shape[0]
    system.dstate = A.shape[1]
    system.seqlen = u.shape[1]
    system.num_threads = num_threads
    system.A.real = start2(A)
    system.B.real = start2(B)
    system.C.real = start2(C)
    system.u.real = start2(u)
    system.state.real = start2(state)
    system.y.real = start2(y)
    system.A.imaginary = start2(A_imaginary)
    system.B.imaginary = start2(B_imaginary)
    system.C.imaginary = start2(C_imaginary)
    system.u.imaginary = start2(u_imaginary)
    system.state.imaginary = start2(state_imaginary)
    system.y.imaginary = start2(y_imaginary)
    run("ssm_recurrence", ssmcore_linear_run, &system, isa, sizeof(real) == 8)
