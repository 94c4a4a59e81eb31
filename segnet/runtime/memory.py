"""Memory that the process keeps after it is freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes glibc's allocator keep freed memory for the next step; False with another C library.

    By default glibc returns every large tensor to the system and asks for it anew. The system then clears its pages one by one at
    first touch, which took three of five seconds of a step of `mamba-ahnet-conv`. Programs call this; libraries do not, since it
    concerns the whole process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
