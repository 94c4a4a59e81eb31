"""One set of threads for torch and the compiled kernels."""

from __future__ import annotations

import ctypes


def share_threads() -> None:
    """Lets the compiled kernels run on torch's OpenMP threads, where torch has GNU OpenMP and the kernels are compiled.

    Threads of OpenMP wait for work without sleeping, by default for some milliseconds. Beside them a second set of threads would have half
    of each processor.
    """
    try:
        from .._kernels.common import binding

        function = ctypes.CDLL(None).GOMP_parallel
    except (ImportError, AttributeError, OSError):
        return
    binding.use_team(ctypes.cast(function, ctypes.c_void_p).value or 0)
