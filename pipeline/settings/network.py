"""Which network: section `train.model`, a union told apart by `architecture`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import Section

Encoder = Annotated[str, Field(pattern=r"^\S+$")]
# Between two layers of 65,536 channels, a 3x3 convolution has 39 billion weights.
Channels = Annotated[int, Field(ge=1, le=65_536)]
FirstWeights = Literal["none", "he"]  # torch's own, or He et al. (2015) as Keras draws them


class Library(Section):
    """A network of segmentation-models-pytorch whose decoder has a width a level."""

    architecture: Literal["Unet", "UnetPlusPlus", "MAnet"]
    encoder: Encoder
    weights: Literal["imagenet", "none"]
    decoder_channels: Annotated[tuple[Channels, ...], Field(min_length=5, max_length=5)]


class LibraryAsPublished(Section):
    """A network of segmentation-models-pytorch whose decoder is the library's."""

    architecture: Literal[
        "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"
    ]
    encoder: Encoder
    weights: Literal["imagenet", "none"]


class PlainUnet(Section):
    """The textbook U-Net and its variants; see `pipeline.unet.UNet` for each key."""

    architecture: Literal["plain-unet"]
    weights: FirstWeights
    width: Channels  # channels of the top level; each level below has twice as many
    depth: Annotated[int, Field(ge=1, le=8)]  # how often the picture is halved
    convolutions: Annotated[int, Field(ge=1, le=100)]  # 3x3, in each level, on each side
    batch_norm: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    dropout_at: Literal["before-bottleneck", "last-two-levels"]
    padding: Literal["same", "valid"]
    up_kernel: Annotated[int, Field(ge=2, le=3)]  # side of the transposed convolutions' kernels


class Unet1024(Section):
    """CherKeng's U-Net for 1024x1024; see `pipeline.unet.UNet1024`."""

    architecture: Literal["unet1024"]
    weights: FirstWeights


class Cnn(Section):
    """3x3 convolutions without pooling; see `pipeline.unet.Cnn`."""

    architecture: Literal["cnn"]
    weights: FirstWeights
    widths: Annotated[tuple[Channels, ...], Field(min_length=1)]


Model = Annotated[
    Library | LibraryAsPublished | PlainUnet | Unet1024 | Cnn,
    Field(discriminator="architecture"),
]
