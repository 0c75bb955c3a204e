"""The loss: cross-entropy plus soft Dice, on soft targets of one class or more; its mean so far."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.recipe.schema import Loss
from pipeline.support.errors import UserError

WINDOW = 20  # batches between two looks at a GPU: each makes the host wait for it


class Terms(NamedTuple):
    """The loss and its parts, scalars on the device; `total` is what is minimised.

    `accuracy` is the share of pixels at network size that are decided as most of them is.
    """

    total: Tensor
    bce: Tensor
    dice: Tensor
    accuracy: Tensor


def shares(targets: Tensor, hard: bool = False) -> Tensor:
    """Soft targets as a data set has them, uint8 (B, H, W) or (B, H, W, C), as the loss does.

    Args:
        hard: make each pixel what most of it is.

    Returns:
        float (B, H, W), 0..1, or (B, C, H, W), which add up to 1 over the classes.
    """
    if targets.ndim == 3:
        return (targets > 127).float() if hard else targets / 255
    of_class = targets.permute(0, 3, 1, 2)
    if hard:
        index = of_class.argmax(dim=1)
        return functional.one_hot(index, of_class.shape[1]).permute(0, 3, 1, 2).float()
    return of_class / of_class.sum(dim=1, keepdim=True)  # not 255: shares are rounded


def entropy_dice(logits: Tensor, target: Tensor, weights: Loss) -> Terms:
    """Weighted sum of cross-entropy (mean over pixels) and 1 - soft Dice (mean over images).

    Args:
        logits: float (B, H, W), unbounded, of one class; (B, C, H, W) of C classes one of which
            each pixel is: the cross-entropy is then over classes, and each class counts the
            same in the Dice term.
        target: float, of the same shape, see `shares`.
        weights: `bce` and `dice` of the two terms; `smooth` and `dice_of` say what the soft Dice
            is (see `recipe.schema.Loss`); `boundary` is what a pixel near a mask's (of
            classes, any one's) boundary counts above the 1 of every other, in both terms, and
            `boundary_width` how near, see `near_boundary`.

    Both terms are computed in float32 whatever the precision of the network.
    """
    logits, target = logits.float(), target.float()
    of_one = logits.ndim == 3
    entropy, dice = (_binary if of_one else _of_classes)(logits, target, weights)
    total = weights.bce * entropy + weights.dice * dice
    return Terms(total, entropy.detach(), dice.detach(), _accuracy(logits.detach(), target))


def _accuracy(logits: Tensor, target: Tensor) -> Tensor:
    if logits.ndim == 3:
        right = (logits >= 0) == (target > 0.5)
    else:
        right = logits.argmax(dim=1) == target.argmax(dim=1)
    return right.float().mean()


def _binary(logits: Tensor, target: Tensor, weights: Loss) -> tuple[Tensor, Tensor]:
    weight = None
    if weights.boundary:
        weight = _weights(near_boundary(target, weights.boundary_width), weights.boundary)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight)
    return entropy, 1 - _dice(torch.sigmoid(logits), target, weight, weights).mean()


def _of_classes(logits: Tensor, target: Tensor, weights: Loss) -> tuple[Tensor, Tensor]:
    logs = torch.log_softmax(logits, dim=1)
    one_a_class, classes = target.flatten(0, 1), target.shape[1]  # B * C, H, W
    of_pixel = -(target * logs).sum(dim=1)  # B, H, W
    weight = None
    if weights.boundary:
        near = near_boundary(one_a_class, weights.boundary_width)
        weight = _weights(near.reshape(target.shape).amax(dim=1), weights.boundary)
        of_pixel = of_pixel * weight
        weight = weight.repeat_interleave(classes, dim=0)  # B * C, H, W
    dice = _dice(logs.exp().flatten(0, 1), one_a_class, weight, weights, classes)
    return of_pixel.mean(), 1 - dice.mean()


def _dice(
    probability: Tensor, target: Tensor, weight: Tensor | None, how: Loss, classes: int = 1
) -> Tensor:
    """Soft Dice of images and classes (B * C, H, W), or of whole batches (C,)."""

    def joined(masks: Tensor) -> Tensor:  # those of a class one above the other
        return masks.reshape(-1, classes, *masks.shape[1:]).transpose(0, 1).flatten(1, 2)

    if how.dice_of == "batch":
        probability, target = joined(probability), joined(target)
        weight = None if weight is None else joined(weight)
    return soft_dice(probability, target, weight, how.smooth)


def soft_dice(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    smooth: tuple[float, float] = (1, 1),
) -> Tensor:
    """Dice of real-valued masks (B, H, W), each pixel counting its weight, per image: (B,).

    `smooth` is added to the two halves of the ratio: where it is one pixel each, two empty masks
    score 1 as they do in the competition, and the gradient stays finite.
    """
    predicted = probability if weight is None else probability * weight
    overlap = (predicted * target).sum(dim=(1, 2))
    true = target if weight is None else target * weight
    areas = predicted.sum(dim=(1, 2)) + true.sum(dim=(1, 2))
    return (2 * overlap + smooth[0]) / (areas + smooth[1])


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


class Losses:
    """The loss terms of an epoch's batches, summed on the device.

    Reading a number off a GPU waits for all its work, so that is done once every `WINDOW`
    batches; on a CPU it costs nothing and is done for each.
    """

    def __init__(self, device: torch.device, ids: Sequence[str]) -> None:
        self._sums = torch.zeros(len(Terms._fields), dtype=torch.float64, device=device)
        self._batches = 0
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._window = WINDOW if device.type == "cuda" else 1
        self._ids = ids

    def add(self, terms: Terms, rows: Tensor) -> bool:
        """Take in a batch's terms and the positions of its rows; True when a look is due."""
        found = torch.stack([term.detach() for term in terms])
        self._sums += found
        self._batches += 1
        self._recent.append((found, rows))
        return len(self._recent) >= self._window

    def look(self) -> float:
        """The mean loss of the batches since the last look.

        Raises:
            UserError: one of them is not finite; the message holds its terms and sample ids.
        """
        recent, self._recent = self._recent, []
        if not recent:
            return self.means()[0].item()
        values = torch.stack([found for found, _ in recent]).cpu()
        for found, (_, rows) in zip(values, recent, strict=True):
            if not torch.isfinite(found).all():
                raise UserError(self._explained(found.tolist(), rows))
        return values[:, 0].mean().item()

    def means(self) -> Tensor:
        """The means of loss, BCE, Dice term and accuracy over the epoch so far, on the device."""
        return self._sums / max(1, self._batches)

    def clear(self) -> None:
        """Begin the next epoch."""
        self._sums.zero_()
        self._batches, self._recent = 0, []

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on."""
        return {"sums": self._sums.cpu(), "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._sums.copy_(state["sums"])
        self._batches = state["batches"]

    def _explained(self, found: Sequence[float], rows: Tensor) -> str:
        total, bce, dice, _ = found
        names = ", ".join(self._ids[row] for row in rows.tolist())
        return (
            f"the loss is {total} (BCE {bce}, Dice {dice}) on {names}, expected a finite number; "
            f"lower the phase's learning_rate, set train.gradient.clip, or set "
            f"runtime.precision to 32-true"
        )
