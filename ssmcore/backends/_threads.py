"""How many threads a kernel may use."""

from __future__ import annotations

import os
import sys


def _number(variable: str) -> int | None:
    """A whole number from the environment, or None where it is not set."""
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{variable}: expected a whole number of at least 1, got {value!r}; unset it for automatic")
    return int(value)


def resolve(num_threads: int | None) -> int:
    """`num_threads`, else SSMCORE_NUM_THREADS, else torch's setting where torch is loaded, else OpenMP's, else the processors.

    OpenMP's is what OMP_NUM_THREADS or threadpoolctl's limits say, known once the compiled kernels are loaded; the processors
    are those this process may use. The compiled kernels wake fewer where each would have less than SSMCORE_WORK_PER_THREAD
    multiply-adds to do (2^20 unless set).
    """
    _number("SSMCORE_WORK_PER_THREAD")  # the kernels read it unchecked
    if num_threads is None:
        wanted = _number("SSMCORE_NUM_THREADS")
        if wanted is not None:
            return wanted
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "get_num_threads"):
            return int(torch.get_num_threads())
        kernels = sys.modules.get("ssmcore._kernels.selective_scan_cython")
        if kernels is not None and kernels.openmp_threads():
            return int(kernels.openmp_threads())
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(
            f"num_threads: expected a whole number of at least 1, got {num_threads!r}; pass None for automatic"
        )
    return num_threads
