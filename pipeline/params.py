"""What to run, and with which settings: `params.yaml` and `recipes/<name>.yaml`, validated.

A recipe has one section per stage, each tracked by DVC, plus `runtime`, which describes the
machine and is not. There is no default anywhere in this file: a value that can change a
result stands in the YAML, where DVC sees it.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import yaml_reader
from pipeline.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]
Side = Annotated[int, Field(ge=32, multiple_of=32)]  # five halvings in the encoders


class Section(BaseModel):
    """Frozen, and strict about names: an unknown key is an error, not a comment."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Synthetic(Section):
    """Draw the built-in sample; see `pipeline.sources.sample_cars`."""

    kind: Literal["synthetic"]
    train_cars: Count
    test_cars: Count
    seed: Seed


class Competition(Section):
    """Files of a Kaggle competition, by name; the optional ones only where they are offered."""

    kind: Literal["competition"]
    slug: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    files: Annotated[tuple[FileName, ...], Field(min_length=1)]
    optional_files: tuple[FileName, ...]


class Dataset(Section):
    """A whole Kaggle data set: one archive."""

    kind: Literal["dataset"]
    slug: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")]


class Split(Section):
    """How samples pair up (`pipeline/sources/<source>.py`) and fall into folds."""

    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    folds: Annotated[int, Field(ge=2)]
    seed: Seed


class Model(Section):
    """A network of segmentation-models-pytorch."""

    architecture: Literal["Unet", "UnetPlusPlus", "MAnet"]
    encoder: str
    weights: Literal["imagenet", "none"]
    decoder_channels: Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)]


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


class Augment(Section):
    """Random changes of a training image; all ranges are symmetric about "no change"."""

    hflip: Share
    affine: Share  # probability that the three below are drawn
    shift: Share  # of the image's side
    scale: Annotated[float, Field(ge=0, lt=1)]
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees
    colour: Share  # probability that the four below are drawn
    brightness: Annotated[float, Field(ge=0, lt=1)]
    contrast: Annotated[float, Field(ge=0, lt=1)]
    saturation: Annotated[float, Field(ge=0, lt=1)]
    hue: Annotated[float, Field(ge=0, le=0.5)]  # of the colour circle


class Train(Section):
    """Everything that decides a fold's weights."""

    model: Model
    size: tuple[Side, Side]  # height, width in pixels
    resize: Literal["linear", "area"]
    normalisation: Normalisation
    epochs: Count
    batch_size: Count
    optimiser: Optimiser
    schedule: Schedule
    loss: Loss
    augment: Augment
    seed: Seed


class Validate(Section):
    """How probabilities are made, out of fold and for the test set alike."""

    tta: Literal["none", "hflip"]
    worst: Annotated[int, Field(ge=0)]  # overlays of the lowest Dice kept per fold


class Tune(Section):
    """How the threshold is chosen."""

    threshold: Literal["auto"] | Annotated[float, Field(ge=1 / 256, lt=1)]
    bootstrap: Count  # resamples of cars for the interval
    seed: Seed


class Predict(Section):
    """What becomes of an image that cannot be read, and how hard to compress."""

    on_bad_image: Literal["fail", "empty"]
    compression: Annotated[int, Field(ge=0, le=3)]  # isal level


class Runtime(Section):
    """The machine. Never tracked: nothing here changes a result beyond rounding."""

    accelerator: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    workers: Annotated[int, Field(ge=0)]  # that decode, at most one a core; 0: the main process
    threads: Annotated[int, Field(ge=0)]  # of torch on the CPU; 0: torch decides
    cache: Literal["none", "ram"]  # decoded training images at network size
    batch_size: Count  # of validation and prediction
    checkpoint_seconds: NotNegative  # at least so long between two checkpoints of a training


class Recipe(Section):
    """One experiment, whole."""

    download: Annotated[Synthetic | Competition | Dataset, Field(discriminator="kind")]
    split: Split
    train: Train
    validate_: Annotated[Validate, Field(alias="validate")]
    tune: Tune
    predict: Predict
    runtime: Runtime


class Run(Section):
    """`params.yaml`: which recipes and folds `dvc repro` works on."""

    recipes: Annotated[tuple[str, ...], Field(min_length=1)]
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


S = TypeVar("S", bound=Section)


def load(path: Path) -> Recipe:
    """Read and validate one recipe.

    Raises:
        UserError: the file is missing, is no YAML, or has a wrong key or value; the message
            names every one of them with what was found and what is allowed.
    """
    return _validated(Recipe, path)


def load_folds(path: Path, available: int) -> tuple[int, ...]:
    """The folds listed in `params.yaml`, each one of the recipe's 0 to `available` - 1."""
    folds = _validated(Run, path).folds
    for fold in folds:
        check_fold(fold, available, f"{path}: folds")
    if len(set(folds)) != len(folds):
        raise UserError(f"{path}: folds: found {list(folds)}, expected each fold once")
    return folds


def check_fold(fold: int, available: int, where: str) -> None:
    """Raise `UserError` unless the recipe, cut into `available` folds, has this one."""
    if not 0 <= fold < available:
        raise UserError(
            f"{where}: found fold {fold}, expected 0 to {available - 1} "
            f"(the recipe's split.folds is {available})"
        )


def _validated(schema: type[S], path: Path) -> S:
    try:
        return schema.model_validate(yaml_reader.read(path))
    except ValidationError as error:
        found = dict.fromkeys(_explained(detail, schema) for detail in error.errors())
        raise UserError(f"{path}: " + "; ".join(found)) from None


def _explained(error: Any, schema: type[Section]) -> str:
    """One wrong key in a user's words."""
    names = _names(schema)
    # A union adds the names of its members to the location: not part of the key.
    parts = [str(part) for part in error["loc"] if part in names or isinstance(part, int)]
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][-1])
        near = difflib.get_close_matches(key, sorted(names), n=1)
        return f"{'.'.join([*parts, key])}: unknown key; " + (
            f"did you mean {near[0]!r}?" if near else "remove it"
        )
    where = ".".join(parts) or "the file"
    if error["type"] == "missing":
        return f"{where}: missing; every key stands in the file, see the other recipes"
    return f"{where}: found {error['input']!r}; {error['msg']}"


def _names(schema: type[BaseModel]) -> set[str]:
    """Every key that occurs anywhere in the schema."""
    definitions = schema.model_json_schema(by_alias=True)
    sections = [definitions, *definitions.get("$defs", {}).values()]
    return {name for section in sections for name in section.get("properties", {})}
