"""How well a mask follows the true boundary, which the Dice of a large object hardly says.

A mask's boundary are its pixels that touch background at a side or a corner, or the picture's edge.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.metrics.dice import dice
from pipeline.support.arrays import Float32, Mask

NEAR = 3  # pixels to either side of the true boundary that `Boundary.dice` looks at


class Boundary(NamedTuple):
    """`distance`: the mean distance in pixels from each boundary to the other, of both masks'
    boundary pixels together; 0 where both masks are empty, the picture's diagonal where one is.
    `dice`: the Dice of the pixels that are at most `NEAR` pixels away from the true boundary.
    """

    distance: float
    dice: float


def compare(prediction: Mask, truth: Mask) -> Boundary:
    """Compare the boundaries of two (H, W) bool masks."""
    assert prediction.shape == truth.shape, f"prediction {prediction.shape}, truth {truth.shape}"
    if not (prediction.any() and truth.any()):
        alike = prediction.any() == truth.any()
        return Boundary(0.0 if alike else math.hypot(*truth.shape), float(alike))
    place = _around(prediction | truth)
    prediction, truth = prediction[place], truth[place]
    found, true = _boundary(prediction), _boundary(truth)
    to_true = _distance_to(true)
    distances = np.concatenate([to_true[found], _distance_to(found)[true]])
    near = to_true <= NEAR
    return Boundary(float(distances.mean()), dice(prediction & near, truth & near))


def _around(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns that hold the mask, and a pixel more: there is no boundary elsewhere."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (
        slice(max(0, int(rows[0]) - 1), int(rows[-1]) + 2),
        slice(max(0, int(columns[0]) - 1), int(columns[-1]) + 2),
    )


def _boundary(mask: Mask) -> Mask:
    inner = cv2.erode(
        mask.view(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )  # fmt: skip
    found: Mask = mask & (inner == 0)
    return found


def _distance_to(pixels: Mask) -> Float32:
    """The distance of each pixel to the nearest of `pixels`, of which there are some."""
    others = (~pixels).view(np.uint8)
    found = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)
