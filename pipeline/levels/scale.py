"""A probability as one of 256 levels, and maps of them at full resolution.

A probability p becomes the level floor(256 p), at most 255; threshold k/256 means `level >= k`.
Everything after the networks starts from levels, uint8 at network size: the counts that a
threshold is chosen on, held-out scores, submissions, cutouts. `full_resolution` is the one way from
there to an image's own size, so what is tuned is exactly what is submitted.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.support.arrays import Size, UInt8

LEVELS = 256
HALF = 128  # the level of threshold 0.5
# Levels that are neither nearly 0 nor nearly 1: probabilities from 13/256 to below 243/256.
UNCERTAIN = slice(13, 243)


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


def mix(maps: Sequence[UInt8], weights: Sequence[int], size: Size) -> UInt8:
    """The level of the mean probability, uint8 (H, W), or (C, H, W) of several classes.

    Level k stands for the middle of its probabilities, (k + 0.5)/256. In whole numbers, so that
    the same levels give the same bytes on every machine.

    Args:
        maps: uint8 (h, w) or (C, h, w) each, brought to `size` bilinearly where they differ.
        weights: whole numbers, one a map, not all 0; those of weight 0 are left out.
    """
    assert len(maps) == len(weights) and sum(weights) > 0, f"{len(maps)} maps, {weights}"
    total = sum(weights)
    assert total < 1 << 20, f"weights add up to {total}, beyond 32-bit sums"
    mean: np.ndarray | int = total  # of halves of a level, times the weights
    for levels, weight in zip(maps, weights, strict=True):
        if weight:
            mean = mean + _sized(levels, size).astype(np.uint32) * np.uint32(2 * weight)
    return (np.asarray(mean) // (2 * total)).astype(np.uint8)


def _sized(levels: UInt8, size: Size) -> UInt8:
    if levels.shape[-2:] == size:
        return levels
    if levels.ndim == 2:
        return full_resolution(levels, size)
    return np.stack([full_resolution(one, size) for one in levels])
