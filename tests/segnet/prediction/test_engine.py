"""The engine is the network: every network's logits, what is folded and what is not, what is kept in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import shaken
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segnet.config import ModelConfig
from segnet.models import names
from segnet.models.mamba import SS2D
from segnet.models.network import Network
from segnet.prediction.engine import optimise

NORMS_LEFT = {
    "hunet": 4,  # one behind a ReLU in each of four blocks
    "ahnet": 4 * 4,  # and three in the gate of each
    "ahnet-r": 4 * 4,
    "mamba-ahnet": 2 * 4 + 1,  # and one in the plain block
    "mamba-ahnet-r": 2 * 4 + 1,
    "mamba-ahnet-conv": 4 * 4,
    "unet": 0,
    "attention-unet": 0,
    "unetpp": 0,
    "dcau-net": 27,  # they come before convolutions, and what they take goes elsewhere too
    "vm-unet": 0,
}
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


def image(channels: int = 1) -> torch.Tensor:
    return torch.rand(2, channels, 64, 96, generator=torch.Generator().manual_seed(7))


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(x)[0]


def close(found: torch.Tensor, wanted: torch.Tensor, layers: int, eps: float) -> None:
    """Within one rounding a layer, of the largest logit: layers pass relative errors on, and roundings mostly cancel."""
    assert (found - wanted).abs().max() <= layers * eps * wanted.abs().max()


def test_every_networks_norms_are_counted() -> None:
    assert set(NORMS_LEFT) == set(names())


@pytest.mark.parametrize("name", names())
def test_in_float32_it_is_the_network(name: str) -> None:
    model = shaken(name).eval()
    engine, x = optimise(model), image()
    close(logits(engine, x), logits(model, x), count(model, *LAYERS), torch.finfo(torch.float32).eps)
    assert count(engine, nn.BatchNorm2d) == NORMS_LEFT[name]


@pytest.mark.parametrize("name", names())
def test_in_bfloat16_it_is_the_network_within_its_rounding(name: str) -> None:
    model = shaken(name).eval()
    half, x = optimise(model, bfloat16=True), image()
    found, wanted = logits(half, x), logits(model, x)
    assert found.dtype == torch.float32
    close(found, wanted, count(model, *LAYERS), torch.finfo(torch.bfloat16).eps)
    assert not torch.equal(found, logits(optimise(model), x))


@pytest.mark.parametrize(
    "changes",
    [{"double_relu": False}, {"gate_target": "unused"}, {"in_channels": 3}, {"gate_target": "skip"}, {"classes": 3}],
)
def test_switches_of_a_network(changes: dict[str, Any]) -> None:
    model = shaken("mamba-ahnet", **changes).eval()
    x = image(model.config.in_channels)
    close(logits(optimise(model), x), logits(model, x), count(model, *LAYERS), torch.finfo(torch.float32).eps)


def test_the_network_is_left_as_it_is_and_the_copy_shares_nothing() -> None:
    model = shaken("mamba-ahnet-r").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    engines = [optimise(model), optimise(model, bfloat16=True)]
    assert torch.equal(torch.rand(1), drawn)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    for engine in engines:
        assert not any(module.training or module._forward_hooks for module in engine.modules())
        assert not any(parameter.requires_grad or parameter.data_ptr() in own for parameter in engine.parameters())
        for module in engine.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_it_is_made_alike_where_no_gradients_are_kept() -> None:
    with torch.inference_mode():
        model = shaken("hunet").eval()
        engine, x = optimise(model), image()
        assert count(engine, nn.BatchNorm2d) == NORMS_LEFT["hunet"]
        close(engine(x)[0], model(x)[0], count(model, *LAYERS), torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("name", ["mamba-ahnet", "vm-unet", "ahnet"])
def test_no_weight_is_cast_when_bfloat16_runs(name: str) -> None:
    half = optimise(shaken(name), bfloat16=True)
    weights = {parameter.data_ptr() for parameter in half.parameters()}
    cast: list[Any] = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in weights:
                cast.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Casts():
        half(image())
    assert cast == []
    scans = [module for module in half.modules() if isinstance(module, SS2D)]
    assert all(p.dtype == torch.float32 for scan in scans for p in (scan.A_log, scan.D, scan.dt_bias))
    assert sum(parameter.dtype == torch.bfloat16 for parameter in half.parameters()) > 20


class Foreign(Network):
    """A network of others: a pair that can be folded, then a convolution, a norm, and what it does with them."""

    stride = 8

    def __init__(self, kind: str) -> None:
        super().__init__(ModelConfig())
        self.kind = kind
        self.first = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2, affine=kind != "plain", track_running_stats=kind != "batch statistics")
        self.between = nn.ReLU(inplace=True) if kind == "in-place ReLU" else nn.Identity()
        if kind == "two norms":
            self.other = nn.BatchNorm2d(2)
        if kind == "grouped, transposed":
            self.conv = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 2, 3, padding=1, groups=2))  # type: ignore[assignment]
        for norm in [self.norm] if kind != "batch statistics" else []:
            norm.running_mean = torch.tensor([0.3, -0.2])
            norm.running_var = torch.tensor([0.5, 2.0])

    def encode(self, x: torch.Tensor) -> Any:
        return self.first(x)

    def decoder(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        y = self.conv(x)
        z = self.norm(self.between(y))
        if self.kind == "taken twice":
            return z + y
        if self.kind == "two norms":
            return z + torch.sin(self.other(y))
        if self.kind == "run twice":
            return z + torch.sin(self.conv(x / 2))
        if self.kind == "norm run twice":
            return z + self.norm(torch.sin(z))
        return z


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("plain", 0),
        ("in-place ReLU", 1),
        ("taken twice", 2),
        ("two norms", 2),
        ("run twice", 1),
        ("norm run twice", 1),
        ("batch statistics", 1),
        ("grouped, transposed", 1),
    ],
)
def test_a_network_of_others_is_folded_where_that_is_right(kind: str, left: int) -> None:
    torch.manual_seed(0)
    model = Foreign(kind).eval()
    engine, x = optimise(model), image()
    close(logits(engine, x), logits(model, x), 32, torch.finfo(torch.float32).eps)  # batch statistics are long sums
    assert count(engine, nn.BatchNorm2d) == left
