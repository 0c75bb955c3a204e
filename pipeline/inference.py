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
from torch.utils.data import DataLoader

from pipeline.archives import Archives
from pipeline.dataset import ImageSet, Resize, collate
from pipeline.images import Size
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
    loader = DataLoader(
        ImageSet(rows, archives, size, resize),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=fabric.device.type == "cuda",
    )
    for indices, images, errors in loader:
        maps = _probabilities(models, images.to(fabric.device, non_blocking=True), tta)
        for index, probability, error in zip(indices, maps.cpu().numpy(), errors, strict=True):
            yield Prediction(rows[index], probability, error)


def full_resolution(probability: Float32, size: Size) -> Float32:
    """Resize a probability map (h, w) bilinearly, half-pixel centres, to (height, width)."""
    resized = cv2.resize(probability, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.float32)


@torch.inference_mode()
def _probabilities(models: Sequence[nn.Module], images: Tensor, tta: Tta) -> Tensor:
    """Mean probability (B, h, w) float32 over models and flips of (B, h, w, 3) images."""
    total = torch.zeros(images.shape[:3], device=images.device)
    for model in models:
        total += torch.sigmoid(model(images).float())
        if tta == "hflip":
            total += torch.sigmoid(model(images.flip(2)).float()).flip(2)
    return total / (len(models) * (2 if tta == "hflip" else 1))
