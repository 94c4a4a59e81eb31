"""What the process keeps of the memory that it frees."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Lets glibc's allocator keep what is freed for the next step, and says whether it does.

    By default it gives every large tensor back to the system and asks for it anew, whose pages are then cleared one by one at
    first touch: three of the five seconds that a step of `mamba-ahnet-conv` took. It concerns the whole process, so programs
    call this and libraries do not. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
