"""A car: its style and measures, and what tells it from others of its style."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from sample.geometry import Floats, Outline

Color = tuple[int, int, int]  # RGB, 0-255

BLACK: Color = (20, 20, 22)
CHROME: Color = (186, 188, 192)


@dataclass(frozen=True)
class Shape:
    """A car's form: metres, and shares of its length (from the nose) and of its height."""

    length: float
    width: float
    height: float
    wheelbase: float
    wheel_radius: float
    clearance: float
    cuts: tuple[float, float, float, float]  # windscreen foot, top; rear window top, foot
    levels: tuple[float, float, float]  # heights of nose, windscreen foot, tail
    roof: float  # share of the width
    posts: tuple[float, ...]  # where they part the side glass, shares of its length
    doors: int  # a side
    rear: str  # "boot" (below a sloping window), "tailgate" (the roof goes on to it) or "bed"

    def station(self, share: float) -> float:
        """The x (metres) of a place given as a share of the length from the nose."""
        return (0.5 - share) * self.length

    def belt(self, x: ArrayLike) -> Floats:
        """The height (metres) of the body's upper edge at x (metres, any shape)."""
        nose, cowl, tail = (level * self.height for level in self.levels)
        hood = (nose + cowl) / 2 + 0.02
        shares = [0, 0.04, 0.13, self.cuts[0], self.cuts[3], 1]
        heights = [nose - 0.05, nose, hood, cowl, tail, tail - 0.03]
        # The mean over an eighth of the length rounds the corners of the line.
        around = 0.5 - np.asarray(x)[..., None] / self.length + np.linspace(-0.06, 0.06, 13)
        return np.asarray(np.interp(around, shares, heights).mean(axis=-1))

    @cached_property
    def body_outline(self) -> Outline:
        return Outline(self.length / 2, self.width / 2, 4.6, 84)

    @cached_property
    def cabin_outline(self) -> Outline:
        half_length = (self.cuts[3] - self.cuts[0]) * self.length / 2
        return Outline(half_length, self.cabin_half_width, 6, 70)

    @property
    def cabin_half_width(self) -> float:
        """Metres, of the cabin's outline."""
        return self.width * 0.425


SHAPES: dict[str, Shape] = {
    "sedan": Shape(
        length=4.85, width=1.84, height=1.46, wheelbase=2.80, wheel_radius=0.345, clearance=0.19,
        cuts=(0.28, 0.43, 0.70, 0.87), levels=(0.51, 0.655, 0.70), roof=0.72, posts=(0.50, 0.90),
        doors=2, rear="boot",
    ),
    "coupe": Shape(
        length=4.60, width=1.86, height=1.39, wheelbase=2.70, wheel_radius=0.355, clearance=0.16,
        cuts=(0.30, 0.45, 0.66, 0.90), levels=(0.50, 0.665, 0.71), roof=0.70, posts=(0.64,),
        doors=1, rear="boot",
    ),
    "hatchback": Shape(
        length=4.20, width=1.78, height=1.51, wheelbase=2.58, wheel_radius=0.33, clearance=0.19,
        cuts=(0.25, 0.41, 0.83, 0.955), levels=(0.52, 0.64, 0.66), roof=0.75, posts=(0.45, 0.84),
        doors=2, rear="tailgate",
    ),
    "suv": Shape(
        length=4.75, width=1.92, height=1.75, wheelbase=2.78, wheel_radius=0.39, clearance=0.25,
        cuts=(0.25, 0.385, 0.88, 0.955), levels=(0.56, 0.64, 0.65), roof=0.78, posts=(0.40, 0.73),
        doors=2, rear="tailgate",
    ),
    "van": Shape(
        length=5.10, width=1.98, height=1.78, wheelbase=3.05, wheel_radius=0.345, clearance=0.19,
        cuts=(0.15, 0.31, 0.93, 0.97), levels=(0.50, 0.58, 0.59), roof=0.83, posts=(0.34, 0.66),
        doors=2, rear="tailgate",
    ),
    "pickup": Shape(
        length=5.45, width=1.96, height=1.84, wheelbase=3.40, wheel_radius=0.40, clearance=0.29,
        cuts=(0.25, 0.36, 0.585, 0.625), levels=(0.57, 0.63, 0.62), roof=0.78, posts=(0.56,),
        doors=2, rear="bed",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Car:
    """All there is to know of a car; its surfaces and their paint follow from it."""

    shape: Shape  # of its style, a little varied
    paint: Color
    trim: Color  # of the frame around the side windows
    rim: Color
    spokes: int
    bars: int  # of the grille
    tint: float  # 0-1; lower is darker glass
    aerial: str  # "none", "rod" or "fin" (on the roof), "mast" (by the hood)
    rack: bool  # on the roof
