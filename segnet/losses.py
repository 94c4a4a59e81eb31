"""The joint loss: Dice + cross-entropy + lambda * reconstruction (section IV-E, "combined loss")."""

from __future__ import annotations

from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F


class JointLoss(nn.Module):
    """``Dice(softmax(logits)) + CE(logits) + weight * (L1 + MSE)(reconstruction, image)``.

    Dice is of the foreground, over the whole batch at once, so that slices without lesion do not divide by nothing.

    Parameters
    ----------
    reconstruction_weight : lambda of the paper's combined loss, which prints no value
    """

    def __init__(self, reconstruction_weight: float = 0.1) -> None:
        super().__init__()
        self.reconstruction_weight = reconstruction_weight
        self.segmentation = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def forward(self, logits: Tensor, reconstruction: Tensor | None, image: Tensor, mask: Tensor) -> Tensor:
        """logits (batch, classes, height, width), reconstruction and image (batch, channels, height, width), mask (batch, height, width)."""
        # MONAI leaves the background out of Dice, and cross-entropy counts every class
        loss: Tensor = self.segmentation(logits.float(), mask[:, None].long())
        if reconstruction is not None:
            reconstruction = reconstruction.float()
            loss = loss + self.reconstruction_weight * (
                F.l1_loss(reconstruction, image) + F.mse_loss(reconstruction, image)
            )
        return loss
