"""What stands in for mamba_ssm, causal_conv1d and VMamba, imported by their names and held to plain torch.

Grids of parameters and tolerances are those of the projects' own tests, with sizes added that these miss: a dim that is no square
of the groups, lengths of 0 and 1, widths above 4.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from samples.chunk_scan import make_case as make_chunks
from torch.nn import functional as F

import ssmcore
import ssmcore.compat
import ssmcore.torch as st

PACKAGES = (
    "mamba_ssm",
    "causal_conv1d",
    "selective_scan_cuda",
    "selective_scan_cuda_core",
    "selective_scan_cuda_oflex",
    "selective_scan_cuda_ndstate",
    "csms6s",
    "csm_triton",
)
TOLERANCES = {torch.float32: (6e-4, 2e-3), torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}


@pytest.fixture
def installed() -> Iterator[ssmcore.compat.Installation]:
    yield ssmcore.compat.install()
    ssmcore.compat.uninstall()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + 31 * sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


def named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


# ---- putting in and out ----


def test_it_stands_in_for_what_is_absent_and_says_so(installed: ssmcore.compat.Installation) -> None:
    assert installed.installed == PACKAGES
    assert "mamba_ssm: ssmcore stands in" in str(installed)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.name == name
        assert importlib.import_module(name).__version__.endswith("+ssmcore")


def test_a_second_time_changes_nothing(installed: ssmcore.compat.Installation) -> None:
    module = sys.modules["mamba_ssm"]
    again = ssmcore.compat.install(force=True)
    assert again.installed == ()
    assert sys.modules["mamba_ssm"] is module
    assert "mamba_ssm: left alone, ssmcore stands in already" in str(again)


def test_uninstalling_leaves_nothing(installed: ssmcore.compat.Installation) -> None:
    ssmcore.compat.uninstall()
    assert not [n for n in sys.modules if n.split(".")[0] in PACKAGES]
    assert importlib.util.find_spec("mamba_ssm") is None
    ssmcore.compat.uninstall()


@pytest.fixture
def real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A causal_conv1d on the path that is not ours."""
    (tmp_path / "causal_conv1d").mkdir()
    (tmp_path / "causal_conv1d" / "__init__.py").write_text("real = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    ssmcore.compat.uninstall()
    for name in [n for n in sys.modules if n.split(".")[0] == "causal_conv1d"]:
        del sys.modules[name]


@pytest.mark.parametrize("imported", [False, True])
def test_a_real_package_is_left_alone_unless_forced_and_comes_back(real_package: None, imported: bool) -> None:
    if imported:
        importlib.import_module("causal_conv1d")
    report = ssmcore.compat.install()
    assert "causal_conv1d" not in report.installed
    assert "pass force=True to replace it" in dict(report.left_alone)["causal_conv1d"]
    real = importlib.import_module("causal_conv1d")
    assert real.real
    assert ssmcore.compat.install(force=True).installed == ("causal_conv1d",)
    assert not hasattr(importlib.import_module("causal_conv1d"), "real")
    ssmcore.compat.uninstall()
    assert sys.modules["causal_conv1d"] is real


def test_a_module_that_is_not_ours_stays_when_ours_go(installed: ssmcore.compat.Installation) -> None:
    other = sys.modules["csms6s"] = ModuleType("csms6s")
    ssmcore.compat.uninstall()
    assert sys.modules.pop("csms6s") is other


def test_submodules_are_found_from_their_packages(installed: ssmcore.compat.Installation) -> None:
    import mamba_ssm  # type: ignore[import-not-found]

    interface = "mamba_ssm.ops.selective_scan_interface"
    assert mamba_ssm.ops.selective_scan_interface is sys.modules[interface]
    assert importlib.util.find_spec(interface) is sys.modules[interface].__spec__
    assert mamba_ssm.Mamba is named("mamba_ssm.modules.mamba_simple", "Mamba")


# ---- the scan ----


def scan_case(
    dtype: torch.dtype, length: int, groups: int, *, varying_B: bool = True, varying_C: bool = True, dim: int = 4
) -> dict[str, Any]:
    def matrix(varying: bool, seed: int) -> torch.Tensor:
        if not varying:
            return normal(dim, 8, seed=seed)
        lead = (2, 8) if groups == 1 else (2, groups, 8)
        return normal(*lead, length, seed=seed, dtype=dtype)

    return {
        "u": normal(2, dim, length, dtype=dtype),
        "delta": (0.5 * normal(2, dim, length, seed=1).abs()).to(dtype),
        "A": -0.5 * normal(dim, 8).abs(),
        "B": matrix(varying_B, 2),
        "C": matrix(varying_C, 3),
        "D": normal(dim),
        "z": normal(2, dim, length, seed=4, dtype=dtype),
        "delta_bias": 0.5 * normal(dim, seed=5).abs(),
        "delta_softplus": True,
    }


def plain_scan(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64, one step after the other; shares no code with what it checks."""
    x, dt, A = u.double(), delta.double(), A.to(torch.complex128 if A.is_complex() else torch.float64)
    dt = dt if delta_bias is None else dt + delta_bias.double()[:, None]
    dt = F.softplus(dt) if options.get("delta_softplus") else dt
    batch, dim, length = x.shape

    def at(matrix: torch.Tensor, t: int) -> torch.Tensor:
        if matrix.ndim == 2:
            return matrix.to(A.dtype)[None]
        if A.is_complex():
            picked = torch.complex(matrix[..., 2 * t].double(), matrix[..., 2 * t + 1].double())
        else:
            picked = matrix[..., t].double()
        picked = picked[:, None] if picked.ndim == 2 else picked
        return picked.repeat_interleave(dim // picked.shape[1], 1)

    h = torch.zeros(batch, dim, A.shape[1], dtype=A.dtype)
    ys = []
    for t in range(length):
        h = torch.exp(dt[:, :, t, None] * A) * h + dt[:, :, t, None] * at(B, t) * x[:, :, t, None]
        y = (h * at(C, t)).sum(-1)
        ys.append(2 * y.real if A.is_complex() else y)
    y = torch.stack(ys, -1) if ys else torch.zeros_like(x)
    y = y if D is None else y + D.double()[:, None] * x
    return (y if z is None else y * F.silu(z.double())), h


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, rtimes: float = 1, atimes: float = 1) -> None:
    rtol, atol = TOLERANCES[dtype]
    torch.testing.assert_close(found.double(), wanted.double(), rtol=rtol * rtimes, atol=atol * atimes)


def check_scan(case: dict[str, Any], dtype: torch.dtype) -> None:
    scan = named("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    inputs = {n: t.requires_grad_() for n, t in case.items() if isinstance(t, torch.Tensor)}
    out, last = scan(**case, return_last_state=True)
    wanted, wanted_last = plain_scan(**case)
    assert out.dtype == dtype
    assert last.dtype == torch.float32
    close(out, wanted, dtype)
    close(last, wanted_last, dtype)
    dout = normal(*out.shape, seed=9, dtype=dtype)
    found = torch.autograd.grad(out, list(inputs.values()), dout)
    expected = torch.autograd.grad(wanted, list(inputs.values()), dout.double(), materialize_grads=True)
    for name, f, w in zip(inputs, found, expected, strict=True):
        rtimes, atimes = {"u": (2, 2), "delta": (5, 10)}.get(name, (5, 10))
        if name in ("A", "D", "delta_bias", "B", "C"):  # sums over time, whose size grows with its length
            assert (f.double() - w.double()).norm() <= 10 * TOLERANCES[dtype][0] * w.double().norm() + 1e-6, name
        else:
            close(f, w, dtype, rtimes, atimes)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 128])
@pytest.mark.parametrize("groups", [1, 2])
def test_scan(installed: ssmcore.compat.Installation, dtype: torch.dtype, length: int, groups: int) -> None:
    check_scan(scan_case(dtype, length, groups), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("length", [256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("groups", [1, 2])
def test_long_scan(installed: ssmcore.compat.Installation, dtype: torch.dtype, length: int, groups: int) -> None:
    check_scan(scan_case(dtype, length, groups), dtype)


@pytest.mark.parametrize(("varying_B", "varying_C"), [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize(("groups", "dim"), [(1, 5), (2, 6), (3, 18)])
def test_scan_of_constant_matrices_and_odd_dims(
    installed: ssmcore.compat.Installation, varying_B: bool, varying_C: bool, groups: int, dim: int
) -> None:
    check_scan(scan_case(torch.float32, 33, groups, varying_B=varying_B, varying_C=varying_C, dim=dim), torch.float32)


@pytest.mark.parametrize("absent", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
def test_scan_without_optional_arguments(installed: ssmcore.compat.Installation, absent: tuple[str, ...]) -> None:
    check_scan({k: v for k, v in scan_case(torch.float32, 17, 2).items() if k not in absent}, torch.float32)


@pytest.mark.parametrize("constant", [False, True])
def test_complex_scan(installed: ssmcore.compat.Installation, constant: bool) -> None:
    case = scan_case(torch.float32, 12, 1, varying_B=not constant)
    case["A"] = torch.complex(case["A"], normal(4, 8, seed=7))
    case["C"] = normal(2, 8, 24, seed=3)
    case["B"] = torch.complex(normal(4, 8), normal(4, 8, seed=1)) if constant else normal(2, 8, 24, seed=2)
    for function in ("selective_scan_fn", "selective_scan_ref"):
        out, last = named("mamba_ssm.ops.selective_scan_interface", function)(**case, return_last_state=True)
        wanted, wanted_last = plain_scan(**case)
        close(out, wanted, torch.float32)
        torch.testing.assert_close(last.to(torch.complex128), wanted_last, rtol=1e-4, atol=1e-4)


def test_the_reference_scan_is_plain_torch(installed: ssmcore.compat.Installation) -> None:
    case = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in scan_case(torch.float32, 9, 2).items()}
    inputs = {n: t.requires_grad_() for n, t in case.items() if isinstance(t, torch.Tensor)}
    out, last = named("mamba_ssm.ops.selective_scan_interface", "selective_scan_ref")(**case, return_last_state=True)
    wanted, wanted_last = plain_scan(**case)
    torch.testing.assert_close((out, last), (wanted, wanted_last))
    for f, w in zip(
        torch.autograd.grad(out.sum() + last.sum(), list(inputs.values())),
        torch.autograd.grad(wanted.sum() + wanted_last.sum(), list(inputs.values())),
        strict=True,
    ):
        torch.testing.assert_close(f, w)


# ---- the inner function ----


def inner_case(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    dim, rank, dstate = 6, 2, 4
    return {
        "xz": normal(2, 2 * dim, 15, dtype=dtype),
        "conv1d_weight": normal(dim, 1, 3, dtype=dtype),
        "conv1d_bias": normal(dim, dtype=dtype),
        "x_proj_weight": normal(rank + 2 * dstate, dim, dtype=dtype),
        "delta_proj_weight": normal(dim, rank, dtype=dtype),
        "out_proj_weight": normal(5, dim, dtype=dtype),
        "out_proj_bias": normal(5, dtype=dtype),
        "A": -normal(dim, dstate, dtype=dtype).abs(),
        "D": normal(dim, dtype=dtype),
        "delta_bias": normal(dim, dtype=dtype),
        "B_proj_bias": normal(dstate, dtype=dtype),
        "C_proj_bias": normal(dstate, seed=1, dtype=dtype),
    }


def test_inner_functions_agree(installed: ssmcore.compat.Installation) -> None:
    interface, case = "mamba_ssm.ops.selective_scan_interface", inner_case()
    inputs = [t.requires_grad_() for t in case.values()]
    out, wanted = named(interface, "mamba_inner_fn")(**case), named(interface, "mamba_inner_ref")(**case)
    torch.testing.assert_close(out, wanted)
    dout = normal(*out.shape, dtype=torch.float64)
    for f, w in zip(torch.autograd.grad(out, inputs, dout), torch.autograd.grad(wanted, inputs, dout), strict=True):
        torch.testing.assert_close(f, w)
    short = {k: v for k, v in case.items() if not k.startswith("out_proj")}
    y = named(interface, "mamba_inner_fn_no_out_proj")(**short)
    torch.testing.assert_close(F.linear(y.transpose(1, 2), case["out_proj_weight"], case["out_proj_bias"]), wanted)


def test_a_bidirectional_inner_function_is_the_sum_of_two(installed: ssmcore.compat.Installation) -> None:
    interface, case = "mamba_ssm.ops.selective_scan_interface", inner_case()
    case["A_b"] = -normal(6, 4, seed=3, dtype=torch.float64).abs()
    # taps of the present alone, so that a convolution of the reversed sequence is the reversed convolution
    case["conv1d_weight"] = F.pad(case["conv1d_weight"][..., -1:], (2, 0))
    out = named(interface, "bimamba_inner_fn")(**case)
    case.pop("A_b")
    first = named(interface, "mamba_inner_ref")(**case)
    backward = case | {"A": -normal(6, 4, seed=3, dtype=torch.float64).abs(), "xz": case["xz"].flip(-1)}
    second = named(interface, "mamba_inner_ref")(**backward).flip(1)
    torch.testing.assert_close(out, first + second - case["out_proj_bias"])


# ---- the convolution ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 8, 129, 151])
@pytest.mark.parametrize("channel_last", [False, True])
def test_convolution(
    installed: ssmcore.compat.Installation,
    dtype: torch.dtype,
    activation: str | None,
    width: int,
    length: int,
    channel_last: bool,
) -> None:
    x = (
        normal(2, length, 64 + 3, dtype=dtype)[..., :64].transpose(1, 2)
        if channel_last
        else normal(2, 64, length, dtype=dtype)
    )
    given = [x, normal(64, width), normal(64)]
    inputs = [t.detach().requires_grad_() for t in given]
    out = named("causal_conv1d", "causal_conv1d_fn")(*inputs, activation=activation)
    y = F.conv1d(F.pad(inputs[0].double(), (width - 1, 0)), inputs[1].double()[:, None], inputs[2].double(), groups=64)
    wanted = y if activation is None else F.silu(y)
    assert out.dtype == dtype
    close(out, wanted, dtype)
    dout = normal(*out.shape, seed=2, dtype=dtype)
    found = torch.autograd.grad(out, inputs, dout)
    for f, w in zip(found, torch.autograd.grad(wanted, inputs, dout.double()), strict=True):
        assert (f.double() - w.double()).norm() <= 5 * TOLERANCES[dtype][0] * w.double().norm()
    reference = named("causal_conv1d.causal_conv1d_interface", "causal_conv1d_ref")(*given, activation=activation)
    close(reference, wanted, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("length", [256, 512, 784, 1024, 1134, 2048, 4096])
@pytest.mark.parametrize("dim", [64, 4128])
def test_long_convolution(installed: ssmcore.compat.Installation, length: int, dim: int) -> None:
    x, weight = normal(2, dim, length), normal(dim, 4)
    out = named("causal_conv1d", "causal_conv1d_fn")(x, weight, activation="silu")
    close(out, F.silu(F.conv1d(F.pad(x, (3, 0)), weight[:, None], groups=dim)), torch.float32)


def test_convolution_keeps_states_where_it_is_asked(installed: ssmcore.compat.Installation) -> None:
    function = named("causal_conv1d", "causal_conv1d_fn")
    x, weight, states = normal(2, 6, 9), normal(6, 4), torch.empty(2, 6, 3)
    out, last = function(x, weight, initial_states=normal(2, 6, 3), final_states_out=states, activation="silu")
    assert last is states
    assert torch.equal(states, x[:, :, -3:])
    reference = named("causal_conv1d.causal_conv1d_interface", "causal_conv1d_ref")
    wanted, wanted_last = reference(x, weight, None, normal(2, 6, 3), True, activation="silu")
    torch.testing.assert_close((out, last), (wanted, wanted_last))


def test_the_first_releases_activation_in_the_fourth_place(installed: ssmcore.compat.Installation) -> None:
    function, given = named("causal_conv1d", "causal_conv1d_fn"), (normal(2, 6, 9), normal(6, 4), normal(6))
    assert torch.equal(function(*given, "silu"), function(*given, activation="silu"))


def test_packed_convolution(installed: ssmcore.compat.Installation) -> None:
    x, weight, seq_idx = normal(1, 6, 9), normal(6, 4), torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2]], dtype=torch.int32)
    function = named("causal_conv1d", "causal_conv1d_fn")
    parts = [function(p, weight) for p in x.split([4, 2, 3], dim=2)]
    assert torch.equal(function(x, weight, seq_idx=seq_idx), torch.cat(parts, dim=2))


# ---- steps ----


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("heads", [None, 4])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("dstate", [16, 64])
@pytest.mark.parametrize("dim", [24, 264])
def test_state_update(
    installed: ssmcore.compat.Installation,
    dtype: torch.dtype,
    heads: int | None,
    groups: int | None,
    dstate: int,
    dim: int,
) -> None:
    channels = (dim,) if heads is None else (heads, dim // heads)
    lead = (2,) if groups is None else (2, groups)
    state = normal(2, *channels, dstate, dtype=dtype)
    before = state.double().reshape(2, dim, dstate)
    x, dt, z = (normal(2, *channels, seed=s, dtype=dtype) for s in range(3))
    A, B, C = (
        -normal(*channels, dstate).abs() - 1,
        normal(*lead, dstate, dtype=dtype),
        normal(*lead, dstate, seed=1, dtype=dtype),
    )
    bias, D = normal(*channels).abs() - 4, normal(*channels, seed=1)
    A.requires_grad_()  # as a parameter's exponential does, outside no_grad
    out = named("mamba_ssm.ops.triton.selective_state_update", "selective_state_update")(
        state, x, dt, A, B, C, D=D, z=z, dt_bias=bias, dt_softplus=True
    )
    wide_x, wide_dt, wide_z = (t.double().reshape(2, dim) for t in (x, dt, z))
    step = F.softplus(wide_dt + bias.double().reshape(dim))
    wide_B, wide_C = (t.double().reshape(2, -1, dstate).repeat_interleave(dim // (groups or 1), 1) for t in (B, C))
    after = torch.exp(step[..., None] * A.detach().double().reshape(dim, dstate)) * before
    after = after + step[..., None] * wide_B * wide_x[..., None]
    wanted = ((after * wide_C).sum(-1) + D.double().reshape(dim) * wide_x) * F.silu(wide_z)
    assert not out.requires_grad
    close(state.reshape(2, dim, dstate), after, dtype)
    close(out.reshape(2, dim), wanted, dtype, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [2, 3, 4, 6])
@pytest.mark.parametrize("seqlen", [None, 1, 4, 5])
@pytest.mark.parametrize("ring", [False, True])
def test_convolution_update(
    installed: ssmcore.compat.Installation,
    dtype: torch.dtype,
    activation: str | None,
    width: int,
    seqlen: int | None,
    ring: bool,
) -> None:
    past, dim = width + 1, 48
    state = normal(2, dim, past, dtype=dtype)
    x = normal(2, dim, dtype=dtype) if seqlen is None else normal(2, dim, seqlen, dtype=dtype)
    weight, bias = normal(dim, width), normal(dim)
    known, seen = state.clone(), torch.tensor([3, 10], dtype=torch.int32)
    if ring:
        known = torch.stack([torch.roll(s, -int(n) % past, 1) for s, n in zip(known, seen, strict=True)])
    out = named("causal_conv1d", "causal_conv1d_update")(
        x, state, weight, bias, activation, cache_seqlens=seen if ring else None
    )
    whole = torch.cat([known, x if x.ndim == 3 else x[:, :, None]], 2)
    y = F.conv1d(whole.double(), weight.double()[:, None], bias.double(), groups=dim)[:, :, -(seqlen or 1) :]
    close(out, (y if activation is None else F.silu(y)).reshape(x.shape), dtype)
    last = whole[:, :, -past:]
    if ring:
        last = torch.stack([torch.roll(s, int(n + (seqlen or 1)) % past, 1) for s, n in zip(last, seen, strict=True)])
    assert torch.equal(state, last)


# ---- norms ----


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prenorm", [False, True])
def test_norms_with_a_residual(
    installed: ssmcore.compat.Installation, rms: bool, dtype: torch.dtype, prenorm: bool
) -> None:
    x, residual, weight, bias = normal(2, 3, 8, dtype=dtype), normal(2, 3, 8, seed=1), normal(8), normal(8, seed=1)
    function = named("mamba_ssm.ops.triton.layer_norm", "rms_norm_fn" if rms else "layer_norm_fn")
    total = x.double() + residual.double()
    if rms:
        wanted = F.rms_norm(total, (8,), weight.double(), 1e-6) + bias
    else:
        wanted = F.layer_norm(total, (8,), weight.double(), bias.double(), 1e-6)
    found = function(x, weight, bias, residual=residual, prenorm=prenorm, eps=1e-6)
    if prenorm:
        found, kept = found
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept.double(), total, rtol=1e-6, atol=1e-6)
    assert found.dtype == dtype
    close(found, wanted, dtype)
    assert named("mamba_ssm.ops.triton.layernorm", "rms_norm_fn") is named(
        "mamba_ssm.ops.triton.layer_norm", "rms_norm_fn"
    )


def test_norms_of_two_branches(installed: ssmcore.compat.Installation) -> None:
    function = named("mamba_ssm.ops.triton.layer_norm", "layer_norm_fn")
    x, x1, weight, weight1, scale = normal(2, 8), normal(2, 8, seed=1), normal(8), normal(8, seed=1), normal(2)
    out, out1, total = function(
        x, weight, None, x1=x1, weight1=weight1, rowscale=scale, prenorm=True, residual_in_fp32=True
    )
    torch.testing.assert_close(total, x * scale[:, None] + x1)
    torch.testing.assert_close(out, F.layer_norm(total, (8,), weight, eps=1e-6))
    torch.testing.assert_close(out1, F.layer_norm(total, (8,), weight1, eps=1e-6))
    ones = torch.ones(64, 64)
    out, total, mask, _ = function(ones, torch.ones(64), dropout_p=0.25, prenorm=True, return_dropout_mask=True)
    assert torch.equal(total, mask / 0.75)
    assert 0.6 < mask.float().mean() < 0.9


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_gated_norms(installed: ssmcore.compat.Installation, group_size: int | None, before: bool, gate: bool) -> None:
    x, z = normal(2, 3, 8).double(), normal(2, 3, 8, seed=1).double() if gate else None
    for name, norm in (("RMSNorm", F.rms_norm), ("LayerNorm", F.layer_norm)):
        module = named("mamba_ssm.ops.triton.layernorm_gated", name)(
            8, group_size=group_size, norm_before_gate=before, dtype=torch.float64
        )
        module.weight.data.copy_(normal(8))
        size = group_size or 8
        inside = x if z is None or before else x * F.silu(z)
        wanted = norm(inside.unflatten(-1, (-1, size)), (size,), eps=1e-5).flatten(-2) * module.weight
        wanted = wanted * F.silu(z) if z is not None and before else wanted
        torch.testing.assert_close(module(x, z), wanted)
    with pytest.raises(ValueError, match="group_size: expected a divisor of 8, got 3"):
        named("mamba_ssm.ops.triton.layernorm_gated", "rmsnorm_fn")(x, torch.ones(8), None, group_size=3)


# ---- the block ----


def block(**options: Any) -> Any:
    torch.manual_seed(0)
    return named("mamba_ssm", "Mamba")(16, d_state=4, **options)


def test_a_block_has_upstreams_parameters(installed: ssmcore.compat.Installation) -> None:
    shapes = {n: tuple(p.shape) for n, p in block().named_parameters()}
    assert shapes == {
        "A_log": (32, 4),
        "D": (32,),
        "in_proj.weight": (64, 16),
        "conv1d.weight": (32, 1, 4),
        "conv1d.bias": (32,),
        "x_proj.weight": (9, 32),
        "dt_proj.weight": (32, 1),
        "dt_proj.bias": (32,),
        "out_proj.weight": (16, 32),
    }
    own = {"A_log", "D", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"}
    for kind, suffixes in (("v2", ("_b",)), ("v3", ("_b", "_s"))):
        added = set(dict(block(bimamba_type=kind).named_parameters())) - set(shapes)
        names = {n.replace("_log", f"{s}_log") if n == "A_log" else n.replace("D", f"D{s}") if n == "D" else
                 n.replace(".", f"{s}.") for n in own for s in suffixes}  # fmt: skip
        assert added == names


def test_a_block_is_its_equations(installed: ssmcore.compat.Installation) -> None:
    model, x = block(), normal(2, 11, 16)
    inner = "mamba_ssm.ops.selective_scan_interface"
    given = {
        "conv1d_weight": model.conv1d.weight,
        "conv1d_bias": model.conv1d.bias,
        "x_proj_weight": model.x_proj.weight,
        "delta_proj_weight": model.dt_proj.weight,
        "out_proj_weight": model.out_proj.weight,
        "out_proj_bias": None,
        "A": -model.A_log.exp(),
        "D": model.D,
        "delta_bias": model.dt_proj.bias,
    }
    wanted = named(inner, "mamba_inner_ref")(model.in_proj(x).transpose(1, 2), **given)
    torch.testing.assert_close(model(x), wanted)


def test_steps_of_a_block_are_its_whole(installed: ssmcore.compat.Installation) -> None:
    model, x = block(layer_idx=0), normal(2, 9, 16)
    whole = model(x)
    conv_state, ssm_state = model.allocate_inference_cache(2, 9)
    steps = [model.step(x[:, t : t + 1], conv_state, ssm_state)[0] for t in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-5, atol=1e-5)
    parameters = named("mamba_ssm.utils.generation", "InferenceParams")(max_seqlen=9, max_batch_size=2)
    found = [model(x[:, :2], inference_params=parameters)]
    for t in range(2, 9):
        parameters.seqlen_offset = t
        found.append(model(x[:, t : t + 1], inference_params=parameters))
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parameters.key_value_memory_dict[0][1], ssm_state, rtol=1e-5, atol=1e-5)


def test_the_directions_of_a_block(installed: ssmcore.compat.Installation) -> None:
    """Each direction on an input of its order is the first one on the sequence as it comes."""
    model, x = block(bimamba_type="v3", nslices=3), normal(2, 12, 16)
    plain = block()

    def alone(suffix: str, order: torch.Tensor) -> torch.Tensor:
        state = {n: p for n, p in model.state_dict().items() if n.startswith(("in_proj", "out_proj"))}
        for name in plain.state_dict():
            if name not in state:
                head, _, tail = name.partition(".")
                key = f"A{suffix}_log" if head == "A_log" else f"{head}{suffix}" + (f".{tail}" if tail else "")
                state[name] = model.state_dict()[key]
        plain.load_state_dict(state)
        return plain(x[:, order])[:, order.argsort()]

    order = torch.arange(12)
    wanted = alone("", order) + alone("_b", order.flip(0)) + alone("_s", order.view(3, 4).t().flatten())
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ssmcore.ArgumentError, match="nslices: expected a divisor of seqlen = 11, got 3"):
        model(x[:, :11])
    two = block(bimamba_type="v2")
    two.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(two(x), alone("", order) + alone("_b", order.flip(0)), rtol=1e-5, atol=1e-5)


def test_a_block_trains(installed: ssmcore.compat.Installation) -> None:
    model, x = block(bimamba_type="v2"), normal(2, 12, 16)
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bimamba_type": "v9"}, "bimamba_type: expected one of"), ({"dt_init": "zero"}, "dt_init: expected one of")],
)
def test_unknown_options_of_a_block_are_named(
    installed: ssmcore.compat.Installation, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=f"Mamba: {message}"):
        block(**options)


def test_states_without_a_number_or_of_two_directions_are_refused(installed: ssmcore.compat.Installation) -> None:
    parameters = named("mamba_ssm.utils.generation", "InferenceParams")(max_seqlen=9, max_batch_size=2)
    with pytest.raises(ssmcore.ArgumentError, match="layer_idx: expected an integer"):
        block()(normal(2, 3, 16), inference_params=parameters)
    with pytest.raises(ssmcore.ArgumentError, match="inference_params: expected None for bimamba_type 'v2'"):
        block(bimamba_type="v2")(normal(2, 3, 16), inference_params=parameters)
    with pytest.raises(ssmcore.ArgumentError, match=r"hidden_states: expected shape \(batch, 1, d_model\)"):
        block().step(normal(2, 3, 16), *block().allocate_inference_cache(2, 3))


# ---- VMamba ----


def grid_scan_case(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """u, delta, A, B, C, D, delta_bias with four groups of six channels."""
    c = scan_case(dtype, 21, 4, dim=24)
    return c["u"], c["delta"], c["A"], c["B"], c["C"], c["D"], c["delta_bias"]


@pytest.mark.parametrize("extension", ["selective_scan_cuda", "selective_scan_cuda_core", "selective_scan_cuda_oflex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extensions(installed: ssmcore.compat.Installation, extension: str, dtype: torch.dtype) -> None:
    module = importlib.import_module(extension)
    *given, bias = grid_scan_case(dtype)
    gap = (None,) if extension == "selective_scan_cuda" else ()
    end = {"selective_scan_cuda_core": (1,), "selective_scan_cuda_oflex": (1, True)}.get(extension, ())
    out, x, *rest = module.fwd(*given, *gap, bias, True, *end)
    inputs = [t.detach().requires_grad_() for t in (*given, bias)]
    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    wanted, last = plain_scan(**dict(zip(names, inputs, strict=True)), delta_softplus=True)
    assert not rest
    assert out.dtype == (torch.float32 if extension.endswith("oflex") else dtype)
    close(out, wanted, dtype)
    close(x[:, :, -1, 1::2], last, dtype)
    dout = normal(*out.shape, seed=6, dtype=out.dtype)
    tail = (None, None, True, False) if gap else (True, 1)
    found = module.bwd(*given, *gap, bias, dout, x, *tail)
    for name, f, w in zip(names, found, torch.autograd.grad(wanted, inputs, dout.double()), strict=True):
        assert (f.double() - w.double()).norm() <= 10 * TOLERANCES[dtype][0] * w.double().norm(), name


def test_the_gated_extension(installed: ssmcore.compat.Installation) -> None:
    module, c = importlib.import_module("selective_scan_cuda"), scan_case(torch.float32, 9, 1)
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    given = [c[n] for n in order]
    out, x, gated = module.fwd(*given, True)
    torch.testing.assert_close(gated.double(), plain_scan(**c)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gated, out * F.silu(c["z"]), rtol=1e-5, atol=1e-5)
    inputs = [t.detach().requires_grad_() for t in given]
    wanted, _ = plain_scan(**dict(zip(order, inputs, strict=True)), delta_softplus=True)
    dz = torch.empty_like(c["z"])
    *grads, found_dz, again = module.bwd(*given, torch.ones_like(out), x, out, dz, True, True)
    assert found_dz is dz
    assert torch.equal(again, gated)
    expected = dict(zip(order, torch.autograd.grad(wanted.sum(), inputs), strict=True))
    torch.testing.assert_close(dz, expected.pop("z"), rtol=1e-4, atol=1e-4)
    for f, w in zip(grads, expected.values(), strict=True):
        torch.testing.assert_close(f, w, rtol=1e-4, atol=1e-4)


def test_the_extension_of_one_state(installed: ssmcore.compat.Installation) -> None:
    module = importlib.import_module("selective_scan_cuda_ndstate")
    u, delta, A, B, C, D, bias = grid_scan_case()
    A, B, C = A[:, 0], B[:, :, 0], C[:, :, 0]
    out, x = module.fwd(u, delta, A, B, C, D, bias, True, 1)
    inputs = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D, bias)]
    wanted, _ = plain_scan(
        *inputs[:2], inputs[2][:, None], inputs[3][:, :, None], inputs[4][:, :, None], inputs[5],
        delta_bias=inputs[6], delta_softplus=True,
    )  # fmt: skip
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    found = module.bwd(u, delta, A, B, C, D, bias, torch.ones_like(out), x, True, 1)
    for f, w in zip(found, torch.autograd.grad(wanted.sum(), inputs), strict=True):
        torch.testing.assert_close(f, w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vmambas_scan(installed: ssmcore.compat.Installation, dtype: torch.dtype) -> None:
    given = grid_scan_case(dtype)
    function = named("csms6s", "selective_scan_fn")
    out = function(*given)
    wanted, _ = plain_scan(*given[:6], delta_bias=given[6], delta_softplus=True)
    assert out.dtype == torch.float32
    assert function(*given, True, oflex=False).dtype == dtype
    close(out, wanted, dtype)
    assert torch.equal(named("csms6s", "SelectiveScanOflex").apply(*given, True, 1, 1, True), out)
    assert named("csms6s", "SelectiveScanCore").apply(*given, True).dtype == dtype
    assert named("csms6s", "flops_selective_scan_fn")(2, 3, 5, 7) == 2 * 3 * 5 * (9 * 7 + 1)


def sequence(grid: torch.Tensor, k: int, scans: int) -> list[float]:
    """Entries of a (height, width) grid in the order of direction k, spelt out position by position."""
    height, width = grid.shape
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    if scans == 3:  # a quarter turn reads columns from the last to the first
        turned = [(i, j) for j in reversed(range(width)) for i in range(height)]
        order = [rows, turned, rows[::-1], turned[::-1]][k]
    else:
        order = {0: [rows, columns, rows[::-1], columns[::-1]], 1: [rows] * 4, 2: [rows, rows, rows[::-1], rows[::-1]]}[
            scans
        ][k]
    return [float(grid[at]) for at in order]


@pytest.mark.parametrize("scans", [0, 1, 2, 3])
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("in_first", [False, True])
@pytest.mark.parametrize("out_first", [False, True])
def test_cross_scan_and_merge(
    installed: ssmcore.compat.Installation, scans: int, one_by_one: bool, in_first: bool, out_first: bool
) -> None:
    batch, dim, height, width = 2, 3, 4, 5
    grids = normal(batch, 4, dim, height, width, dtype=torch.float64)
    if not one_by_one:
        grids = grids[:, :1].expand(-1, 4, -1, -1, -1)
    x = grids if one_by_one else grids[:, 0]
    if not in_first:
        x = x.permute(0, 3, 4, 1, 2) if one_by_one else x.permute(0, 2, 3, 1)
    x = x.clone().requires_grad_()
    options = {"in_channel_first": in_first, "out_channel_first": out_first, "one_by_one": one_by_one, "scans": scans}
    y = named("csm_triton", "cross_scan_fn")(x, **options)
    channel_first = y if out_first else y.permute(0, 2, 3, 1)
    assert y.is_contiguous()
    assert channel_first.shape == (batch, 4, dim, height * width)
    for k in range(4):
        assert channel_first[1, k, 2].tolist() == sequence(grids[1, k, 2], k, scans)
    # merge is the adjoint of scan: <scan x, v> = <x, merge v>
    v = normal(*y.shape, seed=1, dtype=torch.float64)
    laid = v.view(batch, 4, dim, height, width) if out_first else v.view(batch, height, width, 4, dim)
    merged = named("csm_triton", "cross_merge_fn")(laid, **options)
    wanted_shape = {
        (False, True): (batch, dim, height * width),
        (False, False): (batch, height * width, dim),
        (True, True): (batch, 4, dim, height * width),
        (True, False): (batch, height * width, 4, dim),
    }[(one_by_one, in_first)]
    assert merged.shape == wanted_shape
    torch.testing.assert_close((y * v).sum(), (x * merged.view(x.shape)).sum())
    (dx,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(dx.reshape(merged.shape), merged)


def test_names_of_function_objects(installed: ssmcore.compat.Installation) -> None:
    x = normal(1, 2, 3, 4)
    y = named("csm_triton", "CrossScanTriton").apply(x)
    assert torch.equal(y, named("csms6s", "CrossScan").apply(x))
    torch.testing.assert_close(named("csms6s", "CrossMerge").apply(y.unflatten(-1, (3, 4))), 4 * x.flatten(2))
    two = named("csms6s", "CrossScan_Ab_2direction").apply(x)
    assert torch.equal(two[:, 2], x.flatten(2).flip(-1))


def test_a_grid_of_ours_is_vmambas(installed: ssmcore.compat.Installation) -> None:
    """cross_scan, scan with four groups and cross_merge are `ssmcore.torch.ss2d`."""
    batch, height, width, dim, dstate = 2, 4, 3, 5, 4
    x = normal(batch, dim, height, width)
    delta, A = normal(batch, 4, dim, height * width).abs(), -normal(4, dim, dstate).abs()
    B, C = (normal(batch, 4, dstate, height * width, seed=s) for s in (0, 1))
    xs = named("csm_triton", "cross_scan_fn")(x)
    ys = named("csms6s", "selective_scan_fn")(
        xs.flatten(1, 2), delta.flatten(1, 2), A.flatten(0, 1), B, C, delta_softplus=False
    )
    found = named("csm_triton", "cross_merge_fn")(ys.view(batch, 4, dim, height, width))

    def grid(sequences: torch.Tensor) -> torch.Tensor:
        """(batch, 4, channels, positions as each direction walks them) as (batch, height, width, 4, channels)."""
        options = {"one_by_one": True}
        laid = named("csm_triton", "cross_merge_fn")(sequences.unflatten(-1, (height, width)), **options)
        return laid.unflatten(-1, (height, width)).permute(0, 3, 4, 1, 2)

    wanted = st.ss2d(x.permute(0, 2, 3, 1), grid(delta), A, grid(B), grid(C))
    torch.testing.assert_close(found.unflatten(-1, (height, width)).permute(0, 2, 3, 1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "shape", "options", "message"),
    [
        ("cross_scan_fn", (2, 3, 4), {}, r"cross_scan_fn: x: expected \(batch, dim, height, width\), got \(2, 3, 4\)"),
        ("cross_scan_fn", (2, 3, 4, 5), {"scans": 4}, "cross_scan_fn: scans: expected one of 0, 1, 2, 3, got 4"),
        ("cross_scan_fn", (2, 3, 2, 4, 5), {"one_by_one": True}, "cross_scan_fn: x: expected 4 directions, got 3"),
        ("cross_merge_fn", (2, 4, 3, 20), {}, r"cross_merge_fn: x: expected \(batch, 4, dim, height, width\)"),
    ],
)
def test_wrong_grids_are_named(
    installed: ssmcore.compat.Installation, function: str, shape: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=message):
        named("csm_triton", function)(torch.zeros(shape), **options)


def test_wrong_arguments_of_the_scan_are_named(installed: ssmcore.compat.Installation) -> None:
    scan = named("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    case = scan_case(torch.float32, 9, 1)
    for change, message in (
        ({"delta": case["delta"].transpose(1, 2)}, r"delta: expected shape \(2, 4, 9\) like u"),
        ({"B": normal(2, 3, 8, 9)}, "B: expected a number of groups that divides dim = 4, got 3"),
        ({"u": case["u"].long()}, "u: expected a real floating dtype"),
        ({"C": case["C"].to("meta")}, "C: expected device cpu"),
    ):
        with pytest.raises(ssmcore.ArgumentError, match=message):
            scan(**(case | change))


# ---- a network written against those interfaces ----

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "vm_unet.py"


@pytest.fixture
def vm_unet(installed: ssmcore.compat.Installation) -> Any:
    spec = importlib.util.spec_from_file_location("vm_unet", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_knows_upstreams_interfaces_alone(vm_unet: Any) -> None:
    imports = [line.split("#")[0].strip() for line in EXAMPLE.read_text().splitlines() if "import" in line.split()[:3]]
    assert [line for line in imports if "ssmcore" in line] == ["import ssmcore.compat"]
    assert vm_unet.selective_scan_fn is named("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    assert vm_unet.cross_scan_fn is named("csm_triton", "cross_scan_fn")


def test_the_example_has_the_published_number_of_parameters(vm_unet: Any) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in vm_unet.VMUNet().parameters())
    assert count == 27_427_561
    assert round(count / 1e6, 2) == 27.43


def test_the_example_learns(vm_unet: Any) -> None:
    torch.manual_seed(0)
    model = vm_unet.VMUNet(depths=(1, 1, 1, 1), depths_decoder=(1, 1, 1, 1), dims=8)
    image, mask = vm_unet.disks(4, 32, torch.Generator().manual_seed(1))
    weights = [p.clone() for p in model.parameters()]
    losses = [vm_unet.loss_of(model(image), mask).item()]
    for steps in (1, 30):
        vm_unet.train(model, steps=steps, size=32, rate=1e-2)
        losses.append(vm_unet.loss_of(model(image), mask).item())
    assert all(not torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.9 * losses[0]


def test_the_examples_block_is_ours(vm_unet: Any) -> None:
    """SS2D by VMamba's functions against `ssmcore.torch.ss2d` on the same weights."""
    torch.manual_seed(0)
    module, x = vm_unet.SS2D(8), normal(2, 16, 4, 5)
    grid = x.permute(0, 2, 3, 1)
    projected = torch.einsum("bhwd,kcd->bhwkc", grid, module.x_proj_weight)
    dts, B, C = projected.split([module.rank, 16, 16], dim=-1)
    delta = torch.einsum("bhwkr,kdr->bhwkd", dts, module.dt_projs_weight)
    A, D = -module.A_logs.exp().unflatten(0, (4, 16)), module.Ds.unflatten(0, (4, 16))
    wanted = st.ss2d(grid, delta, A, B, C, D, module.dt_projs_bias, True)
    found = module.scans(x).unflatten(-1, (4, 5)).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def chunk_case(*, seqlen: int = 70, extras: bool = True, seed: int = 3) -> dict[str, Any]:
    made = make_chunks(
        np.random.default_rng(seed), np.float64, batch=1, seqlen=seqlen, nheads=4, headdim=8, extras=extras
    )
    return {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in made.items()}


def test_mamba2s_scan_has_upstreams_arguments_in_order(installed: ssmcore.compat.Installation) -> None:
    function = named("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    case = chunk_case()
    names = ("x", "dt", "A", "B", "C")
    rest = [case[name] for name in ("D", "z", "dt_bias", "initial_state")]
    limits = (0.0, 0.5)
    out, final = function(*(case[n] for n in names), 16, *rest, None, None, True, limits, True)
    wanted = st.chunk_scan(**case, dt_softplus=True, dt_limit=limits, return_last_state=True)
    assert torch.equal(out, wanted[0])
    assert torch.equal(final, wanted[1])
    assert torch.equal(out, function(*(case[n] for n in names), 256, *rest, dt_softplus=True, dt_limit=limits))


def test_mamba2s_scan_of_packed_sequences_returns_their_states(installed: ssmcore.compat.Installation) -> None:
    function = named("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    case = chunk_case(extras=False)
    ends = torch.tensor([0, 3, 64, 64, 70], dtype=torch.int32)
    out, final, varlen = function(
        **case,
        chunk_size=64,
        cu_seqlens=ends,
        return_final_states=True,
        return_varlen_states=True,
        state_dtype=torch.float32,
    )
    assert varlen.shape == (4, 4, 8, 5)
    assert varlen.dtype == final.dtype == torch.float32
    for number, (a, b) in enumerate(pairwise(ends.tolist())):
        alone = {name: x[:, a:b] if x.ndim > 1 else x for name, x in case.items()}
        y, last = st.chunk_scan(**alone, return_last_state=True)
        assert torch.equal(out[:, a:b], y)
        assert torch.equal(varlen[number : number + 1], last.float())
    assert torch.equal(final, varlen[-1:])
    marks = torch.tensor([[0] * 3 + [1] * 61 + [2] * 6])
    torch.testing.assert_close(function(**case, chunk_size=64, seq_idx=marks), out, rtol=1e-12, atol=1e-13)
    assert torch.equal(function(**case, chunk_size=64, seq_idx=marks, cu_seqlens=ends), out)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chunk_size": 0}, "chunk_size: expected at least 1, got 0"),
        ({"return_varlen_states": True}, "cu_seqlens: expected where each sequence begins"),
        ({"cu_seqlens": torch.tensor([0, 5, 3, 70])}, "cu_seqlens: expected where each sequence begins"),
        (
            {"cu_seqlens": torch.tensor([0, 5, 70]), "seq_idx": torch.zeros(1, 70).int()},
            "seq_idx: expected the sequences of cu_",
        ),
        ({"cu_seqlens": torch.tensor([0, 70]), "initial_states": torch.zeros(3, 4, 8, 5).double()}, "initial_states: "),
        ({"B": torch.zeros(1, 70, 3, 5).double()}, "B: expected a number of groups that divides nheads = 4"),
    ],
)
def test_wrong_arguments_of_mamba2s_scan(
    change: dict[str, Any], says: str, installed: ssmcore.compat.Installation
) -> None:
    function = named("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    with pytest.raises(ssmcore.ArgumentError, match=says):
        function(**{"chunk_size": 64, **chunk_case(extras=False), **change})
