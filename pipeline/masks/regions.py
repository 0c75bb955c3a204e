"""Masks as runs of pixels: areas, overlaps and connected parts without ever making the mask.

A Carvana mask has 2.5 million pixels in about 770 runs. Runs are found 64 pixels at a time, in a
mask, in levels (no mask is made of them) or in packed bits. The kernels are compiled by numba on
first use and release the GIL; they read 64-bit words and assume a little-endian machine.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numba
import numpy as np
from llvmlite.ir import Constant, IntType, Undefined, VectorType  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from pipeline.support.arrays import Mask, UInt8

# int64 (N, 2): first pixel of each run and the one after its last, 0-indexed along rows,
# ascending, not overlapping.
Runs: TypeAlias = NDArray[np.int64]

_FIRST_ROOM = 2048  # runs; nearly all masks have fewer
_WORD_RUNS = 33  # at most begin or end in a word of 64 pixels
_NONE, _ALL, _ONE = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a mask is made of: pixels in all, and connected parts."""

    area: int
    count: int


# --- to runs and back


def of_mask(mask: Mask | UInt8) -> Runs:
    """The runs of an (H, W) mask: bool or uint8, nonzero = foreground."""
    assert mask.dtype in (np.bool_, np.uint8), f"a mask is bool or uint8, not {mask.dtype}"
    pixels = np.ravel(mask).view(np.uint8)
    return _with_room(lambda runs: _of_bytes(pixels, np.uint8(1), runs))


def of_levels(levels: UInt8, level: int) -> Runs:
    """The runs of pixels (H, W), uint8, that reach `level`, 0 to 255."""
    assert levels.dtype == np.uint8, f"levels are uint8, not {levels.dtype}"
    pixels = np.ravel(levels)
    return _with_room(lambda runs: _of_bytes(pixels, np.uint8(level), runs))


def of_packed(bits: UInt8, size: int) -> Runs:
    """The runs of `size` pixels packed eight a byte, as `np.packbits(..., bitorder="little")` does.

    Bits after the last pixel are ignored.
    """
    needed = -(-size // 8)
    fits = bits.dtype == np.uint8 and bits.size >= needed
    assert fits, f"{size} pixels are {needed} uint8, not {bits.size} {bits.dtype}"
    packed = np.ravel(bits)[:needed]
    whole = size // 64 * 8
    words = np.require(packed[:whole].view(np.uint64), requirements="A")  # aligned
    tail = int.from_bytes(packed[whole:].tobytes(), "little") % (1 << size % 64)
    return _with_room(lambda runs: _of_words(words, np.uint64(tail), runs))


def to_mask(runs: Runs, height: int, width: int) -> Mask:
    """The (height, width) bool mask of runs along rows."""
    pixels = np.zeros(height * width, np.bool_)
    _fill(runs, pixels)
    return pixels.reshape(height, width)


def _with_room(find: Callable[[Runs], int]) -> Runs:
    """What a kernel finds, given as much room as it turns out to need."""
    runs = np.empty((_FIRST_ROOM, 2), np.int64)
    while (count := find(runs)) < 0:
        runs = np.empty((8 * len(runs), 2), np.int64)
    return runs[:count]


# --- what they tell


def area(runs: Runs) -> int:
    """The number of pixels in the runs."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def overlap(first: Runs, second: Runs) -> int:
    """The number of pixels that are in both."""
    return int(_overlap(first, second))


def dice(prediction: Runs, truth: Runs) -> float:
    """The competition's Dice of two masks of one size, as `pipeline.metrics` has it."""
    total = area(prediction) + area(truth)
    return 2 * overlap(prediction, truth) / total if total else 1.0


def measure(runs: Runs, width: int) -> Parts:
    """Count the connected parts of a mask that is `width` pixels wide.

    Pixels that touch at a side or a corner belong together (8-connectivity). Runs are joined
    row by row with a union-find, which takes the time of the runs, not of the pixels.
    """
    return Parts(area(runs), _count_parts(_cut(runs, width), width))


# --- compiled


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Index of the lowest set bit of a nonzero uint64: one machine instruction."""

    def instruction(context: Any, builder: Any, typed: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], Constant(IntType(1), 1))

    return types.int64(types.uint64), instruction


@intrinsic
def _reach(typing_context: Any, pixels: Any, i: Any, bound: Any) -> Any:
    """Which of the 64 bytes from pixels[i] on reach `bound`, as 64 bits: vector instructions."""

    def instructions(context: Any, builder: Any, typed: Any, arguments: Any) -> Any:
        array = context.make_array(typed.args[0])(context, builder, arguments[0])
        vector = VectorType(IntType(8), 64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        loaded = builder.load(address, align=1)
        nothing = Constant(vector, Undefined)
        one = builder.insert_element(nothing, arguments[2], Constant(IntType(32), 0))
        lanes = Constant(VectorType(IntType(32), 64), [0] * 64)
        reached = builder.icmp_unsigned(">=", loaded, builder.shuffle_vector(one, nothing, lanes))
        return builder.bitcast(reached, IntType(64))

    return types.uint64(pixels, types.intp, types.uint8), instructions


@numba.njit(nogil=True, cache=True)
def _add_word(word: np.uint64, base: int, start: int, runs: Runs, count: int) -> tuple[int, int]:
    """Add the runs that end in the 64 pixels of `word`, of which pixel `base` is the first.

    `start` is the first pixel of the run that `base` may continue, or -1 when there is none.
    Returns the new (start, count); there is room for `_WORD_RUNS` more.
    """
    edges = word ^ ((word << _ONE) | np.uint64(start >= 0))
    while edges:
        pixel = base + _trailing_zeros(edges)  # type: ignore[call-arg]
        edges &= edges - _ONE
        if start < 0:
            start = pixel
        else:
            runs[count, 0], runs[count, 1] = start, pixel
            count, start = count + 1, -1
    return start, count


@numba.njit(nogil=True, cache=True)
def _of_bytes(pixels: UInt8, bound: np.uint8, runs: Runs) -> int:
    """Find the runs of pixels, a byte each, that reach `bound`; -1: too little room."""
    count, start, same = 0, -1, _NONE
    whole = pixels.size // 64 * 64
    for i in range(0, whole, 64):
        word: np.uint64 = _reach(pixels, i, bound)  # type: ignore[call-arg]
        if word != same:
            if count + _WORD_RUNS > len(runs):
                return -1
            start, count = _add_word(word, i, start, runs, count)
            same = _ALL if start >= 0 else _NONE
    last = _NONE  # its zeros end a run
    for i in range(whole, pixels.size):
        if pixels[i] >= bound:
            last |= _ONE << np.uint64(i - whole)
    if count + _WORD_RUNS > len(runs):
        return -1
    return _add_word(last, whole, start, runs, count)[1]


@numba.njit(nogil=True, cache=True)
def _of_words(words: NDArray[np.uint64], last: np.uint64, runs: Runs) -> int:
    """Find the runs of 64 pixels a word, then of `last`, whose zeros end a run; see `_of_bytes`."""
    count, start, same = 0, -1, _NONE
    for i in range(words.size):
        if words[i] != same:
            if count + _WORD_RUNS > len(runs):
                return -1
            start, count = _add_word(words[i], i * 64, start, runs, count)
            same = _ALL if start >= 0 else _NONE
    if count + _WORD_RUNS > len(runs):
        return -1
    return _add_word(last, words.size * 64, start, runs, count)[1]


@numba.njit(nogil=True, cache=True)
def _fill(runs: Runs, pixels: Mask) -> None:
    for i in range(len(runs)):
        pixels[runs[i, 0] : runs[i, 1]] = True


@numba.njit(nogil=True, cache=True)
def _overlap(first: Runs, second: Runs) -> int:
    total, i, j = 0, 0, 0
    while i < len(first) and j < len(second):
        total += max(0, min(first[i, 1], second[j, 1]) - max(first[i, 0], second[j, 0]))
        if first[i, 1] <= second[j, 1]:
            i += 1
        else:
            j += 1
    return total


@numba.njit(nogil=True, cache=True)
def _cut(runs: Runs, width: int) -> Runs:
    count = 0
    for i in range(len(runs)):
        count += (runs[i, 1] - 1) // width - runs[i, 0] // width + 1
    pieces = np.empty((count, 2), np.int64)
    at = 0
    for i in range(len(runs)):
        start = runs[i, 0]
        while start < runs[i, 1]:
            end = min(runs[i, 1], (start // width + 1) * width)
            pieces[at, 0], pieces[at, 1] = start, end
            start, at = end, at + 1
    return pieces


@numba.njit(nogil=True, cache=True)
def _root(parents: NDArray[np.int64], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@numba.njit(nogil=True, cache=True)
def _count_parts(pieces: Runs, width: int) -> int:
    parents = np.arange(len(pieces))
    above = 0
    for i in range(len(pieces)):
        start, end = pieces[i, 0], pieces[i, 1]
        row = start // width
        # Runs of one row that touch, as "1 2 3 4" has them.
        if i and pieces[i - 1, 1] == start and pieces[i - 1, 0] // width == row:
            parents[_root(parents, i)] = _root(parents, i - 1)
        # Everything is moved up by a row; corners touch, so the ends may meet. What lies
        # left of this piece also lies left of all that follow.
        start, end = start - width, end - width
        while above < i and (
            pieces[above, 0] // width < row - 1
            or (pieces[above, 0] // width == row - 1 and pieces[above, 1] < start)
        ):
            above += 1
        other = above
        while other < i and pieces[other, 0] // width == row - 1 and pieces[other, 0] <= end:
            parents[_root(parents, other)] = _root(parents, i)
            other += 1
    count = 0
    for i in range(len(pieces)):
        count += parents[i] == i
    return count
