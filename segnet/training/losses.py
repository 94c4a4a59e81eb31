"""The joint loss: Dice + cross-entropy + lambda * reconstruction (section IV-E, "combined loss")."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F


class JointLoss(nn.Module):
    """``Dice(softmax(logits)) + CE(logits) + weight * (L1 + MSE)(reconstruction, image)``.

    Dice is of the foreground and counts twice. Over the whole batch, it penalises false positives on slices without lesion. Over each
    slice with lesion, it weighs small and large lesions equally, like the score.

    Parameters
    ----------
    reconstruction_weight : lambda of the paper's combined loss; the paper gives no value
    """

    def __init__(self, reconstruction_weight: float = 0.1) -> None:
        super().__init__()
        self.reconstruction_weight = reconstruction_weight
        of_foreground: dict[str, Any] = {"to_onehot_y": True, "softmax": True, "include_background": False}
        self.segmentation = DiceCELoss(**of_foreground, batch=True)
        self.by_slice = DiceLoss(**of_foreground, smooth_nr=1.0, smooth_dr=1.0)

    def forward(self, logits: Tensor, reconstruction: Tensor | None, image: Tensor, mask: Tensor) -> Tensor:
        """logits (batch, classes, height, width), reconstruction and image (batch, channels, height, width), mask (batch, height, width)."""
        # MONAI leaves the background out of Dice, and cross-entropy counts every class
        wide = torch.promote_types(logits.dtype, torch.float32)
        logits, labels = logits.to(wide), mask[:, None].long()
        loss: Tensor = self.segmentation(logits, labels)
        with_lesion = labels.flatten(1).any(1)
        if with_lesion.any():
            loss = loss + self.by_slice(logits[with_lesion], labels[with_lesion])
        if reconstruction is not None:
            reconstruction = reconstruction.to(wide)
            loss = loss + self.reconstruction_weight * (
                F.l1_loss(reconstruction, image) + F.mse_loss(reconstruction, image)
            )
        return loss
