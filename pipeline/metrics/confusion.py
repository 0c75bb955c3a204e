"""What pixels are taken for: counts by true and predicted class, and the scores they give.

Of an image, the accuracy is the share of pixels whose class is right. A class's Dice is
2 |X and Y| / (|X| + |Y|) of the pixels X predicted and Y true, its IoU |X and Y| / |X or Y|;
both are 1 where neither prediction nor truth has the class.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scores(NamedTuple):
    """Of N images: `accuracy` (N,), `dice` and `iou` (N, C), float64, the best is 1."""

    accuracy: NDArray[np.float64]
    dice: NDArray[np.float64]
    iou: NDArray[np.float64]


def count(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """Count an image's pixels by class: int64 (C, C), a row a true class, a column a predicted one.

    Args:
        prediction, truth: (H, W) uint8 class indices.
    """
    assert prediction.shape == truth.shape, f"prediction {prediction.shape}, truth {truth.shape}"
    highest = max(prediction.max(initial=0), truth.max(initial=0))
    assert highest < classes, f"class {highest} of {classes}"
    pairs = truth.astype(np.uint16) * np.uint16(classes) + prediction
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


def of_levels(counts: NDArray[np.int64], level: int) -> NDArray[np.int64]:
    """The counts (N, 2, 2) of a threshold, background first, from those at all levels (N, 2, 256).

    See `pipeline.metrics.dice.count_levels`.
    """
    background, foreground = counts[:, :, :level].sum(axis=2), counts[:, :, level:].sum(axis=2)
    return np.stack([background, foreground], axis=2)


def scores(counts: NDArray[np.int64]) -> Scores:
    """Score each image of the counts (N, C, C)."""
    right = np.diagonal(counts, axis1=1, axis2=2)  # N, C
    total = counts.sum(axis=1) + counts.sum(axis=2)
    either = total - right
    return Scores(
        accuracy=right.sum(axis=1) / counts.sum(axis=(1, 2)),
        dice=np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0),
        iou=np.where(either > 0, right / np.maximum(either, 1), 1.0),
    )


def mean_dice(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> float:
    """The mean over all classes, background included, of their Dice in one image (H, W)."""
    return float(scores(count(prediction, truth, classes)[None]).dice.mean())


def shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each true class, the mean over images: (C,).

    The largest is the accuracy of an answer that is this class everywhere.
    """
    found: NDArray[np.float64] = (counts.sum(axis=2) / counts.sum(axis=(1, 2))[:, None]).mean(0)
    return found
