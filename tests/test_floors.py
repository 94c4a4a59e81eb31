"""Imports run downwards only, and nothing heavy is loaded before it is asked for. Each in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "ssmcore" / "_kernels"
HEAVY = {"torch", "numba", "scipy", "monai", "nibabel", "h5py", "pydantic"}


def loaded_by(statement: str) -> set[str]:
    """Names in sys.modules after a statement, that were not there before."""
    program = (
        "import sys, json; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    # not in the checkout, whose folder would hide the installed package
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=gettempdir())
    return set(json.loads(run.stdout.splitlines()[-1]))


def top(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_ssmcore_needs_numpy_alone() -> None:
    loaded = top(loaded_by("import ssmcore"))
    assert not loaded & HEAVY
    foreign = {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign == {"ssmcore", "numpy"}


def test_running_an_operation_on_the_compiled_backend_loads_neither_torch_nor_numba() -> None:
    loaded = top(loaded_by("import numpy, ssmcore; ssmcore.gate_crop(numpy.ones((4, 4)), (2, 2), backend='cython')"))
    assert not loaded & {"torch", "numba"}


def test_drop_ins_load_nothing_heavy_before_they_are_asked() -> None:
    loaded = top(loaded_by("import ssmcore.compat"))
    assert not loaded & (HEAVY | {"transformers"})


@pytest.mark.parametrize("module", ["binding", "numba"])
@pytest.mark.parametrize("op", sorted(path.parent.name for path in KERNELS.glob("*/numba.py")))
def test_kernels_know_arrays_only(op: str, module: str) -> None:
    loaded = top(loaded_by(f"import numpy, ssmcore._kernels.{op}.{module}"))
    assert not loaded & {"torch", "segnet"}


def imports_of(file: Path) -> set[str]:
    """Modules of this project a source file imports, absolute, whether or not at its top."""
    import ast

    package = file.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ("ssmcore", "segnet")}


FLOORS = [
    "ssmcore._spec",
    "ssmcore._kernels",
    "ssmcore.backends",
    "ssmcore.ops",
    "ssmcore._explain",
    "ssmcore.torch",
    "ssmcore.compat",
    "segnet",
]


def floor_of(module: str) -> int | None:
    """Height of a module's floor, None for the package's public face."""
    for height, floor in enumerate(FLOORS):
        if module == floor or module.startswith(floor + "."):
            return height
    return None


SOURCES = sorted(p for package in ("ssmcore", "segnet") for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards_only(file: Path) -> None:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    height = floor_of(module)
    if height is None:
        return
    for name in imports_of(file):
        below = floor_of(name)
        assert below is None or below <= height, f"{module} imports {name}, which lies above it"
        if name.startswith("ssmcore.ops"):
            assert height >= FLOORS.index("ssmcore.ops")


def test_segnet_uses_ssmcore_by_its_public_names() -> None:
    for file in SOURCES:
        if file.is_relative_to(ROOT / "segnet"):
            private = {n for n in imports_of(file) if n.startswith("ssmcore") and ("._" in n or ".backends" in n)}
            assert not private, f"{file.name} imports {private}"


def test_volumes_load_no_more_than_nibabel_does() -> None:
    # nibabel loads all of pydicom where it is installed
    loaded, anyway = (top(loaded_by(f"import {name}")) for name in ("segnet.io.volumes", "nibabel"))
    assert not (loaded - anyway) & (HEAVY | {"pydicom", "highdicom", "PIL"})
    assert "highdicom" not in loaded


def test_help_loads_nothing_heavy() -> None:
    loaded = top(loaded_by("import segnet.cli"))
    assert not loaded & {
        "torch",
        "numba",
        "scipy",
        "monai",
        "nibabel",
        "h5py",
        "pydantic",
        "PIL",
        "matplotlib",
        "tabulate",
    }
