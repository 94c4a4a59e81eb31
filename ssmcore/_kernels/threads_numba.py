"""numba's thread mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba


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
