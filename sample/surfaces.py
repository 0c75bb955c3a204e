"""A car's surfaces as quads with textures: body, cabin, wheels, and what is fixed to it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pipeline.support.arrays import Float32, UInt8
from sample import paintwork
from sample.car import BLACK, CHROME, Car, Color, Shape
from sample.geometry import (
    LID_ROWS,
    Floats,
    Heights,
    Outline,
    pipe,
    quads,
    smoothstep,
    with_lid,
)

# How far out the body is (second list: shares of half its length or width) at shares of its
# height (first list).
_NOSE = ([0, 0.15, 0.3, 0.55, 0.8, 1], [0.955, 0.995, 1, 0.985, 0.965, 0.925])
_TAIL = ([0, 0.15, 0.35, 0.6, 0.8, 1], [0.96, 0.995, 1, 0.985, 0.975, 0.95])
_FLANK = ([0, 0.15, 0.6, 0.72, 0.88, 1], [0.935, 0.97, 1, 0.995, 0.965, 0.90])

_ROOF_EDGE = 0.88  # share of the cabin's height where its sides begin to round into the roof

# A wheel's section: radius (shares of the wheel's) and how far out of the tyre's face (metres),
# from the axle at the back over the tread to the hub.
_WHEEL_RADII = [0, 1, 1, 0.975, 0.93, 0.80, 0.70, 0.66, 0.4, 0.2, 0]
_WHEEL_OUT = [-0.2, -0.2, -0.03, -0.008, 0, 0.002, -0.002, -0.03, -0.02, -0.01, -0.005]
_WHEEL_TURNS = (0.3, 1.1)  # radians, of the front and the rear wheels

_LEFT, _RIGHT = 1, -1


class Surface(NamedTuple):
    """A surface of the car, in car coordinates, with what is painted on it."""

    quads: Float32  # 4 corners, 8 (place, normal, texture u and v), N
    texture: UInt8  # height, width, 4: RGB and gloss


def surfaces(car: Car) -> list[Surface]:
    """The car's surfaces, the largest first (hidden fragments are then cheap)."""
    return [_body(car), _cabin(car), _wheels(car), _fittings(car)]


def _around(outline: Outline, v: Floats) -> Floats:
    """Texture coordinates (rows, columns, 2) of a ring of points at v (rows, columns)."""
    return np.stack([np.broadcast_to(outline.u, v.shape), v], axis=2)


def _body(car: Car) -> Surface:
    shape, outline = car.shape, car.shape.body_outline
    share = np.append(np.linspace(0, 0.85, 18), np.linspace(0.885, 1, 6))[:, None]
    nose, tail, flank = (np.interp(share, *profile) for profile in (_NOSE, _TAIL, _FLANK))
    x = np.where(outline.x > 0, nose, tail) * outline.x
    # Bumpers are higher off the floor than the sills.
    bottom = shape.clearance + 0.10 * np.abs(outline.x / shape.length * 2) ** 6
    z = bottom + (shape.belt(x) - bottom) * share
    # The flank has a lip around each wheel and a hollow behind it.
    reach = np.hypot(np.abs(x) - shape.wheelbase / 2, z - shape.wheel_radius) / shape.wheel_radius
    lip = 0.022 * np.exp(-(((reach - 1.2) / 0.16) ** 2))
    hollow = 0.10 * (1 - smoothstep(0.78, 0.97, reach))
    y = flank * outline.y + np.sign(outline.y) * (lip - hollow)
    lid = z[-1] + np.linspace(0, 0.45 * shape.width, LID_ROWS)[1:, None]
    v = np.vstack([z, lid])
    points = with_lid([x, y, z], shape.belt)
    texture = paintwork.body_texture(car, v.max())
    return Surface(quads(points, _around(outline, v)), texture)


def _cabin(car: Car) -> Surface:
    share = np.append(np.linspace(0, _ROOF_EDGE, 12), np.linspace(0.9, 1, 6))[:, None]
    roof = _roof(car.shape)
    points = with_lid(_cabin_rings(car.shape, share, roof), roof)
    lid = 1 + np.linspace(0, 1, LID_ROWS)[1:, None]
    v = np.append(share, lid)[:, None] + 0 * points[..., 0]
    uv = _around(car.shape.cabin_outline, v)
    return Surface(quads(points, uv), paintwork.cabin_texture(car))


def _roof(shape: Shape) -> Heights:
    """The height of the roof's edge at x: it sags towards both ends."""
    _, top, rear_top, _ = (shape.station(cut) for cut in shape.cuts)
    middle, reach = top * 0.55 + rear_top * 0.45, (top - rear_top) * 0.55

    def height(x: Floats) -> Floats:
        sag = 0.06 * np.abs((x - middle) / reach) ** 2.5
        return np.asarray(shape.height - 0.03 - sag.clip(0, 0.16))

    return height


def _cabin_rings(shape: Shape, share: Floats, roof: Heights) -> list[Floats]:
    """x, y and z (rows, columns), metres, of the cabin's sides at shares (rows, 1) of its height.

    The sides lean inwards, bulge a little, and round into the roof over a quarter circle.
    """
    outline = shape.cabin_outline
    foot, top, rear_top, rear_foot = (shape.station(cut) for cut in shape.cuts)
    arc = np.sqrt(1 - ((share - _ROOF_EDGE) / 0.12).clip(0) ** 2)
    bulge, inset = 0.3 * share * (1 - share), 0.07 * (1 - arc)
    ahead = foot + (top - foot) * (share - bulge / 2) - inset
    behind = rear_foot + (rear_top - rear_foot) * (share - bulge) + inset
    x = (ahead + behind) / 2 + (ahead - behind) / 2 * outline.x / np.abs(outline.x).max()
    half_width = shape.width / 2 * (0.90 + (shape.roof - 0.90) * (share - bulge / 2)) - inset
    y = half_width * outline.y / np.abs(outline.y).max()
    straight, rounded = share / _ROOF_EDGE * 0.92, 0.92 + 0.08 * np.sqrt(1 - arc**2)
    lift = np.where(share < _ROOF_EDGE, straight, rounded)
    base = np.interp(-x, [-foot, -rear_foot], shape.belt([foot, rear_foot])) - 0.01
    return [x, y, base + (roof(x) - base) * lift]


def _wheels(car: Car) -> Surface:
    half = car.shape.wheelbase / 2
    axles = list(zip((half, -half), _WHEEL_TURNS, strict=True))
    wheels = [_wheel(car.shape, side, *axle) for side in (_LEFT, _RIGHT) for axle in axles]
    return Surface(np.concatenate(wheels, axis=2), paintwork.wheel_texture(car))


def _wheel(shape: Shape, side: int, axle: float, turned: float) -> Float32:
    """Quads of a wheel at x = `axle` (metres), turned by an angle (radians)."""
    radius, angle = shape.wheel_radius, np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring, out = np.array(_WHEEL_RADII)[:, None], np.array(_WHEEL_OUT)[:, None]
    face = shape.width / 2 * 0.953 + 0.014
    x = axle - side * radius * ring * np.cos(angle)
    y = side * (face + out) + 0 * angle
    z = radius + radius * ring * np.sin(angle)
    u, v = np.cos(angle + turned * side), np.sin(angle + turned * side)
    disc = np.where(out < -0.1, 0.985, ring.clip(0, 0.985))  # the back is rubber
    uv = 1 + np.stack([disc * u, disc * v], axis=2)
    return quads(np.stack([x, y, z], axis=2), uv)


# --- mirrors, roof rack, aerial


class _Tube(NamedTuple):
    """A round thing along a path with a radius at each point."""

    path: ArrayLike  # (N, 3), metres
    radii: ArrayLike  # (N,), metres
    color: Color


def _fittings(car: Car) -> Surface:
    tubes = [*_mirrors_and_rails(car), *_bars(car), *_aerial(car)]
    rings = [pipe(tube.path, tube.radii) for tube in tubes]
    texels = [np.full((*p.shape[:2], 2), paintwork.texel_middle(i)) for i, p in enumerate(rings)]
    found = [quads(*pair) for pair in zip(rings, texels, strict=True)]
    texture = paintwork.plain_texture(tube.color for tube in tubes)
    return Surface(np.concatenate(found, axis=2), texture)


def _mirrors_and_rails(car: Car) -> Iterator[_Tube]:
    for side in (_LEFT, _RIGHT):
        yield from _mirror(car.shape, car.paint, side)
        if car.rack:
            yield from _rail(car.shape, side)


def _mirror(shape: Shape, paint: Color, sign: int) -> Iterator[_Tube]:
    """A pod in the car's paint, the black glass behind it, and its arm."""
    side, x = shape.width / 2, shape.station(shape.cuts[0]) - 0.40
    z = float(shape.belt(x)) + 0.10
    y = np.linspace(side - 0.02, side + 0.19, 9) * sign
    for back, size, color in ((0, 1, paint), (0.035, 0.94, BLACK)):
        pod = np.stack([np.full(9, x - back), y, z + 0 * y], axis=1)
        radii = 0.072 * size * (1 - np.linspace(-1, 1, 9) ** 4) ** 0.5
        yield _Tube(pod, radii, color)
    arm = [(x, sign * side * 0.86, z - 0.09), (x, sign * side, z - 0.03)]
    yield _Tube(arm, (0.024, 0.024), BLACK)


def _rail(shape: Shape, sign: int) -> Iterator[_Tube]:
    """A rail along the roof's edge, and the posts it stands on."""
    x = np.linspace(shape.station(shape.cuts[1]) - 0.12, shape.station(shape.cuts[2]) + 0.12, 12)
    y = 0 * x + sign * (shape.width / 2) * (shape.roof - 0.07)
    z = shape.height + 0.05 - 0.03 * np.linspace(-1, 1, 12) ** 4
    rail = np.stack([x, y, z], axis=1)
    yield _Tube(rail, np.full(12, 0.018), CHROME)
    for post in (rail[0], rail[5], rail[-1]):
        yield _Tube([post, post - (0, 0, 0.16)], (0.02, 0.02), BLACK)


def _bars(car: Car) -> Iterator[_Tube]:
    """Two bars across the roof, from rail to rail."""
    shape = car.shape
    front, rear = (shape.station(cut) for cut in shape.cuts[1:3])
    for share in (0.3, 0.75) if car.rack else ():
        x, side = front + share * (rear - front), shape.width / 2
        bar = [(x, y * side * (shape.roof - 0.05), shape.height + 0.055) for y in (-1, 0, 1)]
        yield _Tube(bar, (0.014,) * 3, BLACK)


def _aerial(car: Car) -> Iterator[_Tube]:
    shape, top = car.shape, car.shape.height
    rear, thin = shape.station(shape.cuts[2]), (0.007, 0.004)
    match car.aerial:
        case "fin":
            steps = ((0.20, -0.02), (0.08, 0.02), (0.02, 0.06))
            fin = [(rear + ahead, 0.0, top + up) for ahead, up in steps]
            yield _Tube(fin, (0.03, 0.03, 0.004), car.paint)
        case "rod":
            yield _Tube(
                [(rear + 0.12, 0.0, top - 0.05), (rear - 0.14, 0.0, top + 0.36)], thin, BLACK
            )
        case "mast":
            x, y = shape.station(shape.cuts[0]) + 0.25, -shape.width / 2 * 0.8
            foot = (x, y, float(shape.belt(x)) - 0.03)
            yield _Tube([foot, (x - 0.06, y, top - 0.05)], thin, BLACK)
