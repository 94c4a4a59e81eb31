"""Freed memory is kept, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from tempfile import gettempdir

import pytest

FAULTS = """
import resource
import torch
from segnet.runtime.memory import keep_freed_memory

if {keep}:
    assert keep_freed_memory()

def step():
    torch.ones(2**24)  # 64 MB, more than the allocator keeps by itself

for _ in range(12):  # until the allocator's small bins are full, what it splits off lies between its large pieces
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=gettempdir()).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_a_step_finds_the_memory_of_those_before() -> None:
    pages = 2**26 // 4096
    assert page_faults(keep=False) > pages / 2
    assert page_faults(keep=True) < pages / 20
