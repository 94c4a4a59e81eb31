"""The library for another processor, emulated, on every sample. A C program runs calls that this process sends it.

SSMCORE_AARCH64_LIBRARY names a library to test, such as that of a wheel. By default it is compiled from the checkout.
"""

from __future__ import annotations

import inspect
import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from conformance import backward, forward, traits_of
from oracles import relative_error
from samples import SAMPLES

from ssmcore import backends
from ssmcore._kernels.common import binding
from ssmcore.backends import cython_
from ssmcore.ops import SPECS

ROOT = Path(__file__).parents[2]
TARGET = "aarch64-linux-gnu"
COMPILER = shutil.which(f"{TARGET}-gcc")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
SYSTEM = f"/usr/{TARGET}"
TYPES = {"f4": 0, "f8": 1, "f2": 2, "u2": 3, "c8": 4, "c16": 5, "u1": 6}  # as ssmcore.h numbers them
MEMBERS = {"silu": ("int", "activation"), "work": ("long", "work_per_thread"), "eps": ("real", "eps")}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason=f"needs {TARGET}-gcc"),
    pytest.mark.skipif(EMULATOR is None, reason="needs qemu-aarch64"),
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the checkout"),
]


def compiled(folder: Path) -> Path:
    """The library, of the sources and by the flags of setup.py."""
    with pytest.MonkeyPatch.context() as context, patch("setuptools.setup"):
        context.chdir(ROOT)
        context.setenv("SSMCORE_BUILD", "never")
        build = runpy.run_path("setup.py")
        extension = build["library"]([path for path in build["KERNELS"].iterdir() if path.is_dir()])
    macros = [f"-D{name}={value}" for name, value in extension.define_macros]

    def one(source: str) -> str:
        kernel = build["KERNELS"] / Path(source).parent.name
        places = [f"-I{ROOT / place}" for place in (kernel, build["COMMON"], build["INCLUDE"])]
        made = folder / f"{kernel.name}-{Path(source).stem}.o"
        options = ["-fPIC", *extension.extra_compile_args, *macros, *places]
        subprocess.run([str(COMPILER), "-c", *options, source, "-o", str(made)], cwd=ROOT, check=True)
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(one, extension.sources))
    library = folder / build["FILES"]["linux"]
    subprocess.run([str(COMPILER), "-shared", *objects, *extension.extra_link_args, "-o", str(library)], check=True)
    return library


def packed(array: np.ndarray[Any, Any]) -> tuple[bytes, tuple[int, ...]]:
    """An array's bytes without gaps, and their strides. The axes follow one another in memory as those of the array."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    copy = np.array(array.transpose(order), order="C")
    return copy.tobytes(), copy.transpose(np.argsort(order)).strides


class Remote:
    """Functions like those of the Cython module, which run in another process."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name not in SPECS and not name.endswith("_vjp"):
            return getattr(binding, name)
        signature = inspect.signature(getattr(binding, name))
        return lambda *values: self.call(name, signature.bind(*values).arguments)

    def call(self, op: str, given: dict[str, Any]) -> None:
        to, answer = self.process.stdin, self.process.stdout
        assert to is not None
        assert answer is not None
        given["isa"] = 0  # the widest, there and not here
        given = {name: value for name, value in given.items() if value is not None}
        sent: list[tuple[Any, bytes, tuple[int, ...]]] = []
        to.write(f"{op} {len(given)}\n".encode())
        for name, value in given.items():
            if isinstance(value, np.ndarray):
                content, strides = packed(value)
                numbers = [*value.shape, *(step // value.itemsize for step in strides), len(content)]
                words = ["array", name, TYPES[value.dtype.str[1:]], value.ndim, *numbers]
                to.write(" ".join(map(str, words)).encode() + b"\n" + content)
                sent.append((value, content, strides))
            else:
                kind, member = MEMBERS.get(name, ("int", name))
                to.write(f"{kind} {member} {value if kind == 'real' else int(value)}\n".encode())
        to.flush()
        status, _, words_of_error = answer.readline().decode().rstrip("\n").partition(" ")
        for array, content, strides in sent:
            there = answer.read(len(content))
            if there != content:
                array[...] = np.ndarray(array.shape, array.dtype, there, strides=strides)
        if status != "0":
            raise RuntimeError(f"{op}: status {status or self.process.wait()}: {words_of_error}")
        self.calls += 1


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("aarch64")
    named = os.environ.get("SSMCORE_AARCH64_LIBRARY")
    library = Path(named).resolve() if named else compiled(folder)
    program = folder / "calls"
    files = [str(Path(__file__).with_name("calls.c")), str(library)]
    options = ["-O1", "-Wall", "-Werror", f"-I{ROOT}/ssmcore/include", f"-Wl,-rpath,{library.parent}"]
    subprocess.run([str(COMPILER), *options, *files, "-o", str(program)], check=True)
    remote = Remote(str(EMULATOR), "-L", SYSTEM, str(program))
    yield remote
    assert remote.process.stdin is not None
    remote.process.stdin.close()
    assert remote.process.wait() == 0


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("op", SPECS)
def test_every_sample_equals_the_reference(op: str, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, before = SPECS[op], remote.calls
    monkeypatch.setattr(cython_, "binding", remote)
    for dtype in (np.float32, np.float64):
        worst = {"forward": 0.0, "gradient": 0.0}
        for sample in SAMPLES[op].samples:
            case = sample.make(np.random.default_rng(1), dtype)
            if backends.refusal("cython", spec, frozenset(traits_of(case))) is not None:
                continue
            for what, function in (("forward", forward), ("gradient", backward)):
                results = zip(function(op, case, "cython"), function(op, case, "numpy"), strict=True)
                for got, reference in results:
                    if reference is not None:
                        error = relative_error(got, reference)
                        worst[what] = max(worst[what], error)
                        assert error <= getattr(spec, what).of(dtype), f"{sample.name}: {what}, {dtype.__name__}"
        errors = (f"{what} {error:.1e} of {getattr(spec, what).of(dtype):.0e}" for what, error in worst.items())
        print(f"{op}, {dtype.__name__}: {', '.join(errors)}")
    assert remote.calls > before
