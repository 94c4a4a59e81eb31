"""NaN, infinities, extreme steps, aliasing: where values come out, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import relative_error
from samples.selective_scan import make_case

import ssmcore
from ssmcore.ops.selective_scan import SPEC


def case(**changes: Any) -> dict[str, Any]:
    made = make_case(np.random.default_rng(0), np.float32, batch=1, dim=20, seqlen=70, dstate=4, extras=False)
    return made | changes


@pytest.mark.parametrize("discretization", ["mamba", "bilinear", "zoh"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["u", "B", "C"])
def test_not_a_number_spreads_exactly_as_in_the_reference(
    name: str, value: float, discretization: str, backend: str
) -> None:
    broken = case(discretization=discretization)
    broken[name][(0, -1, 3)] = value
    got, wanted = (ssmcore.selective_scan(**broken, return_last_state=True, backend=b) for b in (backend, "numpy"))
    for g, w in zip(got, wanted, strict=True):
        assert np.array_equal(np.isnan(g), np.isnan(w))
        assert np.array_equal(np.isposinf(g), np.isposinf(w))
        assert np.array_equal(np.isneginf(g), np.isneginf(w))
    assert np.isfinite(wanted[0][0, :, :3]).all(), "nothing before it is touched"


@pytest.mark.parametrize("discretization", ["mamba", "bilinear", "zoh"])
def test_steps_that_forget_everything(discretization: str, backend: str) -> None:
    """A delta far below -87, where e^x leaves float32."""
    stiff = case(discretization=discretization)
    stiff["delta"][:, :, ::7] = 500.0
    got, wanted = (ssmcore.selective_scan(**stiff, backend=b) for b in (backend, "numpy"))
    assert relative_error(got, wanted) <= SPEC.forward.float32


def test_a_step_of_nothing_changes_nothing(any_backend: str) -> None:
    still = case()
    still["delta"][...] = 0
    state = np.random.default_rng(1).standard_normal((1, 20, 4)).astype(np.float32)
    _, last = ssmcore.selective_scan(**still, initial_state=state, return_last_state=True, backend=any_backend)
    assert np.array_equal(last, state)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softplus_over_its_whole_range(dtype: Any, backend: str) -> None:
    """Relative to each step, so that the small ones of strongly negative input count; the identity above 20."""
    delta = np.concatenate([np.linspace(-80, 30, 331), [19.999, 20.0, 20.001]]).astype(dtype)
    ones = np.ones((len(delta), 1, 1), dtype)
    _, last = ssmcore.selective_scan(
        ones,
        delta[:, None, None],
        np.zeros((1, 1), dtype),
        ones,
        ones,
        delta_softplus=True,
        return_last_state=True,
        backend=backend,
    )
    wide = delta.astype(np.float64)
    wanted = np.where(wide > 20, wide, np.log1p(np.exp(np.minimum(wide, 20))))
    # exp and artanh series: a few roundings each
    assert np.abs(last[:, 0, 0] / wanted - 1).max() < (8e-7 if dtype == np.float32 else 2e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_decay_is_accurate_in_every_binade(dtype: Any, backend: str) -> None:
    """A_bar read off the state after one step without input, against numpy's exponential."""
    lowest = -80 if dtype == np.float32 else -600
    x = np.concatenate([np.linspace(lowest, 60, 1401), -np.logspace(-20, 0, 41)]).astype(dtype)
    zero, one = np.zeros((1, len(x), 1), dtype), np.ones((1, len(x), 1), dtype)
    B = np.zeros((1, 1, 1), dtype)
    state = np.ones((1, len(x), 1), dtype)
    _, last = ssmcore.selective_scan(
        zero, one, x[:, None], B, B, initial_state=state, return_last_state=True, backend=backend
    )
    # folding log2(e) into A and rounding the product cost |x| roundings, the polynomial two
    eps = np.finfo(dtype).eps
    assert np.all(np.abs(last[0, :, 0] / np.exp(x.astype(np.float64)) - 1) <= eps * (3 + np.abs(x) * 1.5))


def test_arguments_may_share_memory(any_backend: str) -> None:
    shared = np.abs(np.random.default_rng(2).standard_normal((2, 5, 9)))
    A = -np.ones((5, 5))
    together = ssmcore.selective_scan(shared, shared, A, shared, shared, z=shared, backend=any_backend)
    apart = ssmcore.selective_scan(
        *(x.copy() for x in (shared, shared, A, shared, shared)), z=shared.copy(), backend=any_backend
    )
    assert np.array_equal(together, apart)


def test_float16_is_computed_in_float32(any_backend: str) -> None:
    half = {k: v.astype(np.float16) if isinstance(v, np.ndarray) else v for k, v in case().items()}
    out, last_state = ssmcore.selective_scan(**half, return_last_state=True, backend=any_backend)
    in_float32 = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in half.items()}
    wide, wide_last = ssmcore.selective_scan(**in_float32, return_last_state=True, backend=any_backend)
    assert (out.dtype, last_state.dtype) == (np.float16, np.float32)
    assert np.array_equal(last_state, wide_last)
    # one rounding to float16 of the result
    assert np.all(np.abs(out.astype(np.float32) - wide) <= 2.0**-11 * np.abs(wide) + 2.0**-24)


def test_no_argument_is_written_to(any_backend: str) -> None:
    given = case(delta_softplus=True)
    before = {k: v.copy() for k, v in given.items() if isinstance(v, np.ndarray)}
    ssmcore.selective_scan_vjp(given["u"], **given, backend=any_backend)
    for name, value in before.items():
        assert np.array_equal(given[name], value)
