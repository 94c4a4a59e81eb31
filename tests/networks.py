"""Networks whose right answer is known voxel by voxel, and small ones of the registry."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from segnet.config import ModelConfig
from segnet.models import Network, build


class Threshold(nn.Module):
    """Certain lesion where the normalised image is above one half."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        logit = torch.where(x > 0.5, 30.0, -30.0)
        return torch.cat([-logit, logit], 1), None


def shaken(name: str, **changes: Any) -> Network:
    """A small network of the registry whose batch norms do something, as after training."""
    torch.manual_seed(0)
    model = build(ModelConfig(**{"name": name, "base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4, **changes}))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.3, 3)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
    return model
