"""Repairs of a mask that a person would make at a glance; each can be off, most masks need none.

They are pure functions: the stage that writes a submission and the one that measures what they
bring call the same ones. One top team of the competition gained .0002 with such repairs
(discussion 40144); whether they gain anything is for the out-of-fold masks to say.
"""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.support.arrays import Mask, UInt8

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
    repaired = mask
    if settings.keep_largest:
        repaired = keep_largest(repaired)
    if settings.drop_specks:
        repaired = drop_specks(repaired, settings.drop_specks)
    if settings.close:
        repaired = close(repaired, settings.close)
    if settings.fill_holes:
        repaired = fill_holes(repaired, settings.fill_holes)
    return repaired


def keep_largest(mask: Mask) -> Mask:
    """Leave the largest part alone; pixels that touch at a corner are one part."""
    labels, areas = _parts(mask.view(np.uint8), 8)
    return labels == _largest(areas) if len(areas) > 2 else mask


def drop_specks(mask: Mask, distance: int) -> Mask:
    """Take away the parts of which no pixel is nearer than `distance` pixels to the largest one."""
    labels, areas = _parts(mask.view(np.uint8), 8)
    if len(areas) <= 2:  # background and one part
        return mask
    largest = _largest(areas)
    away = _distance(labels != largest)
    others = mask & (labels != largest)
    nearest = np.full(len(areas), np.inf)
    np.minimum.at(nearest, labels[others], away[others])
    far = nearest >= distance
    far[[0, largest]] = False
    return mask & ~far[labels]


def close(mask: Mask, radius: int) -> Mask:
    """Close gaps that a disc of `radius` pixels does not enter and that reach `DEEP` times as far.

    Shallow corners stay: rounding them all costs more than it brings. Holes stay too.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    inside = (slice(top, top + height), slice(left, left + width))
    # Room around it, or the picture's edge would count as a side of a gap.
    room = np.pad(mask[inside], radius + 2)
    closed = _distance(_distance(~room) <= radius) > radius
    gaps = closed & ~room
    if not gaps.any():
        return mask
    labels, areas = _parts(gaps.view(np.uint8), 8)
    depth = _distance(closed)  # from outside of what is closed
    at, deep = labels[gaps], depth[gaps]
    deepest, nearest = np.zeros(len(areas)), np.full(len(areas), np.inf)
    np.maximum.at(deepest, at, deep)
    np.minimum.at(nearest, at, deep)
    narrow = (deepest >= DEEP * radius) & (nearest < 2)  # and open to the outside
    narrow[0] = False
    repaired = mask.copy()
    edge = radius + 2
    repaired[inside] |= narrow[labels][edge:-edge, edge:-edge]
    return repaired


def fill_holes(mask: Mask, area: int) -> Mask:
    """Fill holes of at most `area` pixels; background hangs together by sides, not by corners."""
    labels, areas = _parts((~mask).view(np.uint8), 4)
    filled = areas <= area
    filled[0] = False  # the mask itself
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        filled[edge] = False
    return mask | filled[labels] if filled.any() else mask


def _parts(pixels: UInt8, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The number of each pixel's part, 0 outside, and the area of each, at 0 of the outside."""
    _, labels = cv2.connectedComponents(pixels, connectivity=connectivity)
    return labels.astype(np.int32, copy=False), np.bincount(labels.ravel())


def _largest(areas: NDArray[np.int64]) -> int:
    return 1 + int(np.argmax(areas[1:]))


def _distance(mask: Mask) -> NDArray[np.float32]:
    """The distance of each pixel inside to the nearest one outside, exact; 0 outside."""
    found = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)
