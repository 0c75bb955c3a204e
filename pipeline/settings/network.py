"""Which network: section `train.model`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import Count, Section


class Model(Section):
    """A network of segmentation-models-pytorch."""

    architecture: Literal["Unet", "UnetPlusPlus", "MAnet"]
    encoder: str
    weights: Literal["imagenet", "none"]
    decoder_channels: Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)]
