"""Imports run downwards only, and nothing heavy is loaded before it is asked for. Each in a fresh interpreter."""

from __future__ import annotations

import ast
import json
import shutil
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


def test_the_web_process_loads_no_torch() -> None:
    assert "torch" not in top(loaded_by("import segnet.serve.server, segnet.serve.app, segnet.serve.archive"))
    assert "torch" not in top(loaded_by("import segnet.serve.ingest"))


@pytest.mark.parametrize(
    "module", ["common.binding", *sorted(f"{path.parent.name}.numba" for path in KERNELS.glob("*/numba.py"))]
)
def test_kernels_know_arrays_only(module: str) -> None:
    loaded = top(loaded_by(f"import numpy, ssmcore._kernels.{module}"))
    assert not loaded & {"torch", "segnet"}


FLOORS = (
    "ssmcore._conventions",
    "ssmcore._processors",
    "ssmcore.lib",
    "ssmcore._kernels",
    "ssmcore._spec",
    "ssmcore.backends",
    "ssmcore._hippo",
    "ssmcore._lti",
    "ssmcore.ops",
    "ssmcore._updates",
    "ssmcore._explain",
    "ssmcore._embedding",
    "ssmcore.capi",
    "ssmcore.torch",
    "ssmcore.compat",
    "segnet.errors",
    "segnet.config",
    "segnet.runtime",
    "segnet.io",
    "segnet.dataset",
    "segnet.metrics",
    "segnet.models",
    "segnet.prediction",
    "segnet.training",
    "segnet.evaluation",
    "segnet.report",
    "segnet.study",
    "segnet.serve",
    "segnet.cli",
)
"""From the bottom to the top. A module imports its own floor and lower ones, also inside functions, so no circle joins two floors."""


def module_of(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> int | None:
    """Height of a module's floor; None for the public face of a package, and for modules of others."""
    return next((h for h, floor in enumerate(FLOORS) if module == floor or module.startswith(f"{floor}.")), None)


def imports_of(file: Path, root: Path) -> set[str]:
    """Modules and names of this project that a source file imports anywhere, absolute."""
    package = file.relative_to(root).with_suffix("").parts
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in ("ssmcore", "segnet")}


def sources(root: Path) -> list[Path]:
    return sorted(file for package in ("ssmcore", "segnet") for file in (root / package).rglob("*.py"))


def violations(root: Path) -> list[str]:
    """Imports that do not run downwards, and modules without a floor."""
    found = []
    for file in sources(root):
        module = module_of(file, root)
        package, _, rest = module.partition(".")
        if rest in ("", "__main__"):
            continue
        height = floor_of(module)
        if height is None:
            found.append(f"{module} is on no floor")
            continue
        for name in sorted(imports_of(file, root)):
            below = floor_of(name)
            face = below is None and name.startswith(f"{package}.") and name != f"{package}.__version__"
            if face or (below is not None and below > height):
                found.append(f"{module} imports {name}")
    return found


def flat_files(root: Path) -> set[str]:
    return {file.name for file in (root / "segnet").glob("*.py")}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources in a folder where faults may be planted."""
    for package in ("ssmcore", "segnet"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda _, names: [n for n in names if "." in n[1:] and not n.endswith(".py")],
        )
    return tmp_path


def test_imports_run_downwards_only() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "statement", "says"),
    [
        (
            "segnet/training/loop.py",
            "from segnet.report.run import draw_run",
            "segnet.training.loop imports segnet.report.run",
        ),
        (
            "segnet/prediction/predict.py",
            "import segnet.evaluation.rows",
            "segnet.prediction.predict imports segnet.evaluation.rows",
        ),
        ("segnet/metrics/overlap.py", "from segnet import predict", "segnet.metrics.overlap imports segnet.predict"),
        ("ssmcore/backends/numpy_.py", "from ..torch import ss2d", "ssmcore.backends.numpy_ imports ssmcore.torch"),
        ("ssmcore/_helpers.py", "", "ssmcore._helpers is on no floor"),
    ],
)
def test_a_planted_import_is_found(file: str, statement: str, says: str, copy: Path) -> None:
    """Also inside a function."""
    with (copy / file).open("a") as stream:
        stream.write(f"\n\ndef planted() -> None:\n    {statement or 'pass'}\n")
    assert says in violations(copy)


def test_nothing_lies_flat_beside_the_packages(copy: Path) -> None:
    allowed = {"__init__.py", "__main__.py", "config.py", "errors.py"}
    assert flat_files(ROOT) == allowed
    (copy / "segnet" / "helpers.py").touch()
    assert flat_files(copy) - allowed == {"helpers.py"}


PACKAGES = [floor for floor in FLOORS if floor.startswith("segnet") and (ROOT / floor.replace(".", "/")).is_dir()]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_may_import(package: str) -> None:
    """In the first line of its docstring."""
    docstring = ast.get_docstring(ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text()))
    assert docstring is not None
    height = FLOORS.index(package)
    below = FLOORS[height - 1].partition(".")[2]
    assert docstring.splitlines()[0].endswith(f"Imports `{below}` and the floors below.")


def test_segnet_uses_ssmcore_by_its_public_names() -> None:
    for file in sources(ROOT):
        if file.is_relative_to(ROOT / "segnet"):
            private = {n for n in imports_of(file, ROOT) if n.startswith("ssmcore") and ("._" in n or ".backends" in n)}
            assert not private, f"{file.name} imports {private}"


def test_one_module_reads_and_writes_hdf5() -> None:
    using = {
        module_of(file, ROOT)
        for file in sources(ROOT)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import) and any(alias.name == "h5py" for alias in node.names)
    }
    assert using == {"segnet.dataset.store"}


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
