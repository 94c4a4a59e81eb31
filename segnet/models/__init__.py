"""The paper's networks, by name."""

from __future__ import annotations

from ..config import ModelConfig
from .mamba_ahnet import MambaAHNet

__all__ = ["MambaAHNet", "build"]


def build(config: ModelConfig) -> MambaAHNet:
    """The network a configuration names, freshly initialised from torch's global generator."""
    return MambaAHNet(config)
