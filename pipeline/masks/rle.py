"""Run-length text of masks: 1-indexed `start length` pairs, as Kaggle's graders read it.

The format is the competition's evaluation page; Carvana counts pixels along rows
(`order="C"`). What lies between a mask and its text are runs, see `pipeline.masks.regions`.
"""

from typing import Literal

import numba
import numpy as np

from pipeline.masks import regions
from pipeline.masks.regions import Runs
from pipeline.support.arrays import Mask, UInt8

Order = Literal["C", "F"]

_SATURATED = 1 << 50  # longer numbers are past the end of any mask all the same
_NOT_A_NUMBER, _UNPAIRED, _OVERLAP, _EMPTY_RUN, _PAST_END = 1, 2, 3, 4, 5

_EXPECTED = {
    _NOT_A_NUMBER: "a whole number in digits, one blank between numbers, none at the ends",
    _UNPAIRED: "a length after it: starts and lengths come in pairs",
    _OVERLAP: "a start of {free} or more: pixels count from 1, runs ascend without overlap",
    _EMPTY_RUN: "a length of 1 or more",
    _PAST_END: "a run that ends by the last pixel, {height}x{width} = {size}",
}


class RleError(ValueError):
    """A run-length text that no mask of the given size has; the message points at the token."""


def encode(mask: Mask | UInt8, order: Order = "C") -> str:
    """Return the run-length text of an (H, W) mask: bool or uint8, nonzero = foreground.

    The text is `"start length start length ..."`, starts 1-indexed and ascending, runs as
    long as they can be; `""` for an empty mask. `order` "C" counts pixels along rows, "F"
    down columns. Arrays of any strides will do; C-contiguous ones (for "C") are not copied.
    """
    fits = mask.ndim == 2 and mask.dtype in (np.bool_, np.uint8)
    assert fits, f"a mask is (H, W) bool or uint8, not {mask.shape} {mask.dtype}"
    pixels: UInt8 = np.ravel(mask, order=order).view(np.uint8)
    return write(regions.of_mask(pixels))


def encode_packed(bits: UInt8, height: int, width: int) -> str:
    """Return what `encode` returns, of a (height, width) mask packed eight pixels a byte.

    `bits` are uint8, at least ceil(height * width / 8) of them, the first pixel in the lowest
    bit, as `np.packbits(mask.ravel(), bitorder="little")` makes them. Bits after the last
    pixel are ignored.
    """
    return write(regions.of_packed(bits, height * width))


def decode(rle: str | bytes, height: int, width: int, order: Order = "C") -> Mask:
    """Return the (height, width) bool mask of a run-length text; see `encode`.

    Touching runs (`"1 2 3 4"`) are accepted, as Kaggle accepts them.

    Raises:
        RleError: the text is not digits in pairs with single blanks between them, or its
            runs are empty, overlap, descend or leave the mask.
    """
    runs = read(rle, height, width)
    if order == "F":
        return regions.to_mask(runs, width, height).T
    return regions.to_mask(runs, height, width)


def check(rle: str | bytes, height: int, width: int) -> int:
    """Return the number of foreground pixels, refusing what `decode` refuses; no mask is made."""
    return regions.area(read(rle, height, width))


def write(runs: Runs) -> str:
    """Return the text of runs."""
    assert not len(runs) or runs[-1, 1] < 1 << 32, f"{runs[-1, 1]} pixels; positions are 32-bit"
    return _write(runs).tobytes().decode("ascii")


def read(rle: str | bytes, height: int, width: int) -> Runs:
    """Return the runs of a text, refusing what `decode` refuses.

    Raises:
        RleError: no (height, width) mask has this text.
    """
    text = rle.encode("utf-8", "replace") if isinstance(rle, str) else rle
    size = height * width
    # With a blank at the end the kernel closes every number the same way.
    runs, fault, token = _read(np.frombuffer(text + b" " if text else b"", np.uint8), size)
    if fault:
        tokens = text.decode("utf-8", "replace").split(" ")
        free = int(runs[-1, 1]) + 1 if len(runs) else 1
        expected = _EXPECTED[fault].format(free=free, height=height, width=width, size=size)
        found = f"token {token + 1} of {len(tokens)} is {tokens[token][:40]!r}"
        raise RleError(f"{found}; expected {expected}")
    return runs


# Compiled on first use; they release the GIL, so threads work side by side.


@numba.njit(nogil=True, cache=True)
def _digits(value: int) -> int:
    digits, bound = 1, 10
    while value >= bound:
        digits += 1
        bound *= 10
    return digits


@numba.njit(nogil=True, cache=True)
def _write_number(value: int, out: UInt8, at: int) -> int:
    """Write `value` and a blank at `out[at]`; return the position after them."""
    rest, digits = np.uint32(value), _digits(value)
    for i in range(at + digits - 1, at - 1, -1):
        quotient = rest // np.uint32(10)
        out[i] = np.uint32(48) + rest - quotient * np.uint32(10)
        rest = quotient
    out[at + digits] = 32
    return at + digits + 1


@numba.njit(nogil=True, cache=True)
def _write(runs: Runs) -> UInt8:
    length = 0
    for i in range(len(runs)):
        length += _digits(runs[i, 0] + 1) + _digits(runs[i, 1] - runs[i, 0]) + 2
    out, at = np.empty(length, np.uint8), 0
    for i in range(len(runs)):
        at = _write_number(runs[i, 0] + 1, out, at)
        at = _write_number(runs[i, 1] - runs[i, 0], out, at)
    return out[: max(0, length - 1)]  # no blank at the end


@numba.njit(nogil=True, cache=True)
def _read(text: UInt8, size: int) -> tuple[Runs, int, int]:
    """Read `text`, which ends in a blank: (runs up to a fault, the fault or 0, its token)."""
    runs, count = np.empty((text.size // 4 + 1, 2), np.int64), 0  # "1 2 " is the shortest run
    end, start, token, value, digits = 0, -1, 0, 0, 0
    for i in range(text.size):
        digit = text[i] - 48
        if 0 <= digit <= 9:
            value = min(value * 10 + digit, _SATURATED)
            digits += 1
            continue
        fault = _fault(text[i], digits, value, start, end, size)
        if fault:
            return runs[:count], fault, token
        if start < 0:
            start = value - 1
        else:
            end = start + value
            runs[count, 0], runs[count, 1] = start, end
            count, start = count + 1, -1
        value, digits, token = 0, 0, token + 1
    return runs[:count], _UNPAIRED if start >= 0 else 0, token - 1


@numba.njit(nogil=True, cache=True)
def _fault(after: int, digits: int, value: int, start: int, end: int, size: int) -> int:
    """What is wrong with a number, or 0; it is a length when `start` is that of an open run."""
    if after != 32 or digits == 0:
        return _NOT_A_NUMBER
    if start >= 0:
        return _EMPTY_RUN if value < 1 else _PAST_END if start + value > size else 0
    return _OVERLAP if value <= end else 0
