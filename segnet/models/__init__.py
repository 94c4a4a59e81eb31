"""The paper's networks, by name."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from ..config import ModelConfig
from .mamba_ahnet import MambaAHNet

__all__ = ["MambaAHNet", "build", "channels_last"]

Module = TypeVar("Module", bound=nn.Module)


def build(config: ModelConfig) -> MambaAHNet:
    """The network a configuration names, freshly initialised from torch's global generator."""
    return MambaAHNet(config)


def channels_last(model: Module) -> Module:
    """The same network with its weights in channels-last order, which convolutions on CPUs are fastest in."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
