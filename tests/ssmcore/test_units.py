"""The pool of threads below all compiled kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMON = ROOT / "ssmcore/_kernels/common"
COMPILER = shutil.which("cc")
pytestmark = [
    pytest.mark.skipif(COMPILER is None or not sys.platform.startswith("linux"), reason="needs a C compiler on Linux"),
    pytest.mark.skipif(not COMMON.exists(), reason="needs the C sources"),
]


def built(folder: Path, *options: str) -> Path:
    program = folder / "units"
    sources = [Path(__file__).with_name("units.c"), COMMON / "units.c"]
    include = [f"-I{COMMON}", f"-I{ROOT / 'ssmcore/include'}"]
    command = [str(COMPILER), "-O1", "-g", "-Wall", "-Werror", "-pthread", *include, *options, *map(str, sources)]
    found = subprocess.run([*command, "-o", str(program), "-lm"], capture_output=True, text=True, check=False)
    if "cannot find" in found.stderr:
        pytest.skip(f"{' '.join(options)}: this compiler has no such sanitizer")
    assert found.returncode == 0, found.stderr
    return program


def run(*command: str) -> None:
    environment = {**os.environ, "TSAN_OPTIONS": "die_after_fork=0 halt_on_error=1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert (found.returncode, found.stdout) == (0, "every unit ran once\n"), found.stderr[-3000:]


def test_every_unit_runs_once_whoever_calls(tmp_path: Path) -> None:
    run(str(built(tmp_path)))


def test_thread_sanitizer_finds_no_race(tmp_path: Path) -> None:
    # addresses at random can lie where the sanitizer keeps its own memory
    still = ["setarch", sysconfig.get_platform().partition("-")[2], "-R"] if shutil.which("setarch") else []
    run(*still, str(built(tmp_path, "-fsanitize=thread")))


@pytest.mark.parametrize("options", [("-fsanitize=address",), ("-fsanitize=undefined", "-fno-sanitize-recover=all")])
def test_sanitizers_find_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    run(str(built(tmp_path, *options)))
