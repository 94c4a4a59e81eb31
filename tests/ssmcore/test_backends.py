"""Who runs an operation: a named backend runs or raises, and only the automatic choice passes one over."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from samples import SAMPLES

import ssmcore
from ssmcore import backends
from ssmcore.ops import SPECS

G = np.arange(9.0).reshape(3, 3)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Backends by name -> (object, problem), instead of what is installed."""
    known: dict[str, tuple[Any, str | None]] = {name: backends._loaded(name) for name in backends.BUILTIN}
    monkeypatch.setattr(backends, "_loaded", known.__getitem__)
    monkeypatch.setattr(backends, "names", lambda: tuple(known))
    backends._automatic.cache_clear()
    yield known
    backends._automatic.cache_clear()


def test_the_compiled_backend_is_chosen_first() -> None:
    choice = ssmcore.explain("selective_scan")
    assert (choice.backend, choice.asked_by, choice.skipped) == ("cython", "automatically", ())
    assert "cython" in str(choice)


def test_a_named_backend_that_cannot_load_raises_with_the_cause(fresh: Any) -> None:
    fresh["cython"] = (None, "ImportError: no compiled module")
    with pytest.raises(
        ssmcore.BackendError, match=r"'cython', named by argument, cannot run: ImportError: no compiled"
    ):
        ssmcore.gate_crop(G, (1, 1), backend="cython")
    with ssmcore.use_backend("cython"), pytest.raises(ssmcore.BackendError, match="named by use_backend, cannot run"):
        ssmcore.gate_crop(G, (1, 1))


def test_the_environment_names_a_backend(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMCORE_BACKEND", "numba")
    assert ssmcore.explain("gate_crop").asked_by == "by SSMCORE_BACKEND"
    fresh["numba"] = (None, "ImportError: no numba")
    with pytest.raises(ssmcore.BackendError, match="named by SSMCORE_BACKEND, cannot run: ImportError: no numba"):
        ssmcore.gate_crop(G, (1, 1))


def test_the_automatic_choice_says_what_it_passed_over(fresh: Any) -> None:
    fresh["cython"] = (None, "ImportError: no compiled module")
    choice = ssmcore.explain("gate_crop")
    assert choice.backend == "numba"
    assert choice.skipped == (("cython", "ImportError: no compiled module"),)
    assert "passed over cython: ImportError" in str(choice)


def test_a_backend_that_fails_while_running_is_not_replaced(fresh: Any) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise FloatingPointError("broken kernel")

    fresh["cython"] = (SimpleNamespace(OPERATIONS={"gate_crop": broken, "gate_crop_vjp": broken}), None)
    for backend in (None, "cython"):
        with pytest.raises(FloatingPointError, match="broken kernel"):
            ssmcore.gate_crop(G, (1, 1), backend=backend)


def test_a_backend_without_the_operation_is_refused(fresh: Any) -> None:
    fresh["other"] = (SimpleNamespace(), None)
    with pytest.raises(ssmcore.BackendError, match="it has no gate_crop"):
        ssmcore.gate_crop(G, (1, 1), backend="other")


def test_a_third_party_backend_runs(fresh: Any) -> None:
    operations = {"gate_crop": lambda call: (2 * call.g[1:2, 1:2],), "gate_crop_vjp": None}
    fresh["twice"] = (SimpleNamespace(OPERATIONS=operations), None)
    assert ssmcore.gate_crop(G, (1, 1), backend="twice").item() == 8


@pytest.mark.parametrize("name", ["cythn", "NumPy", "numpy_"])
def test_a_misspelt_name_is_an_error(name: str) -> None:
    with pytest.raises(ssmcore.BackendError, match=f"expected one of auto, cython, numba, numpy, torch.*got '{name}'"):
        ssmcore.gate_crop(G, (1, 1), backend=name)
    with pytest.raises(ssmcore.BackendError, match="check its spelling"), ssmcore.use_backend(name):
        pass


def test_use_backend_ends_with_its_block() -> None:
    with ssmcore.use_backend("numpy"):
        assert ssmcore.explain("gate_crop").backend == "numpy"
        with ssmcore.use_backend("torch"):
            assert ssmcore.explain("gate_crop").backend == "torch"
        assert ssmcore.explain("gate_crop").backend == "numpy"
    assert ssmcore.explain("gate_crop").backend == "cython"


def test_explain_refuses_an_unknown_operation() -> None:
    with pytest.raises(ValueError, match=r"expected one of discretize, selective_scan, .*ssm_recurrence, got 'scan'"):
        ssmcore.explain("scan")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_num_threads_is_checked(threads: Any) -> None:
    case = SAMPLES["selective_scan"].samples[0].make(np.random.default_rng(0), np.float32)
    with pytest.raises(ValueError, match="num_threads: expected a whole number of at least 1"):
        ssmcore.selective_scan(**case, num_threads=threads)


@pytest.mark.parametrize(
    "op",
    ["selective_scan", "ss2d", "chunk_scan", "causal_conv1d", "depthwise_conv2d", "attention_gate", "ssm_recurrence"],
)
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_each_instruction_set_gives_the_reference(isa: str, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from oracles import relative_error

    if isa not in ssmcore.cpu_features().usable:
        pytest.skip(f"this processor does not run {isa}")
    monkeypatch.setenv("SSMCORE_ISA", isa)
    assert isa in str(ssmcore.explain(op))
    assert ssmcore.cpu_features().isa == isa
    spec = SPECS[op]
    forward, vjp = getattr(ssmcore, op), getattr(ssmcore, f"{op}_vjp", None)
    for sample in SAMPLES[op].samples:
        if sample.name.startswith("complex A") or sample.name.startswith("dense"):
            continue  # no instruction set has kernels for these
        for dtype in (np.float32, np.float64):
            case = sample.make(np.random.default_rng(7), dtype)
            got, wanted = (forward(**case, backend=b) for b in ("cython", "numpy"))
            if op in ("attention_gate", "ssm_recurrence"):
                got, wanted = got[0], wanted[0]
            assert relative_error(got, wanted) <= spec.forward.of(dtype), sample.name
            if vjp is None:
                continue
            dout = np.random.default_rng(8).standard_normal(got.shape).astype(dtype)
            grads, wanted_grads = (vjp(dout, **case, backend=b) for b in ("cython", "numpy"))
            for g, w in zip(grads, wanted_grads, strict=True):
                assert g is w is None or relative_error(g, w) <= spec.gradient.of(dtype), sample.name


@pytest.mark.parametrize("variable", ["SSMCORE_NUM_THREADS", "SSMCORE_WORK_PER_THREAD"])
def test_numbers_of_the_environment_are_checked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "many")
    with pytest.raises(ValueError, match=f"{variable}: expected a whole number of at least 1, got 'many'"):
        ssmcore.selective_scan(**SAMPLES["selective_scan"].samples[0].make(np.random.default_rng(0), np.float32))


def test_little_work_wakes_no_thread_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = SAMPLES["selective_scan"].samples[0].make(np.random.default_rng(0), np.float32)
    many = ssmcore.selective_scan(**case, num_threads=2)
    monkeypatch.delenv("SSMCORE_WORK_PER_THREAD")
    assert np.array_equal(ssmcore.selective_scan(**case, num_threads=2), many)


@pytest.mark.parametrize(("variable", "wanted"), [("OMP_NUM_THREADS", 1), ("SSMCORE_NUM_THREADS", 3)])
def test_threads_follow_the_environment(variable: str, wanted: int) -> None:
    program = "import ssmcore; from ssmcore.backends import _threads, cython_; print(_threads.resolve(None))"
    environment = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k} | {variable: str(wanted)}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=gettempdir())
    assert int(run.stdout) == wanted


def test_an_unknown_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMCORE_ISA", "avx1024")
    case = SAMPLES["selective_scan"].samples[0].make(np.random.default_rng(0), np.float32)
    with pytest.raises(ValueError, match=r"SSMCORE_ISA: expected one of generic.*got 'avx1024'"):
        ssmcore.selective_scan(**case, backend="cython")


@pytest.fixture(scope="module")
def block_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], int]:
    """The function of the C source, which the library does not export."""
    compiler, kernels = shutil.which("cc"), Path(ssmcore.__file__).parent / "_kernels"
    if compiler is None or not (kernels / "selective_scan/selective_scan.c").exists():
        pytest.skip("needs a C compiler and the C sources")
    made = tmp_path_factory.mktemp("blocks") / "blocks.so"
    places = [f"-I{kernels / 'common'}", f"-I{kernels.parent / 'include'}"]
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        *places,
        str(kernels / "selective_scan/selective_scan.c"),
        "-o",
        str(made),
    ]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(
        str(made), mode=os.RTLD_LAZY
    ).ssm_scan_block  # the functions that it calls are never called here
    function.argtypes, function.restype = [ctypes.c_int64] * 3, ctypes.c_int64
    return function


@pytest.mark.parametrize("units", [4, 8, 64, 256])
@pytest.mark.parametrize("lots", [0, 1, 2, 3, 8, 64, 10_000])
@pytest.mark.parametrize("dim", [0, 1, 16, 33, 48, 96, 131, 192, 384, 400, 1536])
def test_blocks_are_wide_while_there_are_enough_units(
    dim: int, lots: int, units: int, block_of: Callable[[int, int, int], int]
) -> None:
    block = block_of(dim, lots, units)
    assert block % 16 == 0
    assert 16 <= block <= 384
    if block > 64:
        blocks = -(-dim // (block - 15))  # before it was made whole vectors
        assert max(lots, 1) * blocks >= units
    assert block <= block_of(dim, lots + 1, units)


def test_kernels_agree_on_how_often_a_state_is_kept() -> None:
    from ssmcore._conventions import CHECKPOINT_STEPS
    from ssmcore._kernels.common import binding
    from ssmcore._kernels.selective_scan import numba

    assert binding.CHUNK == numba.CHUNK == CHECKPOINT_STEPS


UNBUILT = """
import sys, warnings
if {numba_too}:
    sys.modules["numba"] = None
import numpy as np, ssmcore
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ops = [ssmcore.explain(op).backend for op in ("gate_crop", "selective_scan", "gate_crop")]
print(*ops, ssmcore.cpu_features().isa)
print(*(w.message for w in caught), sep="\\n")
"""


@pytest.mark.parametrize("numba_too", [False, True])
@pytest.mark.parametrize("checkout", [False, True])
def test_the_first_fallback_from_missing_kernels_warns_with_the_remedy(
    checkout: bool, numba_too: bool, tmp_path: Path
) -> None:
    """In a source tree without a built extension, and in a package installed without one."""
    shutil.copytree(
        Path(ssmcore.__file__).parent, tmp_path / "ssmcore", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    if checkout:
        (tmp_path / "setup.py").touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SSMCORE")} | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", UNBUILT.format(numba_too=numba_too)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=gettempdir())
    ops, *warned = run.stdout.splitlines()
    backend = "numpy" if numba_too else "numba"
    assert ops.split() == [backend] * 3 + ["None"]
    assert len(warned) == 1
    assert f"so {backend} runs instead" in warned[0]
    assert ("run `make build`" if checkout else "install a C compiler and reinstall") in warned[0]
    assert ("the slow reference" in warned[0]) == numba_too


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"])
def test_the_other_byte_order_is_refused_and_not_rounded(backend: str) -> None:
    with pytest.raises(
        ssmcore.ArgumentError, match=r"g: expected this machine's byte order, got >f8; .*astype\('float64'\)"
    ):
        ssmcore.gate_crop(G.astype(">f8"), (1, 1), backend=backend)
    with pytest.raises(ssmcore.ArgumentError, match=r"A_bar: expected .* at most 64 bits each, got float128"):
        ssmcore.ssm_recurrence(*np.ones((4, 2), np.longdouble), backend=backend)


def test_fields_of_packed_records_are_read_as_they_are() -> None:
    """Their strides, 12 bytes, are no multiple of eight."""
    from samples.selective_scan import make_case

    case = make_case(np.random.default_rng(0), np.float64, batch=1, dim=3, seqlen=5, dstate=2, extras=False)
    records = np.zeros(case["u"].shape, [("a", "f4"), ("u", "f8")])
    records["u"] = case["u"]
    assert not records["u"].flags.aligned
    wanted = ssmcore.selective_scan(**case)
    for name in ("cython", "numba", "numpy"):
        np.testing.assert_allclose(
            ssmcore.selective_scan(**case | {"u": records["u"]}, backend=name), wanted, rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize("method", ["zoh", "bilinear", "mamba"])
@pytest.mark.parametrize("structure", ["diagonal", "dense"])
def test_discretised_systems_have_all_leading_axes(structure: str, method: str) -> None:
    core = (4,) if structure == "diagonal" else (4, 4)
    A, B = (
        -np.ones(core) * np.eye(4)[: core[0]].max() * 0.1,
        np.ones((5, 1, 4) if structure == "diagonal" else (5, 1, 4, 2)),
    )
    delta = np.full((3,), 0.1)
    for backend in ("cython", "numba", "numpy", "torch"):
        if structure == "dense" and backend in ("cython", "numba"):
            continue
        found = ssmcore.discretize(A, B, delta, method=method, structure=structure, backend=backend)
        assert [x.shape for x in found] == [(5, 3, *core), (5, 3, *B.shape[2:])]
