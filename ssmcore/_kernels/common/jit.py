"""What the numba kernels share: compiler options, explicit signatures, absent arguments, the thread mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numba import types

# contract and reassoc let sums be vectorised and fused; NaN, infinity and signed limits stay as IEEE has them
OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


def signatures(*ranks: int, reads: int, flags: int) -> list[Any]:
    """Explicit signatures for float32 and float64: the first `reads` arrays read-only, then outputs, then integers."""
    found = []
    for real in (types.float32, types.float64):
        arrays = [types.Array(real, rank, "C", readonly=i < reads) for i, rank in enumerate(ranks)]
        found.append(types.void(*arrays, *[types.int64] * flags))
    return found


def present(array: Any, rank: int, dtype: Any) -> Any:
    """The array, or an empty one that stands for an absent one."""
    return np.empty((0,) * rank, dtype) if array is None else array


@contextmanager
def threads(count: int) -> Iterator[None]:
    """The mask set to `count`, or to all numba has where that is fewer, and put back."""
    before = numba.get_num_threads()
    available: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(count, available))
    try:
        yield
    finally:
        numba.set_num_threads(before)
