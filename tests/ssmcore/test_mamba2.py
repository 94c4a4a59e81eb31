"""The block of Mamba-2 that stands in for mamba_ssm's, held to its own steps and to a transcription in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import ssmcore
from ssmcore.compat._mamba2 import Mamba2
from ssmcore.compat._mamba_simple import InferenceParams

SETTINGS: list[dict[str, Any]] = [
    {},
    {"ngroups": 2, "D_has_hdim": True},
    {"rmsnorm": False, "bias": True, "conv_bias": False},
    {"d_ssm": 32, "dt_limit": (0.01, 0.05), "norm_before_gate": True},
]


def block(**settings: Any) -> Mamba2:
    torch.manual_seed(0)
    made = Mamba2(32, d_state=8, headdim=16, **{"d_conv": 3, **settings}).double()
    with torch.no_grad():  # what starts as ones shall tell its entries apart
        for name, parameter in made.named_parameters():
            if name in ("D", "norm.weight"):
                parameter.add_(torch.randn_like(parameter) / 4)
    return made


def transcribed(m: Mamba2, u: torch.Tensor) -> torch.Tensor:
    """By plain operations, a step after the other."""
    beside = m.d_inner - m.d_ssm
    z0, x0, z, xBC, dt = m.in_proj(u).split([beside, beside, m.d_ssm, m.conv_dim, m.nheads], -1)
    xBC = F.silu(m.conv1d(xBC.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
    x, B, C = xBC.split([m.d_ssm, m.ngroups * m.d_state, m.ngroups * m.d_state], -1)
    x = x.unflatten(-1, (m.nheads, m.headdim))
    B, C = (t.unflatten(-1, (m.ngroups, m.d_state)).repeat_interleave(m.nheads // m.ngroups, 2) for t in (B, C))
    dt = F.softplus(dt + m.dt_bias).clamp(*m.dt_limit)
    D = m.D.view(m.nheads, -1)
    h, ys = torch.zeros(len(u), m.nheads, m.headdim, m.d_state, dtype=u.dtype), []
    for t in range(u.shape[1]):
        decay = torch.exp(-dt[:, t] * m.A_log.float().exp())
        h = decay[..., None, None] * h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        ys.append((h * C[:, t, :, None]).sum(-1) + D.float() * x[:, t])
    y = torch.stack(ys, 1).flatten(-2)
    if m.rmsnorm:

        def normed(v: torch.Tensor) -> torch.Tensor:
            grouped = v.unflatten(-1, (m.ngroups, -1))
            return (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + 1e-5)).flatten(-2) * m.norm.weight

        y = normed(y) * F.silu(z) if m.norm_before_gate else normed(y * F.silu(z))
    else:
        y = y * F.silu(z)
    return m.out_proj(torch.cat([F.silu(z0) * x0, y], -1) if beside else y)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_its_transcription_with_gradients(settings: dict[str, Any]) -> None:
    m, u = block(**settings), torch.randn(2, 70, 32, dtype=torch.float64)
    out, wanted = m(u), transcribed(m, u)
    # A and D go through float32, as upstream's do, on both sides
    torch.testing.assert_close(out, wanted, rtol=1e-6, atol=1e-7)
    dout, parameters = torch.randn_like(out), dict(m.named_parameters())
    grads = torch.autograd.grad(out, list(parameters.values()), dout)
    for name, g, w in zip(parameters, grads, torch.autograd.grad(wanted, list(parameters.values()), dout), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5 * float(w.abs().max()), msg=name)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_a_prompt_and_steps_make_the_whole(settings: dict[str, Any]) -> None:
    m, u = block(**settings, layer_idx=0), torch.randn(2, 12, 32, dtype=torch.float64)
    params = InferenceParams(max_seqlen=12, max_batch_size=2)
    pieces = [m(u[:, :7], inference_params=params)]
    for t in range(7, 12):
        params.seqlen_offset = t
        pieces.append(m(u[:, t : t + 1], inference_params=params))
    torch.testing.assert_close(torch.cat(pieces, 1), m(u), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_packed_sequences_are_apart_and_a_flat_batch_is_the_same() -> None:
    m, u = block(), torch.randn(1, 20, 32, dtype=torch.float64)
    ends = torch.tensor([0, 3, 14, 20])
    packed = m(u, cu_seqlens=ends)
    for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        torch.testing.assert_close(packed[:, a:b], m(u[:, a:b]), rtol=1e-9, atol=1e-10)
    both = torch.randn(2, 10, 32, dtype=torch.float64)
    assert torch.equal(m(both.flatten(0, 1), seqlen=10), m(both).flatten(0, 1))


def test_parameters_have_upstreams_names_and_shapes() -> None:
    shapes = {name: tuple(p.shape) for name, p in Mamba2(768).named_parameters()}
    assert shapes == {
        "dt_bias": (24,),
        "A_log": (24,),
        "D": (24,),
        "in_proj.weight": (3352, 768),
        "conv1d.weight": (1792, 1, 4),
        "conv1d.bias": (1792,),
        "norm.weight": (1536,),
        "out_proj.weight": (768, 1536),
    }


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ssmcore.ArgumentError, match="Mamba2: headdim: expected a divisor of the 64 scanned channels, got 48"
    ):
        Mamba2(32, headdim=48)
    with pytest.raises(ssmcore.ArgumentError, match="Mamba2: ngroups: expected a divisor of the 4 heads, got 3"):
        Mamba2(32, headdim=16, ngroups=3)
    with pytest.raises(
        ssmcore.ArgumentError, match=r"hidden_states: expected shape \(batch, 1, d_model\), got \(1, 2, 32\)"
    ):
        block().step(torch.zeros(1, 2, 32).double(), *block().allocate_inference_cache(1, 9))


def test_its_inside_is_reached_by_name_and_says_what_does_not_fit() -> None:
    import importlib

    import ssmcore.compat

    ssmcore.compat.install()
    try:
        function = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_split_conv1d_scan_combined
    finally:
        ssmcore.compat.uninstall()
    m, u = block(rmsnorm=False), torch.randn(2, 9, 32, dtype=torch.float64)
    given = (m.in_proj(u), m.conv1d.weight[:, 0], m.conv1d.bias, m.dt_bias, -m.A_log.float().exp(), m.D.float(), 256)
    out, final = function(*given, headdim=16, outproj_weight=m.out_proj.weight, return_final_states=True)
    torch.testing.assert_close(out, m(u), rtol=1e-12, atol=1e-13)
    assert final.shape == (2, 4, 16, 8)
    wide = (*given[:5], m.D.float()[:, None].expand(4, 16), 256)
    assert torch.equal(function(*wide), function(*given, headdim=16))
    with pytest.raises(ssmcore.ArgumentError, match="headdim: expected the channels of a head"):
        function(*given)
    with pytest.raises(ssmcore.ArgumentError, match=r"zxbcdt: expected 2 64 \+ 16 \+ 4 channels"):
        function(given[0][..., :-1], *given[1:], headdim=16)


def test_a_cache_of_packed_sequences_is_refused() -> None:
    """It would keep the last one's state for all."""
    m, u, ends = block(layer_idx=0), torch.randn(1, 20, 32, dtype=torch.float64), torch.tensor([0, 3, 14, 20])
    with pytest.raises(ssmcore.ArgumentError, match="inference_params: expected None with packed sequences"):
        m(u, cu_seqlens=ends, inference_params=InferenceParams(max_seqlen=20, max_batch_size=3))


@pytest.mark.parametrize("step", [False, True])
def test_a_sum_beyond_float16_reaches_the_norm(step: bool) -> None:
    """The norm brings it back into range."""
    torch.manual_seed(0)
    block = Mamba2(16, d_state=8, headdim=8).eval()
    with torch.no_grad():
        block.D.fill_(3e5)
    x = torch.randn(1, 1 if step else 70, 16)
    states = block.allocate_inference_cache(1, 70)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        out = block.step(x, *states)[0] if step else block(x)
    with torch.no_grad():
        wanted = block.step(x, *block.allocate_inference_cache(1, 70))[0] if step else block(x)
    assert out.isfinite().all()
    assert (out.float() - wanted).abs().max() <= 2e-2 * wanted.abs().max()
