"""What is painted on a car: decals, and the textures that they make.

A texture's u is metres along an outline and its v metres upwards (on the cabin, shares of its
height); on a wheel both are shares of its radius, from its middle at (1, 1).
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from pipeline.support.arrays import UInt8
from sample.car import BLACK, CHROME, Car, Color, Shape
from sample.geometry import Floats, Outline, box, disc, grown

TEXELS = 400  # a metre of texture
_PAINT_GLOSS = 120  # 0 (rubber) to 255 (glass)
_FRACTION_BITS = 4  # OpenCV draws at sixteenths of a texel

_DARK: Color = (44, 44, 46)
_WINDSCREEN: Color = (70, 80, 82)
_MOST_LYING_BARS = 6  # a grille of more than these has them upright
_SKY = 9  # metres: above every car
_CORNER = 0.11  # metres from half the cabin's width to where its side glass begins
_LOW, _HIGH = 0.07, 0.85  # lower and upper edge of the glass, shares of the cabin's height

# Strokes of a number plate's characters (3 cm across and up); its other half mirrors them.
_GLYPHS = (
    [(0, 0), (0, 2), (1, 1), (1, 0)],
    [(0, 0), (0, 2), (1, 2), (1, 0), (0, 0)],
    [(0, 2), (0.5, 0), (1, 2)],
)
_GLYPH_STARTS = (0.012, 0.06, 0.108)  # metres from the middle


class Decal(NamedTuple):
    """A shape painted on a surface, on both sides of the car alike.

    `frame` says what the first coordinate is: "front" and "rear" are metres from the middle
    of that end around the corner; "side" is x on the body, 0 to 1 from the windscreen's
    corner to the rear window's on the cabin; on a wheel it is "".
    """

    frame: str
    points: ArrayLike  # (N, 2)
    color: Color
    gloss: int = _PAINT_GLOSS
    width: int = 0  # of the stroke, texels; 0 fills the polygon

    def placed(self, outline: Outline, corner: float) -> "Decal":
        """The decal with its first coordinate as u, metres along the outline.

        A `corner` above 0 is how far from either end the side begins, and a side's first
        coordinate a share of it; with 0 a side's first coordinate is x.
        """
        first, second = np.asarray(self.points, np.float64).T
        if self.frame == "rear":
            first = outline.size - first
        elif self.frame == "side" and corner:
            first = corner + first * (outline.size - 2 * corner)
        elif self.frame == "side":
            first = outline.distance(first)
        return self._replace(points=np.stack([first, second], axis=1))


def shade(color: Color, by: float, plus: float = 0) -> Color:
    """The color with each channel times `by` plus `plus`, cut at 255."""
    red, green, blue = (int(min(255, channel * by + plus)) for channel in color)
    return red, green, blue


# --- textures


def body_texture(car: Car, height: float) -> UInt8:
    """The texture of the body, `height` metres up."""
    outline = car.shape.body_outline
    decals = (decal.placed(outline, 0) for decal in _body(car))
    return _texture((outline.size, height), car.paint, decals)


def cabin_texture(car: Car) -> UInt8:
    """The texture of the cabin: its sides and, from v = 1 to 2, the roof."""
    outline, corner = car.shape.cabin_outline, car.shape.cabin_half_width + _CORNER
    decals = (decal.placed(outline, corner) for decal in _windows(car))
    return _texture((outline.size, 2), car.paint, decals)


def wheel_texture(car: Car) -> UInt8:
    """The texture of all wheels."""
    return _texture((2, 2), (42, 42, 44), _wheel(car.rim, car.spokes))


def plain_texture(colors: Iterable[Color]) -> UInt8:
    """A texture (1, N, 4) of a texel a color, read at the u that `texel_middle` gives."""
    return np.array([[(*color, _PAINT_GLOSS) for color in colors]], np.uint8)


def texel_middle(number: int) -> float:
    """The u (metres) of the middle of a texel."""
    return (number + 0.5) / TEXELS


def _texture(size: tuple[float, float], paint: Color, decals: Iterable[Decal]) -> UInt8:
    """A texture (v, u, 4) of RGB and gloss (0-255) that reaches to u and v of `size`.

    Its color is `paint` where no decal is; the decals are painted in their order.
    """
    rows, columns = int(size[1] * TEXELS) + 1, int(size[0] * TEXELS) + 2
    texture = np.empty((rows, columns, 4), np.uint8)
    texture[:] = (*paint, _PAINT_GLOSS)
    for decal in decals:
        texels = np.asarray(decal.points) * TEXELS
        points = [np.round(texels * 2**_FRACTION_BITS).astype(np.int32)]
        ink = (*decal.color, decal.gloss)
        if decal.width:
            cv2.polylines(texture, points, False, ink, decal.width, cv2.LINE_AA, _FRACTION_BITS)
        else:
            cv2.fillPoly(texture, points, ink, cv2.LINE_AA, _FRACTION_BITS)
    return texture


# --- the body


def _body(car: Car) -> Iterator[Decal]:
    shape, paint, seam = car.shape, car.paint, shade(car.paint, 0.25)
    half = shape.length / 2
    hood = np.linspace(half * 0.93, shape.station(shape.cuts[0]), 12)
    along = np.stack([hood, shape.belt(hood) + 0.05], axis=1)
    yield Decal("side", along, seam, gloss=60, width=2)
    yield Decal("side", box(-half, 0, half, shape.clearance + 0.05), BLACK, gloss=30)
    yield from _doors(shape, paint, seam)
    yield from _crease(shape, paint)
    # Around each wheel a lip, its edge, and the dark behind the wheel.
    rings = ((1.20, shade(paint, 1.06, 6)), (1.16, seam), (1.13, (7, 7, 8)))
    for x in (shape.wheelbase / 2, -shape.wheelbase / 2):
        for size, color in rings:
            arch = disc(x, shape.wheel_radius, size * shape.wheel_radius)
            yield Decal("side", arch, color, gloss=40)
    yield from _front(shape, car.bars)
    yield from _rear(shape)
    if shape.rear == "bed":
        yield from _bed(shape)


def _doors(shape: Shape, paint: Color, seam: Color) -> Iterator[Decal]:
    """The edges between doors, each door's handle with its shadow, and the seam below them."""
    start = shape.station(shape.cuts[0]) - 0.08
    step = shape.wheelbase * (0.28 if shape.doors > 1 else 0.36)
    sill, rear = shape.clearance + 0.12, -shape.wheelbase / 2 + shape.wheel_radius * 1.4
    for door in range(shape.doors + 1):
        x = start - door * step
        top = float(shape.belt(x)) + 0.02
        edge = [(x, top), (x + 0.03, sill + 0.25), (x - 0.01, sill)]
        if door == shape.doors > 1:  # a rear door's edge goes around the wheel
            edge = [(x, top), (x + 0.02, sill + 0.38), (max(x, rear), sill + 0.2), (rear, sill)]
        yield Decal("side", edge, seam, gloss=60, width=3)
        if door < shape.doors:
            left, low = x - step + 0.07, float(shape.belt(x - step)) - 0.14
            yield Decal("side", box(left, low - 0.012, left + 0.16, low + 0.014), seam)
            handle = box(left, low, left + 0.15, low + 0.022)
            yield Decal("side", handle, shade(paint, 1.12, 22), gloss=220)
    yield Decal("side", [(start, sill), (rear, sill)], seam, gloss=60, width=2)


def _crease(shape: Shape, paint: Color) -> Iterator[Decal]:
    """A line along the doors: a shadow and the light above it."""
    half = shape.length / 2
    x = np.linspace(half * 0.66, -half * 0.9, 20)
    height = float(shape.belt(0)) * 0.79 + 0.03 * x / half
    for lift, by, plus in ((0, 0.74, 0), (0.012, 1.1, 10)):
        line = np.stack([x, height + lift], axis=1)
        yield Decal("side", line, shade(paint, by, plus), gloss=140, width=3)


def _bed(shape: Shape) -> Iterator[Decal]:
    """A pickup's covered bed."""
    start, rear = shape.station(shape.cuts[3]) - 0.02, -shape.length / 2
    x = np.linspace(start, -shape.length * 0.47, 20)
    rim = np.stack([x, shape.belt(x) + 0.07], axis=1)
    cover = [*rim, (rear, rim[-1, 1]), (rear, _SKY), (start, _SKY)]
    yield Decal("side", cover, (26, 26, 28), gloss=20)
    yield Decal("side", [(start, 0.5), (start, _SKY)], (10, 10, 10), gloss=0, width=5)


def _front(shape: Shape, bars: int) -> Iterator[Decal]:
    """Grille, bumper with air intake and fog lamp, head lamps and plate."""
    side, nose = shape.width / 2, float(shape.belt(shape.length / 2))
    grille_half, grille_foot = side * 0.5, nose * 0.68
    yield from _grille(grille_half, grille_foot, nose * 0.92, bars)
    sill, top = shape.clearance + 0.10, nose * 0.5
    intake = [(0, sill), (side * 0.62, sill), (side * 0.55, top), (0, top)]
    yield Decal("front", intake, BLACK, gloss=40)
    yield Decal("front", disc(side * 0.8, sill + 0.08, 0.055), (28, 28, 30), gloss=60)
    yield Decal("front", disc(side * 0.8, sill + 0.08, 0.035), (206, 208, 205), gloss=220)
    corner = float(shape.body_outline.distance(shape.length * 0.43))
    yield from _headlamp(grille_half * 1.08, corner, grille_foot)
    yield from _plate("front", nose * 0.42)


def _grille(half: float, low: float, high: float, bars: int) -> Iterator[Decal]:
    outline = [(0, low), (half * 0.85, low), (half, high - 0.03), (half * 0.93, high), (0, high)]
    yield Decal("front", outline, (17, 17, 19), gloss=60)
    for share in np.linspace(0.1, 0.9, bars):
        height, out = low + (high - low) * share, half * 0.9 * share
        bar = [(0, height), (half * 0.92, height)]
        if bars > _MOST_LYING_BARS:
            bar = [(out, low + 0.02), (out, high - 0.02)]
        yield Decal("front", bar, (116, 118, 122), gloss=200, width=3)
    yield Decal("front", outline, CHROME, gloss=220, width=4)


def _headlamp(inner: float, outer: float, low: float) -> Iterator[Decal]:
    """From beside the grille around the corner: two round lamps and an indicator."""
    lamp = np.array([(0, 0.03), (0.55, 0.04), (1, 0.27), (0.6, 0.28), (0, 0.20)])
    lamp = lamp * (outer - inner, 1) + (inner, low)
    yield Decal("front", lamp, (146, 151, 156), gloss=230)
    for share, radius in ((0.24, 0.055), (0.50, 0.05)):
        u, v = inner + (outer - inner) * share, low + 0.135 + 0.04 * share
        yield Decal("front", disc(u, v, radius), (66, 70, 76), gloss=255)
        yield Decal("front", disc(u, v, radius * 0.75), (238, 240, 240), gloss=255)
    indicator = [lamp[1] + (0.08, 0.12), lamp[2] - (0.05, 0.02), lamp[3]]
    yield Decal("front", indicator, (214, 132, 48))
    yield Decal("front", [*lamp, lamp[0]], (30, 30, 32), width=2)


def _rear(shape: Shape) -> Iterator[Decal]:
    """Lamps, lid, bumper and plate."""
    side, deck = shape.width / 2, float(shape.belt(-shape.length / 2))
    outline, high, foot = shape.body_outline, deck - 0.07, deck * 0.56
    inner, tall = (0.58, 0.17) if shape.rear == "boot" else (0.70, 0.34)
    corner = outline.size - float(outline.distance(-shape.length * 0.45))
    yield from _rear_lamp(side * inner, corner, high - tall, high)
    bumper = box(0, shape.clearance, side * 1.1, shape.clearance + 0.13)
    yield Decal("rear", bumper, BLACK, gloss=40)
    yield Decal("rear", box(0, foot, 0.32, foot + 0.20), _DARK, gloss=60)
    yield Decal("rear", box(0, high - 0.02, side * 0.35, high + 0.01), CHROME, gloss=220)
    yield from _plate("rear", foot + 0.02)


def _rear_lamp(inner: float, outer: float, low: float, high: float) -> Iterator[Decal]:
    """From beside the lid around the corner: a white strip below, a bright one above."""
    lamp = [(inner, low + 0.03), (inner, high), (outer, high + 0.02), (outer - 0.03, low + 0.02)]
    yield Decal("rear", lamp, (146, 18, 22), gloss=200)
    strip = box(inner + 0.02, low + 0.05, outer - 0.06, low + 0.09)
    yield Decal("rear", strip, (226, 214, 210))
    bright = [(inner, high - 0.04), (outer, high - 0.02)]
    yield Decal("rear", bright, (222, 66, 62), gloss=220, width=4)
    yield Decal("rear", [*lamp, lamp[0]], (40, 10, 10), width=2)


def _plate(frame: str, low: float) -> Iterator[Decal]:
    yield Decal(frame, box(0, low, 0.155, low + 0.15), (236, 238, 238), gloss=60)
    yield Decal(frame, box(0, low, 0.155, low + 0.03), (36, 98, 178), gloss=60)
    for left, glyph in zip(_GLYPH_STARTS, _GLYPHS, strict=True):
        strokes = np.array(glyph) * 0.03 + (left, low + 0.06)
        yield Decal(frame, strokes, (40, 46, 74), gloss=60, width=4)


# --- the cabin


def _windows(car: Car) -> Iterator[Decal]:
    """All windows with their frames, and what is seen through them."""
    light, dark = shade((74, 84, 86), car.tint, 14), shade((56, 62, 66), car.tint * 0.6, 14)
    half = car.shape.cabin_half_width
    yield from _screen("front", half, _LOW, _WINDSCREEN)
    yield from _screen("rear", half, _LOW + 0.06 * (car.shape.rear == "tailgate"), dark)
    # Behind the windscreen: the sun strip, the dashboard and a seat.
    yield Decal("front", box(0, _HIGH - 0.1, half * 0.87, _HIGH), (40, 52, 60), gloss=255)
    edge = [(half * 0.96, _LOW), (half * 0.9, _LOW + 0.13), (0.3, _LOW + 0.16)]
    board = [(0, _LOW), *edge, (0, _LOW + 0.12)]
    yield Decal("front", board, (34, 36, 38), gloss=255)
    yield Decal("front", _seat(half * 0.5, 0.16), (46, 48, 50), gloss=255)
    yield Decal("rear", box(0, 0.93, 0.16, 0.965), (160, 20, 24), gloss=200)  # brake light
    slope = 0.05 if car.shape.rear == "boot" else 0.015
    ahead = [(0, _LOW), (0.012, _HIGH), (0.03, _HIGH + 0.02)]
    behind = [(1 - slope - 0.02, _HIGH + 0.02), (1 - slope, _HIGH - 0.05), (1, _LOW + 0.06)]
    outline = [*ahead, *behind, (1, _LOW)]  # of all side windows: trim, and rubber on it
    yield Decal("side", grown(outline, 0.025, 0.055), car.trim, gloss=200)
    yield Decal("side", grown(outline, 0.014, 0.030), (14, 14, 15))
    yield from _side_panes(car.shape.posts, slope, light, dark)


def _screen(frame: str, half: float, foot: float, pane: Color) -> Iterator[Decal]:
    """Windscreen or rear window, and the rubber around it."""

    def beside(low_right: float, high_right: float, low: float, high: float) -> ArrayLike:
        """The half of a screen beside the car's middle."""
        return [(0, low), (half * low_right, low), (half * high_right, high), (0, high)]

    yield Decal(frame, beside(0.99, 0.90, foot - 0.04, _HIGH + 0.05), (13, 13, 14))
    yield Decal(frame, beside(0.96, 0.87, foot, _HIGH), pane, gloss=255)


def _side_panes(
    posts: tuple[float, ...], slope: float, light: Color, dark: Color
) -> Iterator[Decal]:
    """The panes between the posts, the first light; behind each a door's top and a seat."""
    for left, right in pairwise([0.0, *posts, 1.0]):
        pane, lean = light if left == 0.0 else dark, slope if right == 1.0 else 0
        left, right = left + 0.008, right - 0.008
        glass = [(left, _LOW), (left + 0.004, _HIGH), (right - lean, _HIGH), (right, _LOW)]
        door = [(left, _LOW), (left, _LOW + 0.16), (right, _LOW + 0.1), (right, _LOW)]
        yield Decal("side", glass, pane, gloss=255)
        yield Decal("side", door, shade(pane, 0.5), gloss=255)
        if right - left > 0.2:
            seat = _seat(0, 0.13) * (0.5, 1) + (right - 0.09, 0)
            yield Decal("side", seat, shade(pane, 0.55), gloss=255)


def _seat(middle: float, half: float) -> Floats:
    """A seat's back and headrest (10, 2), `half` as wide as given on either side."""
    left = np.array([(-1, 0.1), (-0.95, 0.48), (-0.5, 0.52), (-0.5, 0.68), (0, 0.71)])
    outline = np.append(left, left[::-1] * (-1, 1), axis=0)
    return outline * (half, 1) + (middle, 0)


# --- a wheel


def _wheel(rim: Color, spokes: int) -> Iterator[Decal]:
    """A wheel's rim, spokes (each on its darker flanks) and hub; the rest of it is tyre."""
    for radius, by in ((0.70, 0.9), (0.64, 0.17), (0.45, 0.36), (0.42, 0.27)):
        yield Decal("", disc(1, 1, radius), shade(rim, by))
    for angle in np.arange(spokes) * 2 * np.pi / spokes:
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        for by, foot, tip in ((0.6, 0.11, 0.10), (1.0, 0.085, 0.07)):
            spoke = np.array([(0.1, -foot), (0.67, -tip), (0.67, tip), (0.1, foot)])
            wide = spoke * (1, 5.5 / spokes)
            yield Decal("", wide @ turn + 1, shade(rim, by), gloss=200)
    yield Decal("", disc(1, 1, 0.675), rim, gloss=220, width=14)
    yield Decal("", disc(1, 1, 0.17), shade(rim, 0.85), gloss=200)
    yield Decal("", disc(1, 1, 0.08), (40, 40, 44), gloss=160)
