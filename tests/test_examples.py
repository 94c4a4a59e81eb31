"""The example of the tutorial docs/backend.md: installed as a user would, run beside the reference, and the same as on the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "own_backend"
PAGE = ROOT / "docs" / "backend.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it, from a copy, since setuptools writes beside the sources."""
    source, target = tmp_path_factory.mktemp("source") / "own_backend", tmp_path_factory.mktemp("target")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def run(program: str, installed: Path) -> str:
    """What a fresh interpreter prints that has the example, and the tests' oracles, on its path."""
    # the root before tests/, whose folder ssmcore would otherwise pass for the package
    path = os.pathsep.join(map(str, (installed, ROOT, ROOT / "tests")))
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=gettempdir(), env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_after_those_of_ssmcore(installed: Path) -> None:
    names = run("import ssmcore; print(*ssmcore.backend_names())", installed).split()
    assert names == ["cython", "numba", "numpy", "torch", "scipy"]


CONFORMANCE = """
import numpy as np, ssmcore
from oracles import relative_error
from samples import SAMPLES
from ssmcore.ops import SPECS

def results(name, case):
    out = getattr(ssmcore, name)(**case)
    dout = np.random.default_rng(1).standard_normal(out.shape).astype(out.dtype)
    if name == "gate_crop":
        return (out,), (ssmcore.gate_crop_vjp(dout, case["g"].shape[case["g"].ndim - len(case["size"]) :]),)
    return (out,), ssmcore.causal_conv1d_vjp(dout, **case)

for name in ("causal_conv1d", "gate_crop"):
    spec = SPECS[name]
    for sample in SAMPLES[name].samples:
        for dtype in (np.float32, np.float64):
            case = sample.make(np.random.default_rng(0), dtype)
            with ssmcore.use_backend("scipy"):
                assert ssmcore.explain(name).backend == "scipy"
                found = results(name, case)
            with ssmcore.use_backend("numpy"):
                reference = results(name, case)
            for tolerance, ours, theirs in zip((spec.forward, spec.gradient), found, reference, strict=True):
                for got, wanted in zip(ours, theirs, strict=True):
                    what = f"{name}, {sample.name}, {dtype.__name__}"
                    if wanted is None:
                        assert got is None, what
                        continue
                    assert got.dtype == wanted.dtype, what
                    assert relative_error(got, wanted) <= tolerance.of(dtype), what
            print(name)
"""


def test_it_equals_the_reference_on_the_samples_of_the_specs(installed: Path) -> None:
    from samples import SAMPLES

    ran = run(CONFORMANCE, installed).split()
    for name in ("causal_conv1d", "gate_crop"):
        assert ran.count(name) == 2 * len(SAMPLES[name].samples)


LACKING = """
import ssmcore
from ssmcore.ops import SPECS
for name in SPECS:
    try:
        ssmcore.explain(name, backend="scipy")
    except ssmcore.BackendError as error:
        print(error)
"""


def test_an_operation_it_lacks_raises_and_is_named(installed: Path) -> None:
    from ssmcore.ops import SPECS

    lines = run(LACKING, installed).splitlines()
    lacking = [spec for name, spec in SPECS.items() if name not in ("causal_conv1d", "gate_crop")]
    assert len(lines) == len(lacking)
    for line, spec in zip(lines, lacking, strict=True):
        assert line.startswith(
            f"{spec.name}: backend 'scipy', named by argument, cannot run: it has no {spec.entries[0]};"
        )


WITHOUT_SCIPY = """
import sys
sys.modules["scipy"] = None
import numpy as np, ssmcore
print(ssmcore.gate_crop(np.arange(9.0).reshape(3, 3), (1, 1), backend="scipy").item())
try:
    ssmcore.causal_conv1d(np.ones((1, 1, 4)), np.ones((1, 2)), backend="scipy")
except ssmcore.BackendError as error:
    print(error)
"""


def test_its_limits_hold_for_one_operation_and_say_why(installed: Path) -> None:
    value, error = run(WITHOUT_SCIPY, installed).splitlines()
    assert value == "4.0"
    assert (
        "causal_conv1d: backend 'scipy', named by argument, cannot run: SciPy is not installed; pip install scipy"
        in error
    )


SESSION = """
import doctest, re, sys
text = "\\n".join(re.findall(r"^```pycon\\n(.*?)^```", open({page!r}).read(), re.DOTALL | re.MULTILINE))
result = doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, {{}}, "backend.md", None, 0))
print(result.attempted)
sys.exit(result.failed)
"""


def test_the_session_on_the_page_runs(installed: Path) -> None:
    assert int(run(SESSION.format(page=str(PAGE)), installed)) > 5


@pytest.mark.parametrize(("language", "file"), [("python", "scipy_backend.py"), ("toml", "pyproject.toml")])
def test_the_page_shows_the_files_of_the_example(language: str, file: str) -> None:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    shown = [line for block in blocks for line in block.splitlines() if line]
    assert shown == [line for line in (EXAMPLE / file).read_text().splitlines() if line]


def test_the_example_is_not_installed_with_ssmcore() -> None:
    from setuptools.config.pyprojecttoml import read_configuration

    packages = read_configuration(ROOT / "pyproject.toml")["tool"]["setuptools"]["packages"]
    assert {name.partition(".")[0] for name in packages} == {"ssmcore", "segnet"}
