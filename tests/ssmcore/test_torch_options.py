"""Options that all functions of tensors share, and their limits: who runs them, on how many threads, how often they differentiate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ssmcore
import ssmcore.torch as st

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "selective_scan": {"u": (2, 6, 9), "delta": (2, 6, 9), "A": (6, 3), "B": (2, 3, 9), "C": (2, 3, 9)},
    "ss2d": {"x": (2, 3, 4, 6), "delta": (2, 3, 4, 4, 6), "A": (4, 6, 3), "B": (2, 3, 4, 4, 3), "C": (2, 3, 4, 4, 3)},
    "chunk_scan": {"x": (2, 9, 4, 3), "dt": (2, 9, 4), "A": (4,), "B": (2, 9, 2, 5), "C": (2, 9, 2, 5)},
    "causal_conv1d": {"x": (2, 6, 9), "weight": (6, 4)},
    "depthwise_conv2d": {"x": (2, 3, 4, 6), "weight": (6, 3, 3)},
    "attention_gate": {"x": (2, 3, 4, 6), "theta": (2, 3, 4, 5), "phi": (2, 3, 4, 5)}
    | dict.fromkeys(("theta_weight", "phi_weight", "shift", "psi"), (5,))
    | dict.fromkeys(("psi_weight", "psi_shift"), (1,)),
}
OPS = tuple(SHAPES)


def case(name: str) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    given = {n: torch.randn(shape, generator=g) for n, shape in SHAPES[name].items()}
    return given | {n: sign * given[n].abs() for n, sign in (("delta", 1), ("dt", 1), ("A", -1)) if n in given}


def first(result: Any) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result[0]


@pytest.mark.parametrize("name", OPS)
def test_the_backend_named_by_argument_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMCORE_BACKEND", "fortran")
    with pytest.raises(ssmcore.BackendError, match=f"{name}: backend: expected one of auto, .*, got 'fortran'"):
        getattr(st, name)(**case(name))
    slow, fast = (first(getattr(st, name)(**case(name), backend=b)) for b in ("numpy", "cython"))
    torch.testing.assert_close(slow, fast)
    with pytest.raises(
        ssmcore.BackendError, match=f"{name}: backend: expected one of auto, .*, got 'cobol' by argument"
    ):
        getattr(st, name)(**case(name), backend="cobol")


@pytest.mark.parametrize("name", OPS)
def test_any_number_of_threads_has_the_same_result(name: str) -> None:
    one, two = (first(getattr(st, name)(**case(name), num_threads=n)) for n in (1, 2))
    assert torch.equal(one, two)
    for wrong in (0, True, "two"):
        with pytest.raises(ValueError, match=f"num_threads: expected a whole number of at least 1, got {wrong!r}"):
            getattr(st, name)(**case(name), num_threads=wrong)


def test_a_complex_scan_refuses_a_backend_without_it() -> None:
    given = case("selective_scan")
    given["A"] = given["A"].to(torch.complex64)
    with pytest.raises(ssmcore.BackendError, match="'cython', named by argument, cannot run"):
        st.selective_scan(**given, backend="cython")


def test_a_compiled_graph_keeps_the_options() -> None:
    x, weight = torch.randn(1, 4, 4, 3), torch.randn(3, 3, 3)

    def convolve(x: torch.Tensor, backend: str | None) -> torch.Tensor:
        return st.depthwise_conv2d(x, weight, backend=backend, num_threads=1)

    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, "numpy"), convolve(x, "numpy"))
    with pytest.raises(ssmcore.BackendError, match="cobol"):
        compiled(x, "cobol")


@pytest.mark.parametrize("name", OPS)
def test_a_gradient_of_a_gradient_raises(name: str) -> None:
    given = {k: v.requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in case(name).items()}
    x = next(iter(given.values()))
    (dx,) = torch.autograd.grad(first(getattr(st, name)(**given)).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{name}_bwd: expected first derivatives alone"):
        dx.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autograd_sees_that_a_step_changed_its_state(dtype: torch.dtype) -> None:
    """A product that kept the state for its gradient would have a wrong one."""
    ones, state, weight = torch.ones(2, 6, dtype=dtype), torch.ones(2, 6, 3), torch.ones(2, 6, 3, requires_grad=True)
    steps = (
        lambda: st.causal_conv1d_update(ones, state, torch.ones(6, 4, dtype=dtype)),
        lambda: st.selective_state_update(state, ones, ones, *(torch.ones(s, dtype=dtype) for s in ((6, 3), (2, 3), (2, 3)))),
    )  # fmt: skip
    for step in steps:
        y = (weight * state).sum()
        with torch.no_grad():
            step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
