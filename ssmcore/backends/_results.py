"""What the cython and numba backends share: memory for results, and what their kernels do not run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._spec import Call

Array = NDArray[Any]
LINE = 64
"""Bytes of a cache line, which is also the widest vector."""


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """np.empty that starts on a cache line, if it is longer than a few. np.empty starts 16 bytes into one, so that each row's vectors of 64
    bytes straddle two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < 16 * LINE:
        return np.empty(shape, dtype)
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def as_arguments(call: Call, *gradients: Array | None) -> tuple[Array | None, ...]:
    """Gradients in the dtypes of their arguments; that of an absent state in the dtype that is computed in."""
    arrays = call.arrays.values()
    wide = compute_dtype(next(iter(arrays)).dtype)
    return tuple(
        g if g is None else g.astype(wide if a is None else a.dtype, copy=False)
        for g, a in zip(gradients, arrays, strict=False)
    )


def target(call: Call, index: int, dtype: np.dtype[Any], *, contiguous: bool = False) -> Array | None:
    """The array that the caller wants an output in, where the kernels can write to it."""
    wanted: Array | None = call.into[index] if index < len(call.into) else None
    if wanted is None or wanted.dtype != dtype or not wanted.flags.aligned:
        return None
    return None if contiguous and not wanted.flags.c_contiguous else wanted


def limits(op: str, traits: frozenset[str]) -> str | None:
    if op == "ssm_recurrence":
        if "dense" in traits:
            return "its kernels run diagonal systems; the numpy and torch backends also dense ones"
    elif op == "discretize":
        if traits:
            return "its kernels discretise real diagonal systems; the numpy and torch backends also do dense and complex ones"
    elif traits:
        return "its kernels scan with a real A; the numpy and torch backends also with a complex one"
    return None
