"""The training loss: binary cross-entropy plus soft Dice, on soft targets."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Terms(NamedTuple):
    """The loss and its parts, scalars on the device; `total` is what is minimised."""

    total: Tensor
    bce: Tensor
    dice: Tensor


def bce_dice(logits: Tensor, target: Tensor, bce_weight: float, dice_weight: float) -> Terms:
    """Weighted sum of BCE (mean over pixels) and 1 - soft Dice (mean over images).

    Args:
        logits: float (B, H, W), unbounded.
        target: float (B, H, W), share of foreground in each pixel, 0..1.

    Both terms are computed in float32 whatever the precision of the network.
    """
    logits, target = logits.float(), target.float()
    bce = functional.binary_cross_entropy_with_logits(logits, target)
    dice = 1 - soft_dice(torch.sigmoid(logits), target).mean()
    return Terms(bce_weight * bce + dice_weight * dice, bce.detach(), dice.detach())


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Dice of real-valued masks (B, H, W), per image: (B,).

    One pixel is added to both halves of the ratio, so that two empty masks score 1 as they
    do in the competition, and the gradient stays finite.
    """
    overlap = (probability * target).sum(dim=(1, 2))
    areas = probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    return (2 * overlap + 1) / (areas + 1)
