"""What is painted on a car's sides: seams, handles, wheel arches, wheels, a pickup's bed."""

from collections.abc import Iterator

import numpy as np

from sample.car import Decal
from sample.paint import BLACK, Colour, scaled
from sample.polygons import box, disc
from sample.shape import Shape

_SKY = 9  # metres: above every car


def flanks(shape: Shape, paint: Colour, doors: int) -> Iterator[Decal]:
    """Hood and door seams, handles, sill, crease and wheel arches; `doors` a side."""
    half = shape.length / 2
    hood = np.linspace(half * 0.93, shape.station(shape.cuts[0]), 12)
    along = np.stack([hood, shape.belt(hood) + 0.05], axis=1)
    yield Decal("side", along, _seam(paint), gloss=60, width=2)
    yield Decal("side", box(-half, 0, half, shape.clearance + 0.05), BLACK, gloss=30)
    yield from _doors(shape, paint, doors)
    yield from _crease(shape, paint)
    yield from _arches(shape, paint)


def _seam(paint: Colour) -> Colour:
    return scaled(paint, 0.25)


def _doors(shape: Shape, paint: Colour, doors: int) -> Iterator[Decal]:
    """The edges between doors, each door's handle, and the seam below them."""
    start = shape.station(shape.cuts[0]) - 0.08
    step = shape.wheelbase * (0.28 if doors > 1 else 0.36)
    sill, rear = shape.clearance + 0.12, -shape.wheelbase / 2 + shape.wheel_radius * 1.4
    for door in range(doors + 1):
        x = start - door * step
        top = float(shape.belt(x)) + 0.02
        edge = [(x, top), (x + 0.03, sill + 0.25), (x - 0.01, sill)]
        if door == doors and doors > 1:  # a rear door's edge goes around the wheel
            edge = [(x, top), (x + 0.02, sill + 0.38), (max(x, rear), sill + 0.2), (rear, sill)]
        yield Decal("side", edge, _seam(paint), gloss=60, width=3)
        if door < doors:
            yield from _handle(shape, paint, x - step)
    yield Decal("side", [(start, sill), (rear, sill)], _seam(paint), gloss=60, width=2)


def _handle(shape: Shape, paint: Colour, edge: float) -> Iterator[Decal]:
    """The handle of the door that ends at x = `edge` (metres), and its shadow."""
    left, low = edge + 0.07, float(shape.belt(edge)) - 0.14
    yield Decal("side", box(left, low - 0.012, left + 0.16, low + 0.014), _seam(paint))
    handle = box(left, low, left + 0.15, low + 0.022)
    yield Decal("side", handle, scaled(paint, 1.12, 22), gloss=220)


def _crease(shape: Shape, paint: Colour) -> Iterator[Decal]:
    """A line along the doors: a shadow and the light above it."""
    half = shape.length / 2
    x = np.linspace(half * 0.66, -half * 0.9, 20)
    height = float(shape.belt(0)) * 0.79 + 0.03 * x / half
    for lift, by, plus in ((0, 0.74, 0), (0.012, 1.1, 10)):
        line = np.stack([x, height + lift], axis=1)
        yield Decal("side", line, scaled(paint, by, plus), gloss=140, width=3)


def _arches(shape: Shape, paint: Colour) -> Iterator[Decal]:
    """Around each wheel a lip, its edge, and the dark behind the wheel."""
    rings = ((1.20, scaled(paint, 1.06, 6)), (1.16, _seam(paint)), (1.13, (7, 7, 8)))
    axle, radius = shape.wheelbase / 2, shape.wheel_radius
    for x in (axle, -axle):
        for size, colour in rings:
            yield Decal("side", disc(x, radius, size * radius), colour, gloss=40)


def bed(shape: Shape) -> Iterator[Decal]:
    """A pickup's covered bed."""
    start, rear = shape.station(shape.cuts[3]) - 0.02, -shape.length / 2
    x = np.linspace(start, -shape.length * 0.47, 20)
    rim = np.stack([x, shape.belt(x) + 0.07], axis=1)
    cover = [*rim, (rear, rim[-1, 1]), (rear, _SKY), (start, _SKY)]
    yield Decal("side", cover, (26, 26, 28), gloss=20)
    yield Decal("side", [(start, 0.5), (start, _SKY)], (10, 10, 10), gloss=0, width=5)


def wheel(rim: Colour, spokes: int) -> Iterator[Decal]:
    """A wheel's rim, spokes and hub; the rest of it is tyre."""
    for radius, by in ((0.70, 0.9), (0.64, 0.17), (0.45, 0.36), (0.42, 0.27)):
        yield Decal("", disc(1, 1, radius), scaled(rim, by))
    for angle in np.arange(spokes) * 2 * np.pi / spokes:
        yield from _spoke(rim, angle, 5.5 / spokes)
    yield Decal("", disc(1, 1, 0.675), rim, gloss=220, width=14)
    yield Decal("", disc(1, 1, 0.17), scaled(rim, 0.85), gloss=200)
    yield Decal("", disc(1, 1, 0.08), (40, 40, 44), gloss=160)


def _spoke(rim: Colour, angle: float, wide: float) -> Iterator[Decal]:
    """A spoke at an angle (radians), `wide` times as wide as usual, on its darker flanks."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for by, foot, tip in ((0.6, 0.11, 0.10), (1.0, 0.085, 0.07)):
        spoke = np.array([(0.1, -foot), (0.67, -tip), (0.67, tip), (0.1, foot)])
        yield Decal("", (spoke * (1, wide)) @ turn + 1, scaled(rim, by), gloss=200)
