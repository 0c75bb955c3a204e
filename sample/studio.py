"""The studio: its camera, wall and floor, the turntable, and the car's shadow on it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from pipeline.support.arrays import Float32, UInt8
from sample.car import Color, Shape
from sample.geometry import Floats, smoothstep

HEIGHT, WIDTH, VIEWS = 1280, 1918, 16  # pixels, pixels, images a turn (every 22.5 degrees)
_AIM_HEIGHT = 0.8  # metres above the turntable's middle that the camera looks at
_AIM_ROW = 615  # pixels, where that point is in the image
_DISC_RADIUS, _HUB_RADIUS = 3.05, 0.45  # metres, of the turntable and of the plate in its middle
_INK: Color = (84, 82, 88)  # of the word on the wall
_WORD_SIZE = 395  # pixels
_FRACTION_BITS = 4  # OpenCV draws at sixteenths of a pixel
_COARSE = 8  # pixels of the image a pixel of the shadow, which is blurred anyway


@dataclass(frozen=True)
class Studio:
    """The room, and the camera, which looks at the middle of the turntable.

    Floor coordinates have their origin there: x to the right, y away from the camera, z up.
    """

    word: str  # on the wall
    wall: Color
    floor: Color
    distance: float  # metres, camera to the turntable's axis
    camera_height: float  # metres
    focal: float  # pixels
    offset: tuple[float, float]  # metres, the car's middle from the axis
    heading: float  # degrees, added to every view
    shift: tuple[float, float]  # pixels, of the wall in the image

    def project(self, points: Float32) -> Float32:
        """Column and row (pixels) and depth (metres) of floor points, (3, ...) to (3, ...)."""
        pitch = math.atan2(self.camera_height - _AIM_HEIGHT, self.distance)
        y, z = points[1] + self.distance, points[2] - self.camera_height
        depth = y * math.cos(pitch) - z * math.sin(pitch)
        up = y * math.sin(pitch) + z * math.cos(pitch)
        column = WIDTH / 2 + self.focal * points[0] / depth
        row = _AIM_ROW - self.focal * up / depth
        return np.stack([column, row, depth]).astype(np.float32)

    def car_axes(self, view: int) -> Float32:
        """Car axes as columns (3, 3) in floor coordinates; view 1 of 16 faces the camera."""
        angle = math.radians(360 / VIEWS * (view - 1) + self.heading)
        sine, cosine = math.sin(angle), math.cos(angle)
        return np.array([[-sine, cosine, 0], [-cosine, -sine, 0], [0, 0, 1]], np.float32)

    def floor_pixels(self, x: ArrayLike, y: ArrayLike, view: int) -> Float32:
        """Columns and rows (N, 2), pixels, of the floor under the car's x and y (N,), metres."""
        x, y = np.broadcast_arrays(np.asarray(x) + self.offset[0], np.asarray(y) + self.offset[1])
        points = np.stack([x, y, np.zeros_like(x)]).astype(np.float32)
        return self.project(self.car_axes(view) @ points)[:2].T


def backdrop(studio: Studio) -> UInt8:
    """The empty studio (1280, 1918, 3), RGB, without the turntable."""
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    across, down = column / (WIDTH / 2) - 1, row / HEIGHT
    wall = _lit(studio.wall, 1 - 0.07 * across**2 - 0.05 * (1 - down))
    wall += _word(studio) * (np.array(_INK, np.float32) - wall)
    cove = 0.345 * HEIGHT + 26 * across**2 + 8 * across  # where the wall becomes the floor
    below = row - (cove + studio.shift[1])
    light = 1 + 0.16 * (down - 0.5) + 0.05 * across - 0.06 * across**2
    light -= 0.10 * np.exp(-((below / 40) ** 2))
    floor = _lit(studio.floor, light)
    image = wall + smoothstep(-2.5, 2.5, below)[..., None] * (floor - wall)
    return np.asarray(np.clip(image + 0.5, 0, 255), np.uint8)


def _lit(color: Color, light: Float32) -> Float32:
    """The color (1280, 1918, 3), 0-255, in the light of each pixel."""
    return np.asarray(np.multiply.outer(light, np.array(color, np.float32)), np.float32)


def _word(studio: Studio) -> Float32:
    """How much of each pixel (1280, 1918, 1), 0-1, the word on the wall covers."""
    word = Image.new("L", (WIDTH, HEIGHT))
    font = ImageFont.load_default(_WORD_SIZE)
    foot = (WIDTH / 2 + studio.shift[0], 0.335 * HEIGHT + studio.shift[1])
    ImageDraw.Draw(word).text(foot, studio.word, 255, font, "ms", stroke_width=2)
    return np.asarray(np.asarray(word, np.float32)[..., None] / 255, np.float32)


def with_turntable(image: UInt8, view: int, studio: Studio) -> UInt8:
    """A copy of the image (1280, 1918, 3) with the turntable's edge and seams."""
    image = image.copy()
    still = replace(studio, offset=(0.0, 0.0))  # the car may stand off the axis, the disc not
    for line in _turntable_lines():
        pixels = still.floor_pixels(line.x, line.y, view)
        points = [np.round(pixels * 2**_FRACTION_BITS).astype(np.int32)]
        ink = (line.shade, line.shade + 2, line.shade + 4)
        cv2.polylines(image, points, False, ink, line.width, cv2.LINE_AA, _FRACTION_BITS)
    return image


class _Line(NamedTuple):
    x: Floats  # (N,), metres
    y: Floats
    shade: int  # 0-255
    width: int  # pixels


def _turntable_lines() -> Iterator[_Line]:
    """The seams between the turntable's eight plates, and the edges of hub and disc."""
    along = np.linspace(_HUB_RADIUS, _DISC_RADIUS, 30)
    for seam in np.arange(8) * np.pi / 4:
        yield _Line(along * math.cos(seam), along * math.sin(seam), 136, 1)
    angle = np.linspace(0, 2 * np.pi, 181)
    for radius, shade, width in ((_HUB_RADIUS, 136, 1), (_DISC_RADIUS, 96, 3)):
        yield _Line(radius * np.cos(angle), radius * np.sin(angle), shade, width)


def floor_light(shape: Shape, view: int, studio: Studio) -> UInt8:
    """How much of the light (0-255) the car lets through to the floor, (1280, 1918)."""
    outline = shape.body_outline
    light = np.ones((HEIGHT // _COARSE, WIDTH // _COARSE), np.float32)
    for shadow in _shadows(shape):
        x, y = outline.x * shadow.long + shadow.x, outline.y * shadow.wide + shadow.y
        floor = studio.floor_pixels(x, y, view)
        points = [np.round(floor * 2**_FRACTION_BITS / _COARSE).astype(np.int32)]
        area = np.zeros_like(light)
        cv2.fillPoly(area, points, 1.0, cv2.LINE_AA, _FRACTION_BITS)
        light *= 1 - shadow.dark * cv2.GaussianBlur(area, (0, 0), shadow.blur)
    full = cv2.resize(light * 255, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full + 0.5, np.uint8)


class _Shadow(NamedTuple):
    """The body's outline, scaled and moved: what keeps light off the floor."""

    long: float  # times the outline's length
    wide: float  # times its width
    x: float  # metres
    y: float
    dark: float  # share of the light kept off
    blur: float  # standard deviation, pixels of the shadow


def _shadows(shape: Shape) -> Iterator[_Shadow]:
    """The body's shadow, dark under its middle and faint around it, and the tyres'."""
    for grow, dark, blur in ((-0.2, 0.62, 2), (0.1, 0.42, 8), (0.7, 0.16, 20)):  # grow: metres
        yield _Shadow(1 + grow / shape.length, 1 + grow / shape.width, 0.0, 0.0, dark, blur)
    long, wide = 0.44 / shape.length, 0.26 / shape.width
    axle, track = shape.wheelbase / 2, shape.width / 2 - 0.1
    for x in (axle, -axle):
        for y in (track, -track):
            yield _Shadow(long, wide, x, y, 0.5, 2)
