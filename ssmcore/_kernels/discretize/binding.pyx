"""Discretisation of diagonal systems on the C kernels: fills A_bar and the gain B_bar / B, and their gradients. Arrays are C-contiguous
and of one length.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport real, run, start1

cdef extern from "api.h" nogil:
    ctypedef struct ssm_systems:
        int64_t size
        int discretization, num_threads
        const void *A
        const void *delta
        void *A_bar
        void *gain
        const void *dA_bar
        const void *dgain
        void *dA
        void *ddelta
    int ssmcore_discretize_fwd(const void *task, int isa, int is_double)
    int ssmcore_discretize_bwd(const void *task, int isa, int is_double)

DISCRETIZATIONS = ("mamba", "bilinear", "zoh")


cdef ssm_systems systems_of(const real[::1] A, const real[::1] delta, int discretization, int num_threads) noexcept:
    cdef ssm_systems systems
    memset(&systems, 0, sizeof(systems))
    systems.size = A.shape[0]
    systems.discretization = discretization
    systems.num_threads = num_threads
    systems.A = start1(A)
    systems.delta = start1(delta)
    return systems


def discretize(
    const real[::1] A, const real[::1] delta, int discretization, real[::1] A_bar, real[::1] gain, int num_threads
):
    """Element by element: A_bar and gain = B_bar / B for the product x = delta A, in double precision inside."""
    if A.shape[0] == 0:
        return
    cdef ssm_systems systems = systems_of(A, delta, discretization, num_threads)
    systems.A_bar = start1(A_bar)
    systems.gain = start1(gain)
    run("discretize", ssmcore_discretize_fwd, &systems, 0, sizeof(real) == 8)


def discretize_vjp(
    const real[::1] dA_bar, const real[::1] dgain, const real[::1] A, const real[::1] delta, int discretization,
    real[::1] dA, real[::1] ddelta, int num_threads
):
    """Gradients with respect to A and delta, element by element."""
    if A.shape[0] == 0:
        return
    cdef ssm_systems systems = systems_of(A, delta, discretization, num_threads)
    systems.dA_bar = start1(dA_bar)
    systems.dgain = start1(dgain)
    systems.dA = start1(dA)
    systems.ddelta = start1(ddelta)
    run("discretize", ssmcore_discretize_bwd, &systems, 0, sizeof(real) == 8)
