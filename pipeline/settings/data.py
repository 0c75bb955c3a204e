"""Where the data come from and how they fall into folds: sections `download` and `split`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings.base import Count, EachOnce, Section, Seed

FileName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$")]


Cars = Annotated[int, Field(ge=1, le=100_000)]  # the competition has 6,572


class Synthetic(Section):
    """Draw the built-in sample; see `pipeline.sources.sample_cars`."""

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

    @model_validator(mode="after")
    def _needs_or_not(self) -> Self:
        if both := set(self.files).intersection(self.optional_files):
            raise ValueError(f"{min(both)} stands in files and in optional_files")
        return self


class Dataset(Section):
    """A whole Kaggle data set: one archive."""

    kind: Literal["dataset"]
    slug: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")]


SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # pipeline/sources/<name>.py
Fraction = Annotated[float, Field(gt=0, le=1)]  # of the training data to use at all, seeded
SeveralFolds = Annotated[int, Field(ge=2, le=10**9)]
OneFold = Annotated[int, Field(ge=1, le=1)]  # Literal[1] would take true and 1.0 too


class ByGroup(Section):
    """Whole groups (cars, patients) fall into folds that are alike: the honest way."""

    source: SourceName
    by: Literal["group"]
    folds: SeveralFolds
    fraction: Fraction  # of the groups
    seed: Seed


class ByGroupOnce(Section):
    """One share of the groups, drawn once, is held out; fold 0 is the only fold."""

    source: SourceName
    by: Literal["group-once"]
    folds: OneFold
    held_out: Annotated[float, Field(gt=0, lt=1)]  # share of the groups
    fraction: Fraction  # of the groups
    seed: Seed


class ByImage(Section):
    """Images fall into folds whatever their group, as many authors do it.

    Where a group has several images, most of them resemble one that was trained on: scores
    are flattered, and the split stage says so.
    """

    source: SourceName
    by: Literal["image"]
    folds: SeveralFolds
    fraction: Fraction  # of the images
    seed: Seed


class FirstImages(Section):
    """The first `training` images, in the source's order, are trained on, the next held out.

    Images after those are not used. Groups can straddle, as in `ByImage`.
    """

    source: SourceName
    by: Literal["first-images"]
    folds: OneFold
    training: Count
    held_out: Count


Split = Annotated[ByGroup | ByGroupOnce | ByImage | FirstImages, Field(discriminator="by")]
