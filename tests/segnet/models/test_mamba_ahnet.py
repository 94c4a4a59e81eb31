"""Whole networks: sizes, parameter counts, gradients everywhere, switches."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from segnet.config import ModelConfig
from segnet.models import build
from segnet.models.mamba_ahnet import ResidualUnit
from segnet.study.info import count


def small(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4, **changes})


@pytest.mark.parametrize("encoder", ["residual", "convolution", "vss"])
@pytest.mark.parametrize("name", ["mamba-ahnet", "mamba-ahnet-r"])
def test_shapes_and_a_gradient_for_every_parameter(name: Any, encoder: str) -> None:
    torch.manual_seed(0)
    model = build(small(name=name, encoder=encoder, drop_path=0.0)).train()
    logits, reconstruction = model(torch.rand(2, 1, 64, 96))
    assert logits.shape == (2, 2, 64, 96)
    loss = logits.square().mean()
    if name == "mamba-ahnet":
        assert reconstruction is None
    else:
        assert reconstruction.shape == (2, 1, 64, 96)
        assert reconstruction.min() >= 0
        assert reconstruction.max() <= 1
        loss = loss + reconstruction.square().mean()
    loss.backward()
    # a bias right before batch normalisation has no effect, so its gradient is rounding; it must still be there
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_reconstruction_branch_rests_outside_training() -> None:
    model = build(small(name="mamba-ahnet-r")).eval()
    assert model(torch.rand(1, 1, 32, 32))[1] is None


def test_the_default_scan_is_bilinear_and_the_others_differ() -> None:
    outputs = []
    for discretization in ("bilinear", "mamba", "zoh"):
        torch.manual_seed(1)
        model = build(small(discretization=discretization)).eval()
        torch.manual_seed(2)
        outputs.append(model(torch.rand(1, 1, 32, 32))[0])
    assert ModelConfig().discretization == "bilinear"
    assert not torch.allclose(outputs[0], outputs[1], rtol=0, atol=1e-7)
    assert not torch.allclose(outputs[1], outputs[2], rtol=0, atol=1e-7)


def test_the_gate_target_is_a_switch() -> None:
    up, skip = (count(build(small(gate_target=target))) for target in ("up", "skip"))
    assert up > 0
    assert skip > 0
    torch.manual_seed(0)
    first = build(small(gate_target="up")).eval()(torch.ones(1, 1, 32, 32))[0]
    torch.manual_seed(0)
    second = build(small(gate_target="skip")).eval()(torch.ones(1, 1, 32, 32))[0]
    assert not torch.equal(first, second)


def test_a_size_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"x: expected height and width to be multiples of 16, got \(40, 64\)"):
        build(small())(torch.rand(1, 1, 40, 64))
    with pytest.raises(ValueError, match=r"x: expected height and width to be multiples of 32, got \(48, 64\)"):
        build(small(encoder="vss"))(torch.rand(1, 1, 48, 64))


def test_no_weight_decay_on_the_scan_and_the_norms() -> None:
    from segnet.training.loop import parameter_groups

    model = build(small())
    decay, keep = parameter_groups(model, 0.01)
    kept = {id(p) for p in keep["params"]}
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in ("A_log", "D", "dt_bias")
        assert (id(parameter) in kept) == exempt, name
    assert decay["weight_decay"] == 0.01
    assert keep["weight_decay"] == 0.0


def test_the_shortcut_of_a_residual_unit_has_stride_two() -> None:
    torch.manual_seed(0)
    unit, x = ResidualUnit(8, 6).eval(), torch.rand(2, 8, 9, 12, requires_grad=True)
    shortcut = unit.shortcut
    wanted = torch.relu(torch.nn.functional.conv2d(x, shortcut.weight, shortcut.bias, stride=2) + unit.residual(x))
    found = unit(x)
    torch.testing.assert_close(found, wanted)
    tensors = (x, shortcut.weight, shortcut.bias)
    pairs = zip(*(torch.autograd.grad(y.square().sum(), tensors) for y in (found, wanted)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


WRITES = """
import torch
from segnet.models.mamba_ahnet import ResidualUnit
torch.set_num_threads(1)
unit = ResidualUnit(4, 8).to(memory_format=torch.channels_last)
for n in range(400):
    x = torch.rand(2, 4, 16, 16).contiguous(memory_format=torch.channels_last)
    unit(x).sum().backward()
    others = [torch.rand(n % 37 + 1, 5) for _ in range(5)]
print("sound")
"""


def test_a_residual_unit_of_few_channels_leaves_other_memory_alone() -> None:
    """A convolution of stride 2 does not, on processors with AVX2 alone."""
    environment = {**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "85"}
    found = subprocess.run([sys.executable, "-c", WRITES], capture_output=True, text=True, env=environment, check=False)
    assert found.stdout == "sound\n", found.stderr[-500:]
