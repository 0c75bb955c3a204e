"""Everything that decides a fold's weights: section `train`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.settings.base import Count, NotNegative, Section, Seed, Share
from pipeline.settings.learning import (
    Gradient,
    Loss,
    Optimiser,
    Schedule,
    Validation,
    Weights,
)
from pipeline.settings.network import Model

Deviation = Annotated[float, Field(ge=0.001, le=1)]  # 58 would be one of 0..255


class Normalisation(Section):
    """Per-channel mean and standard deviation (RGB) of images scaled to 0..1."""

    mean: tuple[Share, Share, Share]
    std: tuple[Deviation, Deviation, Deviation]


Part = Annotated[float, Field(ge=0, lt=1)]


def _rising(factors: tuple[float, float]) -> tuple[float, float]:
    if factors[0] > factors[1]:
        raise ValueError("the first factor may not be above the second")
    return factors


Factors = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_rising)]  # from .. to


class Augment(Section):
    """Random changes of a training image; single numbers are symmetric about "no change"."""

    hflip: Share
    affine: Share  # probability that the three below are drawn
    shift: Share  # of the image's side
    scale: Part
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees
    colour: Share  # probability that those below are drawn
    lighten: Part  # added to all channels, as a share of white
    brightness: Part | Factors
    contrast: Part | Factors
    saturation: Part | Factors
    hue: Annotated[float, Field(ge=0, le=0.5)]  # of the colour circle


class Shuffle(Section):
    """Every training image once an epoch, in random order."""

    name: Literal["shuffle"]


class PreferForeground(Section):
    """As many draws an epoch as there are images, those with much foreground more often."""

    name: Literal["prefer-foreground"]
    uniform: Annotated[float, Field(gt=0, le=1)]  # share of all chances that all have alike


Sampler = Annotated[Shuffle | PreferForeground, Field(discriminator="name")]


def _not_two(classes: int) -> int:
    if classes == 2:
        raise ValueError("foreground and background are one class: write 1, or 3 and more")
    return classes


Side = Annotated[int, Field(ge=1, le=32_766)]  # the most OpenCV turns and shifts
# A mask's pixel is a byte, so there are 256 at most.
Classes = Annotated[int, Field(ge=1, le=256), AfterValidator(_not_two)]


class Train(Section):
    """Everything that decides a fold's weights."""

    model: Model
    classes: Classes  # 1: foreground or not; 3 and more: one of them
    size: tuple[Side, Side]  # height, width in pixels; the network says which fit
    resize: Literal["linear", "area"]
    normalisation: Normalisation
    epochs: Count
    sampler: Sampler
    batch_size: Count  # images at once, on all devices together
    sync_batchnorm: bool  # statistics of whole batches where several GPUs share them
    optimiser: Optimiser
    schedule: Schedule
    gradient: Gradient
    loss: Loss
    weights: Weights
    validation: Validation
    augment: Augment
    seed: Seed
