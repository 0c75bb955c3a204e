"""Masks at full resolution as bits, from probabilities at network size.

The bits of a mask are its pixels row by row, eight a byte, the first in the lowest bit, then
zeros up to a whole number of 64-bit words: a thirty-second of a float32 map.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.masks import parts
from pipeline.networks.predictor import full_resolution
from pipeline.predict import edge_cells
from pipeline.support.arrays import Size

Words = NDArray[np.uint64]

# Pixels resized at once on a device: 256 MB of float32.
_MOST_PIXELS = 1 << 26
# A multiplication by this gathers the lowest bits of eight bytes in the highest byte, that of
# the first (little-endian) byte lowest: 8 i + 7 (8 - i) = 56 + i, and no two products meet.
_GATHER = 0x0102040810204080


@torch.inference_mode()
def on_device(probability: Tensor, size: Size, threshold: float) -> Tensor:
    """Resize (B, h, w) float32 bilinearly with half-pixel centres to `size`, threshold, pack.

    Returns:
        uint8 (B, bytes), a multiple of 8 bytes, on the device of `probability`. At most a few
        pixels an image differ from `on_cpu`: those within rounding of the threshold.
    """
    at_once = max(1, _MOST_PIXELS // (size[0] * size[1]))
    starts = range(0, len(probability), at_once)
    return torch.cat([_pack(probability[i : i + at_once], size, threshold) for i in starts])


def on_cpu(probability: NDArray[np.float32], size: Size, threshold: float) -> Words:
    """Return the words (B, N) of (B, h, w): those of `full_resolution(...) >= threshold`."""
    words = np.empty((len(probability), -(-size[0] * size[1] // 64)), np.uint64)
    for one, into in zip(np.ascontiguousarray(probability), words, strict=True):
        if not edge_cells.pack(one, size, threshold, into):
            bits = np.packbits(full_resolution(one, size) >= threshold, bitorder="little")
            into[-1] = 0
            into.view(np.uint8)[: bits.size] = bits
    return words


def largest_parts(words: Words, size: Size) -> Words:
    """Return masks (B, N) of `size` with the largest connected part of each alone."""
    kept = np.zeros_like(words)
    for one, into in zip(words, kept, strict=True):
        pixels = np.unpackbits(one.view(np.uint8), count=size[0] * size[1], bitorder="little")
        bits = np.packbits(parts.largest(pixels.reshape(size) > 0), bitorder="little")
        into.view(np.uint8)[: bits.size] = bits
    return kept


def _pack(probability: Tensor, size: Size, threshold: float) -> Tensor:
    resized = functional.interpolate(
        probability[:, None], size, mode="bilinear", align_corners=False
    )
    mask = (resized >= threshold).flatten(1)  # B, H * W
    if mask.shape[1] % 64:
        mask = functional.pad(mask, (0, -mask.shape[1] % 64))
    eight = mask.view(torch.int64)  # B, H * W / 8
    return ((eight * _GATHER) >> 56).to(torch.uint8)
