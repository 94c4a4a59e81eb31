"""The source archive holds what the kernels are built from, and each extra what the packages import."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from setuptools import Distribution
from setuptools.errors import CompileError

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


def build_script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names in setup.py, which builds nothing."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SSMCORE_BUILD", "never")
    with patch("setuptools.setup"):
        return runpy.run_path("setup.py")


@pytest.mark.parametrize("free_threaded", [0, 1])
def test_only_pythons_with_a_lock_share_a_module(free_threaded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limited API is not for the others."""
    real = sysconfig.get_config_var
    monkeypatch.setattr(
        sysconfig, "get_config_var", lambda name: free_threaded if name == "Py_GIL_DISABLED" else real(name)
    )
    module = build_script(monkeypatch)["module"]()
    assert module.py_limited_api is not bool(free_threaded)
    assert bool(module.define_macros) is not bool(free_threaded)


def test_msvc_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    names = build_script(monkeypatch)
    command = names["BuildKernels"](Distribution())
    command.compiler = SimpleNamespace(compiler_type="msvc")
    with pytest.raises(CompileError, match=r"MSVC has no vector types.*ziglang.*--compiler mingw32"):
        command.build_library(names["library"]([]))


def test_highdicom_is_for_the_service_alone() -> None:
    """pydicom decodes JPEG-LS by pyjpegls, which highdicom brings along."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {line.split(">")[0] for line in lines} for extra, lines in extras.items()}
    assert {extra for extra, packages in names.items() if "highdicom" in packages} == {"serve"}
    assert {"pydicom", "pyjpegls"} <= names["dicom"]
