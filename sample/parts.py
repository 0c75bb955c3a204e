"""A car's surfaces: body, cabin, wheels and tubes, each with its texture."""

import numpy as np
from numpy.typing import NDArray

from sample.car import Car, Tube
from sample.mesh import LID_ROWS, Heights, Part, quads_of, with_lid
from sample.paint import Colour
from sample.shape import Outline, Shape
from sample.smoothstep import smoothstep
from sample.texture import painted, placed, plain, texel_middle

# How far out the body is (second list: shares of half its length or width) at shares of its
# height (first list).
_NOSE = ([0, 0.15, 0.3, 0.55, 0.8, 1], [0.955, 0.995, 1, 0.985, 0.965, 0.925])
_TAIL = ([0, 0.15, 0.35, 0.6, 0.8, 1], [0.96, 0.995, 1, 0.985, 0.975, 0.95])
_FLANK = ([0, 0.15, 0.6, 0.72, 0.88, 1], [0.935, 0.97, 1, 0.995, 0.965, 0.90])

_ROOF_EDGE = 0.88  # share of the cabin's height where its sides begin to round into the roof
_CORNER = 0.11  # metres from half the cabin's width to where its side glass begins

# A wheel's section: radius (shares of the wheel's) and how far out of the tyre's face (metres),
# from the axle at the back over the tread to the hub.
_WHEEL_RADII = [0, 1, 1, 0.975, 0.93, 0.80, 0.70, 0.66, 0.4, 0.2, 0]
_WHEEL_OUT = [-0.2, -0.2, -0.03, -0.008, 0, 0.002, -0.002, -0.03, -0.02, -0.01, -0.005]
_TYRE: Colour = (42, 42, 44)
_WHEEL_TURNS = (0.3, 1.1)  # radians, of the front and the rear wheels


def parts_of(car: Car) -> list[Part]:
    """The car's surfaces, the largest first (hidden fragments are then cheap)."""
    return [_body(car), _cabin(car), _wheels(car), _tubes(car)]


def _around(outline: Outline, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Texture coordinates (rows, columns, 2) of a ring of points at v (rows, columns)."""
    return np.stack([np.broadcast_to(outline.u, v.shape), v], axis=2)


def _body(car: Car) -> Part:
    shape, outline = car.shape, car.shape.body_outline
    share = np.append(np.linspace(0, 0.85, 18), np.linspace(0.885, 1, 6))[:, None]
    nose, tail, flank = (np.interp(share, *profile) for profile in (_NOSE, _TAIL, _FLANK))
    x = np.where(outline.x > 0, nose, tail) * outline.x
    # Bumpers are higher off the floor than the sills.
    bottom = shape.clearance + 0.10 * np.abs(outline.x / shape.length * 2) ** 6
    z = bottom + (shape.belt(x) - bottom) * share
    y = flank * outline.y + np.sign(outline.y) * _wheel_arches(shape, x, z)
    points = with_lid([x, y, z], shape.belt)
    lid = z[-1] + np.linspace(0, 0.45 * shape.width, LID_ROWS)[1:, None]
    v = np.vstack([z, lid])
    decals = [placed(decal, outline, 0) for decal in car.body]
    texture = painted((outline.size, v.max()), car.paint, decals)
    return Part(quads_of(points, _around(outline, v)), texture)


def _wheel_arches(
    shape: Shape, x: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Metres the flank stands out: a lip around each wheel, a hollow behind it."""
    radius = shape.wheel_radius
    reach = np.hypot(np.abs(x) - shape.wheelbase / 2, z - radius) / radius
    lip = 0.022 * np.exp(-(((reach - 1.2) / 0.16) ** 2))
    hollow = 0.10 * (1 - smoothstep(0.78, 0.97, reach))
    return np.asarray(lip - hollow)


def _cabin(car: Car) -> Part:
    shape, outline, roof = car.shape, car.shape.cabin_outline, _roof(car.shape)
    share = np.append(np.linspace(0, _ROOF_EDGE, 12), np.linspace(0.9, 1, 6))[:, None]
    points = with_lid(_cabin_rings(shape, share, roof), roof)
    lid = 1 + np.linspace(0, 1, LID_ROWS)[1:, None]
    v = np.append(share, lid)[:, None] + 0 * points[..., 0]
    corner = shape.cabin_half_width + _CORNER
    decals = [placed(decal, outline, corner) for decal in car.cabin]
    texture = painted((outline.size, 2), car.paint, decals)
    return Part(quads_of(points, _around(outline, v)), texture)


def _roof(shape: Shape) -> Heights:
    """The height of the roof's edge at x: it sags towards both ends."""
    _, top, rear_top, _ = (shape.station(cut) for cut in shape.cuts)
    middle, reach = top * 0.55 + rear_top * 0.45, (top - rear_top) * 0.55

    def height(x: NDArray[np.float64]) -> NDArray[np.float64]:
        sag = 0.06 * np.abs((x - middle) / reach) ** 2.5
        return np.asarray(shape.height - 0.03 - sag.clip(0, 0.16))

    return height


def _cabin_rings(
    shape: Shape, share: NDArray[np.float64], roof: Heights
) -> list[NDArray[np.float64]]:
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


def _wheels(car: Car) -> Part:
    half = car.shape.wheelbase / 2
    axles = list(zip((half, -half), _WHEEL_TURNS, strict=True))
    quads = [_wheel(car.shape, side, *axle) for side in (1, -1) for axle in axles]
    return Part(np.concatenate(quads, axis=2), painted((2, 2), _TYRE, car.wheel))


def _wheel(shape: Shape, side: int, axle: float, turned: float) -> NDArray[np.float32]:
    """Quads of the wheel on the left (1) or right (-1), turned by an angle (radians)."""
    radius, angle = shape.wheel_radius, np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring, out = np.array(_WHEEL_RADII)[:, None], np.array(_WHEEL_OUT)[:, None]
    face = shape.width / 2 * 0.953 + 0.014
    x = axle - side * radius * ring * np.cos(angle)
    y = side * (face + out) + 0 * angle
    z = radius + radius * ring * np.sin(angle)
    u, v = np.cos(angle + turned * side), np.sin(angle + turned * side)
    disc = np.where(out < -0.1, 0.985, ring.clip(0, 0.985))  # the back is rubber
    uv = 1 + np.stack([disc * u, disc * v], axis=2)
    return quads_of(np.stack([x, y, z], axis=2), uv)


def _tubes(car: Car) -> Part:
    quads = []
    for number, tube in enumerate(car.tubes):
        points = _tube_rings(tube)
        quads.append(quads_of(points, np.full((*points.shape[:2], 2), texel_middle(number))))
    return Part(np.concatenate(quads, axis=2), plain([tube.colour for tube in car.tubes]))


def _tube_rings(tube: Tube) -> NDArray[np.float64]:
    """Points (N, 12, 3), metres, around each point of the tube's path."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)[:, None]
    path, radii = np.asarray(tube.path, np.float64), np.asarray(tube.radii, np.float64)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    upright = np.abs(along[:, 2:]) > 0.9  # then z would be no direction across
    across = np.cross(along, np.where(upright, [1.0, 0, 0], [0, 0, 1.0]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(along, across)
    ring = np.cos(angle) * across[:, None] + np.sin(angle) * other[:, None]
    return np.asarray(path[:, None] + radii[:, None, None] * ring)
