"""Probabilities for a stream of images, out of fold and for the test set alike."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.archives import Archives
from pipeline.images import Size
from pipeline.prediction.decoding import Batch, Resize, decoded
from pipeline.samples import Sample

Float32 = npt.NDArray[np.float32]
Tta = Literal["none", "hflip"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the models say of one image.

    `probability` is float32 (h, w) in 0..1 at network size, the mean over models and
    test-time augmentation. `error` says why the image could not be read, else it is empty.
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
    (B, H, W, 3) uint8 and return logits (B, H, W); they must be in evaluation mode.
    """
    pinned = fabric.device.type == "cuda"
    for batch in decoded(rows, archives, size, resize, batch_size, workers, pinned):
        maps = forward(batch, models, tta, fabric, 0.5).probability.cpu().numpy()
        for row, probability, error in zip(batch.rows, maps, batch.errors, strict=True):
            yield Prediction(row, probability, error)


def full_resolution(probability: Float32, size: Size) -> Float32:
    """Resize a probability map (h, w) bilinearly, half-pixel centres, to (height, width)."""
    resized = cv2.resize(probability, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """What the models say of a batch, still on the device.

    `probability` is float32 (B, h, w), the mean over models and flips. `disagreement` is
    float32 (B,): the share of pixels on which the models, thresholded one by one after their
    flips, do not all agree; 0 with one model.
    """

    probability: Tensor
    disagreement: Tensor


@torch.inference_mode()
def forward(
    batch: Batch, models: Sequence[nn.Module], tta: Tta, fabric: Fabric, threshold: float
) -> Probabilities:
    """Run all models over a batch; on a GPU this returns before they are done."""
    images = batch.images.to(fabric.device, non_blocking=True)
    with fabric.autocast():
        each = [_probability(model, images, tta) for model in models]
        total = torch.zeros_like(each[0])
        agreed = each[0] >= threshold
        differs = torch.zeros_like(agreed)
        for probability in each:
            total += probability
            differs |= agreed != (probability >= threshold)
        return Probabilities(total / len(models), differs.float().mean(dim=(1, 2)))


def _probability(model: nn.Module, images: Tensor, tta: Tta) -> Tensor:
    """Probability (B, h, w) float32 of (B, h, w, 3) images, the mean over flips."""
    probability = torch.sigmoid(model(images).float())
    if tta == "none":
        return probability
    return (probability + torch.sigmoid(model(images.flip(2)).float()).flip(2)) / 2
