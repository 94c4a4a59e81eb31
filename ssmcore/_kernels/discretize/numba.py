"""Discretisation of diagonal systems in numba. Twin of the C kernel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from ..common.jit import kernel

DISCRETIZATIONS = ("mamba", "bilinear", "zoh")


@njit(cache=True, error_model="numpy")
def _slope_of_phi(x, exp_x, phi):
    # (e^x - phi)/x, whose terms cancel near 0: there its series, sum of x^k (k + 1)/(k + 2)!
    if abs(x) > 0.5:
        return (exp_x - phi) / x
    term = total = 0.5
    for k in range(1, 14):
        term *= x * (k + 1) / (k * (k + 2.0))
        total += term
    return total


@kernel("r1 r1 int w1 w1", fastmath=False)
def discretize(A, delta, discretization, A_bar, gain):
    """Element by element: A_bar and gain = B_bar / B for the product x = delta A, in double precision inside."""
    for i in prange(A.shape[0]):
        x = np.float64(delta[i]) * np.float64(A[i])
        if discretization == 1:
            q = 1.0 / (1.0 - 0.5 * x)
            A_bar[i] = (1.0 + 0.5 * x) * q
            gain[i] = delta[i] * q
        elif discretization == 0:
            A_bar[i] = math.exp(x)
            gain[i] = delta[i]
        else:
            A_bar[i] = math.exp(x)
            gain[i] = delta[i] * (math.expm1(x) / x if x != 0.0 else 1.0)


@kernel("r1 r1 r1 r1 int w1 w1", fastmath=False)
def discretize_vjp(dA_bar, dgain, A, delta, discretization, dA, ddelta):
    """Gradients with respect to A and delta, element by element."""
    for i in prange(A.shape[0]):
        x = np.float64(delta[i]) * np.float64(A[i])
        if discretization == 1:
            q = 1.0 / (1.0 - 0.5 * x)
            phi, dphi, slope = q, 0.5 * q * q, q * q
        else:
            slope, phi, dphi = math.exp(x), 1.0, 0.0
            if discretization == 2:
                phi = math.expm1(x) / x if x != 0.0 else 1.0
                dphi = _slope_of_phi(x, slope, phi)
        dx = dA_bar[i] * slope + dgain[i] * delta[i] * dphi
        dA[i] = dx * delta[i]
        ddelta[i] = dx * A[i] + dgain[i] * phi
