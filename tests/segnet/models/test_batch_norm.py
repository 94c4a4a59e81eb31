"""Batch norms of few channels against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnet.models.batch_norm import BatchNorm2d


def norms(channels: int, dtype: torch.dtype) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Ours, and torch's in float64, of the same parameters and running statistics."""
    ours, theirs = BatchNorm2d(channels), nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for parameter in (ours.weight, ours.bias, ours.running_mean):
            assert parameter is not None
            parameter.copy_(torch.randn(channels, generator=generator))
    theirs.load_state_dict(ours.state_dict())
    return ours.to(dtype), theirs.double()


def image(channels: int, dtype: torch.dtype, shape: tuple[int, int, int] = (3, 8, 10)) -> Tensor:
    batch, height, width = shape
    x = 2 + 3 * torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def trained(norm: nn.BatchNorm2d, x: Tensor, dout: Tensor) -> dict[str, Tensor]:
    """What a step gives: output, gradients and running statistics."""
    leaf = x.detach().requires_grad_()
    out = norm.train()(leaf)
    out.backward(dout)
    found = {"out": out.detach(), "dx": leaf.grad, "dweight": norm.weight.grad, "dbias": norm.bias.grad}
    return {k: v for k, v in (found | dict(norm.named_buffers())).items() if v is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 12, 15, 16, 24, 30, 33, 48])
def test_a_step_is_torchs(channels: int, dtype: torch.dtype) -> None:
    ours, theirs = norms(channels, dtype)
    x, dout = image(channels, dtype), image(channels, dtype).flip(0)
    found, wanted = trained(ours, x, dout), trained(theirs, x.double(), dout.double())
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        # a sum of 240 terms of size 10, two roundings a term at worst
        assert value.dtype == (torch.int64 if name == "num_batches_tracked" else dtype)
        largest = wanted[name].abs().max() + (wanted["out"].abs().max() if name == "dx" else 0)
        assert (value.double() - wanted[name]).abs().max() <= 500 * torch.finfo(dtype).eps * largest, name


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_other_settings_are_torchs(settings: dict[str, Any]) -> None:
    x = image(4, torch.float32)
    assert torch.equal(BatchNorm2d(4, **settings)(x), nn.BatchNorm2d(4, **settings)(x))


def test_one_value_a_channel_is_refused_in_torchs_words() -> None:
    x = image(4, torch.float32, (1, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel") as wanted:
        nn.BatchNorm2d(4)(x)
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        BatchNorm2d(4)(x)
    assert str(caught.value) == str(wanted.value)


def test_an_empty_batch_stays_one() -> None:
    x = image(4, torch.float32, (0, 4, 4))
    assert BatchNorm2d(4)(x).shape == nn.BatchNorm2d(4)(x).shape
