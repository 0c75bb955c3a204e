"""The sample's cars: each number of each seed is another car, make and studio."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sample import ends, fittings, glass, paint, sides, styles
from sample.car import Car, Decal
from sample.shape import Shape
from sample.studio import Studio

_RIMS: list[paint.Colour] = [(214, 216, 219), (166, 168, 172), (52, 53, 56)]
_RUBBER: paint.Colour = (24, 24, 25)
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
    names = order.permutation(list(styles.SHAPES)).tolist()
    paints = order.permutation(list(paint.PAINTS)).tolist()
    style, colour = names[index % len(names)], paints[index % len(paints)]
    rng = np.random.default_rng([seed, 1, index])
    car_id = rng.bytes(6).hex()
    car = _car(style, paint.PAINTS[colour], rng)
    return Design(car_id, car, _studio(rng), _metadata(rng, style, colour))


def _car(style: str, colour: paint.Colour, rng: np.random.Generator) -> Car:
    trim = paint.CHROME if rng.random() < 0.35 else _RUBBER
    rim = _RIMS[rng.choice(3, p=[0.6, 0.2, 0.2])]
    spokes = int(rng.choice([5, 6, 7, 10]))
    aerial = str(rng.choice(["fin", "rod", "none", "mast" if style == "pickup" else "rod"]))
    rack_odds = 0.3 if style == "hatchback" else 0.7
    rack = style in styles.WITH_TAILGATE and rng.random() < rack_odds
    shape = _varied(styles.SHAPES[style], rng)
    body = _body(shape, style, colour, bars=int(rng.choice([3, 4, 9, 12])))
    tint = rng.uniform(0.3, 0.9)
    return Car(
        shape,
        colour,
        body=tuple(body),
        cabin=tuple(glass.windows(shape, style, tint, trim)),
        wheel=tuple(sides.wheel(rim, spokes)),
        tubes=tuple(fittings.fittings(shape, colour, aerial, rack)),
    )


def _varied(shape: Shape, rng: np.random.Generator) -> Shape:
    """The shape with its measures up to 3 % longer, wider and higher or less so."""
    length, width, height = rng.uniform(0.97, 1.03, 3)
    return replace(
        shape,
        length=shape.length * length,
        wheelbase=shape.wheelbase * length,
        width=shape.width * width,
        height=shape.height * height,
    )


def _body(shape: Shape, style: str, colour: paint.Colour, bars: int) -> list[Decal]:
    decals = [
        *sides.flanks(shape, colour, doors=1 if style == "coupe" else 2),
        *ends.front(shape, bars),
        *ends.rear(shape, tall=0.17 if style in styles.WITH_BOOT else 0.34),
    ]
    if style == "pickup":
        decals += sides.bed(shape)
    return decals


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


def _metadata(rng: np.random.Generator, style: str, colour: str) -> Metadata:
    make, model = str(rng.choice(_MAKES)), str(rng.choice(_MODELS))
    year = str(rng.integers(2005, 2018))
    return Metadata(year, make, model, f"{model} {style.title()}", colour.title())
