"""The torch operations: values and gradients, gradcheck, compile, export."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES

import ssmcore
import ssmcore.torch as st
from ssmcore.ops import SPECS

SPEC = SPECS["selective_scan"]
SMALL = [
    s
    for s in SAMPLES["selective_scan"].samples
    if s.name not in ("past a block", "16 states", "no channel", "empty batch", "no step", "wide state")
]


def tensors(
    sample: Any, dtype: Any = np.float64, *, grad: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    case = sample.make(np.random.default_rng(11), dtype)
    given = {k: torch.from_numpy(v).requires_grad_(grad) for k, v in case.items() if isinstance(v, np.ndarray)}
    return given, {k: v for k, v in case.items() if k not in given}


COMPLEX = [s for s in SAMPLES["selective_scan"].samples if "complex" in s.name]


@pytest.mark.parametrize("sample", COMPLEX, ids=lambda s: s.name)
def test_a_complex_scan_has_the_values_and_gradients_of_numpy(sample: Any) -> None:
    given, options = tensors(sample)
    out, last = st.selective_scan(**given, **options, return_last_state=True)
    case = sample.make(np.random.default_rng(11), np.float64)
    wanted, wanted_last = ssmcore.selective_scan(**case, return_last_state=True)
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(last.detach().numpy(), wanted_last, rtol=1e-12, atol=1e-13)
    dout, dlast = torch.randn_like(out), torch.randn_like(last)
    grads = torch.autograd.grad((out, last), list(given.values()), (dout, dlast))
    vjp = ssmcore.selective_scan_vjp(dout.numpy(), **case, dlast_state=dlast.numpy())._asdict()
    for name, g in zip(given, grads, strict=True):
        np.testing.assert_allclose(g.numpy(), vjp[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES["selective_scan"].samples if s not in COMPLEX], ids=lambda s: s.name
)
def test_values_and_gradients_are_those_of_numpy(sample: Any) -> None:
    given, options = tensors(sample)
    out, last = st.selective_scan(**given, **options, return_last_state=True)
    case = sample.make(np.random.default_rng(11), np.float64)
    wanted, wanted_last = ssmcore.selective_scan(**case, return_last_state=True)
    assert np.array_equal(out.detach().numpy(), wanted)
    assert np.array_equal(last.detach().numpy(), wanted_last)
    assert out.is_contiguous()
    dout, dlast = torch.randn_like(out), torch.randn_like(last)
    grads = torch.autograd.grad((out, last), list(given.values()), (dout, dlast), allow_unused=True)
    wanted_grads = ssmcore.selective_scan_vjp(dout.numpy(), **case, dlast_state=dlast.numpy())._asdict()
    for name, g in zip(given, grads, strict=True):
        assert g is not None
        assert np.array_equal(g.numpy(), wanted_grads[name]), name


@pytest.mark.parametrize("sample", SMALL, ids=lambda s: s.name)
def test_gradcheck(sample: Any) -> None:
    given, options = tensors(sample)
    names = list(given)
    # one random direction for each input instead of every entry: the same check in a tenth of the time
    assert torch.autograd.gradcheck(
        lambda *a: st.selective_scan(**dict(zip(names, a, strict=True)), **options, return_last_state=True),
        tuple(given.values()),
        fast_mode=True,
    )


GRID = SPECS["ss2d"]
SMALL_GRIDS = [
    s for s in SAMPLES["ss2d"].samples if s.name in ("everything", "bilinear", "zoh", "one column", "past a lane")
]


@pytest.mark.parametrize("sample", SAMPLES["ss2d"].samples, ids=lambda s: s.name)
def test_a_grid_has_the_values_and_gradients_of_numpy(sample: Any) -> None:
    given, options = tensors(sample)
    out = st.ss2d(**given, **options)
    case = sample.make(np.random.default_rng(11), np.float64)
    assert np.array_equal(out.detach().numpy(), ssmcore.ss2d(**case))
    assert out.is_contiguous()
    dout = torch.randn_like(out)
    wanted = ssmcore.ss2d_vjp(dout.numpy(), **case)._asdict()
    for name, g in zip(given, torch.autograd.grad(out, list(given.values()), dout), strict=True):
        assert np.array_equal(g.numpy(), wanted[name]), name


@pytest.mark.parametrize("sample", SMALL_GRIDS, ids=lambda s: s.name)
def test_gradcheck_of_a_grid(sample: Any) -> None:
    given, options = tensors(sample)
    names = list(given)
    assert torch.autograd.gradcheck(
        lambda *a: st.ss2d(**dict(zip(names, a, strict=True)), **options), tuple(given.values()), fast_mode=True
    )


def test_a_grid_compiles_into_one_graph() -> None:
    given, options = tensors(SMALL_GRIDS[0], np.float32)
    # delta as a batched product leaves it: directions outermost in memory
    given["delta"] = given["delta"].detach().permute(3, 0, 1, 2, 4).contiguous().permute(1, 2, 3, 0, 4).requires_grad_()

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return st.ss2d(**given, **options).square().sum()

    eager = torch.autograd.grad(loss(given), list(given.values()))
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(given), list(given.values()))
    for e, c in zip(eager, found, strict=True):
        torch.testing.assert_close(c, e)


def test_plain_torch_runs_a_grid_where_there_is_no_kernel() -> None:
    given, options = tensors(SMALL_GRIDS[1])
    plain = st.ss2d(**given, **options, backend="torch")
    fast = st.ss2d(**given, **options)
    torch.testing.assert_close(plain, fast)
    wanted = torch.autograd.grad(plain.square().sum(), list(given.values()))
    for g, w in zip(torch.autograd.grad(fast.square().sum(), list(given.values())), wanted, strict=True):
        torch.testing.assert_close(g, w)


def test_the_pieces_of_a_grid_are_numpys() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    scanned = st.cross_scan(x)
    assert np.array_equal(scanned.detach().numpy(), ssmcore.cross_scan(x.detach().numpy()))
    merged = st.cross_merge(scanned, 3, 5)
    torch.testing.assert_close(merged, 4 * x)
    merged.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 4))


CONVOLUTION = SPECS["causal_conv1d"]


@pytest.mark.parametrize("sample", SAMPLES["causal_conv1d"].samples, ids=lambda s: s.name)
def test_a_convolution_has_the_values_and_gradients_of_numpy(sample: Any) -> None:
    given, options = tensors(sample)
    out, last = st.causal_conv1d(**given, **options, return_last_state=True)
    case = sample.make(np.random.default_rng(11), np.float64)
    wanted, wanted_last = ssmcore.causal_conv1d(**case, return_last_state=True)
    assert np.array_equal(out.detach().numpy(), wanted)
    assert np.array_equal(last.detach().numpy(), wanted_last)
    dout, dlast = torch.randn_like(out), torch.randn_like(last)
    grads = torch.autograd.grad((out, last), list(given.values()), (dout, dlast), allow_unused=True)
    vjp = ssmcore.causal_conv1d_vjp(dout.numpy(), **case, dlast_state=dlast.numpy())._asdict()
    for name, g in zip(given, grads, strict=True):
        assert g is not None
        np.testing.assert_allclose(g.numpy(), vjp[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sample", SAMPLES["causal_conv1d"].samples[:3], ids=lambda s: s.name)
def test_gradcheck_of_a_convolution(sample: Any) -> None:
    given, options = tensors(sample)
    names = list(given)
    assert torch.autograd.gradcheck(
        lambda *a: st.causal_conv1d(**dict(zip(names, a, strict=True)), **options, return_last_state=True),
        tuple(given.values()),
        fast_mode=True,
    )


def test_a_convolution_compiles_into_one_graph() -> None:
    given, options = tensors(SAMPLES["causal_conv1d"].samples[1], np.float32)

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return st.causal_conv1d(**given, **options).square().sum()

    eager = torch.autograd.grad(loss(given), list(given.values()))
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(given), list(given.values()))
    for e, c in zip(eager, found, strict=True):
        torch.testing.assert_close(c, e)


def test_plain_torch_runs_a_convolution_where_there_is_no_kernel() -> None:
    given, _ = tensors(SAMPLES["causal_conv1d"].samples[2])
    plain = st.causal_conv1d(**given, activation="silu", layout="bld", backend="torch")
    fast = st.causal_conv1d(**given, activation="silu", layout="bld")
    torch.testing.assert_close(plain, fast)
    wanted = torch.autograd.grad(plain.square().sum(), list(given.values()))
    for g, w in zip(torch.autograd.grad(fast.square().sum(), list(given.values())), wanted, strict=True):
        torch.testing.assert_close(g, w)


GRID_CONVOLUTION = SPECS["depthwise_conv2d"]


@pytest.mark.parametrize("sample", SAMPLES["depthwise_conv2d"].samples[:5], ids=lambda s: s.name)
def test_a_grid_convolution_has_torchs_values_and_gradients(sample: Any) -> None:
    """Of torch's own depthwise convolution, which shares no code with ours on this path."""
    given, options = tensors(sample)
    silu = options.get("activation") is not None
    bias = given.get("bias")
    fast = st.depthwise_conv2d(given["x"], given["weight"], bias, **options)
    plain = torch.nn.functional.conv2d(
        given["x"].permute(0, 3, 1, 2), given["weight"][:, None], bias, padding=1, groups=given["x"].shape[3]
    ).permute(0, 2, 3, 1)
    plain = torch.nn.functional.silu(plain) if silu else plain
    torch.testing.assert_close(fast, plain)
    dout = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, list(given.values()), dout)
    for g, w in zip(torch.autograd.grad(fast, list(given.values()), dout), wanted, strict=True):
        torch.testing.assert_close(g, w)


def test_gradcheck_of_a_grid_convolution() -> None:
    given, options = tensors(SAMPLES["depthwise_conv2d"].samples[1])
    assert torch.autograd.gradcheck(
        lambda *a: st.depthwise_conv2d(*a, **options), tuple(given.values()), fast_mode=True
    )


GATE = SPECS["attention_gate"]


@pytest.mark.parametrize("sample", SAMPLES["attention_gate"].samples[:4], ids=lambda s: s.name)
def test_a_gate_has_the_values_and_gradients_of_torchs_layers(sample: Any) -> None:
    """Of batch_norm, relu, a product, sigmoid: torch's own, which share no code with ours."""
    given, _ = tensors(sample)
    statistics = given.pop("statistics", None)
    statistics = None if statistics is None else statistics.detach()
    x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift = given.values()
    fast, used = st.attention_gate(*given.values(), statistics)
    means = None if statistics is None else statistics.split([len(shift), len(shift), 1])

    def norm(value: torch.Tensor, k: int, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        mean, variance = (None, None) if means is None else means[k].t().contiguous()  # batch_norm ignores strides
        value = value.permute(0, 3, 1, 2)
        normed = torch.nn.functional.batch_norm(value, mean, variance, weight, bias, training=means is None)
        return normed.permute(0, 2, 3, 1)

    top, left = ((full - part) // 2 for full, part in zip(phi.shape[1:3], x.shape[1:3], strict=True))
    window = phi[:, top : top + x.shape[1], left : left + x.shape[2]]
    q = torch.relu(norm(theta, 0, theta_weight, shift) + norm(window, 1, phi_weight, None)) @ psi[:, None]
    plain = x * torch.sigmoid(norm(q, 2, psi_weight, psi_shift))
    torch.testing.assert_close(fast, plain)
    if statistics is None:
        torch.testing.assert_close(used[: len(shift), 1], theta.var((0, 1, 2), correction=0))
    dout = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, list(given.values()), dout)
    for g, w in zip(torch.autograd.grad(fast, list(given.values()), dout), wanted, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("sample", SAMPLES["attention_gate"].samples[1:3], ids=lambda s: s.name)
def test_gradcheck_of_a_gate(sample: Any) -> None:
    given, _ = tensors(sample)
    statistics = given.pop("statistics", None)
    statistics = None if statistics is None else statistics.detach()
    assert torch.autograd.gradcheck(
        lambda *a: st.attention_gate(*a, statistics)[0], tuple(given.values()), fast_mode=True
    )


def test_statistics_of_a_bfloat16_gate_are_not_rounded_to_it() -> None:
    given, _ = tensors(SAMPLES["attention_gate"].samples[0], np.float32)
    half = {n: t.detach().bfloat16().requires_grad_() for n, t in given.items()}
    out, statistics = st.attention_gate(*half.values())
    _, wanted = st.attention_gate(*(t.float() for t in half.values()))
    assert out.dtype == torch.bfloat16
    assert torch.equal(statistics, wanted)
    torch.autograd.grad(out.float().sum(), list(half.values()))


def test_a_crop_is_differentiable_twice() -> None:
    assert torch.autograd.gradgradcheck(
        lambda x: st.gate_crop(x, (3, 2)), torch.rand(1, 4, 5, dtype=torch.float64, requires_grad=True)
    )


def test_compiles_into_one_graph() -> None:
    given, options = tensors(SAMPLES["selective_scan"].samples[1], np.float32)

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        out, last = st.selective_scan(**given, **options, return_last_state=True)
        return (out * out).sum() + last.sum()

    eager = torch.autograd.grad(loss(given), list(given.values()))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(given), list(given.values()))
    for e, c in zip(eager, found, strict=True):
        torch.testing.assert_close(c, e)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    given, options = tensors(SAMPLES["selective_scan"].samples[1], np.float32)
    compiled = torch.compile(lambda given: st.selective_scan(**given, **options).square().sum(), fullgraph=True)
    torch.testing.assert_close(compiled(given), st.selective_scan(**given, **options).square().sum())


def test_exports_with_a_dynamic_length() -> None:
    class Scan(torch.nn.Module):
        def forward(
            self, u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
        ) -> Any:
            return st.selective_scan(u, delta, A, B, C, delta_softplus=True)

    given, _ = tensors(SAMPLES["selective_scan"].samples[0], np.float32, grad=False)
    arguments = tuple(given.values())
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = ({2: length}, {2: length}, None, {2: length}, {2: length})
    program = torch.export.export(Scan(), arguments, dynamic_shapes=shapes)
    longer = tuple(torch.cat([x, x], -1) if x.ndim == 3 else x for x in arguments)
    torch.testing.assert_close(program.module()(*longer), Scan()(*longer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out_with_a_wide_state(dtype: torch.dtype) -> None:
    given, options = tensors(SAMPLES["selective_scan"].samples[1], np.float32, grad=False)
    half = {k: v.to(dtype).requires_grad_() for k, v in given.items()}
    out, last_state = st.selective_scan(**half, **options, return_last_state=True)
    in_float32 = {k: v.detach().float() for k, v in half.items()}
    wide, wide_last = st.selective_scan(**in_float32, **options, return_last_state=True)
    assert (out.dtype, last_state.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(out.float(), wide, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)
    assert torch.equal(last_state, wide_last)
    (out.sum() + last_state.sum()).backward()
    assert all(v.grad is not None and v.grad.dtype == dtype for v in half.values())


def test_a_named_backend_runs_the_tensors_too() -> None:
    given, options = tensors(SAMPLES["selective_scan"].samples[0])
    with ssmcore.use_backend("numpy"):
        slow = st.selective_scan(**given, **options)
    torch.testing.assert_close(slow, st.selective_scan(**given, **options))


def test_plain_torch_runs_where_there_is_no_kernel() -> None:
    """The path of other devices, taken on CPU tensors: values and gradients of the plain loop."""
    given, options = tensors(SAMPLES["selective_scan"].samples[5])
    out, last = st.selective_scan(**given, **options, return_last_state=True, backend="torch")
    torch.testing.assert_close(out, st.selective_scan(**given, **options))
    grads = torch.autograd.grad(out.sum() + last.sum(), list(given.values()))
    fast, state = st.selective_scan(**given, **options, return_last_state=True)
    for g, w in zip(torch.autograd.grad(fast.sum() + state.sum(), list(given.values())), grads, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("method", ["zoh", "bilinear", "mamba"])
@pytest.mark.parametrize("structure", ["diagonal", "dense"])
def test_discretize_has_gradients(method: str, structure: str) -> None:
    sample = SAMPLES["discretize"].named(f"{structure} {method}")
    case = sample.make(np.random.default_rng(3), np.float64)
    given = tuple(torch.from_numpy(case[n]).requires_grad_() for n in ("A", "B", "delta"))
    assert torch.autograd.gradcheck(lambda *a: st.discretize(*a, method=method, structure=structure), given)


def test_errors_name_the_argument() -> None:
    given, options = tensors(SAMPLES["selective_scan"].samples[0], grad=False)
    with pytest.raises(ssmcore.ArgumentError, match="selective_scan: delta: expected shape"):
        st.selective_scan(**{**given, "delta": given["delta"].transpose(1, 2)}, **options)
    with pytest.raises(TypeError, match=r"u: expected a real floating dtype, got torch.int64"):
        st.selective_scan(**{**given, "u": given["u"].long()}, **options)
    with pytest.raises(TypeError, match="C: expected device cpu"):
        st.selective_scan(**{**given, "C": given["C"].to("meta")}, **options)


CHUNKS = SPECS["chunk_scan"]


@pytest.mark.parametrize("sample", SAMPLES["chunk_scan"].samples, ids=lambda s: s.name)
def test_a_chunk_scan_has_the_values_and_gradients_of_numpy(sample: Any) -> None:
    given, options = tensors_and_marks(sample)
    out, final = st.chunk_scan(**given, **options, return_last_state=True)
    case = sample.make(np.random.default_rng(11), np.float64)
    wanted, wanted_final = ssmcore.chunk_scan(**case, return_last_state=True)
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(final.detach().numpy(), wanted_final, rtol=1e-12, atol=1e-12)
    dout, dlast = torch.randn_like(out), torch.randn_like(final)
    grads = torch.autograd.grad((out, final), list(given.values()), (dout, dlast))
    vjp = ssmcore.chunk_scan_vjp(dout.numpy(), **case, dlast_state=dlast.numpy())._asdict()
    for name, g in zip(given, grads, strict=True):
        np.testing.assert_allclose(g.numpy(), vjp[name], rtol=1e-10, atol=1e-11, err_msg=name)


def tensors_and_marks(sample: Any, dtype: Any = np.float64) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As `tensors`, the numbers of packed sequences among the options."""
    case = sample.make(np.random.default_rng(11), dtype)
    floats = {k: v for k, v in case.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
    options = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in case.items() if k not in floats}
    return {k: torch.from_numpy(v).requires_grad_() for k, v in floats.items()}, options


@pytest.mark.parametrize("name", ["plain", "everything", "clamped", "packed, plain"])
def test_gradcheck_of_a_chunk_scan(name: str) -> None:
    sample = SAMPLES["chunk_scan"].named(name)
    given, options = tensors_and_marks(sample)
    names = list(given)
    assert torch.autograd.gradcheck(
        lambda *a: st.chunk_scan(**dict(zip(names, a, strict=True)), **options, return_last_state=True),
        tuple(given.values()),
        fast_mode=True,
    )


def test_a_chunk_scan_compiles_into_one_graph() -> None:
    given, options = tensors_and_marks(SAMPLES["chunk_scan"].named("packed"), np.float32)

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        out, final = st.chunk_scan(**given, **options, return_last_state=True)
        return out.square().sum() + final.sum()

    eager = torch.autograd.grad(loss(given), list(given.values()))
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(given), list(given.values()))
    for e, c in zip(eager, found, strict=True):
        torch.testing.assert_close(c, e)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_chunk_scan_in_half_precision_has_a_wide_state(dtype: torch.dtype) -> None:
    given, options = tensors_and_marks(SAMPLES["chunk_scan"].named("everything"), np.float32)
    half = {k: v.detach().to(dtype).requires_grad_() for k, v in given.items()}
    out, last = st.chunk_scan(**half, **options, return_last_state=True)
    in_float32 = {k: v.detach().float() for k, v in half.items()}
    wide, wide_last = st.chunk_scan(**in_float32, **options, return_last_state=True)
    assert (out.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(last, wide_last)
    torch.testing.assert_close(out.float(), wide, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
    out.sum().backward()
    assert all(v.grad is not None and v.grad.dtype == dtype for v in half.values())


def test_plain_torch_runs_a_chunk_scan_where_there_is_no_kernel() -> None:
    given, _ = tensors_and_marks(next(s for s in SAMPLES["chunk_scan"].samples if s.name == "one group"))
    given = {k: v for k, v in given.items() if k in ("x", "dt", "A", "B", "C")}
    plain = st.chunk_scan(**given, backend="torch")
    fast = st.chunk_scan(**given)
    torch.testing.assert_close(plain, fast)
    wanted = torch.autograd.grad(plain.square().sum(), list(given.values()))
    for g, w in zip(torch.autograd.grad(fast.square().sum(), list(given.values())), wanted, strict=True):
        torch.testing.assert_close(g, w)


def test_gradients_of_wide_parameters_are_not_rounded_to_float16() -> None:
    """That of D is a sum of 4096 products of 64, more than float16 holds."""
    u = torch.full((1, 2, 4096), 64.0, dtype=torch.float16)
    D = torch.zeros(2, requires_grad=True)
    B = torch.zeros(1, 3, 4096, dtype=torch.float16)
    out = st.selective_scan(u, torch.zeros_like(u), -torch.ones(2, 3), B, B, D)
    out.backward(torch.ones_like(out))
    assert D.grad is not None
    assert D.grad.tolist() == [64.0 * 4096] * 2


def test_an_argument_that_is_not_optional_is_named() -> None:
    x = torch.ones(1, 2, 3)
    with pytest.raises(ssmcore.ArgumentError, match="A: expected an array, got None; it is not optional"):
        st.selective_scan(x, x, None, x, x)  # type: ignore[arg-type]
    with pytest.raises(ssmcore.ArgumentError, match="u: expected a tensor, got None; it is not optional"):
        st.selective_scan(None, x, x, x, x)  # type: ignore[arg-type]


def test_marks_of_any_strides_and_a_gate_of_another_dtype() -> None:
    case = SAMPLES["chunk_scan"].samples[0].make(np.random.default_rng(0), np.float32)
    given = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
    batch, seqlen = given["x"].shape[:2]
    marks = (torch.arange(seqlen)[:, None] // 3).repeat(1, batch)
    assert torch.equal(
        st.chunk_scan(**given | {"seq_idx": marks.t()}), st.chunk_scan(**given | {"seq_idx": marks.t().contiguous()})
    )
    half = given | {"x": given["x"].bfloat16(), "z": torch.ones_like(given["x"])}
    assert st.chunk_scan(**half).dtype == torch.bfloat16


NARROW = {
    "selective_scan": ("u", "delta", "B", "C", "z", "out"),
    "ss2d": ("x", "delta", "B", "C"),
    "chunk_scan": ("x", "dt", "B", "C", "z"),
    "causal_conv1d": ("x", "weight"),
    "depthwise_conv2d": ("x",),
}
"""Arguments that autocast would make narrow."""


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("op", "sample"),
    [(op, sample) for op in NARROW for sample in SAMPLES[op].samples if "complex" not in sample.name],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_narrow_tensors_are_computed_as_float32_ones_and_rounded_once(
    op: str, sample: Any, dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssmcore.backends import cython_

    if isa not in cython_.usable_isas():
        pytest.skip(f"this processor does not run {isa}")
    monkeypatch.setenv("SSMCORE_ISA", isa)
    case = sample.make(np.random.default_rng(7), np.float32)
    given = {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in case.items()}
    given |= {n: given[n].to(dtype) for n in NARROW[op] if isinstance(given.get(n), torch.Tensor)}
    narrow = {
        n: x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for n, x in given.items()
    }
    wide = {
        n: x.detach().float().requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for n, x in narrow.items()
    }
    function = getattr(ssmcore.torch, op)
    ours, theirs = (function(**arguments, backend="cython") for arguments in (narrow, wide))
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs.to(dtype))
    dout = torch.from_numpy(np.random.default_rng(8).standard_normal(ours.shape)).to(dtype)
    ours.backward(dout)
    theirs.backward(dout.float())
    for name, x in narrow.items():
        if isinstance(x, torch.Tensor) and x.requires_grad:
            assert torch.equal(x.grad, wide[name].grad.to(x.dtype)), name
