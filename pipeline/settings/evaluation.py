"""What is made of the trained networks: sections `validate`, `tune` and `predict`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import Number, Section, Seed


class Validate(Section):
    """How probabilities are made, out of fold and for the test set alike."""

    tta: Literal["none", "hflip"]
    worst: Number  # images of the lowest Dice drawn per fold
    random: Number  # others drawn per fold, for comparison


class Tune(Section):
    """How the threshold is chosen. Of several classes there is none, and that key does nothing."""

    threshold: Literal["auto"] | Annotated[float, Field(ge=1 / 256, lt=1)]
    bootstrap: Annotated[int, Field(ge=1, le=100_000)]  # resamples of cars; 2 KB of memory each
    seed: Seed


class Predict(Section):
    """What becomes of an image that cannot be read and of a mask's parts; compression."""

    on_bad_image: Literal["fail", "empty"]
    keep: Literal["all", "largest"]  # connected parts of each mask; tune tells what it would add
    compression: Annotated[int, Field(ge=0, le=3)]  # isal level
