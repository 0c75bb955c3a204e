"""A car on a studio turntable, drawn from numbers: the image of a view and its exact mask.

A car is a few closed surfaces (body, cabin, wheels, tubes). Each is a grid of quads with a
texture; every quad is filled with its number, twice as fine as the image, and what is seen at
a pixel (place, normal, texture) is read back from that number and shaded. The mask is the
union of the same quads, so it fits the image to the pixel.

Car coordinates are metres: x forward, y left, z up from the floor under the car's middle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Colour = tuple[int, int, int]  # RGB, 0-255
Points = ArrayLike  # (N, 2) or (N, 3), metres

HEIGHT, WIDTH, VIEWS = 1280, 1918, 16  # pixels, pixels, images a turn (every 22.5 degrees)
DISC_RADIUS = 3.05  # metres, of the turntable
TEXELS = 400  # a metre of texture
_LID_ROWS = 12


class Decal(NamedTuple):
    """A shape painted on a surface, on both sides of the car alike.

    `frame` says what the first coordinate is: "front" and "rear" are metres from the middle
    of that end around the corner; "side" is x on the body, 0 to 1 from the windscreen's
    corner to the rear window's on the cabin. The second is z on the body, 0 (belt) to 1
    (roof edge) on the cabin. `width` is the stroke in texels; 0 fills the polygon.
    """

    frame: str
    points: Points
    colour: Colour
    gloss: int = 120  # 0 (rubber) to 255 (glass)
    width: int = 0


class Tube(NamedTuple):
    """A round thing along a path (N, 3) with a radius at each point (metres)."""

    path: Points
    radii: Points
    colour: Colour


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
        """The x of a place given as a share of the length from the nose."""
        return (0.5 - share) * self.length

    def belt(self, x: ArrayLike) -> NDArray[np.float64]:
        """The height (metres) of the body's upper edge at x."""
        nose, cowl, tail = (level * self.height for level in self.levels)
        shares = [0, 0.04, 0.13, self.cuts[0], self.cuts[3], 1]
        heights = [nose - 0.05, nose, (nose + cowl) / 2 + 0.02, cowl, tail, tail - 0.03]
        around = 0.5 - np.asarray(x)[..., None] / self.length + np.linspace(-0.06, 0.06, 13)
        return np.asarray(np.interp(around, shares, heights).mean(axis=-1))

    @cached_property
    def body_outline(self) -> "Outline":
        return Outline(self.length / 2, self.width / 2, 4.6, 84)

    @cached_property
    def cabin_outline(self) -> "Outline":
        return Outline((self.cuts[3] - self.cuts[0]) * self.length / 2, self.width * 0.425, 6, 70)


@dataclass(frozen=True)
class Car:
    """A shape with what is painted on it and fixed to it."""

    shape: Shape
    paint: Colour
    body: tuple[Decal, ...]
    cabin: tuple[Decal, ...]
    wheel: tuple[Decal, ...]  # unit: the wheel's radius; middle at (1, 1)
    tubes: tuple[Tube, ...]


@dataclass(frozen=True)
class Studio:
    """The room and the camera, which looks at the middle of the turntable."""

    word: str
    wall: Colour
    floor: Colour
    distance: float  # metres, camera to the turntable's axis
    camera_height: float  # metres
    focal: float  # pixels
    offset: tuple[float, float]  # metres, the car's middle from the axis
    heading: float  # degrees, added to every view
    shift: tuple[float, float]  # pixels, of the wall in the image


class Part(NamedTuple):
    quads: Floats  # 4 corners, 8 (place, normal, texture u and v), N
    texture: Bytes  # height, width, 4: RGB and gloss


class Outline:
    """Half a superellipse seen from above, from the middle of the front to that of the rear."""

    def __init__(self, length: float, width: float, power: float, columns: int) -> None:
        angle = np.linspace(0, np.pi, 4001)
        x = length * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power)
        y = width * np.sin(angle).clip(0) ** (2 / power)
        steps = np.hypot(np.diff(x), np.diff(y))
        self._x, self._distance = x, np.append(0, np.cumsum(steps))
        self.size = float(self._distance[-1])
        half = np.linspace(0, self.size, columns)
        mirror = slice(-2, 0, -1)
        self.u = np.append(half, half[mirror])
        x, y = (np.interp(half, self._distance, values) for values in (x, y))
        self.x, self.y = np.append(x, x[mirror]), np.append(y, -y[mirror])

    def distance(self, x: ArrayLike) -> NDArray[np.float64]:
        """Metres from the middle of the front, along the outline, to where it passes x."""
        return np.asarray(np.interp(-np.asarray(x), -self._x, self._distance))


def _ramp(low: float, high: float, value: ArrayLike) -> Floats:
    share = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


# --- the car's surfaces


def _quads(points: NDArray[np.float64], uv: NDArray[np.float64]) -> Floats:
    """Quads of a grid of points (rows, columns, 3) whose columns close to a ring."""
    around = np.roll(points, -1, axis=1) - np.roll(points, 1, axis=1)
    normals = np.cross(around, np.gradient(points, axis=0))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-9
    here = np.concatenate([points, normals, uv], axis=2)
    there = np.roll(here, -1, axis=1)
    corners = np.stack([here[:-1], there[:-1], there[1:], here[1:]])
    return np.ascontiguousarray(corners.reshape(4, -1, 8).transpose(0, 2, 1), np.float32)


def _painted(size: tuple[float, float], paint: Colour, decals: list[Decal]) -> Bytes:
    """A texture of `size` (u, v) with decals whose points are u and v already."""
    texture = np.empty((int(size[1] * TEXELS) + 1, int(size[0] * TEXELS) + 2, 4), np.uint8)
    texture[:] = (*paint, 120)
    for decal in decals:
        points = [np.round(np.asarray(decal.points) * TEXELS * 16).astype(np.int32)]
        ink = (*decal.colour, decal.gloss)
        if decal.width:
            cv2.polylines(texture, points, False, ink, decal.width, cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(texture, points, ink, cv2.LINE_AA, 4)
    return texture


def _placed(decal: Decal, outline: Outline, corner: float) -> Decal:
    """The decal with its first coordinate as u; `corner` > 0 measures sides in shares."""
    first, second = np.asarray(decal.points, np.float64).T
    if decal.frame == "rear":
        first = outline.size - first
    elif decal.frame == "side" and corner:
        first = corner + first * (outline.size - 2 * corner)
    elif decal.frame == "side":
        first = outline.distance(first)
    return decal._replace(points=np.stack([first, second], axis=1))


def _capped(
    rings: list[NDArray[np.float64]], top: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Rings of x, y, z closed above by a lid at height `top(x)`, arched across the car."""
    inward = 1 - np.linspace(0, 1, _LID_ROWS)[1:, None]
    x, y = rings[0][-1] * (0.7 + 0.3 * inward), rings[1][-1] * inward
    left = np.s_[-1, : y.shape[1] // 2 + 1]
    edge = np.interp(-x, -rings[0][left], rings[1][left])
    arch = 0.04 * (edge**2 - y**2) * edge**2 / edge.max() ** 4
    lid = [x, y, top(x) + arch]
    return np.stack([np.vstack(pair) for pair in zip(rings, lid, strict=True)], axis=2)


def _body(car: Car) -> Part:
    shape, outline = car.shape, car.shape.body_outline
    share = np.append(np.linspace(0, 0.85, 18), np.linspace(0.885, 1, 6))[:, None]
    front = np.interp(share, [0, 0.15, 0.3, 0.55, 0.8, 1], [0.955, 0.995, 1, 0.985, 0.965, 0.925])
    rear = np.interp(share, [0, 0.15, 0.35, 0.6, 0.8, 1], [0.96, 0.995, 1, 0.985, 0.975, 0.95])
    wide = np.interp(share, [0, 0.15, 0.6, 0.72, 0.88, 1], [0.935, 0.97, 1, 0.995, 0.965, 0.90])
    x = np.where(outline.x > 0, front, rear) * outline.x
    bottom = shape.clearance + 0.10 * np.abs(outline.x / shape.length * 2) ** 6
    z = bottom + (shape.belt(x) - bottom) * share
    radius = shape.wheel_radius
    reach = np.hypot(np.abs(x) - shape.wheelbase / 2, z - radius) / radius
    lip = 0.022 * np.exp(-(((reach - 1.2) / 0.16) ** 2)) - 0.10 * (1 - _ramp(0.78, 0.97, reach))
    y = wide * outline.y + np.sign(outline.y) * lip
    points = _capped([x, y, z], shape.belt)
    lid = z[-1] + np.linspace(0, 0.45 * shape.width, _LID_ROWS)[1:, None]
    v = np.vstack([z, lid])
    uv = np.stack([np.broadcast_to(outline.u, v.shape), v], axis=2)
    decals = [_placed(decal, outline, 0) for decal in car.body]
    return Part(_quads(points, uv), _painted((outline.size, v.max()), car.paint, decals))


def _cabin(car: Car) -> Part:
    shape, outline = car.shape, car.shape.cabin_outline
    share = np.append(np.linspace(0, 0.88, 12), np.linspace(0.9, 1, 6))[:, None]
    arc = np.sqrt(1 - ((share - 0.88) / 0.12).clip(0) ** 2)  # rounds the roof's edge
    foot, top, rear_top, rear_foot = (shape.station(cut) for cut in shape.cuts)
    bulge, inset = 0.3 * share * (1 - share), 0.07 * (1 - arc)
    ahead = foot + (top - foot) * (share - bulge / 2) - inset
    behind = rear_foot + (rear_top - rear_foot) * (share - bulge) + inset
    half_width = shape.width / 2 * (0.90 + (shape.roof - 0.90) * (share - bulge / 2)) - inset
    x = (ahead + behind) / 2 + (ahead - behind) / 2 * outline.x / np.abs(outline.x).max()
    y = half_width * outline.y / np.abs(outline.y).max()
    middle, reach = top * 0.55 + rear_top * 0.45, (top - rear_top) * 0.55

    def roof(x: NDArray[np.float64]) -> NDArray[np.float64]:
        sag = 0.06 * np.abs((x - middle) / reach) ** 2.5
        return np.asarray(shape.height - 0.03 - sag.clip(0, 0.16))

    lift = np.where(share < 0.88, share / 0.88 * 0.92, 0.92 + 0.08 * np.sqrt(1 - arc**2))
    base = np.interp(-x, [-foot, -rear_foot], shape.belt([foot, rear_foot])) - 0.01
    z = base + (roof(x) - base) * lift
    points = _capped([x, y, z], roof)
    v = np.append(share, 1 + np.linspace(0, 1, _LID_ROWS)[1:, None])[:, None] + 0 * points[..., 0]
    uv = np.stack([np.broadcast_to(outline.u, v.shape), v], axis=2)
    decals = [_placed(decal, outline, shape.width * 0.425 + 0.11) for decal in car.cabin]
    return Part(_quads(points, uv), _painted((outline.size, 2), car.paint, decals))


def _wheels(car: Car) -> Part:
    radius, angle = car.shape.wheel_radius, np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = np.array([0, 1, 1, 0.975, 0.93, 0.80, 0.70, 0.66, 0.4, 0.2, 0])[:, None]
    out = np.array([-0.2, -0.2, -0.03, -0.008, 0, 0.002, -0.002, -0.03, -0.02, -0.01, -0.005])[
        :, None
    ]
    face = car.shape.width / 2 * 0.953 + 0.014
    quads = []
    for side in (1, -1):
        for axle, turned in ((car.shape.wheelbase / 2, 0.3), (-car.shape.wheelbase / 2, 1.1)):
            x = axle - side * radius * ring * np.cos(angle)
            y = side * (face + out) + 0 * angle
            z = radius + radius * ring * np.sin(angle)
            u, v = np.cos(angle + turned * side), np.sin(angle + turned * side)
            disc = np.where(out < -0.1, 0.985, ring.clip(0, 0.985))  # the back is rubber
            uv = 1 + np.stack([disc * u, disc * v], axis=2)
            quads.append(_quads(np.stack([x, y, z], axis=2), uv))
    return Part(np.concatenate(quads, axis=2), _painted((2, 2), (42, 42, 44), list(car.wheel)))


def _tubes(car: Car) -> Part:
    angle, quads = np.linspace(0, 2 * np.pi, 12, endpoint=False), []
    for number, tube in enumerate(car.tubes):
        path = np.asarray(tube.path, np.float64)
        along = np.gradient(path, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        across = np.cross(along, np.where(np.abs(along[:, 2:]) > 0.9, [1.0, 0, 0], [0, 0, 1.0]))
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        other = np.cross(along, across)
        ring = np.cos(angle)[:, None] * across[:, None] + np.sin(angle)[:, None] * other[:, None]
        points = path[:, None] + np.asarray(tube.radii, np.float64)[:, None, None] * ring
        quads.append(_quads(points, np.full((*points.shape[:2], 2), (number + 0.5) / TEXELS)))
    texture = np.array([[(*tube.colour, 120) for tube in car.tubes]], np.uint8)
    return Part(np.concatenate(quads, axis=2), texture)


def parts_of(car: Car) -> list[Part]:
    """The car's surfaces, the largest first (hidden fragments are then cheap)."""
    return [_body(car), _cabin(car), _wheels(car), _tubes(car)]


# --- the camera


def _project(points: Floats, studio: Studio) -> Floats:
    """Column, row (pixels) and depth (metres) of floor points (3, ...): x right, y away, z up."""
    pitch = math.atan2(studio.camera_height - 0.8, studio.distance)
    y, z = points[1] + studio.distance, points[2] - studio.camera_height
    depth = y * math.cos(pitch) - z * math.sin(pitch)
    up = y * math.sin(pitch) + z * math.cos(pitch)
    column = WIDTH / 2 + studio.focal * points[0] / depth
    return np.stack([column, 615 - studio.focal * up / depth, depth]).astype(np.float32)


def _turn(view: int, studio: Studio) -> Floats:
    """Car axes as columns (3, 3) in floor coordinates; view 1 faces the camera."""
    angle = math.radians(360 / VIEWS * (view - 1) + studio.heading)
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[-sine, cosine, 0], [-cosine, -sine, 0], [0, 0, 1]], np.float32)


def _on_floor(x: ArrayLike, y: ArrayLike, view: int, studio: Studio) -> Floats:
    """Columns and rows (N, 2) of the floor under the car's x and y (metres)."""
    x, y = np.broadcast_arrays(np.asarray(x) + studio.offset[0], np.asarray(y) + studio.offset[1])
    points = _turn(view, studio) @ np.stack([x, y, np.zeros_like(x)]).astype(np.float32)
    return _project(points, studio)[:2].T


class Fragments(NamedTuple):
    """Pixels a part covers; all arrays but the tables are (N,)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    quad: NDArray[np.int32]  # the number of the quad seen there
    tables: tuple[Floats, Floats, Floats]  # (9, quads): a constant, and what to add a column, a row

    def value(self, attribute: int) -> Floats:
        """An attribute of the quad (place 0-2, normal 3-5, texture 6-7, depth 8), per pixel."""
        value, column, row = (table[attribute].take(self.quad) for table in self.tables)
        value += column * self.columns.astype(np.float32)
        value += row * self.rows.astype(np.float32)
        return np.asarray(value)

    def only(self, chosen: NDArray[np.bool_]) -> "Fragments":
        rows, columns = self.rows[chosen], self.columns[chosen]
        return Fragments(rows, columns, self.quad[chosen], self.tables)


def _fragments(quads: Floats, studio: Studio) -> tuple[Fragments, Bytes, tuple[int, int]]:
    """What the camera sees of quads (4, 8, N), the samples they cover, and where those start.

    Samples are two a pixel each way, 0 or 255; they start at a row and column of the image.
    The quads are drawn far to near; cells are small, so the last one drawn wins.
    """
    screen = np.stack([_project(corner[:3], studio) for corner in quads])
    first, second = screen[2] - screen[0], screen[3] - screen[1]
    area = first[0] * second[1] - first[1] * second[0]
    seen = np.flatnonzero(area < -0.2)
    seen = seen[np.argsort(-screen[:, 2, seen].mean(axis=0), kind="stable")]
    first, second, area, screen = first[:2, seen], second[:2, seen], area[seen], screen[..., seen]
    low = np.floor(screen[:, :2].min(axis=(0, 2))).astype(int) - 1
    high = np.ceil(screen[:, :2].max(axis=(0, 2))).astype(int) + 2
    low, high = np.maximum(low, 0), np.minimum(high, (WIDTH, HEIGHT))
    canvas = np.zeros((2 * (high[1] - low[1]), 2 * (high[0] - low[0])), np.int32)
    corners = ((screen[:, :2] - low[:, None] + 0.5) * 2 - 0.5) * 16  # sixteenths of a sample
    polygons = np.ascontiguousarray(np.round(corners).astype(np.int32).transpose(2, 0, 1))
    for number, polygon in enumerate(polygons, 1):
        cv2.fillConvexPoly(canvas, polygon, number, cv2.LINE_8, 4)
    nearest = np.maximum(canvas[::2], canvas[1::2])
    nearest = np.maximum(nearest[:, ::2], nearest[:, 1::2])
    rows, columns = np.nonzero(nearest)
    values = np.concatenate([quads[..., seen], screen[:, 2:]], axis=1)
    p, q = values[2] - values[0], values[3] - values[1]
    by_column = (p * second[1] - q * first[1]) / area
    by_row = (q * first[0] - p * second[0]) / area
    middle = screen[:, :2].mean(axis=0)
    constant = values.mean(axis=0) - by_column * middle[0] - by_row * middle[1]
    quad = nearest[rows, columns] - 1
    found = Fragments(rows + low[1], columns + low[0], quad, (constant, by_column, by_row))
    return found, (canvas > 0).astype(np.uint8) * 255, (int(low[1]), int(low[0]))


# --- light


def _room(x: Floats, z: Floats) -> Floats:
    """What a mirror shows (0-1.2) in direction x (right), z (up): soft boxes, wall, floor."""
    floor = 0.40 + 0.12 * _ramp(-0.7, 0, z)
    wall = 0.82 + 0.1 * z
    boxes = 0.75 + 0.45 * _ramp(-0.2, 0.2, np.cos(7 * x / (0.4 + z.clip(0))))
    ceiling, above = _ramp(0.30, 0.55, z), _ramp(-0.03, 0.05, z)
    return (floor + (wall - floor) * above) * (1 - ceiling) + boxes * ceiling


def _sampled(texture: Bytes, u: Floats, v: Floats) -> Floats:
    """RGB and gloss (4, N), 0-1."""
    rows = []
    for start in range(0, len(u), 32000):  # remap takes less than 32768 rows
        here = slice(start, start + 32000)
        maps = [(side[here, None] * TEXELS - 0.5).astype(np.float32) for side in (u, v)]
        rows.append(
            cv2.remap(texture, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
    texels = np.concatenate(rows)[:, 0]
    return np.divide(texels.T, 255, dtype=np.float32)


def _shaded(found: Fragments, texture: Bytes, studio: Studio) -> Floats:
    """The colour (N, 3), 0-1, of the fragments."""
    x, y, z, nx, ny, nz, u, v = (found.value(number) for number in range(8))
    scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-6)
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    ex, ey, ez = -x, -studio.distance - y, studio.camera_height - z
    scale = 1 / np.sqrt(ex * ex + ey * ey + ez * ez)
    ex, ez = ex * scale, ez * scale
    facing = (nx * ex + ny * ey * scale + nz * ez).clip(0.02, 1)
    room = _room(2 * facing * nx - ex, 2 * facing * nz - ez)
    lamp = (-0.35 * nx - 0.65 * ny + 0.68 * nz).clip(0)
    shelter = 0.68 + 0.32 * _ramp(0.05, 0.65, z)  # the floor sends less light to low places
    red, green, blue, gloss = _sampled(texture, u, v)
    mirror = gloss * (0.06 + 0.94 * (1 - facing) ** 5)
    light = (0.49 + 0.32 * nz + 0.34 * lamp) * shelter * (1 - mirror)
    shine = (mirror * room * 1.25 + gloss * 0.16 * _ramp(0.80, 1.05, room)) * shelter
    return np.stack([red * light + shine, green * light + shine, blue * light + shine], axis=1)


# --- the studio


def backdrop(studio: Studio) -> Bytes:
    """The empty studio (1280, 1918, 3), without the turntable."""
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    across, down = column / (WIDTH / 2) - 1, row / HEIGHT
    cove = 0.345 * HEIGHT + 26 * across**2 + 8 * across  # where the wall becomes the floor
    edge = cove + studio.shift[1]
    word = Image.new("L", (WIDTH, HEIGHT))
    font = ImageFont.load_default(395)
    foot = (WIDTH / 2 + studio.shift[0], 0.335 * HEIGHT + studio.shift[1])
    ImageDraw.Draw(word).text(foot, studio.word, 255, font, "ms", stroke_width=2)
    ink = np.asarray(word, np.float32)[..., None] / 255
    wall = _lit(studio.wall, 1 - 0.07 * across**2 - 0.05 * (1 - down))
    wall += ink * (np.array((84, 82, 88), np.float32) - wall)
    light = 1 + 0.16 * (down - 0.5) + 0.05 * across - 0.06 * across**2
    light -= 0.10 * np.exp(-(((row - edge) / 40) ** 2))
    floor = _lit(studio.floor, light)
    image = wall + _ramp(-2.5, 2.5, row - edge)[..., None] * (floor - wall)
    return np.asarray(np.clip(image + 0.5, 0, 255), np.uint8)


def _lit(colour: Colour, light: Floats) -> Floats:
    return np.asarray(np.multiply.outer(light, np.array(colour, np.float32)), np.float32)


def _with_disc(image: Bytes, view: int, studio: Studio) -> Bytes:
    """A copy of the image with the turntable's edge and seams."""
    image, still = image.copy(), _centred(studio)
    angle, along = np.linspace(0, 2 * np.pi, 181), np.linspace(0.45, DISC_RADIUS, 30)
    lines = [(along * math.cos(a), along * math.sin(a), 136, 1) for a in np.arange(8) * np.pi / 4]
    lines += [
        (r * np.cos(angle), r * np.sin(angle), shade, width)
        for r, shade, width in ((0.45, 136, 1), (DISC_RADIUS, 96, 3))
    ]
    for x, y, shade, width in lines:
        points = [np.round(_on_floor(x, y, view, still) * 16).astype(np.int32)]
        cv2.polylines(image, points, False, (shade, shade + 2, shade + 4), width, cv2.LINE_AA, 4)
    return image


def _centred(studio: Studio) -> Studio:
    return replace(studio, offset=(0.0, 0.0))


def _shadow(shape: Shape, view: int, studio: Studio) -> Bytes:
    """How much of the light (0-255) reaches the floor, (1280, 1918)."""
    outline = shape.body_outline
    areas = [
        (1 + grow / shape.length, 1 + grow / shape.width, 0.0, 0.0, dark, blur)
        for grow, dark, blur in ((-0.2, 0.62, 2), (0.1, 0.42, 8), (0.7, 0.16, 20))
    ]
    tyre = (0.44 / shape.length, 0.26 / shape.width)
    areas += [
        (*tyre, x * shape.wheelbase / 2, y * (shape.width / 2 - 0.1), 0.5, 2)
        for x in (1, -1)
        for y in (1, -1)
    ]
    light = np.ones((HEIGHT // 8, WIDTH // 8), np.float32)
    for long, wide, x, y, dark, blur in areas:
        floor = _on_floor(outline.x * long + x, outline.y * wide + y, view, studio)
        area = np.zeros_like(light)
        cv2.fillPoly(area, [np.round(floor * 2).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
        light *= 1 - dark * cv2.GaussianBlur(area, (0, 0), blur)
    full = cv2.resize(light * 255, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full + 0.5, np.uint8)


def _noise(rng: np.random.Generator, deviation: float) -> NDArray[np.int16]:
    """Sensor noise, one value a pixel, alike in all three channels."""
    normal = NormalDist(0, deviation)
    table = np.array([round(normal.inv_cdf((i + 0.5) / 256)) for i in range(256)], np.int16)
    noise = table[rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8)]
    return np.repeat(noise[..., None], 3, axis=2)


# --- the image


def render(
    car: Car,
    parts: list[Part],
    studio: Studio,
    backdrop: Bytes,
    view: int,
    rng: np.random.Generator,
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Image (1280, 1918, 3), RGB uint8, and mask (1280, 1918) of a view from 1 to 16.

    The mask is every pixel at least half covered by the car: glass, wheels, mirrors and
    aerials count, the shadow does not. `rng` draws the sensor noise only.
    """
    colour, hits = _drawn(parts, view, studio)
    coverage = cv2.resize(hits, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    rows, columns = (np.flatnonzero(coverage.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = _with_disc(backdrop, view, studio)
    shadow = cv2.merge([_shadow(car.shape, view, studio)] * 3)
    image = np.asarray(cv2.multiply(image, shadow, scale=1 / 255), np.uint8)
    share = coverage[box][..., None].astype(np.float32) / 255
    image[box] = image[box] * (1 - share) + (colour[box] * 255).clip(0, 255) * share + 0.5
    sharp = cv2.GaussianBlur(image, (3, 3), 0.6)  # the lens
    noisy = cv2.add(sharp, _noise(rng, 1.6), dtype=cv2.CV_8U)
    return np.asarray(noisy, np.uint8), coverage >= 128


def silhouette(parts: list[Part], view: int, studio: Studio) -> NDArray[np.bool_]:
    """The mask alone, as `render` gives it."""
    _, hits = _drawn(parts, view, studio, shaded=False)
    return cv2.resize(hits, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) >= 128


def _drawn(
    parts: list[Part], view: int, studio: Studio, shaded: bool = True
) -> tuple[Floats, Bytes]:
    """Colours (1280, 1918, 3), 0-1, and samples the car covers (2560, 3836), 0 or 255."""
    depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    colour = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    hits = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    turn = _turn(view, studio)
    offset = np.array([*studio.offset, 0], np.float32)[:, None]
    for part in parts:
        place, normal, texture = part.quads[:, :3], part.quads[:, 3:6], part.quads[:, 6:]
        quads = np.concatenate([turn @ (place + offset), turn @ normal, texture], axis=1)
        found, samples, (top, left) = _fragments(quads, studio)
        height, width = samples.shape
        hits[2 * top : 2 * top + height, 2 * left : 2 * left + width] |= samples
        if shaded:
            near = found.value(8)
            chosen = near < depth[found.rows, found.columns]
            found = found.only(chosen)
            depth[found.rows, found.columns] = near[chosen]
            if chosen.any():
                colour[found.rows, found.columns] = _shaded(found, part.texture, studio)
    return colour, hits
