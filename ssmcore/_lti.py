"""Linear time-invariant systems x[k] = A_bar x[k-1] + B_bar u[k], y[k] = C x[k] + D u[k], by convolution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._spec import ArgumentTypeError, check_count, check_option, fail
from .backends._threads import resolve

Array = NDArray[Any]
FLOATS = tuple(np.dtype(kind) for kind in ("f2", "f4", "f8", "c8", "c16"))
STRUCTURES = ("diagonal", "dense")


def check_floats(operation: str, name: str, array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in FLOATS:
        got = getattr(array, "dtype", type(array).__name__)
        fail(
            operation,
            name,
            "an array of real or complex floats of at most 64 bits each",
            got,
            "convert it",
            ArgumentTypeError,
        )


def broadcast(operation: str, names: str, *leads: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*leads)
    except ValueError:
        shapes = ", ".join(str(lead) for lead in leads)
        fail(operation, names, "leading axes that broadcast", shapes, "make them agree")


def lead_of(operation: str, A_bar: Array, B_bar: Array, C: Array, structure: str) -> tuple[int, ...]:
    """The broadcast leading axes of a system, or ArgumentError."""
    check_option(operation, "structure", structure, STRUCTURES)
    core = STRUCTURES.index(structure) + 1
    for name, array in (("A_bar", A_bar), ("B_bar", B_bar), ("C", C)):
        check_floats(operation, name, array)
    dstate = A_bar.shape[-1] if A_bar.ndim else 0
    shape = "(..., dstate)" if core == 1 else "(..., dstate, dstate)"
    if A_bar.ndim < core or A_bar.shape[-core:] != (dstate,) * core:
        fail(operation, "A_bar", shape, A_bar.shape, f"structure is {structure!r}")
    for name, array in (("B_bar", B_bar), ("C", C)):
        if array.ndim < 1 or array.shape[-1] != dstate:
            fail(operation, name, f"(..., dstate) with dstate {dstate}, as A_bar has", array.shape, "make them agree")
    return broadcast(operation, "A_bar, B_bar, C", A_bar.shape[:-core], B_bar.shape[:-1], C.shape[:-1])


def _powers(A: Array, vector: Array, count: int, structure: str) -> Array:
    """(..., count, dstate): A^k vector for k < count, by doubling: each power is a product of two known ones."""
    # rows are vectors: powers stand on their right, transposed
    product, step = (np.multiply, A[..., None, :]) if structure == "diagonal" else (np.matmul, np.swapaxes(A, -1, -2))
    lead = np.broadcast_shapes(step.shape[:-2], vector.shape[:-1])
    rows = np.broadcast_to(vector, (*lead, vector.shape[-1]))[..., None, :]
    while rows.shape[-2] < count:
        rows = np.concatenate([rows, product(rows, step)], axis=-2)
        step = product(step, step)
    return rows[..., :count, :]


def ssm_kernel(A_bar: Array, B_bar: Array, C: Array, length: int, *, structure: str = "diagonal") -> Array:
    """The impulse response K[k] = C A_bar^k B_bar. `ssm_convolve` with it equals `ssm_recurrence`.

    With k = i root + j, the kernel is the product of two short tables, C A_bar^(i root) and A_bar^j B_bar, root being the square root of
    length. It takes length · dstate multiplications and memory for root · dstate numbers. A length of a million is practical.

    Parameters
    ----------
    A_bar : (..., dstate) for structure "diagonal", (..., dstate, dstate) for "dense"
    B_bar, C : (..., dstate)
        Real or complex floats. Leading axes broadcast.
    length : number of steps, at least 0
    structure : "diagonal" or "dense"

    Returns
    -------
    (..., length)
        In the arguments' common dtype. If A_bar holds one of each pair of conjugates, the real kernel is twice the real part.

    Raises
    ------
    ArgumentError
        A shape, dtype, structure or length is wrong.

    Source: Mamba-AHNet, eq. 4; Gu et al., On the parameterization and initialization of diagonal state space models (2022).

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> ssmcore.ssm_kernel(np.array([0.5]), np.array([1.0]), np.array([2.0]), 4).tolist()
    [2.0, 1.0, 0.5, 0.25]
    """
    lead = lead_of("ssm_kernel", A_bar, B_bar, C, structure)
    check_count("ssm_kernel", "length", length, 0, "steps")
    dtype = np.result_type(A_bar, B_bar, C)
    if length == 0 or 0 in lead:
        return np.zeros((*lead, length), dtype)
    root = math.isqrt(length - 1) + 1
    blocks = -(-length // root)
    near = _powers(A_bar, B_bar, root, structure)
    if structure == "diagonal":
        far = _powers(A_bar**root, C, blocks, structure)
    else:
        far = _powers(np.swapaxes(np.linalg.matrix_power(A_bar, root), -1, -2), C, blocks, structure)
    kernel = far @ np.swapaxes(near, -1, -2)
    return kernel.reshape(*kernel.shape[:-2], blocks * root)[..., :length].astype(dtype, copy=False)


def fast_length(length: int, *, real: bool) -> int:
    """The smallest number of at least `length` whose Fourier transforms are fast: it has small prime factors only."""
    odd = [1]
    for prime in (3, 5) if real else (3, 5, 7, 11):
        odd = [n * prime**k for n in odd for k in range(length.bit_length()) if n * prime**k < 2 * length]
    return min(n << (-(-length // n) - 1).bit_length() for n in odd)


def ssm_convolve(u: Array, kernel: Array, *, D: Array | None = None, num_threads: int | None = None) -> Array:
    """The causal convolution y[k] = sum_j kernel[j] u[k - j] + D u[k], by padded Fourier transforms.

    Parameters
    ----------
    u : (..., seqlen)
    kernel : (..., length)
        Real or complex floats. Entries of the kernel beyond seqlen have no effect.
    D : (...), or None for no skip
        All leading axes broadcast.
    num_threads : checked as elsewhere; NumPy's transforms run on one thread

    Returns
    -------
    (..., seqlen)
        In the arguments' common dtype.

    Raises
    ------
    ArgumentError
        A shape or dtype is wrong.

    Source: Mamba-AHNet, eq. 3.

    Examples
    --------
    >>> import numpy as np, ssmcore
    >>> ssmcore.ssm_convolve(np.array([1.0, 0.0, 2.0]), np.array([1.0, 0.5])).round(12).tolist()
    [1.0, 0.5, 2.0]
    """
    for name, array in (("u", u), ("kernel", kernel)):
        check_floats("ssm_convolve", name, array)
        if array.ndim < 1:
            fail("ssm_convolve", name, "at least one axis, time", array.shape, "pass a sequence")
    resolve(num_threads)
    leads = [u.shape[:-1], kernel.shape[:-1]]
    if D is not None:
        check_floats("ssm_convolve", "D", D)
        leads.append(D.shape)
    lead = broadcast("ssm_convolve", "u, kernel, D", *leads)
    dtype, seqlen = np.result_type(u, kernel, *([] if D is None else [D])), u.shape[-1]
    kernel = kernel[..., :seqlen]
    if 0 in (seqlen, kernel.shape[-1], *lead):
        y = np.zeros((*lead, seqlen), dtype)
    else:
        real = u.dtype.kind == kernel.dtype.kind == "f"
        size = fast_length(seqlen + kernel.shape[-1] - 1, real=real)
        forward, back = (np.fft.rfft, np.fft.irfft) if real else (np.fft.fft, np.fft.ifft)
        y = back(forward(u, size) * forward(kernel, size), size)[..., :seqlen].astype(dtype, copy=False)
    return y if D is None else y + D[..., None] * u
