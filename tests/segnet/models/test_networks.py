"""Every network of the registry: what it counts, what it takes and gives, and how another package adds one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import segnet.models as models
from segnet.config import ModelConfig
from segnet.errors import InputError
from segnet.models import build, names
from segnet.models.ahnet import AttentionUpsampling, HUNetUpsampling
from segnet.models.dcau_net import CBAM, DenseBlock, DenseUpsampling
from segnet.study.info import count, describe

# parameters; multiply-adds in G, as counted by hand from the definitions; GFLOP of the scan
PINNED: dict[str, tuple[int, float, float]] = {
    "hunet": (1_965_298, 2.58, 0),
    "ahnet": (2_381_030, 3.86, 0),
    "ahnet-r": (2_550_833, 4.17, 0),
    "mamba-ahnet": (695_248, 0.74, 0.03),
    "mamba-ahnet-r": (730_569, 0.79, 0.03),
    "mamba-ahnet-conv": (2_658_310, 4.93, 2.26),
    "unet": (1_625_161, 0.76, 0),
    "attention-unet": (1_987_434, 2.65, 0),
    "unetpp": (2_282_738, 8.18, 0),
    "dcau-net": (2_959_514, 5.04, 0),
    "vm-unet": (27_424_514, 5.28, 2.94),
}
# the same of another reading
PINNED_READINGS: dict[tuple[str, str], tuple[int, float, float]] = {
    ("mamba-ahnet", "vss"): (6_956_855, 2.37, 1.25),
    ("mamba-ahnet-r", "vss"): (7_396_537, 2.55, 1.34),
    ("mamba-ahnet", "convolution"): (2_709_912, 3.45, 0.07),
}
# parameters by base width, each computed by hand from the definitions too
PRESETS = {
    "ahnet": {8: 596_986, 16: 2_381_030, 32: 9_510_334, 64: 38_013_806},
    "mamba-ahnet": {8: 178_700, 16: 695_248, 32: 2_741_912, 64: 10_889_512},
}


def small(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig(**{"name": name, "base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4, **changes})


def test_all_are_pinned() -> None:
    assert set(PINNED) == set(names())


@pytest.mark.parametrize(("name", "encoder"), [*((name, None) for name in PINNED), *PINNED_READINGS])
def test_counts(name: str, encoder: str | None) -> None:
    description = describe(ModelConfig.model_validate({"name": name} | ({"encoder": encoder} if encoder else {})))
    parameters, macs, scan = PINNED[name] if encoder is None else PINNED_READINGS[name, encoder]
    assert description["parameters"] == parameters == sum(part["parameters"] for part in description["parts"])
    assert description["macs"] == sum(part["macs"] for part in description["parts"])
    assert description["macs"] / 1e9 == pytest.approx(macs, abs=0.005)
    assert description["scan_flops"] / 1e9 == pytest.approx(scan, abs=0.006)


@pytest.mark.parametrize(("name", "base_width"), [(n, b) for n, counts in PRESETS.items() for b in counts])
def test_presets(name: str, base_width: int) -> None:
    with torch.device("meta"):
        assert count(build(ModelConfig(name=name, base_width=base_width))) == PRESETS[name][base_width]


@pytest.mark.parametrize("b", [8, 16, 24])
def test_mamba_at_coarse_strides_counts_by_its_definition(b: int) -> None:
    """Every layer's weights, biases and norms, added up by hand."""

    def conv(i: int, o: int, side: int = 3) -> int:
        return side * side * i * o + o

    def unit(i: int, o: int) -> int:
        return conv(i, o) + 2 * o + conv(o, o) + 2 * o + conv(i, o, 1)

    def vss(c: int, states: int = 4) -> int:
        rank, directions = math.ceil(c / 16), 4
        projections = 3 * c * c + directions * c * (rank + 2 * states) + directions * rank * c
        return projections + 10 * c + directions * c * (1 + states + 1) + 2 * c

    def plain(i: int, skip: int, f: int) -> int:
        return conv(i, f) + 2 * f + conv(f + skip, f) + 2 * f

    def gated(i: int, skip: int, f: int) -> int:
        c = f // 2
        gate = conv(f, c, 1) + 2 * c + conv(skip, c, 1) + 2 * c + conv(c, 1, 1) + 2
        return plain(i, skip, f) + gate + 2 * (conv(f, f) + 2 * f)

    def vm(c: int) -> int:
        return vss(c) + 2 * c + c + 2 * c + conv(c, c, 1)

    encoder = unit(1, b) + unit(b, 2 * b) + unit(2 * b, 4 * b) + unit(4 * b, 8 * b) + vss(8 * b) + 2 * 8 * b
    decoder = gated(8 * b, 4 * b, 4 * b) + vm(4 * b) + gated(4 * b, 2 * b, 2 * b) + vm(2 * b) + plain(2 * b, b, b)
    half = b // 2
    tail = conv(b, half) + 2 * half + conv(half, 2, 1)
    with torch.device("meta"):
        assert (
            count(build(ModelConfig.model_validate({"name": "mamba-ahnet", "base_width": b})))
            == encoder + decoder + tail
        )


def test_unetpp_is_monais_without_the_heads_of_deep_supervision() -> None:
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    model = build(small("unetpp")).eval()
    oracle = BasicUNetPlusPlus(2, 1, 2, (4, 8, 16, 32, 64, 4), deep_supervision=True).eval()
    missing = oracle.load_state_dict(model.decoder.state_dict(), strict=False).missing_keys
    assert {key.split(".")[0] for key in missing} == {"final_conv_0_1", "final_conv_0_2", "final_conv_0_3"}
    x = torch.rand(1, 1, 32, 48)
    assert torch.equal(model(x)[0], oracle(x)[-1])


def stir(module: torch.nn.Module) -> None:
    """Norms of their own: none at its initial values, where it could be left out or stand elsewhere unnoticed."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]


def activated(layer: Any, x: torch.Tensor) -> Any:
    """The convolution of what a norm and a leaky ReLU of the mean of the random slopes make of x."""
    norm, _, convolution = layer
    x = torch.nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return convolution(torch.where(x >= 0, x, x * (1 / 8 + 1 / 3) / 2))


@pytest.mark.parametrize("channels", [6, 48])
def test_cbam_is_its_equations(channels: int) -> None:
    """One example, one channel, one position at a time."""
    torch.manual_seed(0)
    block: Any = CBAM(channels).double()
    x = torch.randn(2, channels, 5, 9, dtype=torch.float64)
    w0, w1, w7 = block.mlp[0].weight, block.mlp[2].weight, block.spatial.weight[0]
    assert w0.shape == (max(channels // 16, 1), channels)
    wanted = torch.zeros_like(x)
    for n in range(2):
        average = torch.stack([x[n, c].sum() / 45 for c in range(channels)])
        largest = torch.stack([x[n, c].max() for c in range(channels)])
        summed = w1 @ (w0 @ average).clamp(min=0) + w1 @ (w0 @ largest).clamp(min=0)
        refined = torch.stack([x[n, c] / (1 + (-summed[c]).exp()) for c in range(channels)])
        maps = torch.zeros(2, 5 + 6, 9 + 6, dtype=torch.float64)
        maps[0, 3:-3, 3:-3], maps[1, 3:-3, 3:-3] = refined.sum(0) / channels, refined.max(0).values
        for i in range(5):
            for j in range(9):
                response = (w7 * maps[:, i : i + 7, j : j + 7]).sum()
                wanted[n, :, i, j] = refined[:, i, j] / (1 + (-response).exp())
    torch.testing.assert_close(block(x), wanted)


def test_dcau_nets_blocks_are_dense_with_cbam_on_the_skip() -> None:
    torch.manual_seed(0)
    block = DenseUpsampling(8, 6, 4).eval()
    stir(block)
    x, t = torch.randn(2, 8, 3, 4), torch.randn(2, 6, 6, 8)
    joined = torch.cat([activated(block.up, x), block.attention(t)], 1)
    first = activated(block.conv.first, joined)
    torch.testing.assert_close(block(x, t), activated(block.conv.second, torch.cat([joined, first], 1)))


def test_dcau_net_fuses_its_scales() -> None:
    torch.manual_seed(0)
    model: Any = build(small("dcau-net")).eval()
    stir(model)
    x = torch.rand(2, 1, 32, 48)
    stem, block = model.levels[0]
    assert isinstance(block, DenseBlock)
    stages = [block(stem(x))]
    for level in model.levels[1:]:
        assert isinstance(level, DenseBlock)
        stages.append(level(torch.nn.functional.max_pool2d(stages[-1], 2)))
    decoder, up, scales = model.decoder, stages[4], []
    for k, factor in enumerate((8, 4, 2, 1)):
        up = decoder.blocks[k](up, stages[3 - k])
        scales.append(torch.nn.Upsample(scale_factor=factor, mode="bilinear")(activated(decoder.scales[k], up)))
    assert [scale.shape for scale in scales] == [(2, 4, 32, 48)] * 4
    torch.testing.assert_close(model(x)[0], activated(decoder.head, torch.cat(scales, 1)))


def test_dcau_net_is_random_in_training_alone() -> None:
    torch.manual_seed(0)
    model, x = build(small("dcau-net")), torch.rand(2, 1, 32, 32)
    model.train()
    torch.manual_seed(1)
    first, second = model(x)[0], model(x)[0]
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, model(x)[0])
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


def test_vm_unet_refuses_a_width_it_cannot_expand() -> None:
    with pytest.raises(InputError, match=r"base_width: expected an even number for vm-unet, got 11; take 12"):
        build(ModelConfig(name="vm-unet", base_width=11))


def test_vm_unets_count_is_the_published_one() -> None:
    """27.43 M for three channels and one class; a second class adds 25."""
    with torch.device("meta"):
        assert count(build(ModelConfig(name="vm-unet", in_channels=3))) - 25 == 27_427_561


@pytest.mark.parametrize("name", PINNED)
def test_shapes_and_a_gradient_for_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = build(small(name, drop_path=0.0)).train()
    logits, reconstruction = model(torch.rand(2, 1, 64, 96))
    assert logits.shape == (2, 2, 64, 96)
    loss = logits.square().mean()
    if name.endswith("-r"):
        assert reconstruction.shape == (2, 1, 64, 96)
        assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
        loss = loss + reconstruction.square().mean()
    else:
        assert reconstruction is None
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.eval()(torch.rand(1, 1, 32, 32))[1] is None


@pytest.mark.parametrize("name", ["hunet", "unet", "vm-unet"])
def test_a_size_that_does_not_fit_is_named(name: str) -> None:
    model = build(small(name))
    with pytest.raises(ValueError, match=rf"multiples of {model.stride}, got \(40, 64\); pad or resample"):
        model(torch.rand(1, 1, 40, 64))


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(InputError, match=r"model: expected one of hunet, .*vm-unet, got 'resnet'"):
        build(ModelConfig(name="resnet"))


PACKAGE = """
from segnet.models.ahnet import HUNetUpsampling
from segnet.models.conv_nets import ConvNet

def mine(config):
    return ConvNet(config, HUNetUpsampling)
"""
USER = """
from segnet.config import ModelConfig
from segnet.models import build, names

assert names()[-1] == "mine"
print(type(build(ModelConfig(name="mine", base_width=4))).__name__)
"""


def test_an_installed_package_registers_a_network_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "package.py").write_text(PACKAGE)
    installed = tmp_path / "package-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: package\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[{models.GROUP}]\nmine = package:mine\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", USER]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout == "ConvNet\n", run.stderr


def test_hunets_block_is_algorithm_1_without_the_gate() -> None:
    torch.manual_seed(0)
    plain, gated = HUNetUpsampling(8, 6, 4).eval(), AttentionUpsampling(8, 6, 4).eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    x, t = torch.randn(2, 8, 3, 4), torch.randn(2, 6, 6, 8)
    x_up = torch.relu(plain.up_norm(plain.up(x)))
    wanted = torch.relu(plain.conv_norm(torch.relu(plain.conv(torch.cat([x_up, t], 1)))))
    assert torch.equal(plain(x, t), wanted)
    assert not torch.equal(gated(x, t), wanted)
    gated.gate = torch.nn.Module()
    gated.gate.forward = lambda x, g: x  # type: ignore[method-assign,assignment]
    assert torch.equal(gated(x, t), wanted)


def test_mamba_blocks_in_the_upsampling_pathway() -> None:
    model = build(small("mamba-ahnet-conv"))
    plain = build(small("ahnet"))
    assert [type(layer).__name__ for layer in model.decoder.vm_layers] == ["VMLayer"] * 4  # type: ignore[union-attr]
    assert [type(layer).__name__ for layer in plain.decoder.vm_layers] == ["Identity"] * 4  # type: ignore[union-attr]


def test_what_a_pixel_sees() -> None:
    """Of hunet as its kernels say: each level's two convolutions add 4 of its pixels, pooling 1, and the way back up the rest."""
    field = {
        name: describe(ModelConfig(name=name, base_width=4))["receptive_field_px"] for name in ("hunet", "mamba-ahnet")
    }
    assert field["mamba-ahnet"] == [256, 256]
    assert field["hunet"] == [173, 173]


def test_memory_grows_with_the_area() -> None:
    small_side, large_side = (
        describe(ModelConfig(name="ahnet"), side_px=side)["activation_bytes"] for side in (128, 256)
    )
    assert large_side / small_side == pytest.approx(4, rel=0.01)


def test_memory_kept_is_what_autograd_keeps() -> None:
    """Of a network on real memory, its storages counted once."""
    model = build(small("hunet")).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = model(torch.rand(1, 1, 64, 64))
    assert outputs[0].requires_grad
    assert describe(small("hunet"), side_px=64)["activation_bytes"] == pytest.approx(sum(kept.values()), rel=0.02)
