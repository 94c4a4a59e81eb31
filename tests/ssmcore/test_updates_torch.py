"""Steps on states of tensors against NumPy's, the express way against the usual one, the custom ops, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ssmcore
import ssmcore.torch as st

BATCH, DIM, DSTATE, TAPS = 3, 24, 16, 4
SCAN = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")


def scan_case(dtype: torch.dtype = torch.float32, groups: int | None = None, dim: int = DIM) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    matrix = (BATCH, DSTATE) if groups is None else (BATCH, groups, DSTATE)
    return {
        "state": normal(BATCH, dim, DSTATE),
        "x": normal(BATCH, dim),
        "dt": normal(BATCH, dim),
        "A": -normal(dim, DSTATE).exp(),
        "B": normal(*matrix),
        "C": normal(*matrix),
        "D": normal(dim),
        "z": normal(BATCH, dim),
        "dt_bias": normal(dim),
        "dt_softplus": True,
    }


def convolution_case(dtype: torch.dtype = torch.float32, past: int = TAPS, dim: int = DIM) -> dict[str, Any]:
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return {
        "x": normal(BATCH, dim),
        "conv_state": normal(BATCH, dim, past),
        "weight": normal(dim, TAPS),
        "bias": normal(dim),
        "activation": "silu",
    }


def copied(case: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in case.items()}


def as_arrays(case: dict[str, Any]) -> dict[str, Any]:
    return {k: v.numpy().copy() if isinstance(v, torch.Tensor) else v for k, v in case.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "groups"), [(1, None), (1, 1), (24, None), (24, 2), (130, 1), (130, 2)])
@pytest.mark.parametrize("absent", [(), ("D",), ("D", "z", "dt_bias")])
def test_an_express_scan_step_is_the_general_one_to_the_bit(
    dtype: torch.dtype, dim: int, groups: int | None, absent: tuple[str, ...]
) -> None:
    case = {k: v for k, v in scan_case(dtype, groups, dim).items() if k not in absent}
    express, general = copied(case), copied(case)
    got = [st.selective_state_update(**express) for _ in range(3)]
    wanted = [st.selective_state_update(**general, state_batch_indices=torch.arange(BATCH)) for _ in range(3)]
    assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))
    assert torch.equal(express["state"], general["state"])
    assert not torch.equal(express["state"], case["state"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 24, 130])
@pytest.mark.parametrize("past", [TAPS - 1, TAPS, 7])
def test_an_express_convolution_step_is_the_general_one_to_the_bit(dtype: torch.dtype, dim: int, past: int) -> None:
    case = convolution_case(dtype, past, dim)
    express, general = copied(case), copied(case)
    got = [st.causal_conv1d_update(**express) for _ in range(3)]
    wanted = [st.causal_conv1d_update(**general, conv_state_indices=torch.arange(BATCH)) for _ in range(3)]
    assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))
    assert torch.equal(express["conv_state"], general["conv_state"])
    assert torch.equal(express["conv_state"][:, :, -1], case["x"])


def test_a_chunk_of_a_product_is_taken_as_it_lies() -> None:
    """x and z as halves of one row, A as a transposed view: strided, and still in place."""
    case = scan_case()
    xz = torch.cat([case["x"], case["z"]], 1)
    strided = copied(case) | {"x": xz[:, :DIM], "z": xz[:, DIM:], "A": case["A"].t().contiguous().t()}
    assert torch.equal(st.selective_state_update(**strided), st.selective_state_update(**case))
    assert torch.equal(strided["state"], case["state"])


def test_a_strided_state_is_changed_in_place() -> None:
    case = scan_case()
    cache = torch.zeros(2, BATCH, DSTATE, DIM).transpose(2, 3)
    cache[1] = case["state"]
    wanted = st.selective_state_update(**case)
    assert torch.equal(st.selective_state_update(**(case | {"state": cache[1].copy_(scan_case()["state"])})), wanted)
    assert torch.equal(cache[1], case["state"])
    assert not cache[0].any()


@pytest.mark.parametrize("indices", [None, torch.tensor([4, -1, 2]), torch.tensor([4, -1, 2], dtype=torch.int32)])
def test_steps_are_those_of_numpy(indices: torch.Tensor | None) -> None:
    case = scan_case()
    case["state"] = torch.randn(5 if indices is not None else BATCH, DIM, DSTATE)
    arrays = as_arrays(case)
    got = st.selective_state_update(**case, state_batch_indices=indices)
    wanted = ssmcore.selective_state_update(**arrays, state_batch_indices=None if indices is None else indices.numpy())
    assert np.array_equal(got.numpy(), wanted)
    assert np.array_equal(case["state"].numpy(), arrays["state"])
    convolution = convolution_case()
    convolution["conv_state"] = torch.randn(5 if indices is not None else BATCH, DIM, 5)
    arrays = as_arrays(convolution)
    seen = torch.tensor([0, 3, 9])
    options = {"cache_seqlens": seen, "conv_state_indices": indices}
    got = st.causal_conv1d_update(**convolution, **options)
    wanted = ssmcore.causal_conv1d_update(**arrays, **{k: None if v is None else v.numpy() for k, v in options.items()})
    assert np.array_equal(got.numpy(), wanted)
    assert np.array_equal(convolution["conv_state"].numpy(), arrays["conv_state"])


@pytest.mark.parametrize("indices", [None, torch.tensor([4, -1, 2])])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("ring", [False, True])
def test_plain_torch_runs_the_steps_where_asked_to(
    indices: torch.Tensor | None, groups: int | None, ring: bool
) -> None:
    states = BATCH if indices is None else 5
    case = scan_case(torch.float64, groups) | {"state": torch.randn(states, DIM, DSTATE, dtype=torch.float64)}
    plain = copied(case)
    got = st.selective_state_update(**plain, state_batch_indices=indices, backend="torch")
    torch.testing.assert_close(got, st.selective_state_update(**case, state_batch_indices=indices))
    torch.testing.assert_close(plain["state"], case["state"])
    convolution = convolution_case(torch.float64) | {"conv_state": torch.randn(states, DIM, 5, dtype=torch.float64)}
    plain = copied(convolution)
    seen = torch.tensor([0, 3, 9]) if ring else None
    got = st.causal_conv1d_update(**plain, cache_seqlens=seen, conv_state_indices=indices, backend="torch")
    wanted = st.causal_conv1d_update(**convolution, cache_seqlens=seen, conv_state_indices=indices)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(plain["conv_state"], convolution["conv_state"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide_state", [True, False])
def test_half_precision_is_computed_wide(dtype: torch.dtype, wide_state: bool) -> None:
    """Weights and a float32 state are not rounded to x's dtype; x is read and out is written in it."""
    case = scan_case()
    half = case | {k: case[k].to(dtype) for k in ("x", "dt", "B", "C", "z")}
    half["state"] = case["state"].clone() if wide_state else case["state"].to(dtype)
    wide = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in copied(half).items()}
    got, wanted = st.selective_state_update(**half), st.selective_state_update(**wide)
    assert got.dtype == dtype
    assert torch.equal(got, wanted.to(dtype))
    assert torch.equal(half["state"], wide["state"].to(half["state"].dtype))
    convolution = convolution_case()
    half = convolution | {"x": convolution["x"].to(dtype)}
    half["conv_state"] = convolution["conv_state"].to(torch.float32 if wide_state else dtype)
    wide = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in copied(half).items()}
    got, wanted = st.causal_conv1d_update(**half), st.causal_conv1d_update(**wide)
    assert torch.equal(got, wanted.to(dtype))
    assert torch.equal(half["conv_state"], wide["conv_state"].to(half["conv_state"].dtype))


def test_numpys_float16_steps_round_neither_weights_nor_state() -> None:
    case = as_arrays(scan_case())
    half = case | {"x": case["x"].astype(np.float16), "state": case["state"].copy()}
    wide = half | {"x": half["x"].astype(np.float32), "state": case["state"].copy()}
    got, wanted = ssmcore.selective_state_update(**half), ssmcore.selective_state_update(**wide)
    assert np.array_equal(got, wanted.astype(np.float16))
    assert np.array_equal(half["state"], wide["state"])


def test_the_steps_compile_into_one_graph() -> None:
    case, convolution = scan_case(), convolution_case()

    def both(case: dict[str, Any], convolution: dict[str, Any]) -> torch.Tensor:
        return st.selective_state_update(**(case | {"x": st.causal_conv1d_update(**convolution)}))

    eager = both(kept := copied(case), kept_convolution := copied(convolution))
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(case, convolution), eager)
    assert torch.equal(case["state"], kept["state"])
    assert torch.equal(convolution["conv_state"], kept_convolution["conv_state"])


def test_a_named_backend_runs_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmcore.backends import numpy_

    case, calls = scan_case(torch.float64), []
    plain = numpy_.OPERATIONS["selective_scan"]
    monkeypatch.setitem(numpy_.OPERATIONS, "selective_scan", lambda call: calls.append(1) or plain(call))
    with ssmcore.use_backend("numpy"):
        slow = st.selective_state_update(**copied(case))
    assert calls
    torch.testing.assert_close(slow, st.selective_state_update(**case))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": scan_case()["A"].requires_grad_()}, "A: expected a tensor without gradient.*torch.no_grad"),
        ({"x": scan_case()["x"][:, :5]}, r"x: expected shape \(batch, 24\) like state, got \(3, 5\)"),
        ({"dt": scan_case()["dt"].long()}, "dt: expected a real floating dtype, got torch.int64.*float"),
        ({"C": scan_case()["C"].to("meta")}, "C: expected device cpu .*got meta; move it there"),
        ({"state": scan_case()["state"].half()}, "state: expected torch.float32 or torch.float32 like x"),
        ({"B": torch.ones(3, 5, 16)}, "B: expected a number of groups that divides 24, got 5"),
        ({"state_batch_indices": torch.tensor([0.0, 1.0, 2.0])}, "state_batch_indices: expected a tensor of integers"),
        ({"state_batch_indices": torch.tensor([0, 1, 3])}, "state_batch_indices: expected less than 3"),
        ({"z": 1.0}, "z: expected a tensor, got float"),
        ({"discretization": "euler"}, "discretization: expected one of 'mamba'"),
    ],
)
@pytest.mark.parametrize("backend", [None, "torch"])
def test_refusals_of_a_scan_step_change_nothing(change: dict[str, Any], message: str, backend: str | None) -> None:
    case = scan_case() | change
    before = case["state"].clone()
    with pytest.raises(ssmcore.ArgumentError, match=message):
        st.selective_state_update(**case, backend=backend)
    assert torch.equal(case["state"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": convolution_case()["weight"].requires_grad_()}, "weight: expected a tensor without gradient"),
        ({"weight": torch.ones(24, 6)}, "conv_state: expected at least 5 steps"),
        ({"bias": torch.ones(24).to("meta")}, "bias: expected device cpu"),
        ({"activation": "relu"}, "activation: expected one of None, 'silu', 'swish'"),
        ({"cache_seqlens": torch.tensor([0, 1, -1])}, "cache_seqlens: expected integers"),
        ({"conv_state_indices": torch.tensor([0, 0, 1])}, "conv_state_indices: expected each state at most once"),
        ({"conv_state": convolution_case()["conv_state"].double()}, "conv_state: expected torch.float32"),
    ],
)
@pytest.mark.parametrize("backend", [None, "torch"])
def test_refusals_of_a_convolution_step_change_nothing(
    change: dict[str, Any], message: str, backend: str | None
) -> None:
    case = convolution_case() | change
    before = case["conv_state"].clone()
    with pytest.raises(ssmcore.ArgumentError, match=message):
        st.causal_conv1d_update(**case, backend=backend)
    assert torch.equal(case["conv_state"], before)


def test_parameters_serve_where_no_gradient_is_recorded() -> None:
    case = scan_case() | {"A": torch.nn.Parameter(scan_case()["A"])}
    with torch.no_grad():
        assert not st.selective_state_update(**case).requires_grad
