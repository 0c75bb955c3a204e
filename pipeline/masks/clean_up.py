"""Repairs of a mask that a person would make at a glance; each can be off, most masks need none.

They are pure functions: the stage that writes a submission and the one that measures what they
bring call the same ones. One top team of the competition gained .0002 with such repairs
(discussion 40144); whether they gain anything is for the out-of-fold masks to say.
"""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.support.arrays import Float32, Float64, Int64, Mask

DEEP = 4  # times the radius: how far a closed gap reaches into the object, twice its width


@dataclasses.dataclass(frozen=True)
class CleanUp:
    """Which repairs are made, in this order; 0 and False leave one out. Sizes at full resolution.

    keep_largest: only the largest connected part stays.
    drop_specks: parts that are at least so many pixels away from the largest one go.
    close: gaps narrower than twice so many pixels that reach deep into the object are closed.
    fill_holes: holes of at most so many pixels are filled.
    """

    keep_largest: bool = False
    drop_specks: int = 0
    close: int = 0
    fill_holes: int = 0


def clean(mask: Mask, settings: CleanUp) -> Mask:
    """Repair an (H, W) bool mask. The one given is not changed; without repairs it is returned."""
    if settings == CleanUp() or not mask.any():
        return mask
    if settings.keep_largest or settings.drop_specks:
        others = specks(mask)
        mask = mask & ~others.mask(
            others.sizes >= (0 if settings.keep_largest else settings.drop_specks)
        )
    if settings.close:
        gaps = narrow_gaps(mask, settings.close)
        mask = mask | gaps.mask(gaps.sizes >= 0)
    if settings.fill_holes:
        inside = holes(mask)
        mask = mask | inside.mask(inside.sizes <= settings.fill_holes)
    return mask


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Connected pieces of a picture that a repair would turn over, if it takes them.

    `labels` is int32 (H, W): the number of the piece that a pixel is in, -1 in none. `sizes` (n,)
    is what decides about each: pixels.
    """

    labels: NDArray[np.int32]
    sizes: Float64

    def mask(self, taken: Mask) -> Mask:
        """The pixels (H, W) of the pieces that are `taken`, (n,) bool."""
        found: Mask = np.append(taken, False)[self.labels]  # -1 is the last
        return found

    def areas(self, inside: Mask | None = None) -> Int64:
        """Pixels of each piece (n,), or of its part `inside`, (H, W) bool."""
        labels = self.labels.ravel() if inside is None else self.labels[inside]
        return np.bincount(labels + 1, minlength=len(self.sizes) + 1)[1:]


def specks(mask: Mask) -> Pieces:
    """All parts but the largest one (pixels that touch at a corner are one part).

    Their size is the distance of their nearest pixel to the largest part.
    """
    labels = _label(mask, 8)
    if (count := int(labels.max()) + 1) < 2:
        return _no_pieces(mask)
    largest = int(np.argmax(np.bincount(labels.ravel() + 1)[1:]))
    away = _distance(labels != largest)
    nearest = np.full(count, np.inf)
    others = mask & (labels != largest)
    np.minimum.at(nearest, labels[others], away[others])
    nearest[largest] = -1  # never taken
    labels[labels == largest] = -1
    return Pieces(labels, nearest)


def narrow_gaps(mask: Mask, radius: int) -> Pieces:
    """Gaps that a disc of `radius` pixels does not enter and that reach `DEEP` times as far.

    Shallow corners are none: rounding them all costs more than it brings. Holes are none either.
    Their size is their depth.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    inside = (slice(top, top + height), slice(left, left + width))
    edge = radius + 2  # or the picture's edge would count as a side of a gap
    room = np.pad(mask[inside], edge)
    closed = _distance(_distance(~room) <= radius) > radius
    gaps = closed & ~room
    if not gaps.any():
        return _no_pieces(mask)
    labels = _label(gaps, 8)
    some = labels >= 0
    depth = _distance(closed)[some]  # from outside of what is closed
    deepest, nearest = (np.full(int(labels.max()) + 1, value) for value in (0.0, np.inf))
    np.maximum.at(deepest, labels[some], depth)
    np.minimum.at(nearest, labels[some], depth)
    taken = (deepest >= DEEP * radius) & (nearest < 2)  # deep, and open to the outside
    numbers = np.where(taken, np.cumsum(taken) - 1, -1)
    placed = np.full(mask.shape, -1, np.int32)
    placed[inside] = np.append(numbers, -1)[labels][edge:-edge, edge:-edge]
    return Pieces(placed, deepest[taken])


def holes(mask: Mask) -> Pieces:
    """Background that foreground encloses; it hangs together by sides. Their size is their area."""
    labels = _label(~mask, 4)
    enclosed = np.ones(int(labels.max(initial=-1)) + 1, np.bool_)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        enclosed[edge[edge >= 0]] = False
    if not enclosed.any():
        return _no_pieces(mask)
    numbers = np.where(enclosed, np.cumsum(enclosed) - 1, -1)
    areas = np.bincount(labels.ravel() + 1, minlength=len(enclosed) + 1)[1:]
    found = np.append(numbers, -1)[labels].astype(np.int32)
    return Pieces(found, areas[enclosed].astype(np.float64))


def _no_pieces(mask: Mask) -> Pieces:
    return Pieces(np.full(mask.shape, -1, np.int32), np.zeros(0))


def _label(mask: Mask, connectivity: int) -> NDArray[np.int32]:
    """The number from 0 of each pixel's part, -1 outside."""
    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=connectivity)
    return np.asarray(labels, np.int32) - 1


def _distance(mask: Mask) -> Float32:
    """The distance of each pixel inside to the nearest one outside, exact; 0 outside."""
    found = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)
