"""Probabilities for a stream of images, out of fold and for the test set alike."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.data.archives import Archives
from pipeline.data.decoding import Resize, decoded
from pipeline.data.samples import Sample
from pipeline.support.arrays import Float32, Size, UInt8

Tta = Literal["none", "hflip"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the models say of one image.

    `probability` is float32 (h, w) in 0..1 at network size, the mean over models and
    test-time augmentation; of several classes (C, h, w), which add up to 1. `error` says why
    the image could not be read, else it is empty.
    """

    row: Sample
    probability: Float32
    error: str


def stream(
    rows: Sequence[Sample],
    archives: Archives,
    models: Sequence[nn.Module],
    size: Size,
    resize: Resize,
    tta: Tta,
    fabric: Fabric,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    """Predict `rows` in order, batch by batch; nothing grows with their number.

    Every image is read and decoded once, however many models there are. The models take
    (B, H, W, 3) uint8 and return logits (B, H, W) or (B, C, H, W); they must be in evaluation mode.
    """
    pinned = fabric.device.type == "cuda"
    for batch in decoded(rows, archives, size, resize, batch_size, workers, pinned):
        maps = forward(batch.images, models, tta, fabric, 0.5).probability.cpu().numpy()
        for row, probability, error in zip(batch.rows, maps, batch.errors, strict=True):
            yield Prediction(row, probability, error)


def full_resolution(probability: Float32, size: Size) -> Float32:
    """Resize a probability map (h, w) bilinearly, half-pixel centres, to (height, width)."""
    resized = cv2.resize(probability, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.float32)


def decided(probability: Float32, size: Size) -> UInt8:
    """The class index of each pixel (H, W), from probabilities (h, w) or (C, h, w).

    One class is told from background at 0.5; of several the most probable one wins, the first
    of equal ones. The probabilities are resized, not the decisions.
    """
    if probability.ndim == 2:
        return (full_resolution(probability, size) >= 0.5).view(np.uint8)
    highest = full_resolution(probability[0], size)
    found = np.zeros(size, np.uint8)
    for index, small in enumerate(probability[1:], start=1):
        resized = full_resolution(small, size)
        found[resized > highest] = index
        np.maximum(highest, resized, out=highest)
    return found


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """What the models say of a batch, still on the device.

    `probability` is float32 (B, h, w) or (B, C, h, w), the mean over models and flips.
    `disagreement` is float32 (B,): the share of pixels on which the models, deciding one by one
    after their flips, do not all agree; 0 with one model.
    """

    probability: Tensor
    disagreement: Tensor


@torch.inference_mode()
def forward(
    images: Tensor, models: Sequence[nn.Module], tta: Tta, fabric: Fabric, threshold: float
) -> Probabilities:
    """Run all models over (B, h, w, 3) uint8; on a GPU this returns before they are done."""
    images = images.to(fabric.device, non_blocking=True)
    with fabric.autocast():
        each = [_probability(model, images, tta) for model in models]
        total = torch.zeros_like(each[0])
        agreed = _decision(each[0], threshold)
        differs = torch.zeros_like(agreed, dtype=torch.bool)
        for probability in each:
            total += probability
            differs |= agreed != _decision(probability, threshold)
        return Probabilities(total / len(models), differs.float().mean(dim=(1, 2)))


def _decision(probability: Tensor, threshold: float) -> Tensor:
    """What each pixel (B, h, w) is decided to be: foreground or not, or a class index."""
    return probability >= threshold if probability.ndim == 3 else probability.argmax(dim=1)


def _probability(model: nn.Module, images: Tensor, tta: Tta) -> Tensor:
    """Probability (B, h, w) or (B, C, h, w), float32, of (B, h, w, 3), the mean over flips."""
    probability = _normalized(model(images))
    if tta == "none":
        return probability
    return (probability + _normalized(model(images.flip(2))).flip(-1)) / 2


def _normalized(logits: Tensor) -> Tensor:
    """Logits as probabilities: of the foreground, or of all classes."""
    logits = logits.float()
    return torch.sigmoid(logits) if logits.ndim == 3 else torch.softmax(logits, dim=1)
