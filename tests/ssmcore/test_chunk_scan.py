"""What ties the chunk scan to the recurrence, to the selective scan, and to itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import relative_error, scalar_chunk_scan
from samples import SAMPLES
from samples.chunk_scan import make_case

import ssmcore
from ssmcore.ops import SPECS

SPEC = SPECS["chunk_scan"]
SMALL = [
    s
    for s in SAMPLES["chunk_scan"].samples
    if s.name in ("plain", "everything", "D of every entry", "clamped", "one group")
]
STEP = 1e-30


def case_of(seed: int, dtype: Any = np.float64, **sizes: Any) -> dict[str, Any]:
    return make_case(np.random.default_rng(seed), dtype, **sizes)


@pytest.mark.parametrize(
    "sample", [*SMALL, *(s for s in SAMPLES["chunk_scan"].samples if s.name == "packed, plain")], ids=lambda s: s.name
)
def test_the_reference_equals_nested_loops(sample: Any) -> None:
    case = sample.make(np.random.default_rng(5), np.float64)
    got = ssmcore.chunk_scan(**case, return_last_state=True, backend="numpy")
    for g, w in zip(got, scalar_chunk_scan(**case), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sample", SMALL, ids=lambda s: s.name)
def test_the_vjp_equals_complex_step_derivatives(sample: Any) -> None:
    """In one random direction for each argument."""
    case = sample.make(np.random.default_rng(6), np.float64)
    rng = np.random.default_rng(7)
    out, final = scalar_chunk_scan(**case)
    dout, dlast = rng.standard_normal(out.shape), rng.standard_normal(final.shape)
    grads = ssmcore.chunk_scan_vjp(dout, **case, dlast_state=dlast, backend="numpy")._asdict()
    for name, value in case.items():
        if not isinstance(value, np.ndarray):
            continue
        direction = rng.standard_normal(value.shape)
        moved = scalar_chunk_scan(**{**case, name: value + 1j * STEP * direction})
        wanted = sum((d * np.imag(m) / STEP).sum() for d, m in zip((dout, dlast), moved, strict=True))
        assert (grads[name] * direction).sum() == pytest.approx(wanted, rel=1e-10, abs=1e-12), name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("poisoned")
@given(
    seed=st.integers(0, 2**32 - 1),
    seqlen=st.sampled_from((0, 1, 2, 63, 64, 65, 129)),
    members=st.integers(1, 5),
    ngroups=st.integers(1, 3),
    headdim=st.sampled_from((1, 3, 16, 17, 64)),
    dstate=st.sampled_from((1, 2, 8, 19, 64)),
    extras=st.booleans(),
    dtype=st.sampled_from((np.float32, np.float64)),
    cuts=st.lists(st.integers(0, 129), max_size=3),
)
def test_any_case_equals_the_reference(
    seed: int,
    seqlen: int,
    members: int,
    ngroups: int,
    headdim: int,
    dstate: int,
    extras: bool,
    dtype: Any,
    cuts: list[int],
    backend: str,
) -> None:
    case = case_of(
        seed,
        dtype,
        batch=1 + seed % 2,
        seqlen=seqlen,
        nheads=members * ngroups,
        ngroups=ngroups,
        headdim=headdim,
        dstate=dstate,
        extras=extras,
        dt_softplus=seed % 3 == 0,
    )
    marks = np.zeros((case["x"].shape[0], seqlen), np.int64)
    for cut in cuts:
        marks[:, cut:] += 1
    case["seq_idx"] = marks
    got, wanted = (ssmcore.chunk_scan(**case, return_last_state=True, backend=b) for b in (backend, "numpy"))
    for g, w in zip(got, wanted, strict=True):
        assert relative_error(g, w) <= SPEC.forward.of(dtype)
    rng = np.random.default_rng(seed)
    dout, dlast = (rng.standard_normal(w.shape).astype(dtype) for w in wanted)
    grads, reference = (ssmcore.chunk_scan_vjp(dout, **case, dlast_state=dlast, backend=b) for b in (backend, "numpy"))
    # sums over all steps are held to the size of what they add up, which may cancel
    steps = float(abs(reference.dt).sum()) * max(1.0, float(case["dt"].max(initial=0)))
    terms = {"A": steps, "dt_bias": steps, "D": float(abs(reference.x).sum() + abs(dout * case["x"]).sum())}
    for name, g, w in zip(grads._fields, grads, reference, strict=True):
        if name in terms and g is not None:
            assert abs(g - w).max() <= SPEC.gradient.of(dtype) * terms[name], name
        else:
            assert (g is None and w is None) or relative_error(g, w) <= SPEC.gradient.of(dtype), name


def test_it_is_a_selective_scan_whose_decay_is_one_number_a_head(any_backend: str) -> None:
    case = case_of(1, seqlen=70, nheads=6, ngroups=2, headdim=4, dstate=5, dt_softplus=True)
    batch, seqlen, nheads, headdim = case["x"].shape
    dim = nheads * headdim

    def spread(per_head: Any) -> Any:
        return np.repeat(per_head, headdim, axis=-1)

    wanted, last = ssmcore.selective_scan(
        case["x"].reshape(batch, seqlen, dim),
        spread(case["dt"]),
        np.tile(spread(case["A"])[:, None], 5),
        case["B"],
        case["C"],
        spread(case["D"]),
        case["z"].reshape(batch, seqlen, dim),
        spread(case["dt_bias"]),
        True,
        True,
        initial_state=case["initial_state"].reshape(batch, dim, 5),
        layout="bld",
        backend="numpy",
    )
    out, final = ssmcore.chunk_scan(**case, return_last_state=True, backend=any_backend)
    assert relative_error(out.reshape(wanted.shape), wanted) <= SPEC.forward.float64
    assert relative_error(final.reshape(last.shape), last) <= SPEC.forward.float64


@pytest.mark.parametrize("middle", [1, 63, 64, 70, 127])
def test_two_pieces_make_the_whole(middle: int, any_backend: str) -> None:
    case = case_of(2, seqlen=128, nheads=2, headdim=5)
    whole, final = ssmcore.chunk_scan(**case, return_last_state=True, backend=any_backend)
    state, pieces = case["initial_state"], []
    for part in (slice(middle), slice(middle, None)):
        piece = {k: v[:, part] if k in ("x", "dt", "B", "C", "z") else v for k, v in case.items()}
        out, state = ssmcore.chunk_scan(
            **{**piece, "initial_state": state}, return_last_state=True, backend=any_backend
        )
        pieces.append(out)
    assert relative_error(np.concatenate(pieces, axis=1), whole) <= SPEC.forward.float64
    assert relative_error(state, final) <= SPEC.forward.float64


def test_packed_sequences_know_nothing_of_each_other(any_backend: str) -> None:
    lengths = (3, 61, 1, 70)
    case = case_of(3, batch=1, seqlen=sum(lengths), nheads=2, lengths=lengths, extras=False)
    dout = np.random.default_rng(4).standard_normal(case["x"].shape)
    packed = ssmcore.chunk_scan(**case, backend=any_backend)
    grads = ssmcore.chunk_scan_vjp(dout, **case, backend=any_backend)
    start, dA = 0, 0
    for length in lengths:
        part = slice(start, start + length)
        alone = {k: v[:, part] if k in ("x", "dt", "B", "C") else v for k, v in case.items() if k != "seq_idx"}
        assert relative_error(packed[:, part], ssmcore.chunk_scan(**alone, backend=any_backend)) <= 1e-13
        own = ssmcore.chunk_scan_vjp(dout[:, part], **alone, backend=any_backend)
        for name in ("x", "dt", "B", "C"):
            assert relative_error(getattr(grads, name)[:, part], getattr(own, name)) <= SPEC.gradient.float64, name
        dA = dA + own.A
        start += length
    assert relative_error(grads.A, dA) <= SPEC.gradient.float64


@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_to_the_bit_for_any_number_of_threads(threads: int, any_backend: str) -> None:
    case = case_of(5, np.float32, batch=2, seqlen=130, nheads=12, ngroups=2, headdim=8, dstate=16)
    dout = np.random.default_rng(6).standard_normal(case["x"].shape).astype(np.float32)
    one, many = (ssmcore.chunk_scan(**case, backend=any_backend, num_threads=n) for n in (1, threads))
    assert np.array_equal(one, many)
    one, many = (ssmcore.chunk_scan_vjp(dout, **case, backend=any_backend, num_threads=n) for n in (1, threads))
    for name, a, b in zip(one._fields, one, many, strict=True):
        assert np.array_equal(a, b), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 5, 7, 66])
def test_what_is_not_finite_does_not_reach_back_in_time(value: float, at: int, any_backend: str) -> None:
    case = case_of(7, np.float32, batch=1, seqlen=70, nheads=2, headdim=16, dstate=16, extras=False)
    clean = ssmcore.chunk_scan(**case, backend=any_backend)
    case["x"][0, at, 0, 0] = value
    spoilt = ssmcore.chunk_scan(**case, backend=any_backend)
    assert np.array_equal(clean[0, :at], spoilt[0, :at])
    assert not np.isfinite(spoilt[0, at:, 0, 0]).any()


def test_a_decay_of_a_thousand_steps_keeps_its_digits(any_backend: str) -> None:
    """Logarithms add up to hundreds within a chunk; the decay between neighbours is that of one step all the same."""
    case = case_of(8, np.float32, batch=1, seqlen=64, nheads=1, ngroups=1, headdim=1, dstate=1, extras=False)
    dt = np.where(np.arange(64) < 32, 30, 0.07).astype(np.float32)
    case |= {"A": np.float32([-1.0]), "dt": dt[None, :, None]}
    wide = {k: v.astype(np.float64) for k, v in case.items()}
    assert (
        relative_error(ssmcore.chunk_scan(**case, backend=any_backend), ssmcore.chunk_scan(**wide, backend="numpy"))
        <= 5e-7
    )


def test_steps_that_forget_everything(any_backend: str) -> None:
    case = case_of(9, np.float32, batch=1, seqlen=70, nheads=2, headdim=3, extras=False)
    case["dt"][0, 5] = 1e30
    case["x"][0, 5] = 0
    found = ssmcore.chunk_scan(**case, backend=any_backend)
    assert np.isfinite(found).all()
    after = {k: v[:, 6:] if k in ("x", "dt", "B", "C") else v for k, v in case.items()}
    assert relative_error(found[:, 6:], ssmcore.chunk_scan(**after, backend=any_backend)) <= SPEC.forward.float32


def test_clamped_steps_have_no_gradient(any_backend: str) -> None:
    case = case_of(10, seqlen=9, dt_limit=(0.05, 0.2))
    ddt = ssmcore.chunk_scan_vjp(np.ones_like(case["x"]), **case, backend=any_backend).dt
    step = case["dt"] + case["dt_bias"]
    outside = (step < 0.05) | (step > 0.2)
    assert 0 < outside.sum() < outside.size
    assert (ddt[outside] == 0).all()
    assert (ddt[~outside] != 0).all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("first", [20, 64, 100])
def test_nothing_of_a_sequence_reaches_its_neighbours(first: int, value: float, any_backend: str) -> None:
    rng, seqlen = np.random.default_rng(3), 150
    seq_idx = np.repeat([0, 1, 2], [first, 30, seqlen - first - 30])[None]
    middle = seq_idx[0] == 1

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    case = {"x": normal(1, seqlen, 2, 5), "dt": abs(normal(1, seqlen, 2)), "A": -abs(normal(2))}
    case |= {name: normal(1, seqlen, 1, 3) for name in "BC"} | {"seq_idx": seq_idx, "backend": any_backend}
    dout = normal(*case["x"].shape)
    out, grads = ssmcore.chunk_scan(**case), ssmcore.chunk_scan_vjp(dout, **case)
    for name in ("x", "B", "C", "dt"):
        broken = case | {name: np.where(middle.reshape(1, -1, *[1] * (case[name].ndim - 2)), value, case[name])}
        with np.errstate(all="ignore"):
            found, found_grads = ssmcore.chunk_scan(**broken), ssmcore.chunk_scan_vjp(dout, **broken)
        assert np.array_equal(found[:, ~middle], out[:, ~middle]), name
        for of in ("x", "dt", "B", "C"):
            assert np.array_equal(getattr(found_grads, of)[:, ~middle], getattr(grads, of)[:, ~middle]), (name, of)
