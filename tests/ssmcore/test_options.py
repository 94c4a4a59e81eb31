"""Options that every operation shares: targets of results, checkpoints, and sequences packed into a row."""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from samples import SAMPLES
from samples.selective_scan import make_case

import ssmcore
from ssmcore.ops import SPECS

WITH_OUT = [op for op in SPECS if "out" in inspect.signature(getattr(ssmcore, op)).parameters]
WITH_CHECKPOINTS = [op for op in SPECS if "return_checkpoints" in inspect.signature(getattr(ssmcore, op)).parameters]


def case_of(op: str, index: int = 1, dtype: Any = np.float32) -> dict[str, Any]:
    return SAMPLES[op].samples[index].make(np.random.default_rng(0), dtype)


def test_operations_with_one_result_take_a_target() -> None:
    assert WITH_OUT == ["selective_scan", "ss2d", "chunk_scan", "causal_conv1d", "depthwise_conv2d", "gate_crop"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("op", WITH_OUT)
def test_a_result_goes_where_it_is_wanted(op: str, index: int, dtype: Any, any_backend: str) -> None:
    case, function = case_of(op, index, dtype), getattr(ssmcore, op)
    wanted = function(**case, backend=any_backend)
    out = np.full(wanted.shape, np.nan, dtype)
    assert function(**case, out=out, backend=any_backend) is out
    assert np.array_equal(out, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: out.tolist(), r"expected a writable C-contiguous array of float32, \(.*got list"),
        (lambda out: out.astype(np.float64), "got float64"),
        (lambda out: out[:1], r"expected .* got float32, \(1"),
        (lambda out: np.asfortranarray(out), "C-contiguous: False"),
        (lambda out: np.broadcast_to(out, out.shape), "writable: False"),
    ],
    ids=["a list", "another dtype", "another shape", "Fortran order", "read-only"],
)
@pytest.mark.parametrize("op", WITH_OUT)
def test_a_target_that_does_not_fit_is_refused(op: str, change: Any, message: str) -> None:
    case, function = case_of(op), getattr(ssmcore, op)
    out = change(np.zeros_like(function(**case)))
    with pytest.raises(ssmcore.ArgumentError, match=f"{op}: out: .*{message}"):
        function(**case, out=out)


@pytest.mark.parametrize("op", [op for op in WITH_OUT if op != "gate_crop"])
def test_a_target_that_an_argument_lies_in_is_refused(op: str) -> None:
    case = case_of(op)
    first = next(iter(case))
    with pytest.raises(ssmcore.ArgumentError, match=f"{op}: out: expected memory apart from that of {first}"):
        getattr(ssmcore, op)(**case, out=case[first])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("op", WITH_CHECKPOINTS)
def test_checkpoints_serve_the_vjp_to_the_bit(op: str, index: int, dtype: Any, any_backend: str) -> None:
    case, vjp = case_of(op, index, dtype), getattr(ssmcore, f"{op}_vjp")
    wanted = getattr(ssmcore, op)(**case, backend=any_backend)
    out, checkpoints = getattr(ssmcore, op)(**case, return_checkpoints=True, backend=any_backend)
    assert np.array_equal(out, wanted)
    dout = np.random.default_rng(1).standard_normal(out.shape).astype(dtype)
    again = vjp(dout, **case, backend=any_backend)
    handed = vjp(dout, **case, checkpoints=checkpoints, backend=any_backend)
    for a, b in zip(again, handed, strict=True):
        assert a is b is None or np.array_equal(a, b)


@pytest.mark.parametrize("op", WITH_CHECKPOINTS)
def test_checkpoints_save_the_second_forward_pass(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmcore.backends import cython_

    case = case_of(op)
    out, checkpoints = getattr(ssmcore, op)(**case, return_checkpoints=True)
    monkeypatch.setattr(cython_, op, lambda _: pytest.fail("a forward pass"))
    monkeypatch.setitem(cython_.OPERATIONS, op, lambda _: pytest.fail("a forward pass"))
    getattr(ssmcore, f"{op}_vjp")(out, **case, checkpoints=checkpoints)


@pytest.mark.parametrize("op", ["selective_scan", "ss2d"])
def test_checkpoints_of_other_arguments_are_refused(op: str) -> None:
    case, vjp = case_of(op), getattr(ssmcore, f"{op}_vjp")
    out, checkpoints = getattr(ssmcore, op)(**case, return_checkpoints=True)
    for wrong, message in (
        (checkpoints.tolist(), "expected a NumPy array of float32, got list"),
        (checkpoints.astype(np.float64), "expected a NumPy array of float32, got float64"),
        (checkpoints[..., :1], r"expected shape \("),
    ):
        with pytest.raises(ssmcore.ArgumentError, match=f"{op}: checkpoints: {message}"):
            vjp(out, **case, checkpoints=wrong)


def test_checkpoints_of_a_chunk_scan_without_its_gate_are_refused() -> None:
    case = case_of("chunk_scan")
    out, checkpoints = ssmcore.chunk_scan(**{**case, "z": None}, return_checkpoints=True)
    for wrong, message in (
        (checkpoints, "with z"),
        (checkpoints.states, "with z, got ndarray"),
        (checkpoints._replace(y=out[:1]), "y of float32"),
        (checkpoints._replace(y=out, states=checkpoints.states[:1]), "expected shape"),
    ):
        with pytest.raises(ssmcore.ArgumentError, match=f"chunk_scan: checkpoints: .*{message}"):
            ssmcore.chunk_scan_vjp(out, **case, checkpoints=wrong)


PACKED = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2], [5] * 12])


def pieces(seq_idx: Any) -> Any:
    """(row, first step, last step, first, last) of every sequence."""
    for row, numbers in enumerate(seq_idx):
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
        for k, (a, b) in enumerate(pairwise(edges)):
            yield row, a, b, k == 0, k == len(edges) - 2


@pytest.mark.parametrize(
    ("layout", "ngroups", "constant"), [("bdl", None, False), ("bld", 2, False), ("bdl", None, True)]
)
@pytest.mark.parametrize("extras", [False, True])
def test_a_packed_scan_is_each_sequence_alone(
    layout: str, ngroups: int | None, constant: bool, extras: bool, any_backend: str
) -> None:
    """Values to the bit, but for torch's functions, which round by place; gradients of shared parameters are sums over the sequences."""
    rounding = 1e-13 if any_backend == "torch" else 0
    case = make_case(
        np.random.default_rng(2), np.float64, batch=3, seqlen=12, layout=layout, ngroups=ngroups, constant_B=constant,
        extras=extras,
    )  # fmt: skip
    time = 1 if layout == "bld" else -1
    out, last = ssmcore.selective_scan(**case, seq_idx=PACKED, return_last_state=True, backend=any_backend)
    dout, dlast = (np.random.default_rng(3).standard_normal(x.shape) for x in (out, last))
    options = {"seq_idx": PACKED, "dlast_state": dlast, "backend": any_backend}
    grads = ssmcore.selective_scan_vjp(dout, **case, **options)._asdict()
    sums: dict[str, Any] = {}
    for row, a, b, first, final in pieces(PACKED):

        def cut(x: Any, row: int = row, a: int = a, b: int = b) -> Any:
            return np.take(x[row : row + 1], range(a, b), axis=time)

        others = {k: v for k, v in case.items() if k != "initial_state"}
        alone = {k: cut(v) if isinstance(v, np.ndarray) and v.ndim > 2 else v for k, v in others.items()}
        alone["initial_state"] = case["initial_state"][row : row + 1] if first and extras else None
        y, state = ssmcore.selective_scan(**alone, return_last_state=True, backend=any_backend)
        np.testing.assert_allclose(cut(out), y, rtol=rounding, atol=rounding)
        if final:
            np.testing.assert_allclose(last[row : row + 1], state, rtol=rounding, atol=rounding)
        dstate = dlast[row : row + 1] if final else None
        for name, g in ssmcore.selective_scan_vjp(
            cut(dout), **alone, dlast_state=dstate, backend=any_backend
        )._asdict().items():  # fmt: skip
            if g is None:
                assert grads[name] is None
            elif name == "initial_state":
                if first:
                    np.testing.assert_allclose(grads[name][row : row + 1], g, rtol=1e-12, atol=1e-12)
            elif g.ndim > 2:
                np.testing.assert_allclose(cut(grads[name]), g, rtol=1e-12, atol=1e-12)
            else:
                sums[name] = sums.get(name, 0) + g
    for name, total in sums.items():
        np.testing.assert_allclose(grads[name], total, rtol=1e-11, atol=1e-11)


def test_a_packed_scan_of_nothing_and_into_a_target() -> None:
    case = case_of("selective_scan", 0)
    out = np.empty_like(case["u"])
    seq_idx = np.zeros((2, 17), np.int32)
    assert ssmcore.selective_scan(**case, seq_idx=seq_idx, out=out) is out
    assert np.array_equal(out, ssmcore.selective_scan(**case))
    empty = make_case(np.random.default_rng(0), np.float32, batch=0)
    y = ssmcore.selective_scan(**empty, seq_idx=np.zeros((0, 17), int))
    assert y.shape == ssmcore.selective_scan_vjp(y, **empty, seq_idx=np.zeros((0, 17), int)).u.shape == (0, 6, 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_idx": np.zeros((2, 5), np.int32)}, r"seq_idx: expected shape \(2, 17\), got \(2, 5\)"),
        ({"seq_idx": np.zeros((2, 17))}, r"seq_idx: expected integers \(batch, seqlen\), got float64"),
        ({"seq_idx": [[0] * 17] * 2}, "seq_idx: expected integers .* got list"),
        ({"seq_idx": np.zeros((2, 17), int), "return_checkpoints": True}, "return_checkpoints: expected False"),
    ],
)
def test_wrong_packings_of_a_scan_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=f"selective_scan: {message}"):
        ssmcore.selective_scan(**case_of("selective_scan", 0), **change)


def test_states_and_threads_have_one_name_everywhere() -> None:
    for op in SPECS:
        for name in (op, f"{op}_vjp"):
            names = set(inspect.signature(getattr(ssmcore, name, lambda num_threads, backend: None)).parameters)
            assert {"num_threads", "backend"} <= names
            assert not names & {"initial_states", "return_final_states", "dfinal_states", "final_states", "threads"}
