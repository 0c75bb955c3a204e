"""A car's form: its measures, and its outlines seen from above."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Outline:
    """A superellipse seen from above, as points around it and distances along it.

    Attributes:
        x, y: places (N,), metres, from the middle of the front along the left side to the
            middle of the rear, and back along the right side.
        u: distance (N,), metres, of each from the middle of the front, alike on both sides.
        size: the distance of the rear's middle.
    """

    def __init__(self, length: float, width: float, power: float, columns: int) -> None:
        """Take half axes in metres, the superellipse's power, and the points of one side."""
        angle = np.linspace(0, np.pi, 4001)
        x = length * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power)
        y = width * np.sin(angle).clip(0) ** (2 / power)
        steps = np.hypot(np.diff(x), np.diff(y))
        self._x, self._distance = x, np.append(0, np.cumsum(steps))
        self.size = float(self._distance[-1])
        half = np.linspace(0, self.size, columns)
        half_x, half_y = (np.interp(half, self._distance, values) for values in (x, y))
        mirror = slice(-2, 0, -1)  # the two ends are on both sides: once is enough
        self.u = np.append(half, half[mirror])
        self.x = np.append(half_x, half_x[mirror])
        self.y = np.append(half_y, -half_y[mirror])

    def distance(self, x: ArrayLike) -> NDArray[np.float64]:
        """Metres from the middle of the front, along the outline, to where it passes x."""
        return np.asarray(np.interp(-np.asarray(x), -self._x, self._distance))


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

    def station(self, share: float) -> float:
        """The x (metres) of a place given as a share of the length from the nose."""
        return (0.5 - share) * self.length

    def belt(self, x: ArrayLike) -> NDArray[np.float64]:
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
