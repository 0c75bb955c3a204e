"""The training loss: cross-entropy plus soft Dice, on soft targets of one class or more."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Terms(NamedTuple):
    """The loss and its parts, scalars on the device; `total` is what is minimised."""

    total: Tensor
    bce: Tensor
    dice: Tensor


def shares(targets: Tensor) -> Tensor:
    """Soft targets as a data set has them, uint8 (B, H, W) or (B, H, W, C), as the loss does.

    Returns:
        float (B, H, W), 0..1, or (B, C, H, W), which add up to 1 over the classes.
    """
    if targets.ndim == 3:
        return targets / 255
    of_class = targets.permute(0, 3, 1, 2)
    return of_class / of_class.sum(dim=1, keepdim=True)  # not 255: shares are rounded


def entropy_dice(
    logits: Tensor,
    target: Tensor,
    bce: float,
    dice: float,
    boundary: float,
    boundary_width: int,
) -> Terms:
    """Weighted sum of cross-entropy and 1 - soft Dice: `bce_dice`, of one class or more.

    Args:
        logits: float (B, H, W), or (B, C, H, W) of C classes one of which each pixel is.
        target: shares, float, of the same shape.
    """
    if logits.ndim == 3:
        return bce_dice(logits, target, bce, dice, boundary, boundary_width)
    return class_entropy_dice(logits, target, bce, dice, boundary, boundary_width)


def class_entropy_dice(
    logits: Tensor,
    target: Tensor,
    entropy: float,
    dice: float,
    boundary: float,
    boundary_width: int,
) -> Terms:
    """Weighted sum of cross-entropy (mean over pixels) and 1 - soft Dice (over classes, images).

    Args:
        logits: float (B, C, H, W), unbounded.
        target: float (B, C, H, W), shares of the classes in each pixel, which add up to 1.
        entropy: weight of the cross-entropy.
        dice: weight of the Dice term, in which each class counts the same.
        boundary: what a pixel near the boundary of any class counts above the others.
        boundary_width: how near, see `near_boundary`.

    Both terms are computed in float32 whatever the precision of the network.
    """
    logs, target = torch.log_softmax(logits.float(), dim=1), target.float()
    one_a_class, classes = target.flatten(0, 1), target.shape[1]  # B * C, H, W
    of_pixel = -(target * logs).sum(dim=1)  # B, H, W
    weight = None
    if boundary:
        near = near_boundary(one_a_class, boundary_width).reshape(target.shape).amax(dim=1)
        weight = _weights(near, boundary)
        of_pixel = of_pixel * weight
        weight = weight.repeat_interleave(classes, dim=0)  # B * C, H, W
    missed = 1 - soft_dice(logs.exp().flatten(0, 1), one_a_class, weight).mean()
    mean = of_pixel.mean()
    return Terms(entropy * mean + dice * missed, mean.detach(), missed.detach())


def bce_dice(
    logits: Tensor,
    target: Tensor,
    bce: float,
    dice: float,
    boundary: float,
    boundary_width: int,
) -> Terms:
    """Weighted sum of BCE (mean over pixels) and 1 - soft Dice (mean over images).

    Args:
        logits: float (B, H, W), unbounded.
        target: float (B, H, W), share of foreground in each pixel, 0..1.
        bce: weight of the cross-entropy.
        dice: weight of the Dice term.
        boundary: what a pixel near the mask's boundary counts above the 1 of every other, in
            both terms; 0 for all pixels alike.
        boundary_width: how near, see `near_boundary`.

    Both terms are computed in float32 whatever the precision of the network.
    """
    logits, target = logits.float(), target.float()
    weight = _weights(near_boundary(target, boundary_width), boundary) if boundary else None
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight)
    missed = 1 - soft_dice(torch.sigmoid(logits), target, weight).mean()
    return Terms(bce * entropy + dice * missed, entropy.detach(), missed.detach())


def soft_dice(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Dice of real-valued masks (B, H, W), each pixel counting its weight, per image: (B,).

    One pixel is added to both halves of the ratio, so that two empty masks score 1 as they
    do in the competition, and the gradient stays finite.
    """
    predicted = probability if weight is None else probability * weight
    overlap = (predicted * target).sum(dim=(1, 2))
    true = target if weight is None else target * weight
    areas = predicted.sum(dim=(1, 2)) + true.sum(dim=(1, 2))
    return (2 * overlap + 1) / (areas + 1)


def _weights(near: Tensor, boundary: float) -> Tensor:
    """Of pixels (B, H, W): mean 1 in each image, whatever images stand beside it in a batch."""
    weight = 1 + boundary * near
    return weight / weight.mean(dim=(1, 2), keepdim=True)


@torch.no_grad()
def near_boundary(target: Tensor, width: int) -> Tensor:
    """Where foreground and background (B, H, W) are both within `width` pixels: 0 or 1.

    The window is a square; of soft targets, a pixel counts as what most of it is.
    """
    hard = (target > 0.5).float()
    highest, lowest = _maximum(hard, width), -_maximum(-hard, width)
    return highest - lowest


def _maximum(values: Tensor, width: int) -> Tensor:
    """The maximum over a square of 2 width + 1 pixels a side: along rows, then columns."""
    side = 2 * width + 1
    along = functional.max_pool2d(values[:, None], (1, side), stride=1, padding=(0, width))
    return functional.max_pool2d(along, (side, 1), stride=1, padding=(width, 0))[:, 0]
