"""CSV rows of a submission, straight from packed masks: a batch of images in one compiled call."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.rle_kernels import encode_rows

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

# Bytes of text an image to try first: real Carvana masks need 9 kB on average, 15 kB at most.
_FIRST_CAPACITY = 1 << 14


def encode(names: Sequence[str], words: Words, pixels: int) -> bytes:
    r"""Return the rows `name,run lengths\n` of masks of one size.

    Args:
        names: of the images, as `submission.check_name` takes them.
        words: uint64 (B, ceil(pixels / 64)): eight pixels a byte, the first in the lowest bit,
            zeros after the last.
        pixels: of a mask, fewer than 2**32.
    """
    assert words.shape == (len(names), -(-pixels // 64)), f"{words.shape} words, {pixels} pixels"
    assert pixels < 1 << 32, f"{pixels} pixels; positions are 32-bit"
    encoded = [name.encode() for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    text = np.frombuffer(b"".join(encoded), np.uint8)
    # Every other pixel set is the longest text: starts of the full width, lengths of one digit.
    worst = len(names) * ((pixels + 1) // 2 * 13 + 4096) + len(text)
    capacity = min(len(names) * _FIRST_CAPACITY + len(text), worst)
    while True:
        out = np.empty(capacity, np.uint8)
        length = encode_rows(text, ends, words, pixels // 64, out)
        if length >= 0:
            return out[:length].tobytes()
        assert capacity < worst, f"rows of {pixels} pixels pass their bound of {worst} bytes"
        capacity = min(capacity * 8, worst)


def foreground(words: Words) -> NDArray[np.int64]:
    """Return the set pixels of each mask of (B, N) words."""
    counts: NDArray[np.int64] = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return counts
