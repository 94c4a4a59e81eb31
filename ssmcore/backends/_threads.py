"""The number of threads that a kernel may use."""

from __future__ import annotations

import os
import sys
from functools import cache

from .._kernels.common import forks  # noqa: F401  watches forks from now on
from .._processors import available_processors

_available = cache(available_processors)
"""Asked once: a step of decoding takes microseconds."""


def _number(variable: str) -> int | None:
    """A whole number from the environment, or None where it is not set."""
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{variable}: expected a whole number of at least 1, got {value!r}; unset it for automatic")
    return int(value)


def work_per_thread() -> int:
    """Multiply-adds that the compiled kernels wake a further thread for: SSMCORE_WORK_PER_THREAD, or 0 for their own choice."""
    return _number("SSMCORE_WORK_PER_THREAD") or 0


def resolve(num_threads: int | None) -> int:
    """`num_threads`, else SSMCORE_NUM_THREADS, else torch's setting where torch is loaded, else the available processors.

    OMP_NUM_THREADS lowers the last. The compiled kernels wake fewer threads where each would have less than SSMCORE_WORK_PER_THREAD
    (2^20) multiply-adds to do.
    """
    if num_threads is None:
        wanted = _number("SSMCORE_NUM_THREADS")
        if wanted is not None:
            return wanted
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "get_num_threads"):
            return int(torch.get_num_threads())
        limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        return min(int(limit) if limit.isdigit() and int(limit) else sys.maxsize, _available())
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(
            f"num_threads: expected a whole number of at least 1, got {num_threads!r}; pass None for automatic"
        )
    return num_threads
