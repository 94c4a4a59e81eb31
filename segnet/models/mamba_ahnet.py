"""Mamba-AHNet, section IV-B and figure 3: a VSS encoder and AHNet's decoder, with a VM layer after each block or none."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from segnet.config import ModelConfig
from segnet.models.mamba import PatchEmbedding, PatchMerging, VSSBlock
from segnet.models.network import Network, ahnet_block, vss_config


class VSSEncoder(Network):
    """Patches of 4x4, then four stages of VSS blocks with patch merging between.

    Parameters
    ----------
    dim : channels of the first stage; each further stage doubles them
    """

    stride = 32

    def __init__(self, config: ModelConfig, dim: int) -> None:
        super().__init__(config)
        self.dims = tuple(dim * 2**i for i in range(len(config.depths)))
        self.embed = PatchEmbedding(config.in_channels, dim)
        rates = np.linspace(0, config.drop_path, sum(config.depths)).tolist()
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for width, depth in zip(self.dims, config.depths, strict=True):
            blocks = [VSSBlock(width, vss_config(config), drop_path=rates.pop(0)) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            if width != self.dims[-1]:
                self.merges.append(PatchMerging(width))

    def encode(self, x: Tensor) -> list[Tensor]:
        features, stages = self.embed(x), []
        for i, stage in enumerate(self.stages):
            if i:
                features = self.merges[i - 1](features)
            features = stage(features)
            stages.append(features.permute(0, 3, 1, 2))
        return stages


class MambaAHNet(VSSEncoder):
    """`mamba-ahnet` and `mamba-ahnet-r`.

    Source: section IV; the paper publishes no code, so widths and depths are a reconstruction (docs/models.md).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, 3 * config.base_width)
        self.add_decoders(self.dims, ahnet_block(config), vm_layers=config.decoder_vm_layers, tail=2)
