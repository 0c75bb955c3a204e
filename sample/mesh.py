"""Surfaces as quads: grids of points that close to a ring, and lids that close them above."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Heights = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # of x, metres

LID_ROWS = 12  # of points from a surface's edge to its middle line, the edge included
_ARCH = 0.04  # metres, how much higher a lid's middle is than its edge where it is widest


class Part(NamedTuple):
    """A surface of the car, in car coordinates, with what is painted on it."""

    quads: NDArray[np.float32]  # 4 corners, 8 (place, normal, texture u and v), N
    texture: NDArray[np.uint8]  # height, width, 4: RGB and gloss


def quads_of(points: NDArray[np.float64], uv: NDArray[np.float64]) -> NDArray[np.float32]:
    """Quads (4, 8, N) of a grid whose columns close to a ring; see `Part`.

    Args:
        points: (rows, columns, 3), metres, going round so that normals point outwards.
        uv: (rows, columns, 2), metres on the texture.
    """
    around = np.roll(points, -1, axis=1) - np.roll(points, 1, axis=1)
    normals = np.cross(around, np.gradient(points, axis=0))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-9
    here = np.concatenate([points, normals, uv], axis=2)
    there = np.roll(here, -1, axis=1)
    corners = np.stack([here[:-1], there[:-1], there[1:], here[1:]])
    return np.ascontiguousarray(corners.reshape(4, -1, 8).transpose(0, 2, 1), np.float32)


def with_lid(rings: list[NDArray[np.float64]], top: Heights) -> NDArray[np.float64]:
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
