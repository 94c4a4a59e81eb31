"""What a network is made of: parameters by part, input and output."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .config import ModelConfig
from .models import build


def count(module: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def describe(config: ModelConfig) -> dict[str, Any]:
    """Name, parameters in all and by part, stages' channels, and the input the network takes. Allocates no weights."""
    with torch.device("meta"):
        model = build(config)
    parts: list[dict[str, Any]] = [{"part": "patch embedding", "parameters": count(model.embed)}]
    for i, (stage, depth) in enumerate(zip(model.stages, config.depths, strict=True)):
        dim = 3 * config.base_width * 2**i
        parts.append({"part": f"encoder stage {i + 1}: {depth} VSS blocks, {dim} channels", "parameters": count(stage)})
    parts.append({"part": "patch merging", "parameters": count(model.merges)})
    for i, (block, layer) in enumerate(zip(model.decoder.blocks, model.decoder.vm_layers, strict=True)):
        parts.append({"part": f"decoder {i + 1}: upsampling residual block", "parameters": count(block)})
        parts.append({"part": f"decoder {i + 1}: VM layer", "parameters": count(layer)})
    parts.append({"part": "tail and head", "parameters": count(model.decoder.tail) + count(model.decoder.head)})
    if model.reconstruction is not None:
        parts.append({"part": "reconstruction branch (training only)", "parameters": count(model.reconstruction)})
    return {
        "model": config.name,
        "parameters": count(model),
        "input": f"(batch, {config.in_channels}, height, width), multiples of 32",
        "output": f"(batch, {config.classes}, height, width)",
        "discretization": config.discretization,
        "parts": parts,
    }
