"""The sample's cars: each number of each seed is another car, make and studio."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sample.car import CHROME, SHAPES, Car, Color
from sample.studio import Studio

_PAINTS: dict[str, Color] = {
    "white": (232, 233, 232), "silver": (176, 180, 184), "light grey": (206, 207, 205),
    "black": (22, 23, 25), "red": (150, 20, 28), "blue": (36, 74, 150), "grey": (92, 95, 99),
    "navy": (24, 34, 66), "pearl": (224, 220, 210), "brown": (84, 62, 48),
    "green": (40, 78, 62), "orange": (196, 92, 30),
}  # fmt: skip
_RIMS: list[Color] = [(214, 216, 219), (166, 168, 172), (52, 53, 56)]
_RUBBER: Color = (24, 24, 25)
_MAKES = ["Alder", "Brisa", "Corvid", "Dunmore", "Estrel", "Fjord"]  # invented, as the models
_MODELS = ["Lark", "Mesa", "Nimbus", "Orla", "Pico", "Quill"]


class Metadata(NamedTuple):
    """The car's row in the competition's table of cars."""

    year: str
    make: str
    model: str
    trim1: str
    trim2: str


class Design(NamedTuple):
    """A car of the sample and where it is photographed."""

    car_id: str  # 12 hexadecimal digits
    car: Car
    studio: Studio
    metadata: Metadata


def design(seed: int, index: int) -> Design:
    """The sample's car number `index` (0 or more); its choices are drawn in a fixed order.

    Styles and paints take turns, so that a few cars already differ.
    """
    order = np.random.default_rng([seed, 0])
    names = order.permutation(list(SHAPES)).tolist()
    paints = order.permutation(list(_PAINTS)).tolist()
    style, paint = names[index % len(names)], paints[index % len(paints)]
    rng = np.random.default_rng([seed, 1, index])
    car_id = rng.bytes(6).hex()
    car = _car(style, _PAINTS[paint], rng)
    return Design(car_id, car, _studio(rng), _metadata(rng, style, paint))


def _car(style: str, paint: Color, rng: np.random.Generator) -> Car:
    shape = SHAPES[style]
    trim = CHROME if rng.random() < 0.35 else _RUBBER
    rim = _RIMS[rng.choice(3, p=[0.6, 0.2, 0.2])]
    spokes = int(rng.choice([5, 6, 7, 10]))
    aerial = str(rng.choice(["fin", "rod", "none", "mast" if shape.rear == "bed" else "rod"]))
    rack_odds = 0.3 if style == "hatchback" else 0.7
    rack = shape.rear == "tailgate" and rng.random() < rack_odds
    length, width, height = rng.uniform(0.97, 1.03, 3)  # up to 3 % more or less than the style's
    shape = replace(
        shape,
        length=shape.length * length,
        wheelbase=shape.wheelbase * length,
        width=shape.width * width,
        height=shape.height * height,
    )
    bars, tint = int(rng.choice([3, 4, 9, 12])), rng.uniform(0.3, 0.9)
    return Car(shape, paint, trim, rim, spokes, bars, tint, aerial, rack)


def _studio(rng: np.random.Generator) -> Studio:
    wall, warm = rng.uniform(240, 252), rng.uniform(-4, 4)
    floor = rng.uniform(148, 168)
    return Studio(
        word="ROTAVIA",
        wall=(int(wall + warm / 2), int(wall), int(wall - warm / 2)),
        floor=(int(floor + warm - 3), int(floor), int(floor - warm + 3)),
        distance=rng.uniform(6.5, 6.8),
        camera_height=rng.uniform(2.1, 2.4),
        focal=rng.uniform(1900, 2020),
        offset=(rng.uniform(-0.12, 0.12), rng.uniform(-0.06, 0.06)),
        heading=rng.uniform(-3, 3),
        shift=(rng.uniform(-30, 30), rng.uniform(-14, 14)),
    )


def _metadata(rng: np.random.Generator, style: str, paint: str) -> Metadata:
    make, model = str(rng.choice(_MAKES)), str(rng.choice(_MODELS))
    year = str(rng.integers(2005, 2018))
    return Metadata(year, make, model, f"{model} {style.title()}", paint.title())
