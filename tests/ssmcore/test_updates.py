"""Steps one at a time against a whole scan, and the cache's indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import relative_error
from samples.selective_scan import make_case

import ssmcore
from ssmcore.ops.selective_scan import SPEC

BATCH, DIM, STEPS, DSTATE = 3, 8, 5, 4


def sequences(dtype: Any, ngroups: int | None, softplus: bool) -> dict[str, Any]:
    return make_case(
        np.random.default_rng(0),
        dtype,
        batch=BATCH,
        dim=DIM,
        seqlen=STEPS,
        dstate=DSTATE,
        ngroups=ngroups,
        layout="bld",
        delta_softplus=softplus,
    )


def step(case: dict[str, Any], state: Any, t: int, heads: tuple[int, ...] = (DIM,), **options: Any) -> Any:
    def split(x: Any, *more: int) -> Any:
        return np.ascontiguousarray(x).reshape(*x.shape[: x.ndim - 1 - len(more)], *heads, *more)

    return ssmcore.selective_state_update(
        state,
        split(case["u"][:, t]),
        split(case["delta"][:, t]),
        split(case["A"], DSTATE),
        case["B"][:, t],
        case["C"][:, t],
        split(case["D"]),
        split(case["z"][:, t]),
        split(case["delta_bias"]),
        case["delta_softplus"],
        **options,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("ngroups", "heads"), [(None, (8,)), (2, (8,)), (2, (4, 2)), (4, (4, 2))])
@pytest.mark.parametrize("softplus", [False, True])
def test_steps_equal_a_scan(
    dtype: Any, ngroups: int | None, heads: tuple[int, ...], softplus: bool, any_backend: str
) -> None:
    case = sequences(dtype, ngroups, softplus)
    case.pop("initial_state", None)
    wanted, last = ssmcore.selective_scan(**case, return_last_state=True, backend="numpy")
    state = np.zeros((BATCH, *heads, DSTATE), dtype)
    found = [step(case, state, t, heads, backend=any_backend) for t in range(STEPS)]
    assert found[0].shape == (BATCH, *heads)
    got = np.stack([y.reshape(BATCH, DIM) for y in found], 1)
    tolerance = 2 * getattr(SPEC.forward, np.dtype(dtype).name)
    assert relative_error(got, wanted) <= tolerance
    assert relative_error(state.reshape(BATCH, DIM, DSTATE), last) <= tolerance


def test_indices_choose_states_and_negative_ones_none() -> None:
    case = sequences(np.float64, None, True)
    cache = np.random.default_rng(1).standard_normal((6, DIM, DSTATE))
    alone, before = cache[[4, 1, 2]].copy(), cache.copy()
    wanted = step(case, alone, 0)
    got = step(case, cache, 0, state_batch_indices=np.array([4, -1, 2]))
    assert np.array_equal(got[[0, 2]], wanted[[0, 2]])
    assert np.array_equal(got[1], np.zeros(DIM))
    assert np.array_equal(cache[[4, 2]], alone[[0, 2]])
    assert np.array_equal(cache[[0, 1, 3, 5]], before[[0, 1, 3, 5]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((3, 7))}, r"x: expected shape \(batch, 8\) like state, got \(3, 7\)"),
        ({"x": np.ones((2, 8)), "dt": np.ones((2, 8)), "B": np.ones((2, 4)), "C": np.ones((2, 4))}, "a batch of 3"),
        ({"A": np.ones((8, 5))}, r"A: expected shape \(8, 4\)"),
        ({"B": np.ones((3, 3, 4))}, "B: expected a number of groups that divides 8, got 3"),
        ({"B": np.ones((3, 5))}, r"B: expected shape \(3, 4\)"),
        ({"dt": np.ones((3, 8), int)}, "dt: expected dtype float16, float32 or float64, got int64"),
        ({"D": np.ones(4)}, r"D: expected shape \(8\)"),
        (
            {"state": np.ones((3, 8))},
            r"state: expected shape \(states, dim, dstate\) or \(states, nheads, headdim, dstate\)",
        ),
        ({"state": np.broadcast_to(1.0, (3, 8, 4))}, "state: expected a writeable array"),
        ({"state_batch_indices": np.array([0, 1])}, r"state_batch_indices: expected integers \(3,\)"),
        ({"state_batch_indices": np.array([0, 1, 3])}, "less than 3"),
        ({"state_batch_indices": np.array([0, 1, 1])}, "each state at most once"),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(change: dict[str, Any], message: str) -> None:
    given = {
        "state": np.ones((3, 8, 4)),
        "x": np.ones((3, 8)),
        "dt": np.ones((3, 8)),
        "A": -np.ones((8, 4)),
        "B": np.ones((3, 4)),
        "C": np.ones((3, 4)),
    } | change
    before = given["state"].copy()
    with pytest.raises(ssmcore.ArgumentError, match=message):
        ssmcore.selective_state_update(**given)
    assert np.array_equal(given["state"], before)


@pytest.mark.parametrize("past", [3, 4, 7])
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1, 1, 1), (3, 5), (8,)])
def test_pieces_of_a_convolution_equal_the_whole(
    past: int, ring: bool, pieces: tuple[int, ...], any_backend: str
) -> None:
    rng = np.random.default_rng(2)
    x, weight, bias = rng.standard_normal((2, 6, 8)), rng.standard_normal((6, 4)), rng.standard_normal(6)
    state = rng.standard_normal((2, 6, past))  # what lies `past` steps back, oldest first
    before = state.copy()
    wanted = ssmcore.causal_conv1d(x, weight, bias, state[:, :, past - 3 :], activation="silu", backend="numpy")
    seen, found = np.array([past, 2 * past]), []
    for piece, length in zip(np.split(x, np.cumsum(pieces)[:-1], axis=2), pieces, strict=True):
        new = piece[:, :, 0] if length == 1 else piece
        out = ssmcore.causal_conv1d_update(
            new, state, weight, bias, "silu", cache_seqlens=seen if ring else None, backend=any_backend
        )
        assert out.shape == new.shape
        found.append(out.reshape(2, 6, length))
        seen = seen + length
    assert relative_error(np.concatenate(found, 2), wanted) < 1e-14
    last = np.concatenate([before, x], axis=2)[:, :, -past:]
    if ring:
        for entry in range(2):
            last[entry] = np.roll(last[entry], seen[entry] % past, axis=1)
    assert np.array_equal(state, last)


def test_a_convolutions_indices_choose_states_and_negative_ones_none() -> None:
    rng = np.random.default_rng(3)
    x, weight, cache = rng.standard_normal((3, 6)), rng.standard_normal((6, 4)), rng.standard_normal((5, 6, 3))
    alone, before = cache[[4, 0, 2]].copy(), cache.copy()
    wanted = ssmcore.causal_conv1d_update(x, alone, weight)
    got = ssmcore.causal_conv1d_update(x, cache, weight, conv_state_indices=np.array([4, -1, 2]))
    assert np.array_equal(got[[0, 2]], wanted[[0, 2]])
    assert np.array_equal(got[1], np.zeros(6))
    assert np.array_equal(cache[[4, 2]], alone[[0, 2]])
    assert np.array_equal(cache[[0, 1, 3]], before[[0, 1, 3]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((2, 5))}, r"x: expected shape \(batch, 6\) like conv_state, got \(2, 5\)"),
        ({"x": np.ones(6)}, r"x: expected shape \(batch, 6\) or \(batch, 6, seqlen\)"),
        ({"weight": np.ones((6, 5))}, "conv_state: expected at least 4 steps"),
        ({"weight": np.ones((5, 4))}, r"weight: expected shape \(6, taps\)"),
        ({"bias": np.ones(5)}, r"bias: expected shape \(6\)"),
        ({"weight": np.ones((6, 0))}, "weight: expected at least one tap"),
        ({"conv_state": np.broadcast_to(1.0, (2, 6, 3))}, "conv_state: expected a writeable array"),
        ({"activation": "relu"}, "activation: expected one of"),
        ({"cache_seqlens": np.array([1, -1])}, "cache_seqlens: expected integers"),
        ({"conv_state_indices": np.array([2, 0])}, "conv_state_indices: expected less than 2"),
    ],
)
def test_wrong_arguments_of_a_convolution_are_named_and_change_nothing(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": np.ones((2, 6)), "conv_state": np.ones((2, 6, 3)), "weight": np.ones((6, 4))} | change
    before = given["conv_state"].copy()
    with pytest.raises(ssmcore.ArgumentError, match=message):
        ssmcore.causal_conv1d_update(**given)
    assert np.array_equal(given["conv_state"], before)


def test_a_batch_of_none_steps_nowhere() -> None:
    state, none = np.ones((4, DIM, DSTATE), np.float32), np.ones((0, DIM), np.float32)
    A, matrix, nobody = -np.ones((DIM, DSTATE), np.float32), np.ones((0, DSTATE), np.float32), np.zeros(0, np.int64)
    out = ssmcore.selective_state_update(state, none, none, A, matrix, matrix, state_batch_indices=nobody)
    assert out.shape == (0, DIM)
    assert (state == 1).all()
