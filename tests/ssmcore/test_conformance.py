"""Every backend against the reference, from the specs' own samples, with NaN in the memory the kernels are given."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracles import relative_error
from strategies import every_other, grids, reversed_memory, scans, transposed_memory

import ssmcore
from ssmcore.ops import SPECS

SAMPLES = [
    pytest.param(spec, sample, id=f"{spec.name}: {sample.name}") for spec in SPECS.values() for sample in spec.samples
]
ERRORS = [
    pytest.param(spec, sample, id=f"{spec.name}: {sample.name}")
    for spec in SPECS.values()
    for sample in spec.error_samples
]
DTYPES = [np.float32, np.float64]


def results(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def forward(name: str, case: dict[str, Any], backend: str) -> tuple[Any, ...]:
    extra = {
        "selective_scan": {"return_last_state": True},
        "causal_conv1d": {"return_final_states": True},
        "chunk_scan": {"return_final_states": True},
    }.get(name, {})
    return results(getattr(ssmcore, name)(**case, **extra, backend=backend))


def backward(name: str, case: dict[str, Any], backend: str, seed: int = 0) -> tuple[Any, ...]:
    """The vjp of `name` for random output gradients."""
    rng = np.random.default_rng(seed)
    if name == "ssm_recurrence":
        return ()
    outputs = forward(name, case, "numpy")
    grads = [rng.standard_normal(o.shape).astype(o.dtype) for o in outputs]
    if name == "gate_crop":
        g = case["g"]
        return (ssmcore.gate_crop_vjp(grads[0], g.shape[g.ndim - len(case["size"]) :], backend=backend),)
    if name == "discretize":
        return ssmcore.discretize_vjp(*grads, **case, backend=backend)
    if name == "causal_conv1d":
        return ssmcore.causal_conv1d_vjp(grads[0], **case, dfinal_states=grads[1], backend=backend)
    if name == "chunk_scan":
        return ssmcore.chunk_scan_vjp(grads[0], **case, dfinal_states=grads[1], backend=backend)
    if name in ("ss2d", "depthwise_conv2d", "attention_gate"):
        return getattr(ssmcore, f"{name}_vjp")(grads[0], **case, backend=backend)
    return ssmcore.selective_scan_vjp(grads[0], **case, dlast_state=grads[1], backend=backend)


def runs(name: str, backend: str, case: dict[str, Any]) -> None:
    if backend not in ("cython", "numba"):
        return
    complex_A = name in ("discretize", "selective_scan") and case["A"].dtype.kind == "c"
    if complex_A or case.get("structure") == "dense":
        with pytest.raises(ssmcore.BackendError, match=r"diagonal systems|scan with a real A"):
            forward(name, case, backend)
        pytest.skip(f"{backend} says that it does neither dense nor complex systems")


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
@pytest.mark.parametrize(("spec", "sample"), SAMPLES)
def test_forward_and_vjp_equal_the_reference(spec: Any, sample: Any, dtype: Any, backend: str) -> None:
    case = sample.make(np.random.default_rng(1), dtype)
    runs(spec.name, backend, case)
    compare(forward(spec.name, case, backend), forward(spec.name, case, "numpy"), spec.forward.of(dtype))
    compare(backward(spec.name, case, backend), backward(spec.name, case, "numpy"), spec.gradient.of(dtype))


@pytest.mark.parametrize("memory", [every_other, reversed_memory, transposed_memory], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("spec", "sample"), SAMPLES)
def test_strides_and_read_only_memory_change_nothing(spec: Any, sample: Any, memory: Any, any_backend: str) -> None:
    case = sample.make(np.random.default_rng(2), np.float64)
    runs(spec.name, any_backend, case)
    strided = {k: memory(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
    for value in strided.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    compare(forward(spec.name, strided, any_backend), forward(spec.name, case, any_backend), spec.forward.float64)
    compare(backward(spec.name, strided, any_backend), backward(spec.name, case, any_backend), spec.gradient.float64)


@pytest.mark.parametrize(("spec", "sample"), ERRORS)
def test_bad_arguments_are_refused_in_the_same_words(spec: Any, sample: Any, any_backend: str) -> None:
    case = sample.make(np.random.default_rng(3))
    with pytest.raises(sample.error) as caught:
        forward(spec.name, case, any_backend)
    message = str(caught.value)
    assert isinstance(caught.value, ssmcore.ArgumentError)
    position = -1
    for fragment in sample.says:
        position = message.find(fragment, position + 1)
        assert position >= 0, f"{fragment!r} not in order in {message!r}"


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


@pytest.mark.parametrize("op", [op for op in SPECS if op != "ss2d"])  # numba has no kernel of its own for it
def test_twins_share_their_documentation(op: str) -> None:
    first, second = (importlib.import_module(f"ssmcore._kernels.{op}.{module}") for module in ("binding", "numba"))
    here = second.__name__
    functions = [f for f in vars(second).values() if getattr(f, "__module__", None) == here and callable(f)]
    shared = [f.__name__ for f in functions if hasattr(first, f.__name__) and not f.__name__.endswith("_of")]
    assert shared
    for function in shared:
        docs = [" ".join((getattr(module, function).__doc__ or "").split()) for module in (first, second)]
        # a fused Cython function lists its signatures first
        assert docs[1]
        assert docs[0].endswith(docs[1])
