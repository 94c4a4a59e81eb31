"""Discretisation of diagonal systems: fills A_bar and the gain B_bar / B, and their gradients."""
from libc.math cimport exp, expm1, fabs
from cython.parallel cimport prange

from ssmcore._kernels.common.views cimport real

DISCRETIZATIONS = ("mamba", "bilinear", "zoh")


cdef inline double slope_of_phi(double x, double exp_x, double phi) noexcept nogil:
    # (e^x - phi)/x, whose terms cancel near 0: there its series, sum of x^k (k + 1)/(k + 2)!
    if fabs(x) > 0.5:
        return (exp_x - phi) / x
    cdef double term = 0.5, total = 0.5
    cdef int k
    for k in range(1, 14):
        term *= x * (k + 1) / (k * (k + 2.0))
        total += term
    return total


def discretize(const real[::1] A, const real[::1] delta, int discretization, real[::1] A_bar, real[::1] gain,
               int num_threads):
    """Element by element: A_bar and gain = B_bar / B for the product x = delta A, in double precision inside."""
    cdef Py_ssize_t i
    cdef double x, q
    for i in prange(A.shape[0], nogil=True, num_threads=num_threads, schedule="static"):
        x = <double> delta[i] * <double> A[i]
        if discretization == 1:
            q = 1.0 / (1.0 - 0.5 * x)
            A_bar[i] = <real> ((1.0 + 0.5 * x) * q)
            gain[i] = <real> (delta[i] * q)
        elif discretization == 0:
            A_bar[i] = <real> exp(x)
            gain[i] = delta[i]
        else:
            A_bar[i] = <real> exp(x)
            gain[i] = <real> (delta[i] * (expm1(x) / x if x != 0.0 else 1.0))


def discretize_vjp(const real[::1] dA_bar, const real[::1] dgain, const real[::1] A, const real[::1] delta,
                   int discretization, real[::1] dA, real[::1] ddelta, int num_threads):
    """Gradients with respect to A and delta, element by element."""
    cdef Py_ssize_t i
    cdef double x, q, exp_x, phi, dphi, slope, dx
    for i in prange(A.shape[0], nogil=True, num_threads=num_threads, schedule="static"):
        x = <double> delta[i] * <double> A[i]
        if discretization == 1:
            q = 1.0 / (1.0 - 0.5 * x)
            phi = q
            dphi = 0.5 * q * q
            slope = q * q
        else:
            exp_x = exp(x)
            slope = exp_x
            phi = 1.0
            dphi = 0.0
            if discretization == 2:
                phi = expm1(x) / x if x != 0.0 else 1.0
                dphi = slope_of_phi(x, exp_x, phi)
        dx = dA_bar[i] * slope + dgain[i] * delta[i] * dphi
        dA[i] = <real> (dx * delta[i])
        ddelta[i] = <real> (dx * A[i] + dgain[i] * phi)
