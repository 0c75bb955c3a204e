"""Masks at full resolution as bits, from probabilities at network size.

The bits of a mask are its pixels row by row, eight a byte, the first in the lowest bit, then
zeros up to a whole number of 64-bit words: a thirty-second of a float32 map.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import parts
from pipeline.support.arrays import Size

Words = NDArray[np.uint64]


def largest_parts(words: Words, size: Size) -> Words:
    """Return masks (B, N) of `size` with the largest connected part of each alone."""
    kept = np.zeros_like(words)
    for one, into in zip(words, kept, strict=True):
        pixels = np.unpackbits(one.view(np.uint8), count=size[0] * size[1], bitorder="little")
        bits = np.packbits(parts.largest(pixels.reshape(size) > 0), bitorder="little")
        into.view(np.uint8)[: bits.size] = bits
    return kept
