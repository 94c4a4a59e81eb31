"""The number of threads that a kernel may use."""

from __future__ import annotations

import os
import sys
from functools import cache

from .._processors import available_processors

_woken = False
"""Whether this process, or one it was forked from, has used several threads."""
_forked = False
"""Whether those threads stayed behind in the process that this one was forked from."""


def _after_fork() -> None:
    global _forked
    _forked = _woken


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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


def resolve(num_threads: int | None) -> int:
    """`num_threads`, else SSMCORE_NUM_THREADS, else torch's setting where torch is loaded, else the available processors.

    OpenMP's own limit, by OMP_NUM_THREADS or threadpoolctl, lowers the last once the compiled kernels are loaded. These wake fewer
    threads where each would have less than SSMCORE_WORK_PER_THREAD (2^20) multiply-adds to do.

    The answer is 1 in a process forked after several threads had been used: OpenMP would wait for threads that a fork leaves behind.
    """
    global _woken
    _number("SSMCORE_WORK_PER_THREAD")  # the kernels read it unchecked
    wanted = _wanted(num_threads)
    if _forked:
        return 1
    _woken = _woken or wanted > 1
    return wanted


def _wanted(num_threads: int | None) -> int:
    if num_threads is None:
        wanted = _number("SSMCORE_NUM_THREADS")
        if wanted is not None:
            return wanted
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "get_num_threads"):
            return int(torch.get_num_threads())
        kernels = sys.modules.get("ssmcore._kernels.common.binding")
        openmp = int(kernels.openmp_threads()) if kernels is not None else 0
        return min(openmp or sys.maxsize, _available())
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(
            f"num_threads: expected a whole number of at least 1, got {num_threads!r}; pass None for automatic"
        )
    return num_threads
