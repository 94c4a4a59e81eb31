"""Every backend against the reference, from the records and the samples, with NaN in the memory that kernels are given."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conformance import DOUTS, backward, forward, traits_of
from hypothesis import HealthCheck, given, settings
from oracles import relative_error
from samples import SAMPLES
from strategies import every_other, grids, reversed_memory, scans, transposed_memory

import ssmcore
from ssmcore import backends
from ssmcore._spec import Call
from ssmcore.ops import SPECS

CASES = [pytest.param(SPECS[op], sample, id=f"{op}: {sample.name}") for op in SPECS for sample in SAMPLES[op].samples]
ERRORS = [pytest.param(op, sample, id=f"{op}: {sample.name}") for op in SPECS for sample in SAMPLES[op].errors]
DTYPES = [np.float32, np.float64]


def runs(name: str, backend: str, case: dict[str, Any]) -> None:
    """Skips a case that the backend refuses by its limits, having seen the refusal."""
    reason = backends.refusal(backend, SPECS[name], frozenset(traits_of(case)))
    if reason is not None:
        with pytest.raises(ssmcore.BackendError, match=reason):
            forward(name, case, backend)
        pytest.skip(f"{backend}: {reason}")


def compare(got: tuple[Any, ...], reference: tuple[Any, ...], tolerance: float) -> None:
    assert len(got) == len(reference)
    for i, (g, r) in enumerate(zip(got, reference, strict=True)):
        if r is None:
            assert g is None
            continue
        assert g.dtype == r.dtype
        # the reference rounds its own float64 result once
        assert relative_error(g, r) <= tolerance, f"result {i}"


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("spec", "sample"), CASES)
def test_forward_and_vjp_equal_the_reference(spec: Any, sample: Any, dtype: Any, backend: str) -> None:
    case = sample.make(np.random.default_rng(1), dtype)
    runs(spec.name, backend, case)
    compare(forward(spec.name, case, backend), forward(spec.name, case, "numpy"), spec.forward.of(dtype))
    compare(backward(spec.name, case, backend), backward(spec.name, case, "numpy"), spec.gradient.of(dtype))


@pytest.mark.parametrize("memory", [every_other, reversed_memory, transposed_memory], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("spec", "sample"), CASES)
def test_strides_and_read_only_memory_change_nothing(spec: Any, sample: Any, memory: Any, any_backend: str) -> None:
    case = sample.make(np.random.default_rng(2), np.float64)
    runs(spec.name, any_backend, case)
    strided = {k: memory(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
    for value in strided.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    compare(forward(spec.name, strided, any_backend), forward(spec.name, case, any_backend), spec.forward.float64)
    compare(backward(spec.name, strided, any_backend), backward(spec.name, case, any_backend), spec.gradient.float64)


@pytest.mark.parametrize(("op", "sample"), ERRORS)
def test_bad_arguments_are_refused_by_name(op: str, sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any backend is chosen."""
    monkeypatch.setattr(backends, "choose", None)
    case = sample.make(np.random.default_rng(3))
    with pytest.raises(sample.error) as caught:
        getattr(ssmcore, op)(**case)
    message = str(caught.value)
    assert isinstance(caught.value, ssmcore.ArgumentError)
    position = -1
    for fragment in sample.says:
        position = message.find(fragment, position + 1)
        assert position >= 0, f"{fragment!r} not in order in {message!r}"


def calls_of(op: str, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The call that a public function hands to its backend."""
    found: list[Call] = []
    with monkeypatch.context() as patch:
        run = backends.run
        patch.setattr(backends, "run", lambda call, **options: found.append(replace(call)) or run(call, **options))
        getattr(ssmcore, op)(**case, backend="numpy")
    return found[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("op", [op for op in SPECS if "..." not in SPECS[op].outputs[0].axes])
def test_outputs_have_the_shapes_and_dtypes_of_the_record(
    op: str, dtype: Any, any_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[op]
    call = calls_of(op, SAMPLES[op].samples[0].make(np.random.default_rng(4), dtype), monkeypatch)
    call.keep = True
    results = backends.run(call, backend=any_backend)
    sizes = spec.check_shapes({name: None if a is None else a.shape for name, a in call.arrays.items()})
    for output, result in zip(spec.outputs, results, strict=True):
        assert result.shape == spec.shape_of(output, sizes), output.name
        assert result.dtype == (np.promote_types(dtype, np.float32) if output.wide else dtype), output.name


@pytest.mark.parametrize("op", [op for op in SPECS if any(output.kept for output in SPECS[op].outputs)])
def test_kept_outputs_serve_the_gradient(op: str, any_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit of the gradient that runs the forward pass again."""
    call = calls_of(op, SAMPLES[op].samples[1].make(np.random.default_rng(5), np.float32), monkeypatch)
    outputs = SPECS[op].outputs
    results = backends.run(replace(call, keep=True), backend=any_backend)
    call.douts = tuple(r + 1 for output, r in zip(outputs, results, strict=True) if not output.kept)
    kept = tuple(r for output, r in zip(outputs, results, strict=True) if output.kept)
    again, handed = (backends.run(replace(call, kept=k), backend=any_backend) for k in ((), kept))
    for a, b in zip(again, handed, strict=True):
        assert a is b is None or np.array_equal(a, b)


BROKEN_GRADIENTS = {
    "a list": (lambda g: g.tolist(), "expected a NumPy array, got list", TypeError),
    "complex": (lambda g: g + 1j, "expected dtype float16, float32 or float64, got complex128", TypeError),
    "integers": (lambda g: np.ones(g.shape, np.int64), "expected dtype .* got int64", TypeError),
    "another byte order": (lambda g: g.astype(">f8"), "expected this machine's byte order", TypeError),
    "another shape": (lambda g: g[..., None], "expected (a )?shape", ValueError),
}


@pytest.mark.parametrize("broken", BROKEN_GRADIENTS)
@pytest.mark.parametrize("op", [op for op in SPECS if SPECS[op].differentiable and op != "gate_crop"])
def test_broken_gradients_of_outputs_are_refused_by_name(op: str, broken: str) -> None:
    change, message, error = BROKEN_GRADIENTS[broken]
    case = SAMPLES[op].samples[0].make(np.random.default_rng(6), np.float64)
    vjp = getattr(ssmcore, f"{op}_vjp")
    names = [name for name in inspect.signature(vjp).parameters if name in DOUTS]
    sound = dict(zip(names, forward(op, case, "numpy"), strict=False))
    for name in names:
        with pytest.raises(error, match=f"{op}: {name}: {message}") as caught:
            vjp(**sound | {name: change(sound[name])}, **case)
        assert isinstance(caught.value, ssmcore.ArgumentError)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("poisoned")
@given(scan=scans())
def test_any_scan_equals_the_reference(scan: Any, backend: str) -> None:
    case, dtype = scan
    spec = SPECS["selective_scan"]
    compare(forward(spec.name, case, backend), forward(spec.name, case, "numpy"), spec.forward.of(dtype))
    compare(backward(spec.name, case, backend), backward(spec.name, case, "numpy"), spec.gradient.of(dtype))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("poisoned")
@given(grid=grids())
def test_any_grid_equals_the_reference(grid: Any, backend: str) -> None:
    case, dtype = grid
    spec = SPECS["ss2d"]
    compare(forward(spec.name, case, backend), forward(spec.name, case, "numpy"), spec.forward.of(dtype))
    compare(backward(spec.name, case, backend), backward(spec.name, case, "numpy"), spec.gradient.of(dtype))
