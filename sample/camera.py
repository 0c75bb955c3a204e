"""Where the camera sees things: from car and floor coordinates to pixels."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sample.studio import Studio

HEIGHT, WIDTH, VIEWS = 1280, 1918, 16  # pixels, pixels, images a turn (every 22.5 degrees)
_AIM_HEIGHT = 0.8  # metres above the turntable's middle that the camera looks at
_AIM_ROW = 615  # pixels, where that point is in the image


def project(points: NDArray[np.float32], studio: Studio) -> NDArray[np.float32]:
    """Column and row (pixels) and depth (metres) of floor points, (3, ...) to (3, ...)."""
    pitch = math.atan2(studio.camera_height - _AIM_HEIGHT, studio.distance)
    y, z = points[1] + studio.distance, points[2] - studio.camera_height
    depth = y * math.cos(pitch) - z * math.sin(pitch)
    up = y * math.sin(pitch) + z * math.cos(pitch)
    column = WIDTH / 2 + studio.focal * points[0] / depth
    row = _AIM_ROW - studio.focal * up / depth
    return np.stack([column, row, depth]).astype(np.float32)


def car_axes(view: int, studio: Studio) -> NDArray[np.float32]:
    """Car axes as columns (3, 3) in floor coordinates; view 1 of 16 faces the camera."""
    angle = math.radians(360 / VIEWS * (view - 1) + studio.heading)
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[-sine, cosine, 0], [-cosine, -sine, 0], [0, 0, 1]], np.float32)


def floor_pixels(x: ArrayLike, y: ArrayLike, view: int, studio: Studio) -> NDArray[np.float32]:
    """Columns and rows (N, 2), pixels, of the floor under the car's x and y (N,), metres."""
    x, y = np.broadcast_arrays(np.asarray(x) + studio.offset[0], np.asarray(y) + studio.offset[1])
    points = np.stack([x, y, np.zeros_like(x)]).astype(np.float32)
    return project(car_axes(view, studio) @ points, studio)[:2].T
