"""What is painted on a car's cabin: windows, their frames, and what is seen through them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sample import styles
from sample.car import Decal
from sample.paint import Colour, scaled
from sample.polygons import Polygon, box, grown, half_pane
from sample.shape import Shape

_LOW, _HIGH = 0.07, 0.85  # lower and upper edge of the glass, shares of the cabin's height
_CLEAR: Colour = (70, 80, 82)  # the windscreen


def windows(shape: Shape, style: str, tint: float, trim: Colour) -> Iterator[Decal]:
    """All windows; a lower `tint` (0-1) is darker glass, `trim` the side windows' frame."""
    light, dark = scaled((74, 84, 86), tint, 14), scaled((56, 62, 66), tint * 0.6, 14)
    half = shape.cabin_half_width
    yield from _screen("front", half, _LOW, _CLEAR)
    yield from _screen("rear", half, _LOW + 0.06 * (style in styles.WITH_TAILGATE), dark)
    yield from _behind_windscreen(half)
    yield Decal("rear", box(0, 0.93, 0.16, 0.965), (160, 20, 24), gloss=200)  # brake light
    slope = 0.05 if style in styles.WITH_BOOT else 0.015
    yield from _side_frame(slope, trim)
    yield from _side_panes(styles.POSTS[style], slope, light, dark)


def _screen(frame: str, half: float, foot: float, pane: Colour) -> Iterator[Decal]:
    """Windscreen or rear window, and the rubber around it."""
    rubber = half_pane(half * 0.99, half * 0.90, foot - 0.04, _HIGH + 0.05)
    yield Decal(frame, rubber, (13, 13, 14))
    yield Decal(frame, half_pane(half * 0.96, half * 0.87, foot, _HIGH), pane, gloss=255)


def _behind_windscreen(half: float) -> Iterator[Decal]:
    """The sun strip, the dashboard and a seat."""
    yield Decal("front", box(0, _HIGH - 0.1, half * 0.87, _HIGH), (40, 52, 60), gloss=255)
    edge = [(half * 0.96, _LOW), (half * 0.9, _LOW + 0.13), (0.3, _LOW + 0.16)]
    board = [(0, _LOW), *edge, (0, _LOW + 0.12)]
    yield Decal("front", board, (34, 36, 38), gloss=255)
    yield Decal("front", _seat(half * 0.5, 0.16), (46, 48, 50), gloss=255)


def _side_frame(slope: float, trim: Colour) -> Iterator[Decal]:
    """Trim and rubber around all side windows."""
    ahead = [(0, _LOW), (0.012, _HIGH), (0.03, _HIGH + 0.02)]
    behind = [(1 - slope - 0.02, _HIGH + 0.02), (1 - slope, _HIGH - 0.05), (1, _LOW + 0.06)]
    outline: Polygon = [*ahead, *behind, (1, _LOW)]
    yield Decal("side", grown(outline, 0.025, 0.055), trim, gloss=200)
    yield Decal("side", grown(outline, 0.014, 0.030), (14, 14, 15))


def _side_panes(
    posts: tuple[float, ...], slope: float, light: Colour, dark: Colour
) -> Iterator[Decal]:
    """The panes between the posts, the first light; behind each a door's top and a seat."""
    edges = [0.0, *posts, 1.0]
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        pane, lean = light if left == 0.0 else dark, slope if right == 1.0 else 0
        left, right = left + 0.008, right - 0.008
        glass = [(left, _LOW), (left + 0.004, _HIGH), (right - lean, _HIGH), (right, _LOW)]
        door = [(left, _LOW), (left, _LOW + 0.16), (right, _LOW + 0.1), (right, _LOW)]
        yield Decal("side", glass, pane, gloss=255)
        yield Decal("side", door, scaled(pane, 0.5), gloss=255)
        if right - left > 0.2:
            seat = _seat(0, 0.13) * (0.5, 1) + (right - 0.09, 0)
            yield Decal("side", seat, scaled(pane, 0.55), gloss=255)


def _seat(middle: float, half: float) -> NDArray[np.float64]:
    """A seat's back and headrest (10, 2), `half` as wide as given on either side."""
    left = np.array([(-1, 0.1), (-0.95, 0.48), (-0.5, 0.52), (-0.5, 0.68), (0, 0.71)])
    outline = np.append(left, left[::-1] * (-1, 1), axis=0)
    return np.asarray(outline * (half, 1) + (middle, 0))
