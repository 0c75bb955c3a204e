"""How weights are learned, judged and kept: parts of section `train`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings.base import Count, NotNegative, Number, Positive, Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
WarmUp = Annotated[float, Field(gt=0, lt=1)]  # share of all steps


class Adam(Section):
    """Adam, or AdamW, whose weight decay is apart from the gradient's moments."""

    name: Literal["adam", "adamw"]
    learning_rate: Positive  # the schedule's peak, as in the others
    weight_decay: NotNegative


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    learning_rate: Positive
    weight_decay: NotNegative
    momentum: Fraction
    nesterov: bool  # needs momentum

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class RmsProp(Section):
    """RMSprop; `smoothing` is of the squared gradients."""

    name: Literal["rmsprop"]
    learning_rate: Positive
    weight_decay: NotNegative
    momentum: Fraction
    smoothing: Fraction


Optimiser = Annotated[Adam | Sgd | RmsProp, Field(discriminator="name")]


class OneCycle(Section):
    """torch's OneCycleLR: cosine up over a share of the steps, cosine down over the rest.

    As published there: from 1/25 of the peak, to 1/250,000 of it, with Adam's first beta
    going from 0.95 to 0.85 and back.
    """

    name: Literal["one-cycle"]
    warm_up: WarmUp


class Cosine(Section):
    """A straight line up to the peak, then half a cosine down to `end` times the peak."""

    name: Literal["cosine"]
    warm_up: Fraction  # share of all steps
    end: Annotated[float, Field(ge=0, le=1)]


class Plateau(Section):
    """Multiply the rate by `factor` after more than `patience` epochs without a gain.

    A gain is a held-out Dice more than `gain` above the best so far.
    """

    name: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Number
    gain: NotNegative


class Constant(Section):
    """The same rate throughout."""

    name: Literal["constant"]


Schedule = Annotated[OneCycle | Cosine | Plateau | Constant, Field(discriminator="name")]


class Gradient(Section):
    """What becomes of a batch's gradient before the optimiser sees it."""

    accumulate: Count  # batches summed up to one step
    clip: Literal["none"] | Positive  # the largest norm it may have


class Loss(Section):
    """Weights of the two terms of the loss."""

    bce: NotNegative
    dice: NotNegative
    boundary: NotNegative  # what a pixel near the mask's boundary counts above the others
    boundary_width: Count  # how near: pixels at network size, to either side

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.bce + self.dice:
            raise ValueError("bce and dice are both 0, which trains nothing")
        return self


class Weights(Section):
    """Where the weights start from, and which are kept."""

    # Another recipe, whose weights of the same fold to start from.
    init_from: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    ema: Literal["none"] | Annotated[float, Field(gt=0, lt=1)]  # decay of a moving average
    average: Count  # the best epochs whose mean weights are tried at the end; 1: none


class Validation(Section):
    """The held-out Dice after each epoch, which decides what is kept and when to stop."""

    tta: Literal["none", "hflip"]
    patience: Literal["none"] | Count  # epochs without a better Dice before training stops
