"""What a car is made of: a shape, what is painted on it, and what is fixed to it."""

from dataclasses import dataclass
from typing import NamedTuple

from numpy.typing import ArrayLike

from sample.paint import Colour
from sample.shape import Shape


class Decal(NamedTuple):
    """A shape painted on a surface, on both sides of the car alike.

    `frame` says what the first coordinate is: "front" and "rear" are metres from the middle
    of that end around the corner; "side" is x on the body, 0 to 1 from the windscreen's
    corner to the rear window's on the cabin. The second is z on the body, 0 (belt) to 1
    (roof edge) on the cabin. On a wheel `frame` is "", the unit its radius, its middle (1, 1).
    """

    frame: str
    points: ArrayLike  # (N, 2)
    colour: Colour
    gloss: int = 120  # 0 (rubber) to 255 (glass)
    width: int = 0  # of the stroke, texels; 0 fills the polygon


class Tube(NamedTuple):
    """A round thing along a path with a radius at each point."""

    path: ArrayLike  # (N, 3), metres
    radii: ArrayLike  # (N,), metres
    colour: Colour


@dataclass(frozen=True)
class Car:
    """A shape with its decals, in the order they are painted, and its tubes."""

    shape: Shape
    paint: Colour
    body: tuple[Decal, ...]
    cabin: tuple[Decal, ...]
    wheel: tuple[Decal, ...]  # of all four
    tubes: tuple[Tube, ...]
