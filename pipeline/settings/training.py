"""Everything that decides a fold's weights: section `train`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import Count, NotNegative, Positive, Section, Seed, Share
from pipeline.settings.network import Model


class Normalisation(Section):
    """Per-channel mean and standard deviation (RGB) of images scaled to 0..1."""

    mean: tuple[Share, Share, Share]
    std: tuple[Positive, Positive, Positive]


class Optimiser(Section):
    """AdamW; `learning_rate` is the peak of the schedule."""

    name: Literal["adamw"]
    learning_rate: Positive
    weight_decay: NotNegative


class Schedule(Section):
    """torch's OneCycleLR: cosine up over a share of the steps, cosine down over the rest.

    As published there: from 1/25 of the peak, to 1/250,000 of it, with Adam's first beta
    going from 0.95 to 0.85 and back.
    """

    name: Literal["one-cycle"]
    warm_up: Annotated[float, Field(gt=0, lt=1)]


class Loss(Section):
    """Weights of the two terms of the loss."""

    bce: NotNegative
    dice: NotNegative


Part = Annotated[float, Field(ge=0, lt=1)]
Factors = tuple[NotNegative, NotNegative]  # from one to the other


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


class Train(Section):
    """Everything that decides a fold's weights."""

    model: Model
    size: tuple[Count, Count]  # height, width in pixels; the network says which fit
    resize: Literal["linear", "area"]
    normalisation: Normalisation
    epochs: Count
    batch_size: Count
    optimiser: Optimiser
    schedule: Schedule
    loss: Loss
    augment: Augment
    seed: Seed
