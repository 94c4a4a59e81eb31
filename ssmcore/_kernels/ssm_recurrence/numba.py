"""Time-invariant diagonal systems in numba. Twin of the C kernel."""

from __future__ import annotations

from numba import njit, prange

from ..common.jit import OPTIONS, kernel
from ..common.vecmath import like

STATES = 1
"""dstate may be any number."""


@njit(**OPTIONS)
def _real(a, b, c, u, x, y):
    for k in range(u.size):
        total = like(0.0, a[0])
        for n in range(x.size):
            x[n] = a[n] * x[n] + b[n] * u[k]
            total += c[n] * x[n]
        y[k] = total


@njit(**OPTIONS)
def _complex(a, a_im, b, b_im, c, c_im, u, u_im, x, x_im, y, y_im):
    for k in range(u.size):
        v = u[k]
        v_im = u_im[k] if u_im.size > 0 else like(0.0, v)
        total, total_im = like(0.0, v), like(0.0, v)
        for n in range(x.size):
            re = a[n] * x[n] - a_im[n] * x_im[n] + (b[n] * v - b_im[n] * v_im)
            im = a[n] * x_im[n] + a_im[n] * x[n] + (b_im[n] * v + b[n] * v_im)
            x[n] = re
            x_im[n] = im
            total += c[n] * re - c_im[n] * im
            total_im += c[n] * im + c_im[n] * re
        y[k] = total
        y_im[k] = total_im


@kernel("r2 r2 r2 r2 r2 r2 r2 r2 w2 w2 w2 w2")
def ssm_recurrence(A, A_im, B, B_im, C, C_im, u, u_im, state, state_im, y, y_im):
    """Fills `y` (rows, seqlen) and takes `state` (rows, dstate) from before the first step to after the last. dstate is a multiple of
    STATES. Imaginary parts are None for a real system, and that of `u` for a real input. No axis may be empty.
    """
    for row in prange(u.shape[0]):
        if A_im.size == 0:
            _real(A[row], B[row], C[row], u[row], state[row], y[row])
        else:
            input_im = u_im[row] if u_im.size > 0 else u_im[:0].reshape(-1)
            _complex(
                A[row], A_im[row], B[row], B_im[row], C[row], C_im[row], u[row], input_im,
                state[row], state_im[row], y[row], y_im[row],
            )  # fmt: skip
