"""Sequences packed into a row against each of them alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st_

import ssmcore
import ssmcore.torch as st

BATCH, DIM, SEQLEN, DSTATE = 2, 5, 12, 3
PACKINGS = {
    "one sequence": [[0] * SEQLEN] * 2,
    "alike": [[0] * 5 + [1] * 7] * 2,
    "shorter than the taps": [[0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 6], [0] * SEQLEN],
    "each step alone": [list(range(SEQLEN)), [7] * 4 + [9] * 8],
    "a number again": [[0, 0, 0, 1, 1, 0, 0, 0, 0, 2, 2, 2], [5, 5, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5]],
}


def runs(row: list[int]) -> list[tuple[int, int]]:
    ends = [0, *(t for t in range(1, len(row)) if row[t] != row[t - 1]), len(row)]
    return list(pairwise(ends))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def convolution(taps: int, layout: str) -> dict[str, Any]:
    x = normal(BATCH, DIM, SEQLEN) if layout == "bdl" else normal(BATCH, SEQLEN, DIM)
    return {"x": x, "weight": normal(DIM, taps), "bias": normal(DIM)}


def cut(x: torch.Tensor, b: int, first: int, end: int, layout: str) -> torch.Tensor:
    return x[b : b + 1, ..., first:end] if layout == "bdl" else x[b : b + 1, first:end]


@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("taps", [1, 2, 4, 7])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_convolution_is_each_sequence_alone_to_the_bit(packing: str, taps: int, layout: str) -> None:
    case, seq_idx = convolution(taps, layout), torch.tensor(PACKINGS[packing], dtype=torch.int32)
    out = st.causal_conv1d(**case, activation="silu", layout=layout, seq_idx=seq_idx)
    rows = []
    for b, row in enumerate(PACKINGS[packing]):
        alone = [case | {"x": cut(case["x"], b, *run, layout)} for run in runs(row)]
        parts = [st.causal_conv1d(**one, activation="silu", layout=layout) for one in alone]
        rows.append(torch.cat(parts, dim=-1 if layout == "bdl" else 1))
    wanted = torch.cat(rows)
    assert torch.equal(out, wanted)
    assert out.is_contiguous()
    dout = normal(*out.shape, seed=3).detach()
    found = torch.autograd.grad(out, list(case.values()), dout)
    expected = torch.autograd.grad(wanted, list(case.values()), dout)
    assert torch.equal(found[0], expected[0])
    for f, e in zip(found[1:], expected[1:], strict=True):  # sums of the same terms in another order
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)
    arrays = {k: v.detach().numpy() for k, v in case.items()}
    options = {"activation": "silu", "layout": layout, "seq_idx": seq_idx.numpy()}
    assert np.array_equal(ssmcore.causal_conv1d(**arrays, **options), out.detach().numpy())
    vjp = ssmcore.causal_conv1d_vjp(dout.numpy(), **arrays, **options)
    for f, e in zip(found, vjp, strict=False):
        np.testing.assert_allclose(f.numpy(), e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("layout", ["bdl", "bld"])
def test_a_packed_convolution_has_the_states_of_its_first_and_last_sequences(packing: str, layout: str) -> None:
    case = convolution(4, layout) | {"initial_state": normal(BATCH, DIM, 3)}
    seq_idx = torch.tensor(PACKINGS[packing])
    out, last = st.causal_conv1d(**case, return_last_state=True, layout=layout, seq_idx=seq_idx)
    outs, lasts = [], []
    for b, row in enumerate(PACKINGS[packing]):
        parts = []
        for number, run in enumerate(runs(row)):
            initial = case["initial_state"][b : b + 1] if number == 0 else None
            one = case | {"x": cut(case["x"], b, *run, layout), "initial_state": initial}
            y, state = st.causal_conv1d(**one, return_last_state=True, layout=layout)
            parts.append(y)
        outs.append(torch.cat(parts, dim=-1 if layout == "bdl" else 1))
        lasts.append(state)
    assert torch.equal(out, torch.cat(outs))
    assert torch.equal(last, torch.cat(lasts))
    dout, dlast = normal(*out.shape, seed=4).detach(), normal(*last.shape, seed=5).detach()
    found = torch.autograd.grad((out, last), list(case.values()), (dout, dlast))
    expected = torch.autograd.grad((torch.cat(outs), torch.cat(lasts)), list(case.values()), (dout, dlast))
    arrays = {k: v.detach().numpy() for k, v in case.items()}
    options = {"layout": layout, "seq_idx": seq_idx.numpy()}
    numpy_out, numpy_last = ssmcore.causal_conv1d(**arrays, **options, return_last_state=True)
    assert np.array_equal(numpy_out, out.detach().numpy())
    assert np.array_equal(numpy_last, last.detach().numpy())
    vjp = ssmcore.causal_conv1d_vjp(dout.numpy(), **arrays, **options, dlast_state=dlast.numpy())
    for f, e, v in zip(found, expected, vjp, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(f.numpy(), v, rtol=1e-12, atol=1e-12)


def test_padding_has_no_output_and_no_gradient() -> None:
    case, seq_idx = convolution(3, "bdl"), torch.tensor([[0] * 8 + [-1] * 4, [0] * 12])
    out = st.causal_conv1d(**case, seq_idx=seq_idx)
    assert not out[0, :, 8:].any()
    assert out[1].all()
    (dx,) = torch.autograd.grad(out.sum(), case["x"])
    assert not dx[0, :, 8:].any()
    arrays = {k: v.detach().numpy() for k, v in case.items()}
    assert np.array_equal(ssmcore.causal_conv1d(**arrays, seq_idx=seq_idx.numpy()), out.detach().numpy())
    vjp = ssmcore.causal_conv1d_vjp(np.ones(out.shape), **arrays, seq_idx=seq_idx.numpy())
    np.testing.assert_allclose(vjp.x, dx.numpy(), rtol=1e-12)


def test_not_a_number_stays_in_its_sequence() -> None:
    x = torch.ones(1, 1, 6)
    x[0, 0, 2] = torch.nan
    out = st.causal_conv1d(x, torch.ones(1, 4), seq_idx=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    assert torch.isnan(out[0, 0]).tolist() == [False, False, True, False, False, False]


def scan(layout: str, groups: int | None, constant: bool) -> dict[str, Any]:
    def sequence(seed: int) -> torch.Tensor:
        return normal(BATCH, DIM, SEQLEN, seed=seed) if layout == "bdl" else normal(BATCH, SEQLEN, DIM, seed=seed)

    lead = (DSTATE,) if groups is None else (groups, DSTATE)
    matrix = (BATCH, *lead, SEQLEN) if layout == "bdl" else (BATCH, SEQLEN, *lead)
    return {
        "u": sequence(0),
        "delta": sequence(1),
        "A": (-normal(DIM, DSTATE).detach().abs()).requires_grad_(),
        "B": normal(DIM, DSTATE, seed=1) if constant else normal(*matrix, seed=2),
        "C": normal(*matrix, seed=3),
        "D": normal(DIM),
        "z": sequence(4),
        "delta_bias": normal(DIM, seed=5),
        "delta_softplus": True,
        "layout": layout,
    }


def alone(case: dict[str, Any], b: int, first: int, end: int, state: torch.Tensor | None) -> Any:
    along = {n for n, v in case.items() if n in ("u", "delta", "z") or (n in ("B", "C") and v.ndim > 2)}
    given = {n: cut(v, b, first, end, case["layout"]) if n in along else v for n, v in case.items()}
    return st.selective_scan(**given, initial_state=state, return_last_state=True)


def compare(found: tuple[Any, Any], wanted: tuple[Any, Any], case: dict[str, Any], state: torch.Tensor | None) -> None:
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
    inputs = {n: v for n, v in case.items() if isinstance(v, torch.Tensor)}
    if state is not None:
        inputs["initial_state"] = state
    douts = tuple(normal(*f.shape, seed=8).detach() for f in found)
    for name, f, w in zip(
        inputs,
        torch.autograd.grad(found, list(inputs.values()), douts),
        torch.autograd.grad(wanted, list(inputs.values()), douts),
        strict=True,
    ):
        if name in ("u", "delta", "z", "initial_state"):
            assert torch.equal(f, w), name
        torch.testing.assert_close(f, w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("layout", "groups", "constant"), [("bdl", None, False), ("bld", 5, False), ("bdl", 1, True)])
@pytest.mark.parametrize("with_state", [False, True])
def test_a_packed_scan_is_each_sequence_alone_to_the_bit(
    packing: str, layout: str, groups: int | None, constant: bool, with_state: bool
) -> None:
    case, state = scan(layout, groups, constant), normal(BATCH, DIM, DSTATE) if with_state else None
    found = st.selective_scan(
        **case, initial_state=state, return_last_state=True, seq_idx=torch.tensor(PACKINGS[packing])
    )
    outs, lasts = [], []
    for b, row in enumerate(PACKINGS[packing]):
        parts = []
        for number, run in enumerate(runs(row)):
            y, last = alone(case, b, *run, None if state is None or number else state[b : b + 1])
            parts.append(y)
        outs.append(torch.cat(parts, dim=-1 if layout == "bdl" else 1))
        lasts.append(last)
    compare(found, (torch.cat(outs), torch.cat(lasts)), case, state)


@settings(max_examples=10)
@given(lengths=st_.lists(st_.integers(0, 9), min_size=1, max_size=5), with_state=st_.booleans())
def test_sequences_by_their_ends_are_each_alone_to_the_bit(lengths: list[int], with_state: bool) -> None:
    """cu_seqlens: empty sequences among them, which keep their state."""
    ends = [0, *np.cumsum(lengths).tolist()]
    case = scan("bdl", None, False)
    for name in ("u", "delta", "z", "B", "C"):
        wide = torch.cat([case[name].detach()] * 4, -1)
        case[name] = wide[:1, ..., : ends[-1]].clone().requires_grad_()
    state = normal(len(lengths), DIM, DSTATE) if with_state else None
    found = st.selective_scan(
        **case, initial_state=state, return_last_state=True, cu_seqlens=torch.tensor(ends, dtype=torch.int32)
    )
    parts = [alone(case, 0, *run, None if state is None else state[i : i + 1]) for i, run in enumerate(pairwise(ends))]
    wanted = torch.cat([y for y, _ in parts], -1), torch.cat([last for _, last in parts])
    assert found[1].shape == (len(lengths), DIM, DSTATE)
    compare(found, wanted, case, state)


def test_gradcheck_of_packed_sequences() -> None:
    seq_idx = torch.tensor(PACKINGS["shorter than the taps"])
    case = convolution(4, "bdl")
    assert torch.autograd.gradcheck(
        lambda *a: st.causal_conv1d(*a, activation="silu", seq_idx=seq_idx), tuple(case.values()), fast_mode=True
    )
    case = scan("bdl", None, False)
    given = {n: v for n, v in case.items() if isinstance(v, torch.Tensor)}
    assert torch.autograd.gradcheck(
        lambda *a: st.selective_scan(*a, delta_softplus=True, return_last_state=True, seq_idx=seq_idx),
        tuple(given.values()),
        fast_mode=True,
    )


def test_no_sequence_at_all() -> None:
    case = scan("bdl", None, False)
    for name in ("u", "delta", "z", "B", "C"):
        case[name] = case[name][:1, ..., :0]
    out, last = st.selective_scan(**case, return_last_state=True, cu_seqlens=torch.tensor([0]))
    assert out.shape == (1, DIM, 0)
    assert last.shape == (0, DIM, DSTATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_idx": torch.zeros(BATCH, 3, dtype=torch.int32)}, r"seq_idx: expected shape \(2, 12\), got \(2, 3\)"),
        ({"seq_idx": torch.zeros(BATCH, SEQLEN)}, "seq_idx: expected a tensor of integers .*got torch.float32"),
        ({"cu_seqlens": torch.tensor([0, SEQLEN])}, "cu_seqlens: expected a batch of 1, got a batch of 2"),
        ({"seq_idx": torch.zeros(BATCH, SEQLEN, dtype=torch.int32), "cu_seqlens": torch.tensor([0, SEQLEN])}, "both"),
        (
            {"seq_idx": torch.zeros(BATCH, SEQLEN, dtype=torch.int32), "initial_state": torch.zeros(3, DIM, DSTATE)},
            r"initial_state: expected shape \(2, 5, 3\), got \(3, 5, 3\)",
        ),
    ],
)
def test_wrong_packings_of_a_scan_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=f"selective_scan: .*{message}"):
        st.selective_scan(**(scan("bdl", None, False) | change))


@pytest.mark.parametrize("ends", [[1, SEQLEN], [0, 7, 3, SEQLEN], [0, 5], []])
def test_wrong_ends_are_named(ends: list[int]) -> None:
    case = scan("bdl", None, False)
    for name in ("u", "delta", "z", "B", "C"):
        case[name] = case[name][:1]
    with pytest.raises(ssmcore.ArgumentError, match=r"cu_seqlens: expected where each sequence begins.*12 last"):
        st.selective_scan(**case, cu_seqlens=torch.tensor(ends, dtype=torch.int64))


@pytest.mark.parametrize(
    ("seq_idx", "message"),
    [
        (np.zeros((BATCH, 3), np.int32), r"seq_idx: expected shape \(2, 12\), got \(2, 3\)"),
        (np.zeros((BATCH, SEQLEN), np.float32), "seq_idx: expected integers"),
    ],
)
def test_wrong_packings_of_a_convolution_are_named(seq_idx: Any, message: str) -> None:
    case = convolution(3, "bdl")
    arrays = {k: v.detach().numpy() for k, v in case.items()}
    with pytest.raises(ssmcore.ArgumentError, match=message):
        st.causal_conv1d(**case, seq_idx=torch.from_numpy(seq_idx))
    with pytest.raises(ssmcore.ArgumentError, match=message):
        ssmcore.causal_conv1d(**arrays, seq_idx=seq_idx)
    with pytest.raises(ssmcore.ArgumentError, match=r"seq_idx: expected a tensor of integers .* got ndarray"):
        st.causal_conv1d(**case, seq_idx=seq_idx)
