"""The built-in sample: Carvana's archives with synthetic cars, drawn instead of downloaded.

File names, sizes and formats are the competition's; every car, word and make is invented.
Each car and each view has its own seeded generator, so the archives depend on the seed and
the numbers of cars alone, not on who draws what when.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import signal
import threading
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pipeline import rle, turntable
from pipeline.files import written_whole
from pipeline.turntable import Car, Colour, Decal, Shape, Studio, Tube

_DATE = (2017, 7, 25, 0, 0, 0)  # of every file in Kaggle's archives
_JPEG_QUALITY = 78  # with the sensor noise: about 100 kB an image, as the real ones
_VIEWS_A_TASK = 8  # a car is built once for these
_BLACK, _DARK, _CHROME = (20, 20, 22), (44, 44, 46), (186, 188, 192)

# Length, width, height, wheelbase, wheel radius, clearance (metres), cuts, levels, roof.
_STYLES: dict[str, Shape] = {
    "sedan": Shape(
        4.85, 1.84, 1.46, 2.80, 0.345, 0.19, (0.28, 0.43, 0.70, 0.87), (0.51, 0.655, 0.70), 0.72
    ),
    "coupe": Shape(
        4.60, 1.86, 1.39, 2.70, 0.355, 0.16, (0.30, 0.45, 0.66, 0.90), (0.50, 0.665, 0.71), 0.70
    ),
    "hatchback": Shape(
        4.20, 1.78, 1.51, 2.58, 0.33, 0.19, (0.25, 0.41, 0.83, 0.955), (0.52, 0.64, 0.66), 0.75
    ),
    "suv": Shape(
        4.75, 1.92, 1.75, 2.78, 0.39, 0.25, (0.25, 0.385, 0.88, 0.955), (0.56, 0.64, 0.65), 0.78
    ),
    "van": Shape(
        5.10, 1.98, 1.78, 3.05, 0.345, 0.19, (0.15, 0.31, 0.93, 0.97), (0.50, 0.58, 0.59), 0.83
    ),
    "pickup": Shape(
        5.45, 1.96, 1.84, 3.40, 0.40, 0.29, (0.25, 0.36, 0.585, 0.625), (0.57, 0.63, 0.62), 0.78
    ),
}
_PAINTS: dict[str, Colour] = {
    "white": (232, 233, 232), "silver": (176, 180, 184), "light grey": (206, 207, 205),
    "black": (22, 23, 25), "red": (150, 20, 28), "blue": (36, 74, 150), "grey": (92, 95, 99),
    "navy": (24, 34, 66), "pearl": (224, 220, 210), "brown": (84, 62, 48),
    "green": (40, 78, 62), "orange": (196, 92, 30),
}  # fmt: skip
_POSTS = {
    "sedan": (0.50, 0.90),
    "coupe": (0.64,),
    "hatchback": (0.45, 0.84),
    "suv": (0.40, 0.73),
    "van": (0.34, 0.66),
    "pickup": (0.56,),
}  # shares of the side


def _scaled(colour: Colour, by: float, plus: float = 0) -> Colour:
    red, green, blue = (int(min(255, channel * by + plus)) for channel in colour)
    return red, green, blue


def _face(shape: Shape, bars: int) -> Iterator[Decal]:
    """Grille, bumper, lamps and plate."""
    side, nose = shape.width / 2, float(shape.belt(shape.length / 2))
    low, high, wide, sill = nose * 0.68, nose * 0.92, side * 0.5, shape.clearance + 0.10
    grille = [(0, low), (wide * 0.85, low), (wide, high - 0.03), (wide * 0.93, high), (0, high)]
    yield Decal("front", grille, (17, 17, 19), 60)
    for share in np.linspace(0.1, 0.9, bars):
        across = [(0, low + (high - low) * share), (wide * 0.92, low + (high - low) * share)]
        upright = [(wide * 0.9 * share, low + 0.02), (wide * 0.9 * share, high - 0.02)]
        yield Decal("front", across if bars < 7 else upright, (116, 118, 122), 200, 3)
    yield Decal("front", grille, _CHROME, 220, 4)
    intake = [(0, sill), (side * 0.62, sill), (side * 0.55, nose * 0.5), (0, nose * 0.5)]
    yield Decal("front", intake, _BLACK, 40)
    yield Decal("front", _disc(side * 0.8, sill + 0.08, 0.055), (28, 28, 30), 60)
    yield Decal("front", _disc(side * 0.8, sill + 0.08, 0.035), (206, 208, 205), 220)
    inner, outer = wide * 1.08, float(shape.body_outline.distance(shape.length * 0.43))
    lamp = np.array([(0, 0.03), (0.55, 0.04), (1, 0.27), (0.6, 0.28), (0, 0.20)])
    lamp = lamp * (outer - inner, 1) + (inner, low)
    yield Decal("front", lamp, (146, 151, 156), 230)
    for share, radius in ((0.24, 0.055), (0.50, 0.05)):
        for shrink, colour in ((1, (66, 70, 76)), (0.75, (238, 240, 240))):
            middle = (inner + (outer - inner) * share, low + 0.135 + 0.04 * share)
            yield Decal("front", _disc(*middle, radius * shrink), colour, 255)
    yield Decal("front", [lamp[1] + (0.08, 0.12), lamp[2] - (0.05, 0.02), lamp[3]], (214, 132, 48))
    yield Decal("front", [*lamp, lamp[0]], (30, 30, 32), 120, 2)
    yield from _plate("front", nose * 0.42)


def _disc(u: float, v: float, radius: float) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 24)
    return np.stack([u + radius * np.cos(angle), v + radius * np.sin(angle)], axis=1)


def _box(left: float, low: float, right: float, high: float) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def _plate(frame: str, low: float) -> Iterator[Decal]:
    yield Decal(frame, _box(0, low, 0.155, low + 0.15), (236, 238, 238), 60)
    yield Decal(frame, _box(0, low, 0.155, low + 0.03), (36, 98, 178), 60)
    glyphs = (
        [(0, 0), (0, 2), (1, 1), (1, 0)],
        [(0, 0), (0, 2), (1, 2), (1, 0), (0, 0)],
        [(0, 2), (0.5, 0), (1, 2)],
    )
    for left, glyph in zip((0.012, 0.06, 0.108), glyphs, strict=True):
        strokes = np.array(glyph) * (0.03, 0.03) + (left, low + 0.06)
        yield Decal(frame, strokes, (40, 46, 74), 60, 4)


def _tail(shape: Shape, tall: float) -> Iterator[Decal]:
    """Rear lamps, lid, bumper and plate."""
    side, deck = shape.width / 2, float(shape.belt(-shape.length / 2))
    inner, high, low = side * (0.58 if tall < 0.2 else 0.70), deck - 0.07, deck - 0.07 - tall
    outer = shape.body_outline.size - float(shape.body_outline.distance(-shape.length * 0.45))
    lamp = [(inner, low + 0.03), (inner, high), (outer, high + 0.02), (outer - 0.03, low + 0.02)]
    yield Decal("rear", lamp, (146, 18, 22), 200)
    yield Decal("rear", _box(inner + 0.02, low + 0.05, outer - 0.06, low + 0.09), (226, 214, 210))
    yield Decal("rear", [(inner, high - 0.04), (outer, high - 0.02)], (222, 66, 62), 220, 4)
    yield Decal("rear", [*lamp, lamp[0]], (40, 10, 10), 120, 2)
    bumper = shape.clearance
    yield Decal("rear", _box(0, bumper, side * 1.1, bumper + 0.13), _BLACK, 40)
    yield Decal("rear", _box(0, deck * 0.56, 0.32, deck * 0.56 + 0.20), _DARK, 60)
    yield Decal("rear", _box(0, high - 0.02, side * 0.35, high + 0.01), _CHROME, 220)
    yield from _plate("rear", deck * 0.56 + 0.02)


def _flanks(shape: Shape, paint: Colour, doors: int) -> Iterator[Decal]:
    """Hood and door seams, handles, sill and wheel arches."""
    seam, half, axle = _scaled(paint, 0.25), shape.length / 2, shape.wheelbase / 2
    hood = np.linspace(half * 0.93, shape.station(shape.cuts[0]), 12)
    yield Decal("side", np.stack([hood, shape.belt(hood) + 0.05], axis=1), seam, 60, 2)
    yield Decal("side", _box(-half, 0, half, shape.clearance + 0.05), _BLACK, 30)
    start, step = (
        shape.station(shape.cuts[0]) - 0.08,
        shape.wheelbase * (0.28 if doors > 1 else 0.36),
    )
    sill, rear = shape.clearance + 0.12, -axle + shape.wheel_radius * 1.4
    for door in range(doors + 1):
        x = start - door * step
        top = float(shape.belt(x)) + 0.02
        edge = [(x, top), (x + 0.03, sill + 0.25), (x - 0.01, sill)]
        if door == doors and doors > 1:
            edge = [(x, top), (x + 0.02, sill + 0.38), (max(x, rear), sill + 0.2), (rear, sill)]
        yield Decal("side", edge, seam, 60, 3)
        if door < doors:
            left, low = x - step + 0.07, float(shape.belt(x - step)) - 0.14
            yield Decal("side", _box(left, low - 0.012, left + 0.16, low + 0.014), seam, 120)
            yield Decal(
                "side", _box(left, low, left + 0.15, low + 0.022), _scaled(paint, 1.12, 22), 220
            )
    yield Decal("side", [(start, sill), (rear, sill)], seam, 60, 2)
    crease = np.linspace(half * 0.66, -half * 0.9, 20)
    height = float(shape.belt(0)) * 0.79 + 0.03 * crease / half
    for lift, shade, plus in ((0, 0.74, 0), (0.012, 1.1, 10)):
        line = np.stack([crease, height + lift], axis=1)
        yield Decal("side", line, _scaled(paint, shade, plus), 140, 3)
    for x in (axle, -axle):
        for size, colour in ((1.20, _scaled(paint, 1.06, 6)), (1.16, seam), (1.13, (7, 7, 8))):
            yield Decal("side", _disc(x, shape.wheel_radius, size * shape.wheel_radius), colour, 40)


def _glass(shape: Shape, style: str, tint: float, trim: Colour) -> Iterator[Decal]:
    low, high = 0.07, 0.85
    wide = shape.width * 0.425
    light, dark = _scaled((74, 84, 86), tint, 14), _scaled((56, 62, 66), tint * 0.6, 14)
    for frame, pane in (("front", (70, 80, 82)), ("rear", dark)):
        foot = low + (0.06 if frame == "rear" and style in ("suv", "van", "hatchback") else 0)
        yield Decal(
            frame, _window(0, wide * 0.99, wide * 0.90, foot - 0.04, high + 0.05), (13, 13, 14)
        )
        yield Decal(frame, _window(0, wide * 0.96, wide * 0.87, foot, high), pane, 255)
    yield Decal("front", _box(0, high - 0.1, wide * 0.87, high), (40, 52, 60), 255)
    board = [
        (0, low),
        (wide * 0.96, low),
        (wide * 0.9, low + 0.13),
        (0.3, low + 0.16),
        (0, low + 0.12),
    ]
    yield Decal("front", board, (34, 36, 38), 255)
    yield Decal("front", _seat(wide * 0.5, 0.16), (46, 48, 50), 255)
    yield Decal("rear", _box(0, 0.93, 0.16, 0.965), (160, 20, 24), 200)
    edges = [0.0, *_POSTS[style], 1.0]
    slope = 0.05 if style in ("sedan", "coupe") else 0.015
    side = [
        (0, low),
        (0.012, high),
        (0.03, high + 0.02),
        (1 - slope - 0.02, high + 0.02),
        (1 - slope, high - 0.05),
        (1, low + 0.06),
        (1, low),
    ]
    yield Decal("side", _grown(side, 0.025, 0.055), trim, 200)
    yield Decal("side", _grown(side, 0.014, 0.030), (14, 14, 15))
    for number, (left, right) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        pane = light if number == 0 else dark
        last = right == 1.0
        left, right = left + 0.008, right - 0.008
        glass = [(left, low), (left + 0.004, high), (right - slope * last, high), (right, low)]
        yield Decal("side", glass, pane, 255)
        yield Decal(
            "side",
            [(left, low), (left, low + 0.16), (right, low + 0.1), (right, low)],
            _scaled(pane, 0.5),
            255,
        )
        if right - left > 0.2:
            seat = _seat(0, 0.13) * (0.5, 1) + (right - 0.09, 0)
            yield Decal("side", seat, _scaled(pane, 0.55), 255)


def _window(
    left: float, low_right: float, high_right: float, low: float, high: float
) -> list[tuple[float, float]]:
    return [(left, low), (low_right, low), (high_right, high), (left, high)]


def _grown(points: list[tuple[float, float]], by: float, up: float) -> NDArray[np.float64]:
    """The polygon, moved outwards from its middle."""
    polygon = np.array(points)
    return np.asarray(polygon + np.sign(polygon - polygon.mean(axis=0)) * (by, up))


def _seat(middle: float, half: float) -> NDArray[np.float64]:
    left = np.array([(-1, 0.1), (-0.95, 0.48), (-0.5, 0.52), (-0.5, 0.68), (0, 0.71)])
    outline = np.append(left, left[::-1] * (-1, 1), axis=0)
    return np.asarray(outline * (half, 1) + (middle, 0))


def _wheel(rim: Colour, spokes: int) -> Iterator[Decal]:
    for radius, shade in ((0.70, 0.9), (0.64, 0.17), (0.45, 0.36), (0.42, 0.27)):
        yield Decal("", _disc(1, 1, radius), _scaled(rim, shade), 120)
    wide = 5.5 / spokes
    for angle in np.arange(spokes) * 2 * np.pi / spokes:
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        for shade, foot, tip in ((0.6, 0.11, 0.10), (1.0, 0.085, 0.07)):
            spoke = np.array([(0.1, -foot), (0.67, -tip), (0.67, tip), (0.1, foot)])
            yield Decal("", (spoke * (1, wide)) @ turn + 1, _scaled(rim, shade), 200)
    yield Decal("", _disc(1, 1, 0.675), rim, 220, 14)
    yield Decal("", _disc(1, 1, 0.17), _scaled(rim, 0.85), 200)
    yield Decal("", _disc(1, 1, 0.08), (40, 40, 44), 160)


def _tubes(shape: Shape, paint: Colour, aerial: str, rack: bool) -> Iterator[Tube]:
    """Mirrors, and where the car has them aerial and roof rack."""
    side, top = shape.width / 2, shape.height
    front, rear = shape.station(shape.cuts[1]), shape.station(shape.cuts[2])
    x = shape.station(shape.cuts[0]) - 0.40
    z = float(shape.belt(x)) + 0.10
    for sign in (1, -1):
        for back, size, colour in ((0, 1, paint), (0.035, 0.94, _BLACK)):
            ends = np.linspace(side - 0.02, side + 0.19, 9) * sign
            pod = np.stack([np.full(9, x - back), ends, z + 0 * ends], axis=1)
            bulge = 0.072 * size * (1 - np.linspace(-1, 1, 9) ** 4) ** 0.5
            yield Tube(pod, bulge, colour)
        yield Tube(
            [(x, sign * side * 0.86, z - 0.09), (x, sign * side, z - 0.03)], (0.024, 0.024), _BLACK
        )
        if rack:
            along = np.linspace(front - 0.12, rear + 0.12, 12)
            rail = np.stack(
                [
                    along,
                    0 * along + sign * side * (shape.roof - 0.07),
                    top + 0.05 - 0.03 * np.linspace(-1, 1, 12) ** 4,
                ],
                axis=1,
            )
            yield Tube(rail, np.full(12, 0.018), _CHROME)
            for post in (rail[0], rail[5], rail[-1]):
                yield Tube([post, post - (0, 0, 0.16)], (0.02, 0.02), _BLACK)
    if rack:
        for share in (0.3, 0.75):
            place = front + share * (rear - front)
            bar = [(place, y * side * (shape.roof - 0.05), top + 0.055) for y in (-1, 0, 1)]
            yield Tube(bar, (0.014,) * 3, _BLACK)
    cowl = shape.station(shape.cuts[0]) + 0.25
    aerials: dict[str, tuple[list[tuple[float, float, float]], tuple[float, ...]]] = {
        "none": ([], ()),
        "rod": ([(rear + 0.12, 0, top - 0.05), (rear - 0.14, 0, top + 0.36)], (0.007, 0.004)),
        "mast": (
            [
                (cowl, -side * 0.8, float(shape.belt(cowl)) - 0.03),
                (cowl - 0.06, -side * 0.8, top - 0.05),
            ],
            (0.007, 0.004),
        ),
        "fin": (
            [
                (rear + 0.20, 0, top - 0.02),
                (rear + 0.08, 0, top + 0.02),
                (rear + 0.02, 0, top + 0.06),
            ],
            (0.03, 0.03, 0.004),
        ),
    }
    path, radii = aerials[aerial]
    if path:
        yield Tube(path, radii, paint if aerial == "fin" else _BLACK)


class _Drawing(NamedTuple):
    car_id: str
    car: Car
    studio: Studio
    metadata: tuple[str, str, str, str, str]  # year, make, model, trim1, trim2


def _drawing(seed: int, index: int) -> _Drawing:
    """The sample's car number `index`; styles and paints take turns so that few cars differ."""
    order = np.random.default_rng([seed, 0])
    styles = order.permutation(list(_STYLES)).tolist()
    paints = order.permutation(list(_PAINTS)).tolist()
    rng = np.random.default_rng([seed, 1, index])
    style, paint_name = styles[index % len(styles)], paints[index % len(paints)]
    paint = _PAINTS[paint_name]
    car_id = rng.bytes(6).hex()
    trim = _CHROME if rng.random() < 0.35 else (24, 24, 25)
    rim = [(214, 216, 219), (166, 168, 172), (52, 53, 56)][rng.choice(3, p=[0.6, 0.2, 0.2])]
    spokes = int(rng.choice([5, 6, 7, 10]))
    aerial = str(rng.choice(["fin", "rod", "none", "mast" if style == "pickup" else "rod"]))
    rack = style in ("suv", "van", "hatchback") and rng.random() < (
        0.3 if style == "hatchback" else 0.7
    )
    shape = _varied(_STYLES[style], rng)
    body = [
        *_flanks(shape, paint, 1 if style == "coupe" else 2),
        *_face(shape, int(rng.choice([3, 4, 9, 12]))),
        *_tail(shape, 0.17 if style in ("sedan", "coupe") else 0.34),
    ]
    if style == "pickup":
        body += _bed(shape)
    car = Car(
        shape,
        paint,
        tuple(body),
        tuple(_glass(shape, style, rng.uniform(0.3, 0.9), trim)),
        tuple(_wheel(rim, spokes)),
        tuple(_tubes(shape, paint, aerial, rack)),
    )
    return _Drawing(car_id, car, _studio(rng), _metadata(rng, style, paint_name))


def _varied(shape: Shape, rng: np.random.Generator) -> Shape:
    length, width, height = rng.uniform(0.97, 1.03, 3)
    return replace(
        shape,
        length=shape.length * length,
        wheelbase=shape.wheelbase * length,
        width=shape.width * width,
        height=shape.height * height,
    )


def _bed(shape: Shape) -> Iterator[Decal]:
    """A pickup's covered bed."""
    start, end = shape.station(shape.cuts[3]) - 0.02, -shape.length * 0.47
    x = np.linspace(start, end, 20)
    rim = np.stack([x, shape.belt(x) + 0.07], axis=1)
    yield Decal(
        "side",
        [*rim, (-shape.length / 2, rim[-1, 1]), (-shape.length / 2, 9), (start, 9)],
        (26, 26, 28),
        20,
    )
    yield Decal("side", [(start, 0.5), (start, 9)], (10, 10, 10), 0, 5)


def _studio(rng: np.random.Generator) -> Studio:
    shade, warm = rng.uniform(240, 252), rng.uniform(-4, 4)
    floor = rng.uniform(148, 168)
    return Studio(
        word="ROTAVIA",
        wall=(int(shade + warm / 2), int(shade), int(shade - warm / 2)),
        floor=(int(floor + warm - 3), int(floor), int(floor - warm + 3)),
        distance=rng.uniform(6.5, 6.8),
        camera_height=rng.uniform(2.1, 2.4),
        focal=rng.uniform(1900, 2020),
        offset=(rng.uniform(-0.12, 0.12), rng.uniform(-0.06, 0.06)),
        heading=rng.uniform(-3, 3),
        shift=(rng.uniform(-30, 30), rng.uniform(-14, 14)),
    )


def _metadata(rng: np.random.Generator, style: str, paint: str) -> tuple[str, str, str, str, str]:
    make = str(rng.choice(["Alder", "Brisa", "Corvid", "Dunmore", "Estrel", "Fjord"]))
    model = str(rng.choice(["Lark", "Mesa", "Nimbus", "Orla", "Pico", "Quill"]))
    return str(rng.integers(2005, 2018)), make, model, f"{model} {style.title()}", paint.title()


# --- the archives


class _Files(NamedTuple):
    """A view's files: name without suffix, JPEG, GIF, and the mask's bits for its RLE."""

    name: str
    image: bytes
    mask: bytes
    bits: NDArray[np.uint8]


def write_archives(folder: Path, train_cars: int, test_cars: int, seed: int, workers: int) -> None:
    """Draw the sample and write Carvana's six archives of it into `folder` (made if missing).

    The bytes depend on `seed` and the two numbers of cars, not on `workers`. Each archive
    appears whole or not at all.

    Args:
        folder: where the archives go; those of the same name there are replaced.
        train_cars: cars with masks, 16 views each.
        test_cars: cars without.
        seed: 0 or more.
        workers: processes that draw; 0 counts as 1.
    """
    drawings = [_drawing(seed, index) for index in range(train_cars + test_cars)]
    train, test = (
        sorted((drawings[index].car_id, index) for index in indices)
        for indices in (range(train_cars), range(train_cars, train_cars + test_cars))
    )
    count = len(drawings) * turntable.VIEWS
    workers = max(1, workers)
    with _workers(workers) as pool:
        drawn = _drawn(pool, workers, seed, [index for _, index in train + test])
        files = iter(tqdm(drawn, "draw the sample", count, unit="image"))
        _write_train(folder, files, len(train) * turntable.VIEWS)
        names = _write_test(folder, files)
    _write_csv(
        folder, "sample_submission.csv", [["img", "rle_mask"], *([name, "1 1"] for name in names)]
    )
    rows = sorted([drawing.car_id, *drawing.metadata] for drawing in drawings)
    header = ["id", "year", "make", "model", "trim1", "trim2"]
    _write_csv(folder, "metadata.csv", [header, *rows], quote='"')


def _write_train(folder: Path, files: Iterator[_Files], count: int) -> None:
    with (
        _archive(folder / "train.zip") as images,
        _archive(folder / "train_masks.zip") as masks,
        _archive(folder / "train_masks.csv.zip") as table,
        table.open(_entry("train_masks.csv", zipfile.ZIP_DEFLATED), "w") as rows,
    ):
        rows.write(b"img,rle_mask\n")
        for file in itertools.islice(files, count):
            images.writestr(_entry(f"train/{file.name}.jpg"), file.image)
            masks.writestr(_entry(f"train_masks/{file.name}_mask.gif"), file.mask)
            text = rle.encode_packed(file.bits, turntable.HEIGHT, turntable.WIDTH)
            rows.write(f"{file.name}.jpg,{text}\n".encode())


def _write_test(folder: Path, files: Iterator[_Files]) -> list[str]:
    """Write the test archive and return its images' names."""
    names = []
    with _archive(folder / "test.zip") as images:
        for file in files:
            images.writestr(_entry(f"test/{file.name}.jpg"), file.image)
            names.append(f"{file.name}.jpg")
    return names


def _write_csv(folder: Path, name: str, rows: list[list[str]], quote: str = "") -> None:
    """Write a table of one file; no field of ours holds a comma or a quote."""
    lines = (",".join(f"{quote}{field}{quote}" for field in row) for row in rows)
    with _archive(folder / f"{name}.zip") as archive:
        archive.writestr(_entry(name, zipfile.ZIP_DEFLATED), "\n".join([*lines, ""]))


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield archive


def _entry(name: str, compression: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """A file's head with Kaggle's date; JPEG and GIF do not deflate, so they are stored."""
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    return entry


# --- the workers


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes: a forked copy of a process with threads may hang."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, end with it however it ends, and take one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _drawn(
    pool: ProcessPoolExecutor, workers: int, seed: int, indices: list[int]
) -> Iterator[_Files]:
    """Every view of the cars, in order; few are drawn ahead, so memory stays flat."""
    firsts = range(1, turntable.VIEWS + 1, _VIEWS_A_TASK)
    waiting: deque[Future[list[_Files]]] = deque()
    for index, first in itertools.product(indices, firsts):
        waiting.append(pool.submit(_draw_views, seed, index, first))
        if len(waiting) > 2 * workers:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _draw_views(seed: int, index: int, first: int) -> list[_Files]:
    car_id, car, studio, _ = _drawing(seed, index)
    parts, backdrop = turntable.parts_of(car), turntable.backdrop(studio)
    files = []
    for view in range(first, first + _VIEWS_A_TASK):
        rng = np.random.default_rng([seed, 2, index, view])
        image, mask = turntable.render(car, parts, studio, backdrop, view, rng)
        files.append(_Files(f"{car_id}_{view:02d}", _jpeg(image), _gif(mask), _bits(mask)))
    return files


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    assert done, f"OpenCV did not encode an image of shape {image.shape}"
    return data.tobytes()


def _gif(mask: NDArray[np.bool_]) -> bytes:
    """A palette GIF of values 0 (black) and 1 (white)."""
    image, data = Image.fromarray(mask.astype(np.uint8), mode="P"), io.BytesIO()
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(data, "GIF")
    return data.getvalue()


def _bits(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(mask, bitorder="little")
