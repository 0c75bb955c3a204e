"""Which quad is seen at which pixel, and what that quad is there."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sample.camera import HEIGHT, WIDTH, project
from sample.studio import Studio

_FRACTION_BITS = 4  # OpenCV fills at sixteenths of a sample
_SMALLEST = 0.2  # twice a quad's area in pixels below which it is not drawn

Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


class Fragments(NamedTuple):
    """The N pixels a part covers."""

    rows: NDArray[np.int64]  # (N,)
    columns: NDArray[np.int64]  # (N,)
    quad: NDArray[np.int32]  # (N,): the number of the quad seen there
    planes: Planes  # (9, quads) each: a constant, and what to add a column, a row

    def value(self, attribute: int) -> NDArray[np.float32]:
        """An attribute of the quad, per pixel (N,).

        Attributes are place (0-2, metres) and normal (3-5, of any length) in floor
        coordinates, texture u and v (6-7, metres), and depth (8, metres).
        """
        value, column, row = (plane[attribute].take(self.quad) for plane in self.planes)
        value += column * self.columns.astype(np.float32)
        value += row * self.rows.astype(np.float32)
        return np.asarray(value)

    def only(self, chosen: NDArray[np.bool_]) -> "Fragments":
        """The fragments where `chosen` (N,) is true."""
        rows, columns = self.rows[chosen], self.columns[chosen]
        return Fragments(rows, columns, self.quad[chosen], self.planes)


class Samples(NamedTuple):
    """What a part covers, twice as fine as the image."""

    covered: NDArray[np.uint8]  # (2 * rows, 2 * columns), 0 or 255
    top: int  # the image's row they start at
    left: int  # and its column

    def add_to(self, hits: NDArray[np.uint8]) -> None:
        """Set what is covered in the whole image's samples (2560, 3836)."""
        height, width = self.covered.shape
        top, left = 2 * self.top, 2 * self.left
        hits[top : top + height, left : left + width] |= self.covered


def rasterise(quads: NDArray[np.float32], studio: Studio) -> tuple[Fragments, Samples]:
    """What the camera sees of quads (4, 8, N) in floor coordinates, ordered as in `Part`."""
    screen = np.stack([project(corner[:3], studio) for corner in quads])
    seen = _far_to_near(screen)
    quads, screen = quads[..., seen], screen[..., seen]
    low, high = _bounds(screen)
    canvas = _numbered(screen, low, high)
    nearest = np.maximum(canvas[::2], canvas[1::2])  # the nearest quad of a pixel's samples
    nearest = np.maximum(nearest[:, ::2], nearest[:, 1::2])
    rows, columns = np.nonzero(nearest)
    quad = nearest[rows, columns] - 1
    found = Fragments(rows + low[1], columns + low[0], quad, _planes(quads, screen))
    covered = (canvas > 0).astype(np.uint8) * 255
    return found, Samples(covered, top=int(low[1]), left=int(low[0]))


def _diagonals(corners: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From the first corner to the third, and from the second to the fourth."""
    return corners[2] - corners[0], corners[3] - corners[1]


def _area(screen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twice each quad's area in pixels; below 0 where its outside faces the camera."""
    first, second = _diagonals(screen)
    return np.asarray(first[0] * second[1] - first[1] * second[0])


def _far_to_near(screen: NDArray[np.float32]) -> NDArray[np.int64]:
    """The numbers of the quads that face the camera, the farthest first."""
    seen = np.flatnonzero(_area(screen) < -_SMALLEST)
    depth = screen[:, 2, seen].mean(axis=0)
    return seen[np.argsort(-depth, kind="stable")]


def _bounds(screen: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First column and row, and those after the last, of all quads with a margin."""
    low = np.floor(screen[:, :2].min(axis=(0, 2))).astype(int) - 1
    high = np.ceil(screen[:, :2].max(axis=(0, 2))).astype(int) + 2
    return np.maximum(low, 0), np.minimum(high, (WIDTH, HEIGHT))


def _numbered(
    screen: NDArray[np.float32], low: NDArray[np.int64], high: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Samples of the bounds filled with the number of the quad seen, from 1; 0 is none.

    The quads are drawn far to near; cells are small, so the last one drawn wins.
    """
    columns, rows = 2 * (high - low)
    canvas = np.zeros((rows, columns), np.int32)
    samples = (screen[:, :2] - low[:, None] + 0.5) * 2 - 0.5
    corners = np.round(samples * 2**_FRACTION_BITS).astype(np.int32)
    polygons = np.ascontiguousarray(corners.transpose(2, 0, 1))
    for number, polygon in enumerate(polygons, 1):
        cv2.fillConvexPoly(canvas, polygon, number, cv2.LINE_8, _FRACTION_BITS)
    return canvas


def _planes(quads: NDArray[np.float32], screen: NDArray[np.float32]) -> Planes:
    """Each attribute as a plane over the image, through the middle of the quad."""
    values = np.concatenate([quads, screen[:, 2:]], axis=1)
    first, second = _diagonals(screen)
    p, q = _diagonals(values)
    area = _area(screen)
    by_column = (p * second[1] - q * first[1]) / area
    by_row = (q * first[0] - p * second[0]) / area
    middle = screen[:, :2].mean(axis=0)
    constant = values.mean(axis=0) - by_column * middle[0] - by_row * middle[1]
    return constant, by_column, by_row
