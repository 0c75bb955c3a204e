"""Polygons that decals are made of."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Polygon = list[tuple[float, float]]


def disc(u: float, v: float, radius: float) -> NDArray[np.float64]:
    """A circle (24, 2) around u and v."""
    angle = np.linspace(0, 2 * np.pi, 24)
    return np.stack([u + radius * np.cos(angle), v + radius * np.sin(angle)], axis=1)


def box(left: float, low: float, right: float, high: float) -> Polygon:
    """A rectangle."""
    return [(left, low), (right, low), (right, high), (left, high)]


def half_pane(low_right: float, high_right: float, low: float, high: float) -> Polygon:
    """The half of a screen beside the car's middle: its lower and upper corner are apart."""
    return [(0, low), (low_right, low), (high_right, high), (0, high)]


def grown(points: ArrayLike, by: float, up: float) -> NDArray[np.float64]:
    """The polygon (N, 2) moved outwards from its middle, sideways and upright."""
    polygon = np.asarray(points, np.float64)
    return np.asarray(polygon + np.sign(polygon - polygon.mean(axis=0)) * (by, up))
