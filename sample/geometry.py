"""Forms that know of no car: steps, polygons, outlines, and surfaces made of quads."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.support.arrays import Float32

Floats = NDArray[np.float64]
Heights = Callable[[Floats], Floats]  # of x, metres

LID_ROWS = 12  # of points from a surface's edge to its middle line, the edge included
_ARCH = 0.04  # metres, how much higher a lid's middle is than its edge where it is widest


def smoothstep(low: float, high: float, value: ArrayLike) -> Float32:
    """The share s of the way from `low` to `high`, eased to 3 s**2 - 2 s**3.

    It goes from 0 (up to `low`) to 1 (from `high` on) without a crease: reflections, wheel
    arches and the seam between wall and floor blend with it. `value` may have any shape.
    """
    share = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def disc(u: float, v: float, radius: float) -> Floats:
    """A circle (24, 2) around u and v."""
    angle = np.linspace(0, 2 * np.pi, 24)
    return np.stack([u + radius * np.cos(angle), v + radius * np.sin(angle)], axis=1)


def box(left: float, low: float, right: float, high: float) -> list[tuple[float, float]]:
    """A rectangle."""
    return [(left, low), (right, low), (right, high), (left, high)]


def grown(points: ArrayLike, by: float, up: float) -> Floats:
    """The polygon (N, 2) moved outwards from its middle, sideways and upright."""
    polygon = np.asarray(points, np.float64)
    return np.asarray(polygon + np.sign(polygon - polygon.mean(axis=0)) * (by, up))


class Outline:
    """A superellipse seen from above, as points around it and distances along it.

    Attributes:
        x, y: places (N,), metres, from the middle of the front along the left side to the
            middle of the rear, and back along the right side.
        u: distance (N,), metres, of each from the middle of the front, alike on both sides.
        size: the distance of the rear's middle.
    """

    def __init__(self, length: float, width: float, power: float, columns: int) -> None:
        """Take half axes in metres, the superellipse's power, and the points of one side."""
        angle = np.linspace(0, np.pi, 4001)
        x = length * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power)
        y = width * np.sin(angle).clip(0) ** (2 / power)
        steps = np.hypot(np.diff(x), np.diff(y))
        self._x, self._distance = x, np.append(0, np.cumsum(steps))
        self.size = float(self._distance[-1])
        half = np.linspace(0, self.size, columns)
        half_x, half_y = (np.interp(half, self._distance, values) for values in (x, y))
        mirror = slice(-2, 0, -1)  # the two ends are on both sides: once is enough
        self.u = np.append(half, half[mirror])
        self.x = np.append(half_x, half_x[mirror])
        self.y = np.append(half_y, -half_y[mirror])

    def distance(self, x: ArrayLike) -> Floats:
        """Metres from the middle of the front, along the outline, to where it passes x."""
        return np.asarray(np.interp(-np.asarray(x), -self._x, self._distance))


def quads(points: Floats, uv: Floats) -> Float32:
    """Quads of a grid whose columns close to a ring.

    Args:
        points: (rows, columns, 3), metres, going round so that normals point outwards.
        uv: (rows, columns, 2), metres on the texture.

    Returns:
        4 corners, 8 attributes (place, normal, texture u and v), N.
    """
    around = np.roll(points, -1, axis=1) - np.roll(points, 1, axis=1)
    normals = np.cross(around, np.gradient(points, axis=0))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-9
    here = np.concatenate([points, normals, uv], axis=2)
    there = np.roll(here, -1, axis=1)
    corners = np.stack([here[:-1], there[:-1], there[1:], here[1:]])
    return np.ascontiguousarray(corners.reshape(4, -1, 8).transpose(0, 2, 1), np.float32)


def with_lid(rings: list[Floats], top: Heights) -> Floats:
    """Points (rows, columns, 3) of rings closed above by a lid, arched across the car.

    Args:
        rings: x, y and z, each (rows, columns), metres; the last row is the upper edge.
        top: the height of the lid's edge at x.
    """
    ring_x, ring_y, _ = rings
    inward = 1 - np.linspace(0, 1, LID_ROWS)[1:, None]
    x, y = ring_x[-1] * (0.7 + 0.3 * inward), ring_y[-1] * inward
    left = np.s_[-1, : y.shape[1] // 2 + 1]
    edge = np.interp(-x, -ring_x[left], ring_y[left])  # half the width of the lid at x
    arch = _ARCH * (edge**2 - y**2) * edge**2 / edge.max() ** 4
    lid = [x, y, top(x) + arch]
    return np.stack([np.vstack(pair) for pair in zip(rings, lid, strict=True)], axis=2)


def pipe(path: ArrayLike, radii: ArrayLike) -> Floats:
    """Points (N, 12, 3) around each point of a path (N, 3), with a radius (N,) at each; metres."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)[:, None]
    path, radii = np.asarray(path, np.float64), np.asarray(radii, np.float64)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    upright = np.abs(along[:, 2:]) > 0.9  # then z would be no direction across
    across = np.cross(along, np.where(upright, [1.0, 0, 0], [0, 0, 1.0]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(along, across)
    ring = np.cos(angle) * across[:, None] + np.sin(angle) * other[:, None]
    return np.asarray(path[:, None] + radii[:, None, None] * ring)
