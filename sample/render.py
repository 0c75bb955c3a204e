"""The image of a view and its mask."""

from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from sample.backdrop import floor_light, with_disc
from sample.camera import HEIGHT, WIDTH, car_axes
from sample.car import Car
from sample.light import shaded
from sample.mesh import Part
from sample.raster import rasterise
from sample.studio import Studio

_DEPTH = 8  # the number of that attribute of a fragment
_HALF_COVERED = 128  # of 255
_LENS_BLUR = 0.6  # pixels, standard deviation
_SENSOR_NOISE = 1.6  # levels of 255, standard deviation


def render(
    car: Car,
    parts: list[Part],
    studio: Studio,
    backdrop: NDArray[np.uint8],
    view: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image (1280, 1918, 3), RGB uint8, and mask (1280, 1918) of a view.

    The mask is every pixel at least half covered by the car: glass, wheels, mirrors and
    aerials count, the shadow does not.

    Args:
        car: what `parts` are of.
        parts: from `parts_of`, once a car.
        studio: where the car stands.
        backdrop: (1280, 1918, 3), RGB, once a studio.
        view: 1 (from the front) to 16.
        rng: draws the sensor noise, and nothing else.
    """
    colour, hits = _drawn(parts, view, studio)
    coverage = _coverage(hits)
    image = _floor(car, studio, backdrop, view)
    box = _box(coverage)
    share = coverage[box][..., None].astype(np.float32) / 255
    image[box] = image[box] * (1 - share) + (colour[box] * 255).clip(0, 255) * share + 0.5
    sharp = cv2.GaussianBlur(image, (3, 3), _LENS_BLUR)
    noisy = cv2.add(sharp, _noise(rng, _SENSOR_NOISE), dtype=cv2.CV_8U)
    return np.asarray(noisy, np.uint8), coverage >= _HALF_COVERED


def silhouette(parts: list[Part], view: int, studio: Studio) -> NDArray[np.bool_]:
    """The mask alone (1280, 1918), as `render` gives it."""
    _, hits = _drawn(parts, view, studio, colours=False)
    return _coverage(hits) >= _HALF_COVERED


def _drawn(
    parts: list[Part], view: int, studio: Studio, colours: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Colours (1280, 1918, 3), 0-1, and samples the car covers (2560, 3836), 0 or 255."""
    depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    colour = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    hits = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    for part in parts:
        found, samples = rasterise(_on_turntable(part.quads, view, studio), studio)
        samples.add_to(hits)
        if colours:
            near = found.value(_DEPTH)
            chosen = near < depth[found.rows, found.columns]
            found = found.only(chosen)
            depth[found.rows, found.columns] = near[chosen]
            if chosen.any():
                colour[found.rows, found.columns] = shaded(found, part.texture, studio)
    return colour, hits


def _on_turntable(quads: NDArray[np.float32], view: int, studio: Studio) -> NDArray[np.float32]:
    """Quads (4, 8, N) from car to floor coordinates."""
    axes, offset = car_axes(view, studio), np.array([*studio.offset, 0], np.float32)[:, None]
    place, normal, texture = quads[:, :3], quads[:, 3:6], quads[:, 6:]
    return np.concatenate([axes @ (place + offset), axes @ normal, texture], axis=1)


def _coverage(hits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much of each pixel (1280, 1918) is covered, 0-255: the mean of its four samples."""
    coverage = cv2.resize(hits, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(coverage, np.uint8)


def _box(coverage: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The rows and columns that hold all that is covered."""
    rows, columns = (np.flatnonzero(coverage.any(axis=axis)) for axis in (1, 0))
    return np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _floor(car: Car, studio: Studio, backdrop: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
    """The backdrop (1280, 1918, 3) with the turntable and the car's shadow."""
    light = cv2.merge([floor_light(car.shape, view, studio)] * 3)
    image = cv2.multiply(with_disc(backdrop, view, studio), light, scale=1 / 255)
    return np.asarray(image, np.uint8)


def _noise(rng: np.random.Generator, deviation: float) -> NDArray[np.int16]:
    """Sensor noise (1280, 1918, 3), one value a pixel, alike in all three channels."""
    normal = NormalDist(0, deviation)
    table = np.array([round(normal.inv_cdf((i + 0.5) / 256)) for i in range(256)], np.int16)
    noise = table[rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8)]
    return np.repeat(noise[..., None], 3, axis=2)
