"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path


def available_processors() -> int:
    """Processors this process may use: those of its affinity, and no more than its cgroup's CPU quota, rounded up.

    Where the system knows no affinity, such as macOS, the machine's processors are counted. The quota is read once per process.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> import ssmcore
    >>> ssmcore.available_processors() >= 1
    True
    """
    return min(_affinity(), _quota())


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _quota() -> int:
    return cgroup_processors(Path("/")) or (os.cpu_count() or 1)


def cgroup_processors(root: Path) -> int | None:
    """The smallest CPU quota of this process's cgroups (v1 and v2) and their parents, rounded up; None without one.

    `root` holds proc and sys. A container sees its own cgroup at the top, under another path than proc says.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            quotas.append(_processors_of(folder))
            if folder == top:
                break
    return min((quota for quota in quotas if quota is not None), default=None)


def _processors_of(folder: Path) -> int | None:
    """The quota of one cgroup; None where it has none, or none that can be read."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # "max" is no number
        return None
