"""Connected parts of a mask: how many there are, and the largest one alone.

Pixels that touch at a side or a corner belong together (8-connectivity). Runs are joined
row by row with a union-find, which takes the time of the runs, not of the pixels.
"""

import dataclasses

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.masks import runs
from pipeline.masks.runs import Runs


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a mask is made of: pixels in all, connected parts, pixels of the largest one."""

    area: int
    count: int
    largest: int


def measure(mask: Runs, width: int) -> Parts:
    """Count the parts of a mask that is `width` pixels wide."""
    pieces, roots = _joined(mask, width)
    areas = _areas(pieces, roots)
    return Parts(int(areas.sum()), int(np.count_nonzero(areas)), int(areas.max(initial=0)))


def largest_runs(mask: Runs, width: int) -> Runs:
    """Return the runs of the largest part, cut at the ends of rows; the first of equal ones."""
    pieces, roots = _joined(mask, width)
    if not len(pieces):
        return mask
    found: Runs = pieces[roots == np.argmax(_areas(pieces, roots))]
    return found


def largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return an (H, W) bool mask with its largest part alone; an empty one stays empty."""
    kept = np.zeros(mask.size, np.bool_)
    for start, end in largest_runs(runs.of_mask(mask), mask.shape[1]):
        kept[start:end] = True
    return kept.reshape(mask.shape)


def _areas(pieces: Runs, roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of the part of each root, 0 where a piece is none."""
    areas = np.zeros(len(pieces), np.int64)
    np.add.at(areas, roots, pieces[:, 1] - pieces[:, 0])
    return areas


def _joined(mask: Runs, width: int) -> tuple[Runs, NDArray[np.int64]]:
    """The runs cut at the ends of rows, and for each the index of one that names its part."""
    pieces = _cut(mask, width)
    return pieces, _roots(pieces, width)


@numba.njit(nogil=True, cache=True)
def _cut(mask: Runs, width: int) -> Runs:
    count = 0
    for i in range(len(mask)):
        count += (mask[i, 1] - 1) // width - mask[i, 0] // width + 1
    pieces = np.empty((count, 2), np.int64)
    at = 0
    for i in range(len(mask)):
        start = mask[i, 0]
        while start < mask[i, 1]:
            end = min(mask[i, 1], (start // width + 1) * width)
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
def _roots(pieces: Runs, width: int) -> NDArray[np.int64]:
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
    for i in range(len(pieces)):
        parents[i] = _root(parents, i)
    return parents
