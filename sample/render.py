"""The image of a view and its mask: which quad is seen at which pixel, and in what light."""

from statistics import NormalDist
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.support.arrays import Float32, Mask, UInt8
from sample.car import Shape
from sample.geometry import smoothstep
from sample.paintwork import TEXELS
from sample.studio import HEIGHT, WIDTH, Studio, floor_light, with_turntable
from sample.surfaces import Surface

_FRACTION_BITS = 4  # OpenCV fills at sixteenths of a sample
_SMALLEST = 0.2  # twice a quad's area in pixels below which it is not drawn
_REMAP_ROWS = 32000  # OpenCV's remap takes less than 32768
_DEPTH = 8  # the number of that attribute of a fragment
_HALF_COVERED = 128  # of 255
_LENS_BLUR = 0.6  # pixels, standard deviation
_SENSOR_NOISE = 1.6  # levels of 255, standard deviation

Ints = NDArray[np.int64]


class Scene(NamedTuple):
    """A car in its studio, made once for all its views."""

    shape: Shape
    surfaces: list[Surface]
    studio: Studio
    backdrop: UInt8  # (1280, 1918, 3), RGB

    def on_floor(self, quads: Float32, view: int) -> Float32:
        """Quads (4, 8, N) from car to floor coordinates."""
        axes = self.studio.car_axes(view)
        offset = np.array([*self.studio.offset, 0], np.float32)[:, None]
        place, normal, texture = quads[:, :3], quads[:, 3:6], quads[:, 6:]
        return np.concatenate([axes @ (place + offset), axes @ normal, texture], axis=1)


def render(scene: Scene, view: int, rng: np.random.Generator) -> tuple[UInt8, Mask]:
    """Image (1280, 1918, 3), RGB uint8, and mask (1280, 1918) of a view.

    The mask is every pixel at least half covered by the car: glass, wheels, mirrors and
    aerials count, the shadow does not.

    Args:
        scene: what is seen.
        view: 1 (from the front) to 16.
        rng: draws the sensor noise, and nothing else.
    """
    color, coverage = _car(scene, view)
    light = cv2.merge([floor_light(scene.shape, view, scene.studio)] * 3)
    floor = with_turntable(scene.backdrop, view, scene.studio)
    image = np.asarray(cv2.multiply(floor, light, scale=1 / 255), np.uint8)
    rows, columns = (np.flatnonzero(coverage.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    share = coverage[box][..., None].astype(np.float32) / 255
    image[box] = image[box] * (1 - share) + (color[box] * 255).clip(0, 255) * share + 0.5
    sharp = cv2.GaussianBlur(image, (3, 3), _LENS_BLUR)
    noisy = cv2.add(sharp, _noise(rng, _SENSOR_NOISE), dtype=cv2.CV_8U)
    return np.asarray(noisy, np.uint8), coverage >= _HALF_COVERED


def _car(scene: Scene, view: int) -> tuple[Float32, UInt8]:
    """Colors (1280, 1918, 3), 0-1, and how much of each pixel the car covers, 0-255."""
    depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    color = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    hits = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    for surface in scene.surfaces:
        found = _rasterize(scene.on_floor(surface.quads, view), scene.studio, hits)
        near = found.value(_DEPTH)
        chosen = near < depth[found.rows, found.columns]
        found = found.only(chosen)
        depth[found.rows, found.columns] = near[chosen]
        if chosen.any():
            color[found.rows, found.columns] = _shaded(found, surface.texture, scene.studio)
    # The mean of each pixel's four samples.
    coverage = cv2.resize(hits, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return color, np.asarray(coverage, np.uint8)


def _noise(rng: np.random.Generator, deviation: float) -> NDArray[np.int16]:
    """Sensor noise (1280, 1918, 3), one value a pixel, alike in all three channels."""
    normal = NormalDist(0, deviation)
    table = np.array([round(normal.inv_cdf((i + 0.5) / 256)) for i in range(256)], np.int16)
    noise = table[rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8)]
    return np.repeat(noise[..., None], 3, axis=2)


# --- which quad is seen


class _Fragments(NamedTuple):
    """The N pixels a surface covers."""

    rows: Ints  # (N,)
    columns: Ints  # (N,)
    quad: NDArray[np.int32]  # (N,): the number of the quad seen there
    planes: list[Float32]  # three, (9, quads) each: a constant, and what to add a column, a row

    def value(self, attribute: int) -> Float32:
        """An attribute of the quad, per pixel (N,).

        Attributes are place (0-2, metres) and normal (3-5, of any length) in floor
        coordinates, texture u and v (6-7, metres), and depth (8, metres).
        """
        value, column, row = (plane[attribute].take(self.quad) for plane in self.planes)
        value += column * self.columns.astype(np.float32)
        value += row * self.rows.astype(np.float32)
        return np.asarray(value)

    def only(self, chosen: Mask) -> "_Fragments":
        """The fragments where `chosen` (N,) is true."""
        rows, columns = self.rows[chosen], self.columns[chosen]
        return _Fragments(rows, columns, self.quad[chosen], self.planes)


def _rasterize(quads: Float32, studio: Studio, hits: UInt8) -> _Fragments:
    """What the camera sees of quads (4, 8, N) in floor coordinates, ordered as in `Surface`.

    Samples that they cover become 255 in `hits` (2560, 3836), twice as fine as the image.
    """
    screen = np.stack([studio.project(corner[:3]) for corner in quads])
    seen = _far_to_near(screen)
    quads, screen = quads[..., seen], screen[..., seen]
    # First column and row, and those after the last, of all quads with a margin.
    low = np.floor(screen[:, :2].min(axis=(0, 2))).astype(int) - 1
    high = np.ceil(screen[:, :2].max(axis=(0, 2))).astype(int) + 2
    (left, top), (right, bottom) = np.maximum(low, 0), np.minimum(high, (WIDTH, HEIGHT))
    canvas = np.zeros((2 * (bottom - top), 2 * (right - left)), np.int32)
    _fill(canvas, screen[:, :2] - np.array([[left], [top]]))
    hits[2 * top : 2 * bottom, 2 * left : 2 * right] |= (canvas > 0).astype(np.uint8) * 255
    nearest = np.maximum(canvas[::2], canvas[1::2])  # the nearest quad of a pixel's samples
    nearest = np.maximum(nearest[:, ::2], nearest[:, 1::2])
    rows, columns = np.nonzero(nearest)
    quad = nearest[rows, columns] - 1
    return _Fragments(rows + top, columns + left, quad, _planes(quads, screen))


def _diagonals(corners: Float32) -> tuple[Float32, Float32]:
    """From the first corner to the third, and from the second to the fourth."""
    return corners[2] - corners[0], corners[3] - corners[1]


def _area(screen: Float32) -> Float32:
    """Twice each quad's area in pixels; below 0 where its outside faces the camera."""
    first, second = _diagonals(screen)
    return np.asarray(first[0] * second[1] - first[1] * second[0])


def _far_to_near(screen: Float32) -> Ints:
    """The numbers of the quads that face the camera, the farthest first."""
    seen = np.flatnonzero(_area(screen) < -_SMALLEST)
    depth = screen[:, 2, seen].mean(axis=0)
    return seen[np.argsort(-depth, kind="stable")]


def _fill(canvas: NDArray[np.int32], places: Float32) -> None:
    """Fill the samples of quads (4, 2, N), pixels, with each one's number, from 1; 0 is none.

    They are drawn far to near; cells are small, so the last one drawn wins.
    """
    samples = (places + 0.5) * 2 - 0.5
    corners = np.round(samples * 2**_FRACTION_BITS).astype(np.int32)
    for number, polygon in enumerate(np.ascontiguousarray(corners.transpose(2, 0, 1)), 1):
        cv2.fillConvexPoly(canvas, polygon, number, cv2.LINE_8, _FRACTION_BITS)


def _planes(quads: Float32, screen: Float32) -> list[Float32]:
    """Each attribute as a plane over the image, through the middle of the quad."""
    values = np.concatenate([quads, screen[:, 2:]], axis=1)
    first, second = _diagonals(screen)
    p, q = _diagonals(values)
    area = _area(screen)
    by_column = (p * second[1] - q * first[1]) / area
    by_row = (q * first[0] - p * second[0]) / area
    middle = screen[:, :2].mean(axis=0)
    constant = values.mean(axis=0) - by_column * middle[0] - by_row * middle[1]
    return [constant, by_column, by_row]


# --- in what light


def _shaded(found: _Fragments, texture: UInt8, studio: Studio) -> Float32:
    """The color (N, 3), RGB, of the fragments: 0 is black, 1 white, highlights above.

    The light is that of lamps, of what the floor sends back, and of the room in the paint.
    """
    x, y, z, nx, ny, nz, u, v = (found.value(number) for number in range(8))
    scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-6)
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    ex, ey, ez = -x, -studio.distance - y, studio.camera_height - z  # towards the camera
    scale = 1 / np.sqrt(ex * ex + ey * ey + ez * ez)
    ex, ez = ex * scale, ez * scale
    facing = (nx * ex + ny * ey * scale + nz * ez).clip(0.02, 1)
    mirrored = _room(2 * facing * nx - ex, 2 * facing * nz - ez)
    lamp = (-0.35 * nx - 0.65 * ny + 0.68 * nz).clip(0)
    shelter = 0.68 + 0.32 * smoothstep(0.05, 0.65, z)  # the floor sends less light to low places
    red, green, blue, gloss = _sampled(texture, u, v)
    mirror = gloss * (0.06 + 0.94 * (1 - facing) ** 5)  # Schlick's law
    light = (0.49 + 0.32 * nz + 0.34 * lamp) * shelter * (1 - mirror)
    glint = gloss * 0.16 * smoothstep(0.80, 1.05, mirrored)
    shine = (mirror * mirrored * 1.25 + glint) * shelter
    return np.stack([red * light + shine, green * light + shine, blue * light + shine], axis=1)


def _room(x: Float32, z: Float32) -> Float32:
    """What a mirror shows (0-1.2) in direction x (right), z (up): soft boxes, wall, floor."""
    floor = 0.40 + 0.12 * smoothstep(-0.7, 0, z)
    wall = 0.82 + 0.1 * z
    boxes = 0.75 + 0.45 * smoothstep(-0.2, 0.2, np.cos(7 * x / (0.4 + z.clip(0))))
    ceiling, above = smoothstep(0.30, 0.55, z), smoothstep(-0.03, 0.05, z)
    return np.asarray((floor + (wall - floor) * above) * (1 - ceiling) + boxes * ceiling)


def _sampled(texture: UInt8, u: Float32, v: Float32) -> Float32:
    """RGB and gloss (4, N), 0-1, of the texture at u and v (N,), metres."""
    pieces = []
    for start in range(0, len(u), _REMAP_ROWS):
        here = slice(start, start + _REMAP_ROWS)
        columns, rows = ((side[here, None] * TEXELS - 0.5).astype(np.float32) for side in (u, v))
        pieces.append(
            cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
    return np.divide(np.concatenate(pieces)[:, 0].T, 255, dtype=np.float32)
