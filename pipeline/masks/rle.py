"""Run-length text of masks: 1-indexed `start length` pairs, as Kaggle's graders read it.

The format is the competition's evaluation page; Carvana counts pixels along rows
(`order="C"`).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import rle_kernels as kernels

Order = Literal["C", "F"]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

# Bytes of text to try first: 1,280 real Carvana masks need 9 kB on average, 15 kB at most.
_FIRST_CAPACITY = 1 << 15

_EXPECTED = {
    kernels.NOT_A_NUMBER: "a whole number in digits, one blank between numbers, none at the ends",
    kernels.UNPAIRED: "a length after it: starts and lengths come in pairs",
    kernels.OVERLAP: "a start of {free} or more: pixels count from 1, runs ascend without overlap",
    kernels.EMPTY_RUN: "a length of 1 or more",
    kernels.PAST_END: "a run that ends by the last pixel, {height}x{width} = {size}",
}


class RleError(ValueError):
    """A run-length text that no mask of the given size has; the message points at the token."""


def encode(mask: NDArray[np.bool_] | Bytes, order: Order = "C") -> str:
    """Return the run-length text of an (H, W) mask: bool or uint8, nonzero = foreground.

    The text is `"start length start length ..."`, starts 1-indexed and ascending, runs as
    long as they can be; `""` for an empty mask. `order` "C" counts pixels along rows, "F"
    down columns. Arrays of any strides will do; C-contiguous ones (for "C") are not copied.
    """
    fits = mask.ndim == 2 and mask.dtype in (np.bool_, np.uint8)
    assert fits, f"a mask is (H, W) bool or uint8, not {mask.shape} {mask.dtype}"
    pixels = np.ravel(mask, order=order).view(np.uint8)
    whole = pixels.size // 64 * 64
    tail = np.packbits(pixels[whole:], bitorder="little")
    return _text(kernels.encode_bytes, pixels[:whole], tail, pixels.size)


def encode_packed(bits: Bytes, height: int, width: int) -> str:
    """Return what `encode` returns, of a (height, width) mask packed eight pixels a byte.

    `bits` are uint8, at least ceil(height * width / 8) of them, the first pixel in the lowest
    bit, as `np.packbits(mask.ravel(), bitorder="little")` makes them. Bits after the last
    pixel are ignored.
    """
    size = height * width
    needed = -(-size // 8)
    fits = bits.dtype == np.uint8 and bits.size >= needed
    assert fits, f"{height}x{width} bits are {needed} uint8, not {bits.size} {bits.dtype}"
    packed = np.ravel(bits)[:needed]
    whole = size // 64 * 8
    words = np.require(packed[:whole].view(np.uint64), requirements="A")  # aligned
    return _text(kernels.encode_words, words, packed[whole:], size)


def decode(rle: str | bytes, height: int, width: int, order: Order = "C") -> NDArray[np.bool_]:
    """Return the (height, width) bool mask of a run-length text; see `encode`.

    Touching runs (`"1 2 3 4"`) are accepted, as Kaggle accepts them.

    Raises:
        RleError: the text is not digits in pairs with single blanks between them, or its
            runs are empty, overlap, descend or leave the mask.
    """
    pixels = np.zeros(height * width, np.uint8)
    _parsed(rle, height, width, pixels)
    return pixels.view(np.bool_).reshape((height, width), order=order)


def check(rle: str | bytes, height: int, width: int) -> int:
    """Return the number of foreground pixels, refusing what `decode` refuses; no mask is made."""
    return _parsed(rle, height, width, np.empty(0, np.uint8))


def _text(kernel: Callable[..., int], whole: Bytes | Words, tail: Bytes, size: int) -> str:
    """Run an encoding kernel with as much room as its text turns out to need."""
    assert size < 1 << 32, f"{size} pixels; positions are 32-bit"
    last = int.from_bytes(tail.tobytes(), "little") % (1 << size % 64)
    # The longest text has every other pixel set: starts of the full width, lengths of one
    # digit, two blanks. A longer run spends more pixels on a character.
    worst = (size + 1) // 2 * (len(str(size)) + 3) + 2 * kernels.WORD_TEXT
    capacity = min(_FIRST_CAPACITY, worst)
    while (length := kernel(whole, np.uint64(last), out := np.empty(capacity, np.uint8))) < 0:
        assert capacity < worst, f"the text of {size} pixels passes its bound of {worst} bytes"
        capacity = min(capacity * 8, worst)
    return out[:length].tobytes().decode("ascii")


def _parsed(rle: str | bytes, height: int, width: int, pixels: Bytes) -> int:
    """Check `rle`, set its runs in `pixels` unless that is empty, and return its area."""
    text = rle.encode("utf-8", "replace") if isinstance(rle, str) else rle
    if not text:
        return 0
    size = height * width
    # With a blank at the end the kernel closes every number the same way.
    area, end, fault, token = kernels.scan(np.frombuffer(text + b" ", np.uint8), size, pixels)
    if fault:
        tokens = text.decode("utf-8", "replace").split(" ")
        expected = _EXPECTED[fault].format(free=end + 1, height=height, width=width, size=size)
        found = f"token {token + 1} of {len(tokens)} is {tokens[token][:40]!r}"
        raise RleError(f"{found}; expected {expected}")
    return area
