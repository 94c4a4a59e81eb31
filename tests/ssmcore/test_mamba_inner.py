"""The inside of a Mamba block against the same in plain torch, its gradients, and what it keeps for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import ssmcore
import ssmcore.torch as st

BATCH, DIM, SEQLEN, DSTATE, RANK, TAPS, FEATURES = 2, 6, 9, 4, 3, 4, 5


def plain(
    xz: torch.Tensor,
    conv1d_weight: torch.Tensor,
    conv1d_bias: torch.Tensor | None,
    x_proj_weight: torch.Tensor,
    delta_proj_weight: torch.Tensor,
    out_proj_weight: torch.Tensor,
    out_proj_bias: torch.Tensor | None,
    A: torch.Tensor,
    B: torch.Tensor | None = None,
    C: torch.Tensor | None = None,
    D: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    B_proj_bias: torch.Tensor | None = None,
    C_proj_bias: torch.Tensor | None = None,
    delta_softplus: bool = True,
    b_rms_weight: torch.Tensor | None = None,
    c_rms_weight: torch.Tensor | None = None,
    dt_rms_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """By torch's own convolution and a loop over time; shares no code with what it checks."""
    dim, dstate = A.shape
    length = xz.shape[2]

    def norm(v: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return v if weight is None else v / (v.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight

    def matrix(given: torch.Tensor | None, v: torch.Tensor, bias: Any, weight: Any, t: int) -> torch.Tensor:
        """(batch, dim, dstate) at time t."""
        if given is None:
            return norm(v[:, t] + (0 if bias is None else bias), weight)[:, None].expand(-1, dim, -1)
        if given.ndim == 2:
            return given[None]
        at = given[:, None, :, t] if given.ndim == 3 else given[..., t]
        return at.repeat_interleave(dim // at.shape[1], 1)

    x, z = xz[:, :dim], xz[:, dim:]
    padded = F.pad(x, (conv1d_weight.shape[-1] - 1, 0))
    u = F.silu(F.conv1d(padded, conv1d_weight, conv1d_bias, groups=dim))
    p = torch.einsum("bdl,rd->blr", u, x_proj_weight)
    rank = delta_proj_weight.shape[1]
    delta = norm(p[..., :rank] @ delta_proj_weight.T, dt_rms_weight)
    delta = delta if delta_bias is None else delta + delta_bias
    delta = torch.log1p(torch.exp(delta)) if delta_softplus else delta
    h = torch.zeros(xz.shape[0], dim, dstate, dtype=xz.dtype)
    steps = []
    for t in range(length):
        Bt = matrix(B, p[..., rank : rank + dstate], B_proj_bias, b_rms_weight, t)
        Ct = matrix(C, p[..., p.shape[-1] - dstate :], C_proj_bias, c_rms_weight, t)
        h = torch.exp(delta[:, t, :, None] * A) * h + delta[:, t, :, None] * Bt * u[:, :, t, None]
        y = (h * Ct).sum(-1)
        steps.append((y if D is None else y + D * u[:, :, t]) * F.silu(z[:, :, t]))
    return F.linear(torch.stack(steps, 1), out_proj_weight, out_proj_bias)


def case(dtype: torch.dtype = torch.float64, *, constant: str = "", extras: str = "", seqlen: int = SEQLEN) -> Any:
    """`constant` names those of B and C that are (dim, dstate), `extras` the optional arguments besides."""
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype).requires_grad_()

    given = {
        "xz": normal(BATCH, 2 * DIM, seqlen),
        "conv1d_weight": normal(DIM, 1, TAPS),
        "conv1d_bias": normal(DIM),
        "x_proj_weight": normal(RANK + DSTATE * (2 - len(constant)), DIM),
        "delta_proj_weight": normal(DIM, RANK),
        "out_proj_weight": normal(FEATURES, DIM),
        "out_proj_bias": None,
        "A": (-torch.rand(DIM, DSTATE, generator=g, dtype=torch.float64) - 0.2).to(dtype).requires_grad_(),
    }
    given |= {name: normal(DIM, DSTATE) for name in constant}
    shapes = {
        "D": (DIM,),
        "delta_bias": (DIM,),
        "out_proj_bias": (FEATURES,),
        "B_proj_bias": (DSTATE,),
        "C_proj_bias": (DSTATE,),
        "b_rms_weight": (DSTATE,),
        "c_rms_weight": (DSTATE,),
        "dt_rms_weight": (DIM,),
    }
    return given | {name: normal(*shapes[name]) for name in extras.split()}


CASES = {
    "plain": {},
    "with D and bias": {"extras": "D delta_bias out_proj_bias"},
    "constant B": {"constant": "B", "extras": "D delta_bias C_proj_bias"},
    "constant C": {"constant": "C", "extras": "D delta_bias B_proj_bias"},
    "both constant": {"constant": "BC", "extras": "delta_bias"},
    "everything": {
        "extras": "D delta_bias out_proj_bias B_proj_bias C_proj_bias b_rms_weight c_rms_weight dt_rms_weight"
    },
}


def gradients(out: torch.Tensor, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    names = [n for n, t in given.items() if isinstance(t, torch.Tensor)]
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return dict(zip(names, torch.autograd.grad(out, [given[n] for n in names], dout), strict=True))


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_plain_torch(name: str, level: int) -> None:
    given = case(**CASES[name])
    out, wanted = st.mamba_inner(**given, checkpoint_lvl=level), plain(**given)
    torch.testing.assert_close(out, wanted, rtol=1e-11, atol=1e-11)
    found, expected = gradients(out, given), gradients(wanted, given)
    for n in expected:
        torch.testing.assert_close(found[n], expected[n], rtol=1e-9, atol=1e-10, msg=lambda m, n=n: f"{n}: {m}")


@pytest.mark.parametrize("level", [0, 1])
def test_varying_matrices_of_the_callers_are_taken(level: int) -> None:
    given = case(constant="BC", extras="D")
    g = torch.Generator().manual_seed(9)
    given["B"] = torch.randn(BATCH, DSTATE, SEQLEN, generator=g, dtype=torch.float64).requires_grad_()
    given["C"] = torch.randn(BATCH, 1, DSTATE, SEQLEN, generator=g, dtype=torch.float64).requires_grad_()
    out, wanted = st.mamba_inner(**given, checkpoint_lvl=level), plain(**given)
    torch.testing.assert_close(out, wanted, rtol=1e-11, atol=1e-11)
    found, expected = gradients(out, given), gradients(wanted, given)
    for n in expected:
        torch.testing.assert_close(found[n], expected[n], rtol=1e-9, atol=1e-10, msg=lambda m, n=n: f"{n}: {m}")


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("name", ["constant B", "everything"])
def test_gradcheck_of_the_whole(name: str, level: int) -> None:
    given = case(**CASES[name], seqlen=5)
    names = [n for n, t in given.items() if t is not None]
    assert torch.autograd.gradcheck(
        lambda *a: st.mamba_inner(**(given | dict(zip(names, a, strict=True))), checkpoint_lvl=level),
        tuple(given[n] for n in names),
        fast_mode=True,
    )


def test_checkpointing_changes_no_bit_of_the_output_and_keeps_less() -> None:
    given = case(torch.float32, extras="D delta_bias", seqlen=256)
    kept = {}
    for level in (0, 1):
        sizes: dict[int, int] = {}

        def note(t: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = t.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            out = st.mamba_inner(**given, checkpoint_lvl=level)
        kept[level] = sum(sizes.values()), out, gradients(out, given)
    assert torch.equal(kept[0][1], kept[1][1])
    sequence = BATCH * 256 * DIM * 4
    assert kept[0][0] - kept[1][0] >= 2 * sequence  # the convolution and delta
    for n, g in kept[0][2].items():
        torch.testing.assert_close(kept[1][2][n], g, rtol=1e-5, atol=1e-5)


def test_without_the_last_product_it_is_channel_first() -> None:
    given = case(extras="D") | {"out_proj_weight": None}
    y = st.mamba_inner(**given)
    assert y.shape == (BATCH, DIM, SEQLEN)
    full = case(extras="D")
    torch.testing.assert_close(F.linear(y.transpose(1, 2), full["out_proj_weight"]), st.mamba_inner(**full))


@pytest.mark.parametrize("level", [0, 1])
def test_it_runs_under_autocast(level: int) -> None:
    given = case(torch.float32, extras="D delta_bias out_proj_bias")
    wide = st.mamba_inner(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = st.mamba_inner(**given, checkpoint_lvl=level)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wide, rtol=5e-2, atol=0.15)
    found, expected = gradients(out, given), gradients(wide, given)
    for n in expected:
        assert found[n].dtype == torch.float32
        assert (found[n] - expected[n]).norm() < 0.05 * expected[n].norm(), n


def test_it_compiles_into_one_graph() -> None:
    given = case(torch.float32, extras="D delta_bias")

    def loss(given: dict[str, Any]) -> torch.Tensor:
        return st.mamba_inner(**given).square().sum()

    wanted = st.mamba_inner(**given).square().sum()
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(given), wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.zeros(DIM, DSTATE, dtype=torch.complex64)}, "A: expected a real tensor, got torch.complex64"),
        (
            {"xz": torch.zeros(2, DIM, 9, dtype=torch.float64)},
            r"xz: expected shape \(batch, 12, seqlen\), got \(2, 6, 9\)",
        ),
        ({"x_proj_weight": torch.zeros(10, DIM, dtype=torch.float64)}, r"x_proj_weight: expected shape \(11, 6\)"),
        ({"delta_proj_weight": torch.zeros(5, 3)}, r"delta_proj_weight: expected shape \(6, dt_rank\)"),
        ({"conv1d_weight": torch.zeros(DIM, 2, 4)}, r"conv1d_weight: expected shape \(6, 1, taps\)"),
        ({"D": torch.zeros(5)}, r"D: expected shape \(6,\), got \(5,\)"),
        ({"checkpoint_lvl": 2}, "checkpoint_lvl: expected one of 0, 1, got 2"),
        ({"D": torch.zeros(DIM, dtype=torch.int64)}, "D: expected a real floating dtype"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ssmcore.ArgumentError, match=f"mamba_inner: {message}"):
        st.mamba_inner(**(case() | change))


def test_a_bias_of_a_constant_matrix_is_refused() -> None:
    given = case(constant="B") | {"B_proj_bias": torch.zeros(DSTATE, dtype=torch.float64)}
    with pytest.raises(ssmcore.ArgumentError, match="mamba_inner: B: expected None where B_proj_bias"):
        st.mamba_inner(**given)


@pytest.mark.parametrize("checkpoint_lvl", [0, 1])
@pytest.mark.parametrize("shape", [(1, DSTATE, SEQLEN), (BATCH, DSTATE, SEQLEN - 1), (BATCH, 4, DSTATE, SEQLEN)])
def test_given_matrices_of_another_shape_are_refused(shape: tuple[int, ...], checkpoint_lvl: int) -> None:
    """Also where gradients are wanted, and the scan's own check is not passed."""
    for name in ("B", "C"):
        wrong = case(constant=name) | {name: torch.zeros(shape, dtype=torch.float64)}
        with pytest.raises(ssmcore.ArgumentError, match=r"[BC]: expected"):
            st.mamba_inner(**wrong, checkpoint_lvl=checkpoint_lvl)
