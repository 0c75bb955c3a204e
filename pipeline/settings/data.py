"""Where the data come from and how they fall into folds: sections `download` and `split`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import Count, Section, Seed

FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]


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
