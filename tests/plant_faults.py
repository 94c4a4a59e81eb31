"""Plants the faults of tests/faults, one at a time, in a copy of the checkout. Each must turn its tests red.

    python tests/plant_faults.py              # all, as `make faults` does
    python tests/plant_faults.py numba gate   # faults with one of these words in their operation or name

A fault counts as caught only where pytest ends with exit code 1: a test failed. Code 0 is a miss. Every other code, such
as 2 for a module that cannot be imported and 5 for no test at all, is an error of the run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900
NOT_COPIED = (".git", ".venv*", "demo-out", "mutants", "__pycache__", ".*_cache", ".hypothesis")


class RunError(Exception):
    """The fault says nothing about the tests: it could not be planted, built or run."""


@dataclass(frozen=True)
class Fault:
    """`find`, which stands once in `file`, becomes `replace`. `tests` are arguments of pytest, as in a shell."""

    operation: str
    name: str
    file: str
    find: str
    replace: str
    tests: str

    @property
    def compiled(self) -> bool:
        return self.file.endswith((".c", ".h", ".pyx"))

    def __str__(self) -> str:
        return f"{self.operation}: {self.name}"


def all_faults() -> list[Fault]:
    files = sorted((ROOT / "tests" / "faults").glob("*.toml"))
    return [Fault(file.stem, **entry) for file in files for entry in tomllib.loads(file.read_text())["fault"]]


def is_caught(exit_code: int) -> bool:
    """Whether a test failed. Raises RunError for an exit code that is neither pytest's 0 nor its 1."""
    if exit_code not in (0, 1):
        raise RunError(f"pytest ended with exit code {int(exit_code)}, neither 0 (passed) nor 1 (a test failed)")
    return exit_code == 1


@contextmanager
def planted(fault: Fault, folder: Path) -> Iterator[None]:
    """The file in `folder` holds the fault, and afterwards its own text again."""
    file = folder / fault.file
    text = file.read_text()
    if text.count(fault.find) != 1:
        raise RunError(f"expected its text once in {fault.file}, found it {text.count(fault.find)} times")
    file.write_text(text.replace(fault.find, fault.replace))
    try:
        yield
    finally:
        file.write_text(text)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "SSMCORE_BUILD": "require", "CI": "true"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S)


def build(folder: Path) -> None:
    """Compiles kernels older than their sources."""
    result = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"], folder)
    if result.returncode:
        raise RunError(f"the build failed\n{result.stderr[-2000:]}")


def turn_red(tests: str, folder: Path) -> bool:
    result = run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *shlex.split(tests)], folder)
    try:
        return is_caught(result.returncode)
    except RunError as error:
        raise RunError(f"{error}\npytest {tests}\n{(result.stdout + result.stderr)[-2000:]}") from None


def verdict(fault: Fault, folder: Path) -> str:
    try:
        with planted(fault, folder):
            if fault.compiled:
                build(folder)
            return "caught" if turn_red(fault.tests, folder) else "MISSED"
    except (RunError, subprocess.TimeoutExpired) as error:
        return f"ERROR {error}"


def main(words: list[str]) -> None:
    # kernels last: each build then also compiles the file that the fault before it changed
    faults = sorted(all_faults(), key=lambda fault: fault.compiled)
    faults = [fault for fault in faults if not words or any(word in str(fault) for word in words)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkout"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
        build(folder)
        for tests in dict.fromkeys(fault.tests for fault in faults):
            if turn_red(tests, folder):
                raise SystemExit(f"red before any fault was planted: pytest {tests}")
        verdicts = {}
        for fault in faults:
            verdicts[fault] = verdict(fault, folder)
            print(f"{verdicts[fault]:7} {fault}", flush=True)
    not_caught = [str(fault) for fault, said in verdicts.items() if said != "caught"]
    print(f"{len(faults) - len(not_caught)} of {len(faults)} faults caught")
    if not_caught or not faults:
        raise SystemExit("not caught: " + ("; ".join(not_caught) or "there is no such fault"))


if __name__ == "__main__":
    main(sys.argv[1:])
