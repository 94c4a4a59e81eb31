"""With torch, the compiled kernels run on torch's threads."""

from __future__ import annotations

import subprocess
import sys
from tempfile import gettempdir

import pytest

PROGRAM = """
import os, sys
import numpy as np
import ssmcore

def threads():
    return set(os.listdir("/proc/self/task"))

case = {name: np.ones((1, 512, 1024), np.float32) for name in ("u", "delta")}
case |= {"A": -np.ones((512, 16), np.float32)} | {name: np.ones((1, 16, 1024), np.float32) for name in "BC"}
if "torch" in sys.argv:
    import torch
    import ssmcore.torch
    torch.set_num_threads(3)
    torch.ones(1 << 22).exp().sum()
else:
    np.ones(4) @ np.ones(4)
before = threads()
ssmcore.selective_scan(**case, backend="cython", num_threads=3)
print(len(threads() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize(("words", "new"), [([], 2), (["torch"], 0)])
def test_torch_and_the_kernels_have_one_set_of_threads(words: list[str], new: int) -> None:
    pytest.importorskip("ssmcore._kernels.common.binding")
    if words:
        pytest.importorskip("torch")
    command = [sys.executable, "-c", PROGRAM, *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=gettempdir())
    assert int(found.stdout) == new
