"""Both readings of what the paper leaves open: each builds and trains, and they differ where they should and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnet.config import ModelConfig
from segnet.errors import InputError
from segnet.models import build
from segnet.models.ahnet import AttentionGate, AttentionUpsampling, HUNetUpsampling, ResidualUpsampling
from segnet.models.mamba import VMLayer, VSSBlock
from segnet.models.network import Decoder
from segnet.study.info import count, describe
from segnet.training.loop import parameter_groups
from segnet.training.losses import JointLoss

READINGS: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, reading)
        for name in ("ahnet", "mamba-ahnet", "mamba-ahnet-conv")
        for reading in (
            {"gate_target": "skip"},
            {"gate_target": "unused"},
            {"gate_align": "upsample"},
            {"double_relu": False},
            {"decoder_residual": False},
        )
    ),
    *(("ahnet-r", {"recon_head": head}) for head in ("full", "paper_softmax")),
    *(("mamba-ahnet-r", {"recon_head": head}) for head in ("full", "paper_softmax")),
    *((name, {"decoder_vm_layers": False}) for name in ("mamba-ahnet", "mamba-ahnet-r")),
    *(("mamba-ahnet", {"encoder": encoder}) for encoder in ("convolution", "vss")),
    ("mamba-ahnet", {"coarse_depths": (1, 1, 1)}),
    ("hunet", {"double_relu": False}),
    *(("mamba-ahnet", {"discretization": discretization}) for discretization in ("mamba", "zoh")),
]
"""Names, and what is not the default."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig(
        **{"name": name, "base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4, "drop_path": 0, **changes}
    )


def of_width(name: str, **changes: Any) -> int:
    """Parameters at the default width."""
    with torch.device("meta"):
        return count(build(ModelConfig(name=name, **changes)))


def logits_of(config: ModelConfig, image: Tensor, weights: nn.Module | None = None) -> Tensor:
    """In training, where a norm's mean is the batch's; the running mean at first, 0, hides what a ReLU before it takes off."""
    torch.manual_seed(0)
    model = build(config).train()
    if weights is not None:
        model.load_state_dict(weights.state_dict())
    with torch.no_grad():
        return model(image)[0]


def trained_a_step(config: ModelConfig) -> tuple[nn.Module, float]:
    """A network after one step on a square lesion, and the loss before it."""
    model = build(config).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-3, fused=True)
    image, mask = torch.rand(2, config.in_channels, 32, 32), torch.zeros(2, 32, 32)
    mask[:, 8:20, 8:20] = 1
    logits, reconstruction = model(image)
    loss = JointLoss(0.1)(logits, reconstruction, image, mask)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()
    return model, loss.item()


@pytest.mark.parametrize(("name", "reading"), READINGS, ids=str)
def test_every_reading_trains_and_is_another_network_than_the_default(name: str, reading: dict[str, Any]) -> None:
    assert all(getattr(ModelConfig(), field) != value for field, value in reading.items())
    model, loss = trained_a_step(small(name, **reading))
    assert 0 < loss < 100
    still = {n for n, p in model.named_parameters() if p.grad is None}
    gates = {n for n, _ in model.named_parameters() if ".gate." in n}
    assert still == (gates if reading.get("gate_target") == "unused" else set())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    image = torch.rand(2, 1, 32, 32)
    same = torch.equal(logits_of(small(name, **reading), image), logits_of(small(name), image))
    # in these networks the gate's two inputs are of one size, and no reconstruction enters the logits
    assert same == (set(reading) <= {"gate_align", "recon_head"})


def test_with_the_same_weights_the_three_discretisations_differ() -> None:
    model = build(small("mamba-ahnet"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                parameter.fill_(0.5)  # steps near 1, where the three part
    image = torch.rand(2, 1, 32, 32)
    bilinear, mamba, zoh = (
        logits_of(small("mamba-ahnet", discretization=d), image, model) for d in ("bilinear", "mamba", "zoh")
    )
    for one, other in ((bilinear, mamba), (bilinear, zoh), (mamba, zoh)):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_algorithm_1_to_the_letter_computes_a_gate_that_nothing_depends_on(training: bool) -> None:
    literal = AttentionUpsampling(8, 6, 4, gate_target="unused").train(training)
    hunet = HUNetUpsampling(8, 6, 4).train(training)
    hunet.load_state_dict(literal.state_dict(), strict=False)
    assert count(literal) - count(hunet) == count(AttentionGate(4, 6, 2))
    seen: list[tuple[Tensor, ...]] = []
    literal.gate.register_forward_hook(lambda _m, arguments, out: seen.append((*arguments, out)))
    x, t = torch.randn(2, 8, 3, 4), torch.randn(2, 6, 6, 8)
    assert torch.equal(literal(x, t), hunet(x, t))
    ((gated, gating, out),) = seen
    assert gating is t
    assert not torch.equal(out, gated)


@pytest.mark.parametrize("block", [HUNetUpsampling, AttentionUpsampling, ResidualUpsampling])
@pytest.mark.parametrize("double_relu", [True, False])
def test_the_relu_right_after_the_convolution(block: Any, double_relu: bool) -> None:
    up = block(8, 6, 4, double_relu=double_relu).eval()
    inner = up.attention if block is ResidualUpsampling else up
    inner.conv_norm.running_mean.normal_()  # for what the first ReLU takes off to show
    x, t = torch.randn(2, 8, 3, 4), torch.randn(2, 6, 6, 8)
    x_up = torch.relu(inner.up_norm(inner.up(x)))
    if block is not HUNetUpsampling:
        x_up = inner.gate(x_up, t)
    convolved = inner.conv(torch.cat([x_up, t], 1))
    y, other = (torch.relu(inner.conv_norm(c)) for c in (convolved, torch.relu(convolved))[:: -1 if double_relu else 1])
    if block is ResidualUpsampling:
        y, other = (torch.relu(z + up.residual(z)) for z in (y, other))
    torch.testing.assert_close(up(x, t), y)
    assert not torch.allclose(y, other)
    assert count(up) == count(block(8, 6, 4))


def test_without_algorithm_2s_residual_a_block_is_algorithm_1() -> None:
    repaired, literal = (build(small("ahnet", decoder_residual=on)).decoder.blocks for on in (True, False))  # type: ignore[union-attr]
    assert [type(block) for block in repaired] == [ResidualUpsampling] * 4  # type: ignore[union-attr]
    assert [type(block) for block in literal] == [AttentionUpsampling] * 4  # type: ignore[union-attr]
    assert {k.removeprefix("attention.") for k in repaired[0].state_dict() if "residual" not in k} == set(
        literal[0].state_dict()
    )
    # two 3x3 convolutions with their norms at 16, 32, 64 and 128 channels: 18 f^2 + 6 f
    assert of_width("ahnet") - of_width("ahnet", decoder_residual=False) == 393_120
    # at 48, 96 and 192
    vss = {"encoder": "vss"}
    assert of_width("mamba-ahnet", **vss) - of_width("mamba-ahnet", **vss, decoder_residual=False) == 872_928
    # at 32 and 64, the coarse blocks alone
    assert of_width("mamba-ahnet") - of_width("mamba-ahnet", decoder_residual=False) == 18 * (32**2 + 64**2) + 6 * (
        32 + 64
    )


def test_a_smaller_gating_signal_is_resized() -> None:
    gate = AttentionGate(4, 6, 2, align="upsample").eval()
    x, g = torch.randn(1, 4, 8, 12), torch.randn(1, 6, 4, 6)
    theta, phi, psi = gate.theta, gate.phi, gate.psi
    phi_g = F.interpolate(phi[0](g), (8, 12), mode="bilinear", align_corners=False)
    rate = torch.sigmoid(psi(torch.relu(theta(x) + phi[1](phi_g))))
    torch.testing.assert_close(gate(x, g), x * rate)
    # a 1x1 convolution and bilinear weights, which sum to 1, change places
    torch.testing.assert_close(gate(x, g), gate(x, F.interpolate(g, (8, 12), mode="bilinear")))


def test_where_sizes_agree_both_alignments_are_one() -> None:
    crop, resize = AttentionGate(4, 6, 2), AttentionGate(4, 6, 2, align="upsample")
    resize.load_state_dict(crop.state_dict())
    x, g = torch.randn(2, 4, 6, 6), torch.randn(2, 6, 6, 6)
    assert torch.equal(crop(x, g), resize(x, g))
    larger = torch.randn(2, 6, 8, 10)
    torch.testing.assert_close(crop.eval()(x, larger), crop(x, larger[:, :, 1:7, 2:8]))
    assert not torch.allclose(crop(x, larger), resize.eval()(x, larger))
    with pytest.raises(ValueError, match="phi: expected a grid of at least"):
        crop(x, g[:, :, ::2, ::2])


@pytest.mark.parametrize("align", ["crop", "upsample"])
@pytest.mark.parametrize("residual", [True, False])
def test_every_gate_of_a_network_is_told_how_to_align(align: Any, residual: bool) -> None:
    for name in ("ahnet", "mamba-ahnet"):
        model = build(small(name, gate_align=align, decoder_residual=residual))
        assert {gate.align for gate in model.modules() if isinstance(gate, AttentionGate)} == {align}


def shapes_but_the_heads(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, p.shape) for name, p in module.named_parameters() if not name.startswith("head.")]


@pytest.mark.parametrize("name", ["ahnet-r", "mamba-ahnet-r"])
def test_a_full_reconstruction_is_a_decoder_of_the_segmentations_width(name: str) -> None:
    full, thin = (build(small(name, recon_head=head)) for head in ("full", "thin"))
    assert shapes_but_the_heads(full.reconstruction) == shapes_but_the_heads(full.decoder)  # type: ignore[arg-type]
    assert full.reconstruction.head.out_channels == 1  # type: ignore[union-attr]
    assert count(thin.reconstruction) < count(full.reconstruction) / 2  # type: ignore[arg-type]
    image = torch.rand(2, 1, 32, 32)
    for model in (full, thin):
        rebuilt = model.train()(image)[1]
        wanted = torch.sigmoid(Decoder.forward(model.reconstruction, model.encode(image)))  # type: ignore[arg-type]
        torch.testing.assert_close(rebuilt, wanted)


def test_a_full_reconstruction_counts() -> None:
    """Of mamba-ahnet the network, its decoder again, and a head of 12 channels to 1 for one to 2."""
    parts = describe(ModelConfig(name="mamba-ahnet", encoder="vss"))["parts"]
    decoder = sum(part["parameters"] for part in parts if part["part"].startswith("decoder."))
    assert of_width("mamba-ahnet-r", encoder="vss", recon_head="full") == 6_956_855 + decoder - 13 == 10_167_825


@pytest.mark.parametrize(("name", "stride", "last"), [("ahnet-r", 16, 64), ("mamba-ahnet-r", 16, 32)])
def test_algorithm_4_to_the_letter_rebuilds_nothing_from_one_channel(name: str, stride: int, last: int) -> None:
    """Softmax over one channel is 1, so the loss cannot move the branch, nor the encoder through it."""
    model = build(small(name, recon_head="paper_softmax")).train()
    assert count(model) - count(build(small(name.removesuffix("-r")))) == 9 * last + 1
    image = torch.rand(2, 1, 2 * stride, 3 * stride)
    _, rebuilt = model(image)
    assert torch.equal(rebuilt, torch.ones(2, 1, 2 * stride, 3 * stride))
    (F.l1_loss(rebuilt, image) + F.mse_loss(rebuilt, image)).backward()
    reached = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert {"reconstruction.conv.weight", "reconstruction.conv.bias"} < set(reached)
    assert not any(grad.any() for grad in reached.values())
    assert model.eval()(image)[1] is None


def test_algorithm_4_of_several_channels_is_its_transcription() -> None:
    model = build(small("ahnet-r", recon_head="paper_softmax", in_channels=3)).train()
    image = torch.rand(2, 3, 32, 48)
    last = model.encode(image)[-1]
    conv = model.reconstruction.conv  # type: ignore[union-attr]
    softmax = F.conv2d(last, conv.weight, conv.bias, padding=1).softmax(1)
    rebuilt = model(image)[1]
    torch.testing.assert_close(rebuilt, F.interpolate(softmax, (32, 48), mode="bilinear", align_corners=False))
    assert rebuilt.std() > 0
    torch.testing.assert_close(rebuilt.sum(1), torch.ones(2, 32, 48))
    rebuilt.square().mean().backward()
    assert conv.weight.grad.any()


@pytest.mark.parametrize(
    ("name", "reading", "encoder", "decoder", "plain"),
    [
        ("mamba-ahnet", {"encoder": "vss"}, 4, 3, 0),
        ("mamba-ahnet", {"encoder": "vss", "decoder_vm_layers": False}, 4, 0, 0),
        ("mamba-ahnet", {}, 1, 2, 1),
        ("mamba-ahnet", {"decoder_vm_layers": False}, 1, 0, 1),
        ("mamba-ahnet", {"coarse_depths": (1, 2, 3)}, 6, 2, 1),
        ("mamba-ahnet", {"encoder": "convolution"}, 1, 2, 2),
        ("mamba-ahnet-conv", {}, 0, 4, 0),
        ("ahnet", {}, 0, 0, 0),
    ],
)
def test_where_the_scans_are(name: str, reading: dict[str, Any], encoder: int, decoder: int, plain: int) -> None:
    """Both, encoder alone, decoder alone, nowhere; the finest blocks of some are HUNet's, all others stay."""
    model = build(small(name, **reading))
    kinds = [sum(isinstance(m, kind) for m in model.modules()) for kind in (VSSBlock, VMLayer)]
    assert kinds == [encoder, decoder]
    blocks = [type(block) for block in model.decoder.blocks]  # type: ignore[union-attr]
    assert blocks == [ResidualUpsampling] * (len(blocks) - plain) + [HUNetUpsampling] * plain


def test_without_the_decoders_scans_only_they_are_missing() -> None:
    parts = {part["part"]: part["parameters"] for part in describe(ModelConfig())["parts"]}
    without = {part["part"]: part["parameters"] for part in describe(ModelConfig(decoder_vm_layers=False))["parts"]}
    assert without == parts | {"decoder.vm_layers": 0}
    # a VM layer of f channels, four directions, 16 states, rank f / 16: 8 f^2 + 430 f; at 48, 96 and 192
    vss = {"encoder": "vss"}
    assert of_width("mamba-ahnet", **vss) - of_width("mamba-ahnet", **vss, decoder_vm_layers=False) == 531_552
    # at 16, 32, 64 and 128
    assert of_width("mamba-ahnet-conv") - of_width("ahnet") == 277_280


def test_the_decoder_reading_without_its_layers_has_another_name() -> None:
    with pytest.raises(
        InputError, match="expected true for mamba-ahnet-conv, got false; without VM layers it is ahnet"
    ):
        build(small("mamba-ahnet-conv", decoder_vm_layers=False))
