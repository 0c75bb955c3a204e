"""Threshold a map at another size on the CPU, looking only where its edges are.

Four neighbouring values that lie on one side of the threshold decide every pixel between them,
and all but a hundredth of a mask is such cells. In the others the kernel interpolates, with
the weights OpenCV uses and in float64. OpenCV's float32 sums differ from these by less than
`_MARGIN`; where a value comes as near to the threshold as that, the kernel leaves the map to
OpenCV. The result is therefore that of `cv2.resize` and a comparison, in every pixel.
"""

import functools
from typing import Any, NamedTuple

import cv2
import numba
import numpy as np
from llvmlite.ir import (  # type: ignore[import-untyped]
    Constant,
    FloatType,
    IntType,
    Undefined,
    VectorType,
)
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Float32 = NDArray[np.float32]

# Rounding of float32: two products and a sum along each axis of values up to 1, with weights
# rounded to float32, err by at most 8 half units of 2**-24 = 4.8e-7.
_MARGIN = 1e-6
# Interpolating an edge cell costs a hundred times what skipping one does: beyond this share
# of edge cells (noise) OpenCV is faster.
_MOST_EDGES = 1 / 16

_ONE, _ALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)


class Axis(NamedTuple):
    """How pixels of a resized axis are made of those of the source.

    Pixel i is `left[i]` of source pixel `cell[i]` plus `right[i]` of the next; `first[c]` is
    the first pixel of cell c, and `first[-1]` the number of pixels.
    """

    cell: NDArray[np.int64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    first: NDArray[np.int64]


def pack(probability: Float32, size: tuple[int, int], threshold: float, words: Words) -> bool:
    """Set the bits of `resized >= threshold`, eight pixels a byte, row by row.

    Args:
        probability: float32 (h, w), C-contiguous, in 0..1.
        size: (height, width) to resize it to, bilinearly with half-pixel centres.
        words: uint64, ceil(height * width / 64) of them: the first pixel goes to the lowest
            bit of the first; bits after the last pixel become zero.

    Returns:
        Whether it was done. If not, the map is noise, or a value is within rounding of the
        threshold, and `words` are undefined.
    """
    height, width = size
    assert words.size == -(-height * width // 64), f"{words.size} words for {height}x{width}"
    assert probability.dtype == np.float32 and probability.flags.c_contiguous
    rows, columns = axis(probability.shape[0], height), axis(probability.shape[1], width)
    words[:] = 0
    return bool(_pack(probability, rows, columns, threshold, words))


@functools.cache
def axis(source: int, target: int) -> Axis:
    """Read OpenCV's weights off the unit vectors it resizes, whatever its version computes."""
    matrix = cv2.resize(np.eye(source, dtype=np.float32), (target, source))
    cell = np.argmax(matrix != 0, axis=0)
    assert np.count_nonzero(matrix, axis=0).max() <= 2, f"not bilinear: {source} to {target}"
    assert (np.diff(cell) >= 0).all(), f"pixels out of order: {source} to {target}"
    pixels = np.arange(target)
    after = np.minimum(cell + 1, source - 1)
    right = np.where(after > cell, matrix[after, pixels], 0)
    first = np.searchsorted(cell, np.arange(source + 1))
    return Axis(cell, matrix[cell, pixels].astype(np.float64), right.astype(np.float64), first)


@intrinsic
def _at_least(typing_context: Any, values: Any, i: Any, bound: Any) -> Any:
    """Which of the 64 values from values[i] on reach `bound`, as 64 bits: vector instructions."""

    def instructions(context: Any, builder: Any, typed: Any, arguments: Any) -> Any:
        array = context.make_array(typed.args[0])(context, builder, arguments[0])
        vector = VectorType(FloatType(), 64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        loaded = builder.load(address, align=4)
        nothing = Constant(vector, Undefined)
        one = builder.insert_element(nothing, arguments[2], Constant(IntType(32), 0))
        lanes = Constant(VectorType(IntType(32), 64), [0] * 64)
        reached = builder.fcmp_ordered(">=", loaded, builder.shuffle_vector(one, nothing, lanes))
        return builder.bitcast(reached, IntType(64))

    return types.uint64(values, types.intp, types.float32), instructions


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Index of the lowest set bit of a nonzero uint64."""

    def instruction(context: Any, builder: Any, typed: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], Constant(IntType(1), 1))

    return types.int64(types.uint64), instruction


@numba.njit(nogil=True, cache=True)
def _signs(values: Float32, bound: np.float32) -> Words:
    """(h, w // 64 + 1) words: which values reach `bound`; the last is repeated once."""
    height, width = values.shape
    flat = values.reshape(-1)
    signs = np.zeros((height, width // 64 + 1), np.uint64)
    for y in range(height):
        for i in range(width // 64):
            signs[y, i] = _at_least(flat, y * width + i * 64, bound)  # type: ignore[call-arg]
        for x in range(width // 64 * 64, width + 1):
            if values[y, min(x, width - 1)] >= bound:
                signs[y, x // 64] |= _ONE << np.uint64(x % 64)
    return signs


@numba.njit(nogil=True, cache=True)
def _set_run(words: Words, start: int, end: int) -> None:
    """Set the bits `start` to `end` - 1."""
    first, last = start // 64, end // 64
    head, tail = _ALL << np.uint64(start % 64), ~(_ALL << np.uint64(end % 64))
    if first == last:
        words[first] |= head & tail
        return
    words[first] |= head
    words[first + 1 : last] = _ALL
    if tail:
        words[last] |= tail


@numba.njit(nogil=True, cache=True)
def _toggle(words: Words, start: int, pixel: int) -> int:
    """Begin a run at `pixel` (`start` is -1), or end the one from `start`; return its start."""
    if start < 0:
        return pixel
    _set_run(words, start, pixel)
    return -1


@numba.njit(nogil=True, cache=True)
def _cells(high: Words, low: Words, r: int, s: int, ones: Words, mixed: Words) -> bool:
    """Class the cells between source rows `r` and `s`; return whether any is an edge.

    `ones`: all four corners are above the threshold; `mixed`: neither all above nor all below.
    """
    last = ones.size - 1
    found = False
    for i in range(last + 1):
        above, some = high[r, i] & high[s, i], low[r, i] | low[s, i]
        above_next = high[r, i + 1] & high[s, i + 1] if i < last else np.uint64(0)
        some_next = low[r, i + 1] | low[s, i + 1] if i < last else np.uint64(0)
        ones[i] = above & ((above >> _ONE) | (above_next << np.uint64(63)))
        mixed[i] = ~ones[i] & (some | (some >> _ONE) | (some_next << np.uint64(63)))
        found |= mixed[i] != 0
    return found


@numba.njit(nogil=True, cache=True)
def _edge_cell(values, rows, columns, y, c, threshold, words, start):  # type: ignore[no-untyped-def]
    """Interpolate the pixels of cell `c` in row `y`; return the run's start, or -2 in doubt."""
    r, d = rows.cell[y], min(c + 1, values.shape[1] - 1)
    s = min(r + 1, values.shape[0] - 1)
    left = values[r, c] * rows.left[y] + values[s, c] * rows.right[y]
    right = values[r, d] * rows.left[y] + values[s, d] * rows.right[y]
    begin = y * columns.cell.size
    for x in range(columns.first[c], columns.first[c + 1]):
        value = left * columns.left[x] + right * columns.right[x]
        if abs(value - threshold) < _MARGIN:
            return -2
        if (value >= threshold) != (start >= 0):
            start = _toggle(words, start, begin + x)
    return start


@numba.njit(nogil=True, cache=True)
def _pack(values, rows, columns, threshold, words):  # type: ignore[no-untyped-def]
    """See `pack`. A run may go on over the ends of cells and rows; `start` is -1 outside one."""
    source_height, source_width = values.shape
    height, width = rows.cell.size, columns.cell.size
    high = _signs(values, np.float32(threshold + _MARGIN))
    low = _signs(values, np.float32(threshold - _MARGIN))
    ones, mixed = np.empty(high.shape[1], np.uint64), np.empty(high.shape[1], np.uint64)
    rest = int(_MOST_EDGES * source_height * source_width) + 256
    start, any_mixed, r_before = -1, False, -1
    for y in range(height):
        r = rows.cell[y]
        if r != r_before:
            any_mixed = _cells(high, low, r, min(r + 1, source_height - 1), ones, mixed)
            # The repeated last value makes a cell of the last column; there is none after it.
            mixed[source_width // 64] &= ~(_ALL << np.uint64(source_width % 64))
            r_before = r
        following = 0  # the first cell after the last edge cell
        if any_mixed:
            for i in range(mixed.size):
                word = mixed[i]
                while word:
                    c = i * 64 + _trailing_zeros(word)  # type: ignore[call-arg]
                    word &= word - _ONE
                    rest -= 1
                    if c > following:
                        start = _plain(ones, columns, y * width, following, words, start)
                    start = _edge_cell(values, rows, columns, y, c, threshold, words, start)
                    if start == -2 or rest < 0:
                        return False
                    following = c + 1
        if following < source_width:
            start = _plain(ones, columns, y * width, following, words, start)
    if start >= 0:
        _set_run(words, start, height * width)
    return True


@numba.njit(nogil=True, cache=True)
def _plain(ones, columns, begin, c, words, start):  # type: ignore[no-untyped-def]
    """Go on over cell `c` and the like ones after it, which are all above or all below."""
    inside = (ones[c // 64] >> np.uint64(c % 64)) & _ONE
    if (inside != 0) == (start >= 0):
        return start
    return _toggle(words, start, begin + columns.first[c])
