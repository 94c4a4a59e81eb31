"""numba compiles the kernel that is called, for its dtype, and finds it in its cache the next time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

PROGRAM = """
import sys
import numpy as np, ssmcore
from numba.core.event import install_recorder
case = [np.full(shape, 0.5, np.float32) for shape in ((1, 4, 3), (1, 4, 3), (4, 2), (1, 2, 3), (1, 2, 3))]
with install_recorder("numba:compile") as recorder:
    {call}
    # another layout in memory compiles nothing more
    case[0] = np.ascontiguousarray(case[0].swapaxes(1, 2)).swapaxes(1, 2)
    {call}
compiled = [event.data for _, event in recorder.buffer if event.is_end]
named = [(c["dispatcher"].py_func.__name__, c["args"]) for c in compiled]
kernels = [(name, str(args[0].dtype)) for name, args in named if name.startswith("selective_scan")]
modules = [name for name in sys.modules if name.startswith("ssmcore._kernels.") and name.endswith(".numba")]
print(len(compiled), kernels, modules, sep=";")
"""
FORWARD = "ssmcore.selective_scan(*case, backend='numba')"
BACKWARD = "ssmcore.selective_scan_vjp(case[0], *case, backend='numba')"


def compiled(call: str, cache: Path) -> list[str]:
    """Number of compilations, kernels compiled, and modules of kernels imported, in a fresh process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=gettempdir(), check=True)
    return run.stdout.strip().split(";")


def test_a_first_call_compiles_one_kernel_for_one_dtype(tmp_path: Path) -> None:
    module = str(["ssmcore._kernels.selective_scan.numba"])
    count, kernels, modules = compiled(FORWARD, tmp_path)
    assert int(count) > 0
    assert (kernels, modules) == (str([("selective_scan_fwd", "float32")]), module)
    assert compiled(FORWARD, tmp_path) == ["0", "[]", module]
    assert compiled(BACKWARD, tmp_path)[1:] == [str([("selective_scan_bwd", "float32")]), module]
