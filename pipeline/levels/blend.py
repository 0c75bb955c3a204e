"""The weighted mean of several maps of levels."""

from collections.abc import Sequence

import numpy as np

from pipeline.levels import scale
from pipeline.support.arrays import Size, UInt8


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
        return scale.full_resolution(levels, size)
    return np.stack([scale.full_resolution(one, size) for one in levels])
