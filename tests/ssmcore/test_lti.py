"""The three forms of a linear system against each other and against scipy.signal."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.signal

import ssmcore
from ssmcore._lti import fast_length

EPS = {np.float32: 1.2e-7, np.float64: 2.2e-16, np.complex64: 1.2e-7, np.complex128: 2.2e-16}


def system(rng: np.random.Generator, structure: str, dtype: Any, lead: tuple[int, ...] = (3,), dstate: int = 5) -> Any:
    """A stable system: A_bar of norm below 1."""

    def normal(*shape: int) -> Any:
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x

    if structure == "diagonal":
        A = normal(*lead, dstate)
        A *= 0.97 / np.abs(A).max(initial=1e-9)
    else:
        A = normal(*lead, dstate, dstate)
        A *= 0.97 / np.linalg.norm(A, 2, axis=(-2, -1), keepdims=True)
    return A.astype(dtype), normal(*lead, dstate).astype(dtype), normal(*lead, dstate).astype(dtype)


def close(got: Any, wanted: Any, dtype: Any, terms: int) -> None:
    """Sums of `terms` rounded products, the error in proportion to the largest."""
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    if wanted.size:
        assert np.abs(got - wanted).max() <= 4 * terms * EPS[dtype] * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", list(EPS))
@pytest.mark.parametrize("structure", ["diagonal", "dense"])
@pytest.mark.parametrize("seqlen", [1, 2, 9, 10, 100])
def test_convolution_and_recurrence_agree(structure: str, dtype: Any, seqlen: int) -> None:
    rng = np.random.default_rng(seqlen)
    A, B, C = system(rng, structure, dtype)
    u = rng.standard_normal((3, seqlen)).astype(dtype)
    D = rng.standard_normal(3).astype(dtype)
    y, _ = ssmcore.ssm_recurrence(A, B, C, u, D=D, structure=structure)
    kernel = ssmcore.ssm_kernel(A, B, C, seqlen, structure=structure)
    close(ssmcore.ssm_convolve(u, kernel, D=D), y, dtype, seqlen + 5)
    y, _ = ssmcore.ssm_recurrence(A, B, C, u, structure=structure)
    close(ssmcore.ssm_convolve(u, kernel), y, dtype, seqlen + 5)


@pytest.mark.parametrize("structure", ["diagonal", "dense"])
def test_the_kernel_is_the_response_to_an_impulse(structure: str) -> None:
    A, B, C = system(np.random.default_rng(1), structure, np.float64)
    impulse = np.zeros(50)
    impulse[0] = 1
    y, _ = ssmcore.ssm_recurrence(A, B, C, impulse, structure=structure)
    close(ssmcore.ssm_kernel(A, B, C, 50, structure=structure), y, np.float64, 55)


@pytest.mark.parametrize("structure", ["diagonal", "dense"])
@pytest.mark.parametrize("alone", ["A_bar", "B_bar", "C"])
def test_leading_axes_broadcast(structure: str, alone: str) -> None:
    """One of the three has systems side by side, the others are shared."""
    shared, many = (system(np.random.default_rng(6), structure, np.float64, lead=lead) for lead in ((), (3,)))
    names = ("A_bar", "B_bar", "C")
    A, B, C = (m if name == alone else s for name, m, s in zip(names, many, shared, strict=True))
    impulse = np.zeros(20)
    impulse[0] = 1
    y, _ = ssmcore.ssm_recurrence(A, B, C, impulse, structure=structure)
    close(ssmcore.ssm_kernel(A, B, C, 20, structure=structure), y, np.float64, 25)


def test_a_recurrence_goes_on_where_it_stopped() -> None:
    rng = np.random.default_rng(2)
    A, B, C = system(rng, "dense", np.float64)
    u = rng.standard_normal((3, 20))
    y, last = ssmcore.ssm_recurrence(A, B, C, u, structure="dense")
    head, middle = ssmcore.ssm_recurrence(A, B, C, u[:, :7], structure="dense")
    tail, end = ssmcore.ssm_recurrence(A, B, C, u[:, 7:], initial_state=middle, structure="dense")
    assert np.array_equal(np.concatenate([head, tail], 1), y)
    assert np.array_equal(end, last)


def test_recurrence_equals_dlsim_of_a_discretised_system() -> None:
    """dlsim reads the state before the step, so its C is ours times A_bar, and its D ours times B_bar."""
    rng = np.random.default_rng(3)
    A, B = ssmcore.hippo("legt", 6)
    A_bar, B_bar = ssmcore.discretize(A, B[:, None], np.array(0.05), method="zoh", structure="dense", backend="numpy")
    theirs = scipy.signal.cont2discrete((A, B[:, None], np.eye(6), np.zeros((6, 1))), 0.05, method="zoh")
    np.testing.assert_allclose(A_bar, theirs[0], atol=1e-13)
    C, u = rng.standard_normal(6), rng.standard_normal(40)
    row = C[None]
    _, wanted, _ = scipy.signal.dlsim((A_bar, B_bar, row @ A_bar, row @ B_bar, 1.0), u)
    y, _ = ssmcore.ssm_recurrence(A_bar, B_bar[:, 0], C, u, structure="dense")
    np.testing.assert_allclose(y, wanted[:, 0], atol=1e-12)


def test_a_kernel_of_a_million_steps_ends_where_its_powers_do() -> None:
    A = np.exp(-1e-6 + 1j * np.array([0.1, 1.0, 2.0]))
    B, C = np.array([1.0, 2.0, -1.0]), np.array([0.5, 1j, 1.0])
    kernel = ssmcore.ssm_kernel(A, B, C, 2**20)
    for k in (0, 12345, 2**20 - 1):
        wanted = (C * B * np.exp(k * (-1e-6 + 1j * np.array([0.1, 1.0, 2.0])))).sum()
        # the phase of a power k is k times that of A, which is known to 2e-16
        assert abs(kernel[k] - wanted) < 4 * 2.2e-16 * max(k, 10) * 4


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_convolution_does_not_wrap_round(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    u, kernel = rng.standard_normal((2, 1, 33)).astype(dtype), rng.standard_normal((4, 50)).astype(dtype)
    wanted = np.array([[np.convolve(a, k)[:33] for k in kernel] for a in u[:, 0]])
    close(ssmcore.ssm_convolve(u, kernel), wanted, dtype, 33)


@pytest.mark.parametrize("real", [True, False])
def test_transforms_are_as_long_as_scipys(real: bool) -> None:
    for length in range(1, 3000):
        assert fast_length(length, real=real) == scipy.fft.next_fast_len(length, real=real)


def test_the_convolution_needs_numpy_alone() -> None:
    program = (
        "import sys; sys.modules['scipy'] = None\n"
        "import numpy as np, ssmcore\n"
        "print(ssmcore.ssm_convolve(np.array([1.0, 0.0, 2.0]), np.array([1.0, 0.5])).round(12).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[1.0, 0.5, 2.0]\n"


def test_nothing_in_nothing_out() -> None:
    A, B, C = system(np.random.default_rng(5), "diagonal", np.float64, lead=(0,))
    assert ssmcore.ssm_kernel(A, B, C, 7).shape == (0, 7)
    A, B, C = system(np.random.default_rng(5), "dense", np.float64)
    assert ssmcore.ssm_kernel(A, B, C, 0, structure="dense").shape == (3, 0)
    assert ssmcore.ssm_convolve(np.ones((3, 0)), np.ones((3, 0))).shape == (3, 0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda s: s.ssm_kernel(np.ones(3), np.ones(4), np.ones(3), 5), r"B_bar: expected .* dstate 3"),
        (
            lambda s: s.ssm_kernel(np.ones(3), np.ones(3), np.ones(3), 5, structure="dense"),
            r"A_bar: expected \(\.\.\., dstate, d",
        ),
        (lambda s: s.ssm_kernel(np.ones(3), np.ones(3), np.ones(3), -1), "length: expected at least 0, got -1"),
        (lambda s: s.ssm_kernel(np.ones(3, int), np.ones(3), np.ones(3), 1), "A_bar: expected .*got int64; convert"),
        (lambda s: s.ssm_kernel(np.ones((2, 3)), np.ones((4, 3)), np.ones(3), 1), "leading axes that broadcast"),
        (lambda s: s.ssm_kernel(np.ones(3), np.ones(3), np.ones(3), 1, structure="full"), "structure: expected one of"),
        (lambda s: s.ssm_convolve(np.ones((2, 5)), np.ones((3, 5))), "leading axes that broadcast"),
        (lambda s: s.ssm_convolve(np.float64(1), np.ones(3)), "u: expected"),
        (
            lambda s: s.ssm_recurrence(np.ones(3), np.ones(3), np.ones(3), np.ones(5), initial_state=np.ones(4)),
            "initial_state",
        ),
    ],
)
def test_wrong_arguments_are_named(run: Any, message: str) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=message):
        run(ssmcore)
