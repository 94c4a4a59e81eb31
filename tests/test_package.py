"""The source archive holds what the kernels are built from, and each extra what the packages import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mode", ["require", "never"])
def test_a_source_archive_can_be_built_from(mode: str, tmp_path: Path) -> None:
    """It lists every source of the kernels and what the packages read at run time, also where no kernel is built."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        *(".*", "build", "demo-out", "docs", "tests", "bench", "__pycache__", "*.egg-info"),
        *("*.so", "*.so.*", "cmake", "pkgconfig"),  # which the build writes
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    environment = {**os.environ, "SSMCORE_BUILD": mode}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (listing,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    held = {line for line in listing.read_text().splitlines() if not line.startswith("build/")}
    files = [path for package in ("ssmcore", "segnet") for path in (folder / package).rglob("*") if path.is_file()]
    missing = {path.relative_to(folder).as_posix() for path in files if "__pycache__" not in path.parts} - held
    assert not missing


def test_highdicom_is_for_the_service_alone() -> None:
    """pydicom decodes JPEG-LS by pyjpegls, which highdicom brings along."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {line.split(">")[0] for line in lines} for extra, lines in extras.items()}
    assert {extra for extra, packages in names.items() if "highdicom" in packages} == {"serve"}
    assert {"pydicom", "pyjpegls"} <= names["dicom"]
