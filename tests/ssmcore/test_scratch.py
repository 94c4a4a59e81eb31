"""Kernels read nothing of their scratch memory that they have not written: all of malloc's memory holds NaN, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ssmcore

POISON = """
#include <stddef.h>
#include <string.h>
extern void *__libc_malloc(size_t);
void *malloc(size_t size) {
    void *memory = __libc_malloc(size);
    if (memory && size > 4096) memset(memory, 0xFF, size);
    return memory;
}
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="takes glibc and a C compiler")
@pytest.mark.skipif("cython" not in str(ssmcore.explain("chunk_scan")), reason="the compiled kernels are not built")
def test_no_kernel_reads_what_it_has_not_written(tmp_path: Path) -> None:
    (tmp_path / "poison.c").write_text(POISON)
    library = tmp_path / "poison.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "poison.c"], check=True)
    tests = Path(__file__).with_name("test_backends.py")
    settings = tests.parents[2] / "pyproject.toml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(settings), str(tests)]
    command += ["-k", "each_instruction_set"]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout
