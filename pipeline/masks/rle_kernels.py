"""Run-length text, compiled: what `pipeline.masks.rle` and the rows of a submission are made with.

The kernels are compiled by numba on first use and release the GIL, so threads encode side by
side. They read 64-bit words and assume a little-endian machine. All of them stand in this one
file, because numba's cache notices a change of the file a kernel stands in, and of no other.
"""

from typing import Any

import numba
import numpy as np
from llvmlite.ir import Constant, IntType, VectorType  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

# A word has at most 64 edges; each writes one number of at most 10 digits (uint32) and a blank.
WORD_TEXT = 64 * 11

_NONE, _ALL = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF)

_SATURATED = 1 << 50  # longer numbers are past the end of any mask all the same
NOT_A_NUMBER, UNPAIRED, OVERLAP, EMPTY_RUN, PAST_END = 1, 2, 3, 4, 5


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Index of the lowest set bit of a nonzero uint64: one machine instruction."""

    def instruction(context: Any, builder: Any, typed: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], Constant(IntType(1), 1))

    return types.int64(types.uint64), instruction


@intrinsic
def _nonzero(typing_context: Any, pixels: Any, i: Any) -> Any:
    """Which of the 64 bytes from pixels[i] on are not zero, as 64 bits: vector instructions."""

    def instructions(context: Any, builder: Any, typed: Any, arguments: Any) -> Any:
        array = context.make_array(typed.args[0])(context, builder, arguments[0])
        vector = VectorType(IntType(8), 64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        loaded = builder.load(address, align=1)
        differs = builder.icmp_unsigned("!=", loaded, Constant(vector, [0] * 64))
        return builder.bitcast(differs, IntType(64))

    return types.uint64(pixels, types.intp), instructions


@numba.njit(nogil=True, cache=True)
def _write_number(value: int, out: Bytes, at: int) -> int:
    """Write `value` and a blank at `out[at]`; return the position after them."""
    rest = np.uint32(value)
    digits, bound = 1, 10
    while value >= bound:
        digits += 1
        bound *= 10
    for i in range(at + digits - 1, at - 1, -1):
        quotient = rest // np.uint32(10)
        out[i] = np.uint32(48) + rest - quotient * np.uint32(10)
        rest = quotient
    out[at + digits] = 32
    return at + digits + 1


@numba.njit(nogil=True, cache=True)
def _write_runs(word: np.uint64, base: int, start: int, out: Bytes, at: int) -> tuple[int, int]:
    """Write the numbers of the 64 pixels in `word`, of which pixel `base` is the first.

    `start` is the first pixel of the run that `base` may continue, or -1 when there is none.
    Returns the new (start, at); at is -1 when `out` may have too little room.
    """
    if at + WORD_TEXT > out.size:
        return start, -1
    before = np.uint64(start >= 0)
    edges = word ^ ((word << np.uint64(1)) | before)
    while edges:
        pixel = base + _trailing_zeros(edges)  # type: ignore[call-arg]
        edges &= edges - np.uint64(1)
        if start < 0:
            start = pixel
            at = _write_number(pixel + 1, out, at)
        else:
            at = _write_number(pixel - start, out, at)
            start = -1
    return start, at


@numba.njit(nogil=True, cache=True)
def encode_words(words: Words, last: np.uint64, out: Bytes) -> int:
    """Write the text of 64 pixels a word, then `last`, whose zeros end a run; see `encode`.

    Returns the length of the text, or -1 when `out` may have too little room.
    """
    start, at, same = -1, 0, _NONE
    for i in range(words.size):
        if words[i] != same:
            start, at = _write_runs(words[i], i * 64, start, out, at)
            if at < 0:
                return -1
            same = _ALL if start >= 0 else _NONE
    _, at = _write_runs(last, words.size * 64, start, out, at)
    return at - 1 if at > 0 else at  # no blank at the end


@numba.njit(nogil=True, cache=True)
def encode_bytes(pixels: Bytes, last: np.uint64, out: Bytes) -> int:
    """Write a pixel a byte, then `last`; see `encode_words`."""
    start, at, same = -1, 0, _NONE
    for i in range(0, pixels.size, 64):
        word: np.uint64 = _nonzero(pixels, i)  # type: ignore[call-arg]
        if word != same:
            start, at = _write_runs(word, i, start, out, at)
            if at < 0:
                return -1
            same = _ALL if start >= 0 else _NONE
    _, at = _write_runs(last, pixels.size, start, out, at)
    return at - 1 if at > 0 else at


@numba.njit(nogil=True, cache=True)
def encode_rows(text: Bytes, ends: NDArray[np.int64], words: Words, whole: int, out: Bytes) -> int:
    """Write all rows; return their length, or -1 when `out` may have too little room."""
    at, name = 0, 0
    for i in range(words.shape[0]):
        if at + ends[i] - name + 2 > out.size:
            return -1
        for position in range(name, ends[i]):
            out[at] = text[position]
            at += 1
        name = ends[i]
        out[at] = 44  # a comma
        last = words[i, whole] if whole < words.shape[1] else np.uint64(0)
        length = encode_words(words[i, :whole], last, out[at + 1 : out.size - 1])
        if length < 0:
            return -1
        at += length + 1
        out[at] = 10  # a line feed
        at += 1
    return at


@numba.njit(nogil=True, cache=True)
def scan(text: Bytes, size: int, pixels: Bytes) -> tuple[int, int, int, int]:
    """Read `text`, which ends in a blank: (area, end of the last run, fault or 0, its token)."""
    area, end, start, token = 0, 0, -1, 0
    value, digits = 0, 0
    for i in range(text.size):
        digit = text[i] - 48
        if 0 <= digit <= 9:
            value = min(value * 10 + digit, _SATURATED)
            digits += 1
            continue
        fault = _fault(text[i], digits, value, start, end, size)
        if fault:
            return area, end, fault, token
        if start < 0:
            start = value - 1
        else:
            end = start + value
            if pixels.size:
                pixels[start:end] = 1
            area, start = area + value, -1
        value, digits, token = 0, 0, token + 1
    return area, end, UNPAIRED if start >= 0 else 0, token - 1


@numba.njit(nogil=True, cache=True)
def _fault(after: int, digits: int, value: int, start: int, end: int, size: int) -> int:
    """What is wrong with a number, or 0; it is a length when `start` is that of an open run."""
    if after != 32 or digits == 0:
        return NOT_A_NUMBER
    if start >= 0:
        return EMPTY_RUN if value < 1 else PAST_END if start + value > size else 0
    return OVERLAP if value <= end else 0
