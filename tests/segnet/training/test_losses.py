"""The joint loss against its formula, written out."""

from __future__ import annotations

import pytest
import torch

from segnet.training.losses import JointLoss


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_it_is_dice_twice_plus_cross_entropy_plus_weighted_reconstruction(weight: float) -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(3, 2, 5, 7), torch.randint(0, 2, (3, 5, 7))
    mask[1] = 0  # a slice without lesion is left out of the sum by slices
    image, rebuilt = torch.rand(3, 1, 5, 7), torch.rand(3, 1, 5, 7)
    p = logits.softmax(1)[:, 1]
    dice = 1 - (2 * (p * mask).sum() + 1e-5) / (p.sum() + mask.sum() + 1e-5)
    of_slice = 1 - (2 * (p * mask).sum((1, 2)) + 1) / (p.sum((1, 2)) + mask.sum((1, 2)) + 1)
    entropy = -logits.log_softmax(1).gather(1, mask[:, None]).mean()
    wanted = dice + of_slice[[0, 2]].mean() + entropy
    loss = JointLoss(weight)
    torch.testing.assert_close(loss(logits, None, image, mask), wanted)
    difference = rebuilt - image
    wanted = wanted + weight * (difference.abs().mean() + difference.square().mean())
    torch.testing.assert_close(loss(logits, rebuilt, image, mask), wanted)


def test_a_batch_without_lesion_is_finite() -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    JointLoss()(logits, None, torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4)).backward()
    assert torch.isfinite(logits.grad).all()
