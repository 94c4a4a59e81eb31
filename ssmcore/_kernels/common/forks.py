"""What a forked process must know of its parent. Imported before anything can fork."""

from __future__ import annotations

import os
import sys

numba_stranded = False
"""Whether this process was forked from one that had started numba's threads. numba ends a process that then runs in parallel."""


def _after_fork() -> None:
    global numba_stranded
    binding = sys.modules.get("ssmcore._kernels.common.binding")
    if binding is not None:
        binding.use_team(0)  # its threads stayed with the parent, and it may wait for them
    numba = sys.modules.get("numba")
    try:
        numba_stranded = numba is not None and bool(numba.threading_layer())
    except (AttributeError, ValueError):  # half imported, or not started
        return


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
