"""How far a predicted boundary lies from the true one: what Dice says little of near 1.

A boundary is the pixels of a mask that touch, at a side, pixels of the picture outside the mask.
Where the picture ends, the object may go on: its edge is no boundary.
"""

import cv2
import numpy as np

from pipeline.support.arrays import Float32, Mask

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def mean_distance(prediction: Mask, truth: Mask) -> float:
    """The mean distance in pixels from each boundary's pixels to the nearest one of the other's.

    Both (H, W) masks count, each pixel of a boundary once. 0 is for equal masks; where one mask
    alone has a boundary the distance is the picture's diagonal, the largest there is.

    Source: the average symmetric surface distance of medical segmentation (Heimann et al. 2009,
    IEEE Transactions on Medical Imaging 28(8)).
    """
    assert prediction.shape == truth.shape, f"prediction {prediction.shape}, truth {truth.shape}"
    place = _around(prediction, truth)
    first, second = (_boundary(mask[place]) for mask in (prediction, truth))
    if not (first.any() and second.any()):
        return 0.0 if np.array_equal(prediction, truth) else float(np.hypot(*truth.shape))
    there, back = _to_nearest(second)[first], _to_nearest(first)[second]
    return float(
        (there.sum(dtype=np.float64) + back.sum(dtype=np.float64)) / (there.size + back.size)
    )


def dice_near(prediction: Mask, truth: Mask, pixels: float) -> float:
    """Dice of the pixels that lie within so many of the true boundary: of the hard part alone.

    1 where neither mask has any there.
    """
    place = _around(prediction, truth)
    first, second = prediction[place], truth[place]
    edge = _boundary(second)
    if not edge.any():
        return 1.0
    near = _to_nearest(edge) <= pixels
    total = np.count_nonzero(first & near) + np.count_nonzero(second & near)
    return 2 * np.count_nonzero(first & second & near) / total if total else 1.0


def _boundary(mask: Mask) -> Mask:
    inside = cv2.erode(mask.view(np.uint8), _CROSS)  # beyond the picture all counts as inside
    found: Mask = mask & (inside == 0)
    return found


def _to_nearest(boundary: Mask) -> Float32:
    """Each pixel's distance to the nearest pixel of a boundary, exact to rounding."""
    away = (~boundary).view(np.uint8)
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float32)


def _around(first: Mask, second: Mask) -> tuple[slice, slice]:
    """Rows and columns that hold both masks and, where the picture goes on, a pixel beyond them."""
    both = first | second
    ranges = []
    for axis in (1, 0):
        found = np.flatnonzero(both.any(axis=axis))
        low, high = (int(found[0]), int(found[-1])) if len(found) else (0, 0)
        ranges.append(slice(max(0, low - 1), high + 2))
    return ranges[0], ranges[1]
