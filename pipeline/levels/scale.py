"""A probability as one of 256 levels, and maps of them at full resolution.

A probability p becomes the level floor(256 p), at most 255; threshold k/256 means `level >= k`.
Everything after the networks starts from levels, uint8 at network size: the counts that a
threshold is chosen on, held-out scores, submissions, cutouts. `full_resolution` is the one way from
there to an image's own size, so what is tuned is exactly what is submitted.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.support.arrays import Size, UInt8

LEVELS = 256
HALF = 128  # the level of threshold 0.5


def of(probability: NDArray[np.floating]) -> UInt8:
    """The level of each probability, uint8 of the same shape: floor(256 p), at most 255.

    Probabilities are floats in [0, 1]. Multiplying by 256 is exact in binary floating point,
    so `of(p) >= k` equals `p >= k / 256` for k up to 255.
    """
    low, high = np.min(probability, initial=0), np.max(probability, initial=0)
    # NaN carries through min and max and fails both comparisons.
    assert low >= 0 and high <= 1, f"probabilities from {low} to {high}; expected 0 to 1"
    found: UInt8 = np.minimum(probability * LEVELS, LEVELS - 1).astype(np.uint8)
    return found


def full_resolution(levels: UInt8, size: Size) -> UInt8:
    """Resize a map (h, w) of levels bilinearly, half-pixel centres, to (height, width).

    OpenCV's 8-bit arithmetic: a value lies within one level of the exact one, and the
    same levels give the same bytes on every machine.
    """
    resized = cv2.resize(levels, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def decide(levels: UInt8, size: Size, level: int = HALF) -> UInt8:
    """The class index of each pixel at full resolution, uint8 (H, W).

    Args:
        levels: (h, w) of one class, or (C, h, w) of several.
        level: foreground is what reaches it. Of several classes it means nothing: the highest
            level wins, the first of equal ones.
    """
    if levels.ndim == 2:
        return (full_resolution(levels, size) >= level).view(np.uint8)
    highest = full_resolution(levels[0], size)
    found = np.zeros(size, np.uint8)
    for index, one in enumerate(levels[1:], start=1):
        resized = full_resolution(one, size)
        found[resized > highest] = index
        np.maximum(highest, resized, out=highest)
    return found


def nearest(threshold: float) -> int:
    """Return the level k whose threshold k/256 is nearest to `threshold`, at most 255."""
    return min(LEVELS - 1, round(LEVELS * threshold))
