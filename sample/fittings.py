"""What is fixed to a car: mirrors, and where it has them roof rack and aerial."""

from collections.abc import Iterator

import numpy as np

from sample.car import Tube
from sample.paint import BLACK, CHROME, Colour
from sample.shape import Shape

_LEFT, _RIGHT = 1, -1


def fittings(shape: Shape, paint: Colour, aerial: str, rack: bool) -> Iterator[Tube]:
    """All of them; `aerial` is "none", "rod" or "fin" (on the roof) or "mast" (by the hood)."""
    for sign in (_LEFT, _RIGHT):
        yield from _mirror(shape, paint, sign)
        if rack:
            yield from _rail(shape, sign)
    if rack:
        yield from _bars(shape)
    if aerial != "none":
        yield _aerial(shape, paint, aerial)


def _mirror(shape: Shape, paint: Colour, sign: int) -> Iterator[Tube]:
    """A pod in the car's paint, the black glass behind it, and its arm."""
    side, x = shape.width / 2, shape.station(shape.cuts[0]) - 0.40
    z = float(shape.belt(x)) + 0.10
    y = np.linspace(side - 0.02, side + 0.19, 9) * sign
    for back, size, colour in ((0, 1, paint), (0.035, 0.94, BLACK)):
        pod = np.stack([np.full(9, x - back), y, z + 0 * y], axis=1)
        radii = 0.072 * size * (1 - np.linspace(-1, 1, 9) ** 4) ** 0.5
        yield Tube(pod, radii, colour)
    arm = [(x, sign * side * 0.86, z - 0.09), (x, sign * side, z - 0.03)]
    yield Tube(arm, (0.024, 0.024), BLACK)


def _roof_ends(shape: Shape) -> tuple[float, float]:
    """The x (metres) of the windscreen's and the rear window's upper edge."""
    return shape.station(shape.cuts[1]), shape.station(shape.cuts[2])


def _rail(shape: Shape, sign: int) -> Iterator[Tube]:
    """A rail along the roof's edge, and the posts it stands on."""
    front, rear = _roof_ends(shape)
    x = np.linspace(front - 0.12, rear + 0.12, 12)
    y = 0 * x + sign * (shape.width / 2) * (shape.roof - 0.07)
    z = shape.height + 0.05 - 0.03 * np.linspace(-1, 1, 12) ** 4
    rail = np.stack([x, y, z], axis=1)
    yield Tube(rail, np.full(12, 0.018), CHROME)
    for post in (rail[0], rail[5], rail[-1]):
        yield Tube([post, post - (0, 0, 0.16)], (0.02, 0.02), BLACK)


def _bars(shape: Shape) -> Iterator[Tube]:
    """Two bars across the roof, from rail to rail."""
    front, rear = _roof_ends(shape)
    side, z = shape.width / 2, shape.height + 0.055
    for share in (0.3, 0.75):
        x = front + share * (rear - front)
        bar = [(x, y * side * (shape.roof - 0.05), z) for y in (-1, 0, 1)]
        yield Tube(bar, (0.014,) * 3, BLACK)


def _aerial(shape: Shape, paint: Colour, kind: str) -> Tube:
    rear, top = _roof_ends(shape)[1], shape.height
    if kind == "fin":
        steps = ((0.20, -0.02), (0.08, 0.02), (0.02, 0.06))
        fin = [(rear + ahead, 0.0, top + up) for ahead, up in steps]
        return Tube(fin, (0.03, 0.03, 0.004), paint)
    if kind == "rod":
        path = [(rear + 0.12, 0.0, top - 0.05), (rear - 0.14, 0.0, top + 0.36)]
    else:
        assert kind == "mast", f"aerial is {kind!r}, not one of none, rod, mast, fin"
        x, y = shape.station(shape.cuts[0]) + 0.25, -shape.width / 2 * 0.8
        path = [(x, y, float(shape.belt(x)) - 0.03), (x - 0.06, y, top - 0.05)]
    return Tube(path, (0.007, 0.004), BLACK)
