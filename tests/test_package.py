"""The source archive holds what the kernels are built from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_source_archive_can_be_built_from(tmp_path: Path) -> None:
    """It lists every source of the kernels, Cython's own too, and what the packages read at run time."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".*", "build", "demo-out", "docs", "tests", "bench", "__pycache__", "*.so", "*.egg-info"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    environment = {**os.environ, "SSMCORE_BUILD": "require"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (listing,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    held = {line for line in listing.read_text().splitlines() if not line.startswith("build/")}
    files = [path for package in ("ssmcore", "segnet") for path in (folder / package).rglob("*") if path.is_file()]
    missing = {path.relative_to(folder).as_posix() for path in files if "__pycache__" not in path.parts} - held
    assert not missing
