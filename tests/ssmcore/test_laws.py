"""Laws that hold for every backend, over random arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracles import relative_error
from samples.causal_conv1d import make_case as make_convolution
from samples.depthwise_conv2d import make_case as make_grid_convolution
from samples.ss2d import make_case as make_grid
from strategies import grids, scans

import ssmcore
from ssmcore._conventions import DIRECTIONS, roll_up, unroll
from ssmcore.ops import SPECS

SPEC = SPECS["selective_scan"]
quick = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def time_axis(case: dict[str, Any], name: str) -> int:
    return 1 if case["layout"] == "bld" else case[name].ndim - 1


def piece(case: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The arguments of the steps [start, stop)."""
    cut = dict(case)
    for name in ("u", "delta", "z", "B", "C"):
        if name in case and case[name].ndim > 2:
            index = [slice(None)] * case[name].ndim
            index[time_axis(case, name)] = slice(start, stop)
            cut[name] = case[name][tuple(index)]
    return cut


@quick
@given(scan=scans(), where=st.floats(0, 1))
def test_two_halves_make_the_whole(scan: Any, where: float, any_backend: str) -> None:
    case, dtype = scan
    axis = time_axis(case, "u")
    seqlen = case["u"].shape[axis]
    middle = round(where * seqlen)
    whole, last = ssmcore.selective_scan(**case, return_last_state=True, backend=any_backend)
    first, state = ssmcore.selective_scan(**piece(case, 0, middle), return_last_state=True, backend=any_backend)
    rest = {**piece(case, middle, seqlen), "initial_state": state}
    second, end = ssmcore.selective_scan(**rest, return_last_state=True, backend=any_backend)
    assert relative_error(np.concatenate([first, second], axis), whole) <= SPEC.forward.of(dtype)
    assert relative_error(end, last) <= SPEC.forward.of(dtype)


@quick
@given(scan=scans(dtypes=(np.float64,)))
def test_linear_in_the_input_and_the_initial_state(scan: Any, any_backend: str) -> None:
    case, _ = scan
    rng = np.random.default_rng(0)
    shape = case["u"].shape
    batch, dim = shape[0], case["A"].shape[0]
    u = rng.standard_normal((2, *shape))
    h = rng.standard_normal((2, batch, dim, case["A"].shape[1]))

    def scan_of(u: Any, h: Any) -> Any:
        return ssmcore.selective_scan(**{**case, "u": u, "initial_state": h}, backend=any_backend)

    both = scan_of(2 * u[0] - 3 * u[1], 2 * h[0] - 3 * h[1])
    apart = 2 * scan_of(u[0], h[0]) - 3 * scan_of(u[1], h[1])
    scale = max(np.abs(scan_of(u[0], h[0])).max(initial=0), np.abs(scan_of(u[1], h[1])).max(initial=0), 1e-300)
    assert np.abs(both - apart).max(initial=0) <= 20 * SPEC.forward.float64 * scale


@quick
@given(scan=scans(dtypes=(np.float64,)))
def test_the_vjp_is_the_adjoint_in_u_and_the_initial_state(scan: Any, any_backend: str) -> None:
    """<dout, S(u, h)> = <S*(dout), (u, h)>, the scan being linear in the two together."""
    case, _ = scan
    rng = np.random.default_rng(1)
    batch, (dim, dstate) = case["u"].shape[0], case["A"].shape
    case["initial_state"] = rng.standard_normal((batch, dim, dstate))
    out, last = ssmcore.selective_scan(**case, return_last_state=True, backend=any_backend)
    dout, dlast = rng.standard_normal(out.shape), rng.standard_normal(last.shape)
    grads = ssmcore.selective_scan_vjp(dout, **case, dlast_state=dlast, backend=any_backend)
    left = (dout * out).sum() + (dlast * last).sum()
    right = (grads.u * case["u"]).sum() + (grads.initial_state * case["initial_state"]).sum()
    scale = np.abs(dout * out).sum() + np.abs(dlast * last).sum()
    assert abs(left - right) <= SPEC.gradient.float64 * scale + 1e-300


@quick
@given(scan=scans())
def test_one_thread_and_two_agree_to_the_bit(scan: Any, any_backend: str) -> None:
    case, _ = scan
    dout = np.random.default_rng(2).standard_normal(case["u"].shape).astype(case["u"].dtype)
    for threads in (2, 3):
        one = ssmcore.selective_scan(**case, num_threads=1, backend=any_backend)
        more = ssmcore.selective_scan(**case, num_threads=threads, backend=any_backend)
        assert np.array_equal(one, more)
        one_grads = ssmcore.selective_scan_vjp(dout, **case, num_threads=1, backend=any_backend)
        more_grads = ssmcore.selective_scan_vjp(dout, **case, num_threads=threads, backend=any_backend)
        for a, b in zip(one_grads, more_grads, strict=True):
            assert (a is None and b is None) or np.array_equal(a, b)


@quick
@given(scan=scans(dtypes=(np.float64,)))
def test_zoh_becomes_mamba_as_the_step_shrinks(scan: Any, any_backend: str) -> None:
    """Their gains differ by delta A / 2 and higher orders, so the outputs agree to the first order in the largest one."""
    case, _ = scan
    case.pop("delta_bias", None)
    case["delta_softplus"] = False
    assume(case["u"].size)
    case["delta"] = np.abs(case["delta"]) * 1e-7
    case.pop("initial_state", None)
    case.pop("D", None)
    zoh, mamba = (
        ssmcore.selective_scan(**{**case, "discretization": d}, backend=any_backend) for d in ("zoh", "mamba")
    )
    largest_x = np.abs(case["delta"]).max() * np.abs(case["A"]).max()
    bound = ssmcore.selective_scan(
        **{**case, "u": np.abs(case["u"]), "B": np.abs(case["B"]), "C": np.abs(case["C"]), "discretization": "mamba"},
        backend=any_backend,
    )
    assert np.all(np.abs(zoh - mamba) <= largest_x * np.abs(bound) + 1e-300)


@pytest.mark.parametrize("method", ["zoh", "bilinear", "mamba"])
@given(seed=st.integers(0, 2**32 - 1))
def test_dense_lti_equals_diagonal(method: str, seed: int) -> None:
    """A diagonal system written as a dense one, changed of basis, discretised, stepped: the scan's own outputs."""
    rng = np.random.default_rng(seed)
    n, seqlen = 4, 9
    a, b, c, u = (
        -np.exp(rng.uniform(-1, 1, n)),
        rng.standard_normal(n),
        rng.standard_normal(n),
        rng.standard_normal(seqlen),
    )
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A_bar, B_bar = ssmcore.discretize(
        basis @ np.diag(a) @ basis.T, (basis @ b)[:, None], np.array(0.2), method=method, structure="dense"
    )
    h, dense = np.zeros(n), []
    for value in u:
        h = A_bar @ h + B_bar[:, 0] * value
        dense.append((basis @ c) @ h)
    scan = ssmcore.selective_scan(
        u[None, None], np.full((1, 1, seqlen), 0.2), a[None], b[None], c[None], discretization=method
    )
    assert relative_error(scan[0, 0], dense) < 1e-12


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_gate_crop_and_its_vjp_are_adjoint(shape: list[int], data: Any) -> None:
    axes = data.draw(st.integers(1, len(shape)))
    size = tuple(data.draw(st.integers(0, full)) for full in shape[len(shape) - axes :])
    rng = np.random.default_rng(0)
    g = rng.integers(-9, 9, shape).astype(np.float64)
    for backend in ("numpy", "numba", "cython", "torch"):
        out = ssmcore.gate_crop(g, size, backend=backend)
        dout = rng.integers(-9, 9, out.shape).astype(np.float64)
        dg = ssmcore.gate_crop_vjp(dout, g.shape[g.ndim - axes :], backend=backend)
        assert (out * dout).sum() == (g * dg).sum()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.floats(-600, 80), method=st.sampled_from(["zoh", "bilinear", "mamba"]), small=st.floats(-12, 0))
def test_single_values_of_the_discretisation(x: float, method: str, small: float, any_backend: str) -> None:
    """A_bar and B_bar over the whole range of delta A, in ulps of float64 arithmetic done carefully."""
    for value in (x, -(10.0**small)):
        assume(abs(1 - value / 2) > 1e-3)
        A_bar, B_bar = ssmcore.discretize(
            np.array([value]), np.array([1.0]), np.array(1.0), method=method, backend=any_backend
        )
        if method == "bilinear":
            wanted = (1 + value / 2) / (1 - value / 2), 1 / (1 - value / 2)
        else:
            wanted = np.exp(value), 1.0 if method == "mamba" or value == 0 else np.expm1(value) / value
        assert A_bar[0] == pytest.approx(wanted[0], rel=1e-14, abs=1e-300)
        assert B_bar[0] == pytest.approx(wanted[1], rel=1e-14, abs=1e-300)


def test_directions_walk_a_grid_as_their_names_say() -> None:
    grid = np.arange(6.0).reshape(1, 2, 3, 1)
    walked = {name: unroll(grid, k)[0, :, 0].tolist() for k, name in enumerate(DIRECTIONS)}
    assert walked["row"] == [0, 1, 2, 3, 4, 5]
    assert walked["column"] == [0, 3, 1, 4, 2, 5]
    assert walked["row_reversed"] == [5, 4, 3, 2, 1, 0]
    assert walked["column_reversed"] == [5, 2, 4, 1, 3, 0]
    for k in range(len(DIRECTIONS)):
        assert np.array_equal(roll_up(unroll(grid, k), k, 2, 3), grid)


@quick
@given(grid=grids(dtypes=(np.float64,)))
def test_a_grid_turned_round_swaps_its_directions(grid: Any, any_backend: str) -> None:
    """Turned by 180 degrees, directions 0 and 2, 1 and 3 change places; transposed, 0 and 1, 2 and 3 do."""
    case, _ = grid
    out = ssmcore.ss2d(**case, backend=any_backend)
    only = (np.arange(len(DIRECTIONS)) == k for k in range(len(DIRECTIONS)))
    each = [{**case, "C": case["C"] * o[:, None], "D": o[:, None] * case.get("D", 0 * case["A"][..., 0])} for o in only]
    largest = max(np.abs(ssmcore.ss2d(**one, backend=any_backend)).max() for one in each)  # the four may cancel
    for order, move in (([2, 3, 0, 1], lambda x: x[:, ::-1, ::-1]), ([1, 0, 3, 2], lambda x: x.swapaxes(1, 2))):
        moved = {k: v[order] if k in ("A", "D", "delta_bias") else v for k, v in case.items()}
        moved |= {name: move(case[name])[:, :, :, order] for name in ("delta", "B", "C")} | {"x": move(case["x"])}
        turned = ssmcore.ss2d(**moved, backend=any_backend)
        assert np.abs(turned - move(out)).max() <= SPECS["ss2d"].forward.float64 * largest


@pytest.mark.parametrize("threads", [2, 3])
def test_a_grid_is_the_same_to_the_bit_for_any_number_of_threads(threads: int, any_backend: str) -> None:
    case = make_grid(np.random.default_rng(0), np.float32, batch=3, dim=150, dstate=5, delta_softplus=True)
    one, more = (ssmcore.ss2d(**case, num_threads=n, backend=any_backend) for n in (1, threads))
    assert np.array_equal(one, more)
    first, second = (ssmcore.ss2d_vjp(one, **case, num_threads=n, backend=any_backend) for n in (1, threads))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("middle", [0, 1, 2, 5, 64, 90])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
def test_two_halves_of_a_convolution_make_the_whole(layout: str, middle: int, any_backend: str) -> None:
    case = make_convolution(np.random.default_rng(0), np.float64, seqlen=90, taps=5, layout=layout, activation="silu")
    axis = 2 if layout == "bdl" else 1
    whole, last = ssmcore.causal_conv1d(**case, return_last_state=True, backend=any_backend)
    pieces = np.split(case["x"], [middle], axis)
    first, states = ssmcore.causal_conv1d(**{**case, "x": pieces[0]}, return_last_state=True, backend=any_backend)
    rest = {**case, "x": pieces[1], "initial_state": states}
    second, end = ssmcore.causal_conv1d(**rest, return_last_state=True, backend=any_backend)
    assert relative_error(np.concatenate([first, second], axis), whole) <= SPECS["causal_conv1d"].forward.float64
    assert np.array_equal(end, last)


def test_a_convolution_is_numpys_own(any_backend: str) -> None:
    case = make_convolution(np.random.default_rng(1), np.float64, extras=False, taps=4)
    out = ssmcore.causal_conv1d(**case, backend=any_backend)
    for b, d in np.ndindex(out.shape[:2]):
        wanted = np.convolve(case["x"][b, d], case["weight"][d, ::-1])[: out.shape[2]]
        np.testing.assert_allclose(out[b, d], wanted, rtol=0, atol=1e-14)


@quick
@given(seed=st.integers(0, 2**32 - 1), taps=st.integers(1, 6), seqlen=st.integers(0, 70))
def test_the_vjp_of_a_convolution_is_its_adjoint(seed: int, taps: int, seqlen: int, any_backend: str) -> None:
    """<dout, K(x, past)> = <K*(dout), (x, past)>, the convolution without bias being linear in the two together."""
    rng = np.random.default_rng(seed)
    case = make_convolution(rng, np.float64, taps=taps, seqlen=seqlen)
    del case["bias"]
    out, last = ssmcore.causal_conv1d(**case, return_last_state=True, backend=any_backend)
    dout, dlast = rng.standard_normal(out.shape), rng.standard_normal(last.shape)
    grads = ssmcore.causal_conv1d_vjp(dout, **case, dlast_state=dlast, backend=any_backend)
    left = (dout * out).sum() + (dlast * last).sum()
    right = (grads.x * case["x"]).sum() + (grads.initial_state * case["initial_state"]).sum()
    assert abs(left - right) <= 1e-12 * (1 + np.abs(dout * out).sum() + np.abs(dlast * last).sum())


@quick
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(1, 9), st.integers(1, 20)),
)
def test_the_vjp_of_a_grid_convolution_is_its_adjoint(seed: int, sizes: Any, any_backend: str) -> None:
    """<dout, K x> = <K* dout, x> and = <dweight, weight>, the convolution without bias being linear in each."""
    rng = np.random.default_rng(seed)
    names = ("batch", "height", "width", "dim")
    case = make_grid_convolution(rng, np.float64, **dict(zip(names, sizes, strict=True)), extras=False)
    out = ssmcore.depthwise_conv2d(**case, backend=any_backend)
    dout = rng.standard_normal(out.shape)
    grads = ssmcore.depthwise_conv2d_vjp(dout, **case, backend=any_backend)
    bound = 1e-12 * (1 + np.abs(dout * out).sum())
    assert abs((dout * out).sum() - (grads.x * case["x"]).sum()) <= bound
    assert abs((dout * out).sum() - (grads.weight * case["weight"]).sum()) <= bound


def test_a_grid_convolution_is_the_same_to_the_bit_for_any_number_of_threads(any_backend: str) -> None:
    case = make_grid_convolution(np.random.default_rng(3), np.float32, batch=3, height=9, dim=70, activation="silu")
    one, more = (ssmcore.depthwise_conv2d(**case, num_threads=n, backend=any_backend) for n in (1, 3))
    assert np.array_equal(one, more)
    first, second = (ssmcore.depthwise_conv2d_vjp(one, **case, num_threads=n, backend=any_backend) for n in (1, 3))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_a_transposed_grid_is_convolved_with_transposed_weights(activation: str | None, any_backend: str) -> None:
    case = make_grid_convolution(np.random.default_rng(2), np.float64, height=7, width=4, activation=activation)
    turned = case | {"x": case["x"].swapaxes(1, 2), "weight": case["weight"].swapaxes(1, 2)}
    straight, across = (ssmcore.depthwise_conv2d(**c, backend=any_backend) for c in (case, turned))
    np.testing.assert_allclose(across.swapaxes(1, 2), straight, rtol=0, atol=1e-14)


@quick
@given(grid=grids(dtypes=(np.float64,)))
def test_ss2d_is_cross_scan_then_scans_then_cross_merge(grid: Any, any_backend: str) -> None:
    case, _ = grid
    height, width = case["x"].shape[1:3]
    sequences = {"u": np.stack([ssmcore.cross_scan(case["x"])[:, k] for k in range(4)], 1)}
    # each direction reads its own delta, B and C along its own path
    for name in ("delta", "B", "C"):
        sequences[name] = np.stack([ssmcore.cross_scan(case[name][:, :, :, k])[:, k] for k in range(4)], 1)
    options = {k: case[k] for k in ("discretization", "delta_softplus")} | {"layout": "bld", "backend": any_backend}
    scans = [
        ssmcore.selective_scan(
            **{name: x[:, k] for name, x in sequences.items()},
            **{name: case[name][k] for name in ("A", "D", "delta_bias") if name in case},
            **options,
        )
        for k in range(4)
    ]
    merged = ssmcore.cross_merge(np.stack(scans, 1), height, width)
    largest = max(np.abs(scan).max() for scan in scans)
    out = ssmcore.ss2d(**case, backend=any_backend)
    assert np.abs(out - merged).max() <= SPECS["ss2d"].forward.float64 * max(largest, 1e-300)


def test_cross_merge_is_the_adjoint_of_cross_scan() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 4, 15, 4))
    left, right = (ssmcore.cross_scan(x) * y).sum(), (x * ssmcore.cross_merge(y, 3, 5)).sum()
    assert abs(left - right) <= 1e-12 * np.abs(y).sum()
    with pytest.raises(ssmcore.ArgumentError, match=r"cross_merge: y: expected shape \(batch, 4, 15, ...\)"):
        ssmcore.cross_merge(y[:, :3], 3, 5)
    with pytest.raises(ssmcore.ArgumentError, match="cross_scan: x: expected shape"):
        ssmcore.cross_scan(x[0, 0])
