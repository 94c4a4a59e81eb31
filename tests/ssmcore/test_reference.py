"""The reference itself against scalar loops, complex-step derivatives and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from oracles import directional_derivative, relative_error, scalar_scan
from samples import SAMPLES

import ssmcore

SCANS = [
    s
    for s in SAMPLES["selective_scan"].samples
    if s.name not in ("past a block", "16 states", "no channel", "empty batch") and "complex" not in s.name
]
COMPLEX = [s for s in SAMPLES["selective_scan"].samples if "complex" in s.name]


@pytest.mark.parametrize("sample", SCANS, ids=lambda s: s.name)
def test_scan_equals_four_nested_loops(sample: Any) -> None:
    case = sample.make(np.random.default_rng(4), np.float64)
    out, last = ssmcore.selective_scan(**case, return_last_state=True, backend="numpy")
    wanted, wanted_last = scalar_scan(**case)
    # the oracle's zoh gain (e^x - 1)/A cancels near 0, hence not 1e-15
    assert relative_error(out, wanted) < 1e-11
    assert relative_error(last, wanted_last) < 1e-11


@pytest.mark.parametrize("sample", COMPLEX, ids=lambda s: s.name)
def test_a_complex_scan_is_that_of_all_states_with_their_conjugates(sample: Any) -> None:
    case = sample.make(np.random.default_rng(4), np.float64)
    out, last = ssmcore.selective_scan(**case, return_last_state=True, backend="numpy")
    pairs = {k: v for k, v in case.items() if k != "z"}
    for name in {"A", "B", "C", "initial_state"} & set(case):
        axis = -2 if case["layout"] == "bdl" and case[name].shape[-1] == case["u"].shape[-1] else -1
        pairs[name] = np.concatenate([case[name], case[name].conj()], axis=axis)
    wanted, wanted_last = scalar_scan(**pairs)
    assert abs(wanted.imag).max() < 1e-12 * abs(wanted).max()
    gate = case["z"] / (1 + np.exp(-case["z"])) if "z" in case else 1
    assert relative_error(out, wanted.real * gate) < 1e-11
    assert relative_error(last, wanted_last[..., : last.shape[-1]]) < 1e-11


@pytest.mark.parametrize("sample", SCANS, ids=lambda s: s.name)
def test_scan_vjp_equals_complex_step_derivatives(sample: Any) -> None:
    case = sample.make(np.random.default_rng(5), np.float64)
    rng = np.random.default_rng(6)
    out, last = ssmcore.selective_scan(**case, return_last_state=True, backend="numpy")
    dout, dlast = rng.standard_normal(out.shape), rng.standard_normal(last.shape)
    grads = ssmcore.selective_scan_vjp(dout, **case, dlast_state=dlast, backend="numpy")
    for name, gradient in grads._asdict().items():
        if name not in case:
            continue
        direction = rng.standard_normal(case[name].shape)
        d_out, d_last = directional_derivative(scalar_scan, case, name, direction)
        forward = (dout * d_out).sum() + (dlast * d_last).sum()
        adjoint = (gradient * direction).sum()
        scale = (abs(dout) * abs(d_out)).sum() + (abs(dlast) * abs(d_last)).sum()
        assert abs(forward - adjoint) <= 1e-10 * scale, name


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_dense_discretisation_equals_scipy(method: str, rng: np.random.Generator) -> None:
    A, B, step = rng.standard_normal((5, 5)) - 2 * np.eye(5), rng.standard_normal((5, 2)), 0.3
    A_bar, B_bar = ssmcore.discretize(A, B, np.array(step), method=method, structure="dense")
    wanted_A, wanted_B, *_ = scipy.signal.cont2discrete((A, B, np.eye(5), np.zeros((5, 2))), step, method=method)
    assert relative_error(A_bar, wanted_A) < 1e-13
    assert relative_error(B_bar, wanted_B) < 1e-13


@pytest.mark.parametrize("norm", [0.0, 1e-3, 1.0, 30.0])
def test_matrix_exponential_equals_scipy(norm: float, rng: np.random.Generator) -> None:
    X = rng.standard_normal((3, 6, 6)) * norm / 6
    wanted = np.stack([scipy.linalg.expm(x) for x in X])
    # squaring doubles the rounding each time: log2(norm) + 1 times
    found, _ = ssmcore.discretize(X, np.ones((3, 6, 1)), np.ones(3), method="mamba", structure="dense", backend="numpy")
    assert relative_error(found, wanted) < 1e-15 * (4 + 4 * norm)


@pytest.mark.parametrize("method", ["zoh", "mamba", "bilinear"])
@pytest.mark.parametrize("structure", ["diagonal", "dense"])
def test_discretize_vjp_equals_finite_differences(method: str, structure: str, rng: np.random.Generator) -> None:
    sample = SAMPLES["discretize"].named(f"{structure} {method}")
    case = sample.make(rng, np.float64)
    dA_bar, dB_bar = (rng.standard_normal(x.shape) for x in ssmcore.discretize(**case, backend="numpy"))
    grads = ssmcore.discretize_vjp(dA_bar, dB_bar, **case, backend="numpy")

    def value(**changed: Any) -> float:
        A_bar, B_bar = ssmcore.discretize(**case | changed, backend="numpy")
        return float((dA_bar * A_bar).sum() + (dB_bar * B_bar).sum())

    for name, gradient in grads._asdict().items():
        direction = rng.standard_normal(case[name].shape)
        eps = 1e-5
        forward = (value(**{name: case[name] + eps * direction}) - value(**{name: case[name] - eps * direction})) / (
            2 * eps
        )
        # central differences: eps^2 truncation, 1e-16/eps rounding
        assert abs(forward - (gradient * direction).sum()) < 1e-7 * (1 + abs(forward)), name


def test_gate_crop_takes_the_centre() -> None:
    g = np.arange(5.0 * 6).reshape(1, 1, 5, 6)
    assert np.array_equal(ssmcore.gate_crop(g, (2, 3), backend="numpy")[0, 0], [[7, 8, 9], [13, 14, 15]])
