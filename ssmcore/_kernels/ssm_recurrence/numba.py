"""Time-invariant diagonal systems in numba. Twin of binding.pyx."""

from __future__ import annotations

from typing import Any

from numba import njit, prange

from ..common.jit import OPTIONS, present, signatures, threads
from ..common.vecmath import like

STATES = 1
"""dstate may be any number."""


@njit(signatures(2, 2, 2, 2, 2, 2, reads=4, flags=0), parallel=True, **OPTIONS)
def _real(A, B, C, u, state, y):
    rows, seqlen = u.shape
    for row in prange(rows):
        a, b, c, x = A[row], B[row], C[row], state[row]
        for k in range(seqlen):
            total = like(0.0, a[0])
            for n in range(x.size):
                x[n] = a[n] * x[n] + b[n] * u[row, k]
                total += c[n] * x[n]
            y[row, k] = total


@njit(signatures(2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, reads=8, flags=0), parallel=True, **OPTIONS)
def _complex(A, A_im, B, B_im, C, C_im, u, u_im, state, state_im, y, y_im):
    rows, seqlen = u.shape
    for row in prange(rows):
        a, b, c, x = A[row], B[row], C[row], state[row]
        a_im, b_im, c_im, x_im = A_im[row], B_im[row], C_im[row], state_im[row]
        for k in range(seqlen):
            v = u[row, k]
            v_im = u_im[row, k] if u_im.size > 0 else like(0.0, v)
            total, total_im = like(0.0, v), like(0.0, v)
            for n in range(x.size):
                re = a[n] * x[n] - a_im[n] * x_im[n] + (b[n] * v - b_im[n] * v_im)
                im = a[n] * x_im[n] + a_im[n] * x[n] + (b_im[n] * v + b[n] * v_im)
                x[n] = re
                x_im[n] = im
                total += c[n] * re - c_im[n] * im
                total_im += c[n] * im + c_im[n] * re
            y[row, k] = total
            y_im[row, k] = total_im


def ssm_recurrence(
    A: Any,
    A_imaginary: Any,
    B: Any,
    B_imaginary: Any,
    C: Any,
    C_imaginary: Any,
    u: Any,
    u_imaginary: Any,
    state: Any,
    state_imaginary: Any,
    y: Any,
    y_imaginary: Any,
    num_threads: int,
) -> None:
    """Fills `y` (rows, seqlen) and takes `state` (rows, dstate) from before the first step to after the last. dstate is a multiple of
    STATES. Imaginary parts are None for a real system, and that of `u` for a real input. No axis may be empty.
    """
    with threads(num_threads):
        if A_imaginary is None:
            _real(A, B, C, u, state, y)
        else:
            u_im = present(u_imaginary, 2, u.dtype)
            _complex(A, A_imaginary, B, B_imaginary, C, C_imaginary, u, u_im, state, state_imaginary, y, y_imaginary)
