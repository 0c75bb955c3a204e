"""What is painted on a car's front and rear: grille, lamps, bumpers, plates."""

from collections.abc import Iterator

import numpy as np

from sample.car import Decal
from sample.paint import BLACK, CHROME, DARK
from sample.polygons import box, disc
from sample.shape import Shape

_MOST_LYING_BARS = 6  # a grille of more than these has them upright

# Strokes of a number plate's characters (3 cm across and up); its other half mirrors them.
_GLYPHS = (
    [(0, 0), (0, 2), (1, 1), (1, 0)],
    [(0, 0), (0, 2), (1, 2), (1, 0), (0, 0)],
    [(0, 2), (0.5, 0), (1, 2)],
)
_GLYPH_STARTS = (0.012, 0.06, 0.108)  # metres from the middle


def front(shape: Shape, bars: int) -> Iterator[Decal]:
    """Grille (of `bars` bars), bumper, lamps and plate."""
    side, nose = shape.width / 2, float(shape.belt(shape.length / 2))
    grille_half, grille_foot = side * 0.5, nose * 0.68
    yield from _grille(grille_half, grille_foot, nose * 0.92, bars)
    yield from _bumper(side, shape.clearance + 0.10, nose * 0.5)
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


def _bumper(side: float, sill: float, top: float) -> Iterator[Decal]:
    """The air intake and the fog lamp beside it."""
    intake = [(0, sill), (side * 0.62, sill), (side * 0.55, top), (0, top)]
    yield Decal("front", intake, BLACK, gloss=40)
    yield Decal("front", disc(side * 0.8, sill + 0.08, 0.055), (28, 28, 30), gloss=60)
    yield Decal("front", disc(side * 0.8, sill + 0.08, 0.035), (206, 208, 205), gloss=220)


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


def _plate(frame: str, low: float) -> Iterator[Decal]:
    yield Decal(frame, box(0, low, 0.155, low + 0.15), (236, 238, 238), gloss=60)
    yield Decal(frame, box(0, low, 0.155, low + 0.03), (36, 98, 178), gloss=60)
    for left, glyph in zip(_GLYPH_STARTS, _GLYPHS, strict=True):
        strokes = np.array(glyph) * 0.03 + (left, low + 0.06)
        yield Decal(frame, strokes, (40, 46, 74), gloss=60, width=4)


def rear(shape: Shape, tall: float) -> Iterator[Decal]:
    """Lamps (`tall` metres high), lid, bumper and plate."""
    side, deck = shape.width / 2, float(shape.belt(-shape.length / 2))
    outline, high, foot = shape.body_outline, deck - 0.07, deck * 0.56
    corner = outline.size - float(outline.distance(-shape.length * 0.45))
    yield from _rear_lamp(side * (0.58 if tall < 0.2 else 0.70), corner, high - tall, high)
    bumper = box(0, shape.clearance, side * 1.1, shape.clearance + 0.13)
    yield Decal("rear", bumper, BLACK, gloss=40)
    yield Decal("rear", box(0, foot, 0.32, foot + 0.20), DARK, gloss=60)
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
