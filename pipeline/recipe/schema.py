"""The schema of `params.yaml` and `recipes/<name>.yaml`.

A recipe has one section per stage, each tracked by DVC, plus `runtime`, which describes the
machine and is not. There is no default anywhere: a value that can change a result stands in the
YAML, where DVC sees it.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

T = TypeVar("T")


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may stand in the list once")
    return values


def _not_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    # Not `min_length`, by which pydantic also counts those that are wrong otherwise.
    if not values:
        raise ValueError("expected at least 1 item")
    return values


NotEmpty = AfterValidator(_not_empty)
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]  # float32 ends at 3.4e38
NotNegative = Annotated[float, Field(ge=0, le=1e30)]
Count = Annotated[int, Field(ge=1, le=10**9)]  # what libraries written in C can count to
Number = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
EachOnce = AfterValidator(_each_once)


class Section(BaseModel):
    """Frozen, and strict: an unknown key is an error, and so are `"8"` and `true` for numbers.

    A whole number may stand for a real one, but not 8.0 for 8; infinity and NaN are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, content: Any) -> Any:
        """What YAML's lists become; strict, pydantic takes nothing but a tuple for a tuple."""
        if not isinstance(content, dict):
            return content
        return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


# --- Where the data come from and how they fall into folds: sections `download` and `split`.

FileName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$")]


Cars = Annotated[int, Field(ge=1, le=100_000)]  # the competition has 6,572


class Synthetic(Section):
    """Draw the built-in sample; see `sample.archives`."""

    kind: Literal["synthetic"]
    train_cars: Cars
    test_cars: Cars
    seed: Seed


class Competition(Section):
    """Files of a Kaggle competition, by name; the optional ones only where they are offered."""

    kind: Literal["competition"]
    slug: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    files: Annotated[tuple[FileName, ...], Field(min_length=1), EachOnce]
    optional_files: Annotated[tuple[FileName, ...], EachOnce]

    @property
    def origins(self) -> list[str]:
        """The needed files as paths in `$PIPELINE_DATA`."""
        return [f"competitions/{self.slug}/{name}" for name in self.files]

    @model_validator(mode="after")
    def _needs_or_not(self) -> Self:
        if both := set(self.files).intersection(self.optional_files):
            raise ValueError(f"{min(both)} stands in files and in optional_files")
        return self


class Dataset(Section):
    """A whole Kaggle data set: one archive."""

    kind: Literal["dataset"]
    slug: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")]

    @property
    def origins(self) -> list[str]:
        """The archive as a path in `$PIPELINE_DATA`."""
        return [f"datasets/{self.slug}/{self.slug.partition('/')[2]}.zip"]


class Folders(Section):
    """One's own pictures: two folders, or two zips (or one of both), on this machine."""

    kind: Literal["folders"]
    images: Annotated[str, Field(min_length=1)]
    masks: Annotated[str, Field(min_length=1)]


SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # pipeline/sources/<name>.py
Grey = Annotated[int, Field(ge=0, lt=2**16)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]


def _one_group(pattern: str) -> str:
    try:
        count = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"expected none or a regular expression ({error})") from None
    if pattern != "none" and count != 1:
        raise ValueError("expected none, or an expression with one group in round brackets")
    return pattern


class FolderSource(Section):
    """Images and masks of the same names, in folders or archives; see `pipeline.sources.folders`.

    `pipeline new` writes this section.
    """

    name: Literal["folders"]
    mask_ending: Annotated[str, Field(pattern=r"^[^/]*$")]  # of a mask's name after its image's
    # The part of an image's name that its group is called by, with a slash in the expression of
    # its path in the archive; none: each is its own.
    group: Annotated[str, AfterValidator(_one_group)]
    # Each class's name and its pixels' value in mask files; the first is the background.
    classes: dict[Annotated[str, Field(pattern=r"^[^\s=,]+$")], Grey | Color]

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        values = list(self.classes.values())
        if not 2 <= len(values) <= 256:
            raise ValueError("classes: expected 2 to 256, the background first")
        if len(set(values)) < len(values):
            raise ValueError("classes: two have the same value")
        if len({type(value) for value in values}) > 1:
            raise ValueError("classes: expected numbers or colors, not both")
        return self


# Told apart by what stands there, so that an error in a section says nothing of names.
Source = Annotated[
    Annotated[SourceName, Tag("name")] | Annotated[FolderSource, Tag("section")],
    Discriminator(lambda given: "section" if isinstance(given, dict | FolderSource) else "name"),
]
Fraction = Annotated[float, Field(gt=0, le=1)]  # of the training data to use at all, seeded
SeveralFolds = Annotated[int, Field(ge=2, le=10**9)]
OneFold = Annotated[int, Field(ge=1, le=1)]  # Literal[1] would take true and 1.0 too


# The share of what is not held out that is never trained on: what a training chooses (an epoch,
# when to stop) it then chooses by these images and not by those that it is scored on. none: by
# the held-out ones, and scores say that they flatter.
ForValidation = Literal["none"] | Annotated[float, Field(gt=0, lt=1)]


class ByGroup(Section):
    """Whole groups (cars, patients) fall into folds that are alike: the honest way."""

    source: Source
    by: Literal["group"]
    folds: SeveralFolds
    fraction: Fraction  # of the groups
    validation: ForValidation  # drawn once, for all folds
    seed: Seed


class ByGroupOnce(Section):
    """One share of the groups, drawn once, is held out; fold 0 is the only fold."""

    source: Source
    by: Literal["group-once"]
    folds: OneFold
    held_out: Annotated[float, Field(gt=0, lt=1)]  # share of the groups
    fraction: Fraction  # of the groups
    validation: ForValidation  # drawn once, for all folds
    seed: Seed


class ByImage(Section):
    """Images fall into folds whatever their group, as many authors do it.

    Where a group has several images, most of them resemble one that was trained on: scores
    are flattered, and the split stage says so.
    """

    source: Source
    by: Literal["image"]
    folds: SeveralFolds
    fraction: Fraction  # of the images
    validation: ForValidation  # drawn once, for all folds
    seed: Seed


class FirstImages(Section):
    """The first `training` images, in the source's order, are trained on, the next held out.

    Images after those are not used. Groups can straddle, as in `ByImage`.
    """

    source: Source
    by: Literal["first-images"]
    folds: OneFold
    training: Count
    held_out: Count
    validation: ForValidation  # the last of the training ones


class NameOrder(Section):
    """The last share of the images, in the source's order, is held out; groups can straddle."""

    source: Source
    by: Literal["name-order"]
    folds: OneFold
    held_out: Annotated[float, Field(gt=0, lt=1)]  # share of the images
    validation: ForValidation  # the last of the others


# The ways that hold out whole groups. After the others each image is a group of its own, so that
# nothing says any more which images belong together.
OF_WHOLE_GROUPS = ("group", "group-once")

Split = Annotated[
    ByGroup | ByGroupOnce | ByImage | FirstImages | NameOrder, Field(discriminator="by")
]


# --- Which network: section `train.model`, a union told apart by `architecture`.

Encoder = Annotated[str, Field(pattern=r"^\S+$")]
# Between two layers of 65,536 channels, a 3x3 convolution has 39 billion weights.
Channels = Annotated[int, Field(ge=1, le=65_536)]
# torch's own; He et al. (2015) as Keras draws them; Glorot and Bengio (2010), Keras' default.
FirstWeights = Literal["none", "he", "glorot"]


# The network sees 1/k of the picture's sides, k² pixels as the channels of one: torch's
# PixelUnshuffle, and PixelShuffle for its logits. 1: none. A quarter of the work at 2.
Unshuffle = Annotated[int, Field(ge=1, le=8)]


class Library(Section):
    """A network of segmentation-models-pytorch whose decoder has a width a level."""

    architecture: Literal["Unet", "UnetPlusPlus", "MAnet"]
    encoder: Encoder
    weights: Literal["imagenet", "none"]
    decoder_channels: Annotated[tuple[Channels, ...], Field(min_length=5, max_length=5)]
    pixel_unshuffle: Unshuffle


class LibraryAsPublished(Section):
    """A network of segmentation-models-pytorch whose decoder is the library's."""

    architecture: Literal[
        "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"
    ]
    encoder: Encoder
    weights: Literal["imagenet", "none"]
    pixel_unshuffle: Unshuffle


class PlainUnet(Section):
    """The textbook U-Net and its variants; see `pipeline.networks.unet.UNet` for each key."""

    architecture: Literal["plain-unet"]
    weights: FirstWeights
    width: Channels  # channels of the top level; each level below has twice as many
    depth: Annotated[int, Field(ge=1, le=8)]  # how often the picture is halved
    convolutions: Annotated[int, Field(ge=1, le=100)]  # 3x3, in each level, on each side
    batch_norm: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    dropout_at: Literal["before-bottleneck", "last-two-levels"]
    padding: Literal["same", "valid"]
    bias: bool  # of the 3x3 convolutions; before a BatchNorm it adds parameters and nothing else
    up: Literal["transposed", "bilinear"]
    up_kernel: Annotated[int, Field(ge=2, le=3)]  # side of the transposed convolutions' kernels
    activation: Literal["none", "relu"]  # of the last convolution, before softmax


class Unet1024(Section):
    """CherKeng's U-Net for 1024x1024; see `pipeline.networks.unet.UNet1024`."""

    architecture: Literal["unet1024"]
    weights: FirstWeights


class Cnn(Section):
    """3x3 convolutions without pooling; see `pipeline.networks.unet.Cnn`."""

    architecture: Literal["cnn"]
    weights: FirstWeights
    widths: Annotated[tuple[Channels, ...], Field(min_length=1)]


Model = Annotated[
    Library | LibraryAsPublished | PlainUnet | Unet1024 | Cnn,
    Field(discriminator="architecture"),
]


# --- How weights are learned, judged and kept: parts of section `train`.

WarmUp = Annotated[float, Field(gt=0, lt=1)]  # share of the phase's steps


class Adam(Section):
    """Adam, or AdamW, whose weight decay is apart from the gradient's moments."""

    name: Literal["adam", "adamw"]
    weight_decay: NotNegative


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    weight_decay: NotNegative
    momentum: Part
    nesterov: bool  # needs momentum

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class RmsProp(Section):
    """RMSprop; `smoothing` is of the squared gradients."""

    name: Literal["rmsprop"]
    weight_decay: NotNegative
    momentum: Part
    smoothing: Part


Optimizer = Annotated[Adam | Sgd | RmsProp, Field(discriminator="name")]


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
    warm_up: Part  # share of the phase's steps
    end: Annotated[float, Field(ge=0, le=1)]


class Plateau(Section):
    """Multiply the rate by `factor` after more than `patience` scored epochs without a gain.

    A gain is a held-out Dice more than `gain` above the best so far: a choice made on the
    held-out fold, see `Train.choices`.
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
    """What becomes of a batch's gradient before the optimizer sees it."""

    accumulate: Count  # batches summed up to one step
    clip: Literal["none"] | Positive  # the largest norm it may have


class Loss(Section):
    """Weights of the two terms of the loss, and what its soft Dice is."""

    bce: NotNegative
    dice: NotNegative
    # (2 I + first) / (A + B + second), of overlap I and areas A and B in pixels. Equal ones make
    # two empty masks a hit.
    smooth: tuple[NotNegative, Positive]
    # Mean over images, or all pixels of a batch as one image (the held-out loss: of a batch of
    # runtime.batch_size).
    dice_of: Literal["image", "batch"]
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
    # `last` chooses nothing, nor does `all`, which keeps every epoch's beside it, to choose from.
    # `best`, the epoch of the last phase with the highest held-out Dice, flatters.
    keep: Literal["last", "best", "all"]


class Pseudo(Section):
    """Test images to learn from too, with what another recipe's network of the same fold says."""

    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    share: Annotated[float, Field(gt=0, le=100)]  # of them to each real image, in each epoch
    # The largest share of an image's pixels that may have a probability of 0.05 to 0.95.
    confident: Share


class Validation(Section):
    """The held-out loss and Dice after an epoch, and whether they decide when to stop."""

    every: Count  # epochs; the last one is always scored
    tta: Literal["none", "hflip"]
    # Scored epochs without a better Dice before it stops, in the last phase.
    patience: Literal["none"] | Count


Deviation = Annotated[float, Field(ge=0.001, le=1)]  # 58 would be one of 0..255


class Standard(Section):
    """Per-channel mean and standard deviation (RGB) of images scaled to 0..1."""

    name: Literal["standard"]
    mean: tuple[Share, Share, Share]
    std: tuple[Deviation, Deviation, Deviation]


class MinMax(Section):
    """Each image stretched so that its darkest value becomes 0 and its brightest 1."""

    name: Literal["min_max"]


Normalization = Annotated[Standard | MinMax, Field(discriminator="name")]


def _rising(factors: tuple[float, float]) -> tuple[float, float]:
    if factors[0] > factors[1]:
        raise ValueError("the first factor may not be above the second")
    return factors


Factors = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_rising)]  # from .. to


class Augment(Section):
    """Random changes of a training image; single numbers are symmetric about "no change"."""

    hflip: Share  # left and right exchanged
    vflip: Share  # top and bottom exchanged
    affine: Share  # probability that shift, scale and rotation are drawn
    shift: Share  # of the image's side
    scale: Part
    keep_aspect: bool  # height and width are scaled alike
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees
    border: Literal["mirror", "black"]  # what they uncover
    color: Share  # probability that those below are drawn
    # `torchvision`: in random order, contrast about one grey mean, clipped to bytes between steps.
    # `tensorflow`: in the order below, contrast about each channel's mean, saturation in HSV,
    # clipped at the end; it has no `brightness`, and no `hue` here.
    color_like: Literal["torchvision", "tensorflow"]
    lighten: Part  # added to all channels, as a share of white
    brightness: Part | Factors
    contrast: Part | Factors
    saturation: Part | Factors
    hue: Annotated[float, Field(ge=0, le=0.5)]  # of the color circle
    triple: bool  # each image three times an epoch: as it is, left-right and upside-down

    @model_validator(mode="after")
    def _has_what_tensorflow_has(self) -> Self:
        if self.color_like == "tensorflow" and (self.brightness or self.hue):
            raise ValueError(
                "color_like: tensorflow has neither brightness nor hue, expected 0 of both; "
                "lighten is what it adds to all channels"
            )
        return self


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


Resize = Literal["linear", "area", "nearest"]


class Target(Section):
    """What becomes of a mask at network size."""

    # `area`: the share of each pixel that is inside; `linear`: of four pixels' corners;
    # `nearest`: one pixel's value.
    resize: Resize
    hard: bool  # after augmentation a pixel is what most of it is; else its share is learned


class Phase(Section):
    """A part of the training at one size.

    Weights, moving average and optimizer go on from the phase before; the schedule is the
    phase's own. Small sizes first teach most of what there is to learn for a fraction of the
    work: fastai's carvana-unet reached .996 so.
    """

    size: tuple[Side, Side]  # height, width in pixels; the network says which fit
    epochs: Count
    batch_size: Count  # images at once, on all devices together
    learning_rate: Positive  # the schedule's peak
    schedule: Schedule


Phases = Annotated[tuple[Phase, ...], NotEmpty]


class Train(Section):
    """Everything that decides a fold's weights."""

    model: Model
    classes: Classes  # 1: foreground or not; 3 and more: one of them
    resize: Resize
    target: Target
    normalization: Normalization
    phases: Phases  # one after another
    sampler: Sampler
    drop_last: bool  # leave out an epoch's last batch where it is smaller
    pseudo: Literal["none"] | Pseudo
    sync_batchnorm: bool  # statistics of whole batches where several GPUs share them
    optimizer: Optimizer
    gradient: Gradient
    loss: Loss
    weights: Weights
    validation: Validation
    augment: Augment
    seed: Seed

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.drop_last and self.gradient.accumulate > 1:
            raise ValueError("drop_last: false needs gradient.accumulate 1: all steps count alike")
        if self.classes == 1 and getattr(self.model, "activation", "none") == "relu":
            raise ValueError(
                "model.activation: relu needs several classes: of one, no pixel would be background"
            )
        if self.pseudo != "none" and (self.classes > 1 or self.augment.triple):
            raise ValueError("pseudo: expected none with several classes, and with augment.triple")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the trained network takes: the last phase's."""
        return self.phases[-1].size

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def choices(self) -> str:
        """What is chosen by the held-out fold's Dice, in words; "" where nothing is.

        A score of that fold then flatters: the same images have decided what is scored.
        """
        choices = {
            "the epoch that is kept (train.weights.keep: best)": self.weights.keep == "best",
            "when to stop (train.validation.patience)": self.validation.patience != "none",
            "the learning rate (schedule: plateau)": any(
                isinstance(phase.schedule, Plateau) for phase in self.phases
            ),
        }
        return ", ".join(words for words, made in choices.items() if made)


# --- What is made of the trained networks: sections `validate`, `tune` and `encode`.


class Validate(Section):
    """How probabilities are made, out of fold and for the test set alike."""

    tta: Literal["none", "hflip"]
    worst: Number  # images of the lowest Dice drawn per fold
    random: Number  # others drawn per fold, for comparison


Pixels = Literal["none", "auto"] | Annotated[int, Field(ge=1, le=10_000_000)]


class CleanUp(Section):
    """Repairs of masks; `auto` makes one, of the best size, only where the gain is beyond doubt."""

    keep_largest: Literal["auto"] | bool  # the largest connected part alone
    drop_specks: Pixels  # parts at least so far away from the largest one
    close: Literal["none", "auto"] | Annotated[int, Field(ge=1, le=100)]  # deep gaps, half as wide
    fill_holes: Pixels  # of at most so many pixels


class Tune(Section):
    """How masks are made of probabilities. Of several classes the most probable one wins.

    `threshold` and `clean_up` do nothing there.
    """

    threshold: Literal["auto"] | Annotated[float, Field(ge=1 / 256, lt=1)]
    clean_up: CleanUp
    bootstrap: Annotated[int, Field(ge=1, le=100_000)]  # resamples of cars; 2 KB of memory each
    seed: Seed


class Encode(Section):
    """What becomes of an image that could not be read; the compression of the submission."""

    on_bad_image: Literal["fail", "empty"]
    compression: Annotated[int, Field(ge=0, le=3)]  # isal level


# --- The machine: section `runtime`.

Some = Annotated[int, Field(ge=0, le=1024)]  # more processes or threads end in a crash
OneOrMore = Annotated[int, Field(ge=1, le=1024)]


class Runtime(Section):
    """The machine. Never tracked: nothing here changes a result beyond rounding.

    But for one thing: on several devices BatchNorm sees each one's share of a batch alone, unless
    `train.sync_batchnorm` is true.
    """

    accelerator: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    # torch.compile, on a GPU: a minute at each phase's start and less before a prediction, faster
    # steps and passes. A CPU runs networks as they are.
    compile: bool
    deterministic: bool  # the same weights from run to run, bit for bit; slower on a GPU
    # That decode, at most one a core; 0: the main process. auto: all cores but one where a GPU
    # computes; on a CPU, whose cores compute already, a quarter of them.
    workers: Literal["auto"] | Some
    devices: OneOrMore  # GPUs, or CPU processes, on each machine
    nodes: OneOrMore  # machines; with several, start one command a machine with torchrun or SLURM
    threads: Some  # of torch on the CPU; 0: torch decides
    cache: Literal["none", "ram", "disk"]  # decoded training images at network size
    batch_size: Count  # of validation and prediction
    checkpoint_seconds: NotNegative  # at least so long between two checkpoints of a training
    tensorboard: bool  # curves and pictures of the training, in logs/<recipe>/


# --- The whole


class Blend(Section):
    """An ensemble of other recipes, instead of a training of its own."""

    recipes: Annotated[tuple[str, ...], Field(min_length=2), EachOnce]
    weights: Literal["auto"] | tuple[Annotated[int, Field(ge=0, le=1000)], ...]  # whole numbers

    @model_validator(mode="after")
    def _weighs_each(self) -> Self:
        if self.weights != "auto" and (
            len(self.weights) != len(self.recipes) or not sum(self.weights)
        ):
            raise ValueError("weights: auto, or a whole number for each recipe, not all 0")
        return self


class Recipe(Section):
    """One experiment.

    A file with a section `blend` has none of `download`, `split` and `train`: those of the first of
    its recipes stand here.
    """

    blend: Blend | None = None
    download: Annotated[Synthetic | Competition | Dataset | Folders, Field(discriminator="kind")]
    split: Split
    train: Train
    validate_: Annotated[Validate, Field(alias="validate")]
    tune: Tune
    encode: Encode
    runtime: Runtime

    @model_validator(mode="after")
    def _sees_whole_batches(self) -> Self:
        devices = self.runtime.devices * self.runtime.nodes
        if self.train.loss.dice_of == "batch" and devices > 1:
            raise ValueError(
                f"train.loss.dice_of is batch, but each of {devices} devices sees its own part of "
                f"one alone: set it to image, or runtime.devices and runtime.nodes to 1"
            )
        return self

    @model_validator(mode="after")
    def _can_be_deterministic(self) -> Self:
        # Their pooling to a few cells (AdaptiveAvgPool2d) has no deterministic backward on GPUs.
        architecture, runtime = self.train.model.architecture, self.runtime
        if runtime.deterministic and architecture in ("PSPNet", "UPerNet"):
            if runtime.accelerator != "cpu":
                raise ValueError(
                    f"runtime.deterministic is true, which {architecture} cannot be on a GPU: set "
                    f"it to false, runtime.accelerator to cpu, or take another architecture"
                )
        return self


class Run(Section):
    """`params.yaml`: which recipes and folds `dvc repro` works on."""

    recipes: Annotated[tuple[str, ...], NotEmpty, EachOnce]
    blends: Annotated[tuple[str, ...], EachOnce] = ()  # which dvc.yaml cannot do without
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NotEmpty]
