"""Scores of several classes, from counts of an image's pixels by true and predicted class.

An image's accuracy is the share of its pixels whose class is right. A class's Dice is
2 |X and Y| / (|X| + |Y|) of the pixels X predicted and Y true, its IoU |X and Y| / |X or Y|;
both are 1 where neither prediction nor truth has the class.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.support.arrays import Float64, Int64, UInt8


class Scores(NamedTuple):
    """Of N images: `accuracy` (N,), `dice` and `iou` (N, C), float64, the best is 1."""

    accuracy: Float64
    dice: Float64
    iou: Float64


def count(prediction: UInt8, truth: UInt8, classes: int) -> Int64:
    """Count an image's pixels by class: int64 (C, C), a row a true class, a column a predicted one.

    Args:
        prediction, truth: (H, W) uint8 class indices.
    """
    assert prediction.shape == truth.shape, f"prediction {prediction.shape}, truth {truth.shape}"
    highest = max(prediction.max(initial=0), truth.max(initial=0))
    assert highest < classes, f"class {highest} of {classes}"
    pairs = truth.astype(np.uint16) * np.uint16(classes) + prediction
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


def at_level(counts: Int64, level: int) -> Int64:
    """The counts (N, 2, 2) of a threshold, background first, from those at all levels (N, 2, 256).

    See `pipeline.metrics.dice.count_levels`.
    """
    background, foreground = counts[:, :, :level].sum(axis=2), counts[:, :, level:].sum(axis=2)
    return np.stack([background, foreground], axis=2)


def scores(counts: Int64) -> Scores:
    """Score each image of the counts (N, C, C)."""
    right = np.diagonal(counts, axis1=1, axis2=2)  # N, C
    total = counts.sum(axis=1) + counts.sum(axis=2)
    either = total - right
    return Scores(
        accuracy=right.sum(axis=1) / counts.sum(axis=(1, 2)),
        dice=np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0),
        iou=np.where(either > 0, right / np.maximum(either, 1), 1.0),
    )


def mean_dice(prediction: UInt8, truth: UInt8, classes: int) -> float:
    """The mean over all classes, background included, of their Dice in one image (H, W)."""
    return float(scores(count(prediction, truth, classes)[None]).dice.mean())


def shares(counts: Int64) -> Float64:
    """The share of each true class, the mean over images: (C,).

    The largest is the accuracy of an answer that is this class everywhere.
    """
    found: Float64 = (counts.sum(axis=2) / counts.sum(axis=(1, 2))[:, None]).mean(0)
    return found


def table(names: Sequence[str], counts: Int64) -> list[dict[str, float]]:
    """One row an image: mean Dice of the classes, accuracy, mean IoU, and those of each class."""
    accuracy, dice, iou = scores(counts)
    headings = ["dice", "accuracy", "iou"]
    headings += [f"{score}_{name}" for score in ("dice", "iou") for name in names]
    values = np.column_stack([dice.mean(axis=1), accuracy, iou.mean(axis=1), dice, iou])
    return [dict(zip(headings, row, strict=True)) for row in values.tolist()]
