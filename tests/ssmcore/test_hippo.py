"""HiPPO systems against the polynomials they are made from, and S4D's diagonals against HiPPO's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from scipy.special import eval_laguerre, eval_legendre

import ssmcore


def impulse_response(measure: str, dstate: int, ages: Any) -> Any:
    """(ages, dstate): the weight that each state gives to an input of that age."""
    A, B = ssmcore.hippo(measure, dstate)
    return np.array([scipy.linalg.expm(age * A) @ B for age in ages])


def test_legs_weighs_the_past_by_legendre_polynomials_of_its_decay() -> None:
    ages, n = np.linspace(0, 4, 9), np.arange(8)
    decay = np.exp(-ages)[:, None]
    wanted = np.sqrt(2 * n + 1) * eval_legendre(n, 2 * decay - 1) * decay
    # the polynomial at the newest moment is 1 and A's entries grow as dstate^2: 1e-16 of them
    np.testing.assert_allclose(impulse_response("legs", 8, ages), wanted, atol=1e-12)


def test_lagt_weighs_the_past_by_laguerre_functions() -> None:
    ages, n = np.linspace(0, 6, 9), np.arange(8)
    wanted = np.exp(-ages / 2)[:, None] * eval_laguerre(n, ages[:, None])
    np.testing.assert_allclose(impulse_response("lagt", 8, ages), wanted, atol=1e-12)


def test_legs_stretched_over_all_time_keeps_a_polynomial_exactly() -> None:
    """x' = (A x + B u)/t holds for the coefficients of u on [0, t]: here of u = s^2."""
    A, B = ssmcore.hippo("legs", 5)
    nodes, weights = np.polynomial.legendre.leggauss(12)

    def coefficients(t: float) -> Any:
        s = t * (nodes + 1) / 2
        basis = np.sqrt(2 * np.arange(5) + 1) * eval_legendre(np.arange(5), nodes[:, None])
        return (weights / 2 * s**2) @ basis

    t, step = 1.7, 1e-5
    slope = (coefficients(t + step) - coefficients(t - step)) / (2 * step)
    np.testing.assert_allclose(slope, (A @ coefficients(t) + B * t**2) / t, atol=1e-8)


def basis_of_a_window(measure: str, dstate: int, ages: Any) -> Any:
    n = np.arange(dstate)
    if measure == "legt":  # the newest moment is the polynomials' right end
        return np.sqrt(2 * n + 1) * eval_legendre(n, 1 - 2 * ages[:, None])
    k = n // 2
    waves = np.where(n % 2, np.sin(2 * np.pi * k * ages[:, None]), np.cos(2 * np.pi * k * ages[:, None]))
    return np.where(n == 0, 1.0, np.sqrt(2) * waves)


@pytest.mark.parametrize("measure", ["legt", "fourier"])
def test_a_window_is_weighed_by_its_basis_and_forgotten_afterwards(measure: str) -> None:
    """Smooth inputs are remembered as their coefficients on the last unit of time, the better the more states there are."""
    ages = (np.arange(4000) + 0.5) / 1000  # four windows
    u = np.exp(-2 * (ages - 0.4) ** 2) * np.cos(3 * ages)
    inside = ages < 1
    errors = []
    for dstate in (16, 64):
        A, B = ssmcore.hippo(measure, dstate)
        A_bar, B_bar = ssmcore.discretize(
            A, B[:, None], np.array(1e-3), method="bilinear", structure="dense", backend="numpy"
        )
        x = np.zeros(dstate)
        for value in u[::-1]:
            x = A_bar @ x + B_bar[:, 0] * value
        wanted = u[inside] @ basis_of_a_window(measure, dstate, ages[inside]) / 1000
        errors.append(np.abs(x - wanted)[:6].max() / np.abs(wanted).max())
    assert errors[1] < errors[0] / 2 or errors[1] < 1e-5
    assert errors[1] < 0.02


def test_legs_diagonal_is_half_the_spectrum_of_its_normal_part() -> None:
    A, B = ssmcore.hippo("legs", 16)
    found = ssmcore.s4d_diagonal("legs", 8)
    wanted = scipy.linalg.eigvals(A + np.outer(B, B) / 2)
    both = np.concatenate([found, found.conj()])
    order = np.argsort(both.imag), np.argsort(wanted.imag)
    np.testing.assert_allclose(both[order[0]], wanted[order[1]], atol=1e-11)


def test_diagonals_have_the_published_entries() -> None:
    n = np.arange(4)
    assert np.array_equal(ssmcore.s4d_diagonal("real", 4), -(n + 1.0))
    assert np.array_equal(ssmcore.s4d_diagonal("lin", 4), -0.5 + 1j * np.pi * n)
    np.testing.assert_allclose(ssmcore.s4d_diagonal("inv", 4).imag, 8 / np.pi * (8 / (2 * n + 1) - 1), rtol=1e-15)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("hippo", ("legz", 4), "measure: expected one of 'legs'"),
        ("hippo", ("legs", 0), "dstate: expected at least 1, got 0"),
        ("hippo", ("legs", 2.0), "dstate: expected an integer, got 2.0"),
        ("hippo", ("fourier", 5), "expected an even number for 'fourier', got 5; pass 6"),
        ("s4d_diagonal", ("linear", 4), "kind: expected one of 'real'"),
        ("s4d_diagonal", ("lin", True), "dstate: expected an integer, got True"),
    ],
)
def test_wrong_arguments_are_named(function: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=message):
        getattr(ssmcore, function)(*arguments)
