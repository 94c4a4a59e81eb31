"""Other authors' networks behind the same interface, for comparison."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segnet.config import ModelConfig
from segnet.errors import InputError
from segnet.models.mamba import PatchExpanding, VSSBlock
from segnet.models.mamba_ahnet import VSSEncoder
from segnet.models.network import Network, vss_config


class Monai(Network):
    """A network of MONAI on the image itself."""

    stride = 16

    def __init__(self, config: ModelConfig, network: nn.Module) -> None:
        super().__init__(config)
        self.decoder = network

    def encode(self, x: Tensor) -> Any:
        return x


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """Widths of hunet's levels."""
    channels = tuple(config.base_width * 2**i for i in range(5))
    sides = {"spatial_dims": 2, "in_channels": config.inputs, "out_channels": config.classes}
    return sides | {"channels": channels, "strides": (2, 2, 2, 2)}


def unet(config: ModelConfig) -> Monai:
    """MONAI's U-Net, two residual units per level."""
    from monai.networks.nets.unet import UNet

    return Monai(config, UNet(**_sizes(config), num_res_units=2))


def attention_unet(config: ModelConfig) -> Monai:
    """MONAI's Attention U-Net."""
    from monai.networks.nets.attentionunet import AttentionUnet

    return Monai(config, AttentionUnet(**_sizes(config)))


def unetpp(config: ModelConfig) -> Monai:
    """MONAI's U-Net++ without deep supervision."""
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    sizes = _sizes(config)
    features = (*sizes.pop("channels"), config.base_width)
    del sizes["strides"]
    network = BasicUNetPlusPlus(**sizes, features=features)
    for head in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):
        setattr(network, head, nn.Identity())  # unused heads of deep supervision
    network.register_forward_hook(lambda _module, _arguments, outputs: outputs[-1])
    return Monai(config, network)


class ExpandingDecoder(nn.Module):
    """VM-UNet's decoder: blocks; three times patch expanding and blocks, skips added; fourfold expanding; a 1x1 head."""

    def __init__(self, dims: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        vss = vss_config(config)
        depths = (*reversed(config.depths[1:]), 1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(VSSBlock(dim, vss) for _ in range(depth)))
            for dim, depth in zip(reversed(dims), depths, strict=True)
        )
        self.expands = nn.ModuleList(PatchExpanding(dim, 2, 2) for dim in reversed(dims[1:]))
        self.last = PatchExpanding(dims[0], 4, 4)
        self.head = nn.Conv2d(dims[0] // 4, config.classes, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        *skips, x = (stage.permute(0, 2, 3, 1) for stage in stages)
        x = self.stages[0](x)
        for expand, stage in zip(self.expands, self.stages[1:], strict=True):
            x = stage(expand(x + skips.pop()))
        return self.head(self.last(x).permute(0, 3, 1, 2))


class VMUNet(VSSEncoder):
    """VM-UNet with our VSS blocks: an encoder of width 6 b, a decoder of VSS blocks and patch expanding.

    Source: Ruan and Xiang, VM-UNet (2024), section 3.

    Raises
    ------
    InputError
        The width is odd: the last expanding takes a fourth of 6 b.
    """

    def __init__(self, config: ModelConfig) -> None:
        if config.base_width % 2:
            raise InputError(
                f"model.base_width: expected an even number for vm-unet, got {config.base_width}; take {config.base_width + 1}"
            )
        super().__init__(config, 6 * config.base_width)
        self.decoder = ExpandingDecoder(self.dims, config)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Input of each stage, and output of the last."""
        features, entered = self.embed(x), []
        for i, stage in enumerate(self.stages):
            if i:
                features = self.merges[i - 1](features)
            entered.append(features.permute(0, 3, 1, 2))
            features = stage(features)
        return [*entered, features.permute(0, 3, 1, 2)]
