"""Algorithms 1 to 3: the gate against MONAI's, the blocks against their text."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.attentionunet import AttentionBlock

from segnet.models.ahnet import AttentionGate, AttentionUpsampling, ResidualUpsampling


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("training", [True, False])
def test_the_gate_is_monais_attention_block(training: bool) -> None:
    """MONAI calls theta W_x and phi W_g, and takes (g, x)."""
    gate = AttentionGate(8, 6, 4).train(training)
    oracle = AttentionBlock(spatial_dims=2, f_int=4, f_g=6, f_l=8, dropout=0.0).train(training)
    pairs = ((gate.theta, oracle.W_x), (gate.phi, oracle.W_g), (gate.psi, oracle.psi))
    for ours, theirs in pairs:
        theirs[0].conv.load_state_dict(ours[0].state_dict())
        with torch.no_grad():  # each norm its own, for one in the place of another to show
            ours[1].weight.uniform_(0.5, 2)
            ours[1].bias.normal_()
            ours[1].running_mean.normal_()
            ours[1].running_var.uniform_(0.5, 2)
        theirs[1].load_state_dict(ours[1].state_dict())
    x, g = torch.randn(3, 8, 6, 6, requires_grad=True), torch.randn(3, 6, 6, 6, requires_grad=True)
    torch.testing.assert_close(gate(x, g), oracle(g, x))
    for ours, theirs in pairs:
        torch.testing.assert_close(dict(ours[1].named_buffers()), dict(theirs[1].named_buffers()))
    wanted_of = [x, g, *(p for _, theirs in pairs for p in (theirs[0].conv.weight, *theirs[1].parameters()))]
    found_of = [x, g, *(p for ours, _ in pairs for p in (ours[0].weight, *ours[1].parameters()))]
    wanted = torch.autograd.grad(oracle(g, x).square().sum(), wanted_of)
    found = torch.autograd.grad(gate(x, g).square().sum(), found_of)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-4, atol=1e-5)


def test_a_larger_gating_signal_is_cropped_at_its_centre() -> None:
    gate = AttentionGate(4, 4, 2).eval()
    x, g = torch.randn(1, 4, 5, 6), torch.randn(1, 4, 8, 9)
    torch.testing.assert_close(gate(x, g), gate(x, g[:, :, 1:6, 1:7]))


@pytest.mark.parametrize("target", ["up", "skip"])
def test_the_gate_changes_what_is_concatenated(target: str) -> None:
    block = AttentionUpsampling(8, 6, 4, gate_target=target).eval()
    x, t = torch.randn(2, 8, 3, 4), torch.randn(2, 6, 6, 8)
    seen: list[torch.Tensor] = []
    block.conv.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    out = block(x, t)
    assert out.shape == (2, 4, 6, 8)
    x_up = torch.relu(block.up_norm(block.up(x)))
    gated = [block.gate(x_up, t), t] if target == "up" else [x_up, block.gate(t, x_up)]
    torch.testing.assert_close(seen[0], torch.cat(gated, 1))
    torch.testing.assert_close(out, torch.relu(block.conv_norm(torch.relu(block.conv(seen[0])))))


def test_algorithm_2_adds_a_residual() -> None:
    block = ResidualUpsampling(8, 6, 4).eval()
    x, t = torch.randn(2, 8, 3, 3), torch.randn(2, 6, 6, 6)
    y = block.attention(x, t)
    torch.testing.assert_close(block(x, t), torch.relu(y + block.residual(y)))
    with torch.no_grad():
        for parameter in block.residual.parameters():
            parameter.zero_()
    torch.testing.assert_close(block(x, t), torch.relu(y))
