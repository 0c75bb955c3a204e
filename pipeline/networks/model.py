"""The network, and checkpoints that describe themselves."""

import copy
import dataclasses
import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from pipeline.data.samples import Sample
from pipeline.networks import unet
from pipeline.recipe.schema import MinMax, Resize, Standard, Train
from pipeline.support import files, tensor_file
from pipeline.support.errors import UserError

FirstWeights = Literal["imagenet", "he", "glorot", "none"]

FORMAT = 4  # of the checkpoint file; raised when an older file can no longer be read
# Of what it holds only transposed convolutions of 3x3 mean something else since then.
_LAST_FORMAT = 3

_OURS: dict[str, Callable[..., nn.Module]] = {
    "plain-unet": unet.UNet,
    "unet1024": unet.UNet1024,
    "cnn": unet.Cnn,
}


@dataclasses.dataclass(frozen=True)
class Description:
    """All that is needed to rebuild a network and to feed it.

    `network` holds the architecture and its arguments, as in a recipe's `train.model`.
    `size` is (height, width) of the input in pixels, `resize` how images get there,
    `mean` and `std` are per RGB channel of an image scaled to 0..1: by 255, or with
    `min_max` by its own darkest and brightest value. `fold` is the fold the network has never
    seen; `choices` says in words what was chosen by its score on that fold, which then
    flatters, and is "" where nothing was. `seen` are the names of all images, and of their groups,
    that have shaped the weights, also through other networks. One class means foreground against
    the rest.
    """

    network: dict[str, Any]
    size: tuple[int, int]
    resize: Resize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: int
    fold: int
    min_max: bool = False
    choices: str = ""
    seen: tuple[str, ...] = ()

    def seen_of(self, rows: Iterable[Sample]) -> list[str]:
        """The groups of those of the `rows` that have shaped the weights, in order."""
        seen = set(self.seen)
        # By image too: where a split is not by group, its groups are single images.
        return sorted({row.group for row in rows if seen & {row.group, row.sample_id}})


def describe(settings: Train, fold: int) -> Description:
    """The network that a recipe's section `train` asks for."""
    given = settings.normalization
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if isinstance(given, Standard):
        mean, std = given.mean, given.std
    return Description(
        network=settings.model.model_dump(exclude={"weights"}),
        size=settings.size,
        resize=settings.resize,
        mean=mean,
        std=std,
        classes=settings.classes,
        fold=fold,
        min_max=isinstance(given, MinMax),
        choices=settings.choices,
    )


class Segmenter(nn.Module):
    """A network that takes pictures as they are decoded.

    Normalization is part of it, so no caller can forget it or do it twice, and pictures
    travel to the device as bytes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.network = network
        self.description = description
        # Scaled to bytes, so that one subtraction and one division do it all.
        self.register_buffer("mean", _per_channel(description.mean), persistent=False)
        self.register_buffer("std", _per_channel(description.std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (B, H, W, 3), uint8 RGB: (B, H, W) of one class, else (B, C, H, W).

        The permuted view is channels-last in memory, the layout convolutions are fastest in.
        """
        pixels = images.permute(0, 3, 1, 2)  # B, 3, H, W
        if self.description.min_max:
            pixels = _stretch(pixels)
        normalized = (pixels - self.mean) / self.std
        logits: Tensor = self.network(normalized)  # B, C, H, W
        return logits.squeeze(1) if self.description.classes == 1 else logits


def _stretch(pixels: Tensor) -> Tensor:
    """Each of the images (B, 3, H, W), its darkest value 0 and its brightest 255; one grey is 0."""
    pixels = pixels.float()
    low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    return (pixels - low) * (255 / (high - low).clamp(min=1))


class Unshuffled(nn.Module):
    """A network that works at a fraction of the picture's sides, and loses no pixel of it.

    Each `factor` x `factor` pixels become the channels of one, and so do the logits of each.
    Convolutions at full resolution cost most of a U-Net's memory traffic and see least: with
    factor 2 a picture of 1024x1024 costs what one of 512x512 does.
    Source: Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network (2016), there for the output.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W), float."""
        small = nn.functional.pixel_unshuffle(images, self.factor)  # B, 3 k², H / k, W / k
        small = small.contiguous(memory_format=torch.channels_last)
        return nn.functional.pixel_shuffle(self.network(small), self.factor)


def build(description: Description, weights: FirstWeights) -> Segmenter:
    """Make the network described, with new weights.

    Args:
        weights: `imagenet` for the encoder of a library's network, `he` or `glorot` for one of
            ours, `none` for the library's or torch's own random ones.

    Raises:
        UserError: the encoder is unknown, its ImageNet weights cannot be fetched, or the
            network cannot take pictures of this size.
    """
    arguments = {**description.network, "classes": description.classes}
    architecture = arguments.pop("architecture")
    network: nn.Module
    if architecture in _OURS:
        network = _OURS[architecture](**arguments)
        if weights in ("he", "glorot"):
            unet.initialize(network, weights)
    else:
        network = _of_library(architecture, weights=weights, **arguments)
    _check_size(network, architecture, description.size)
    return Segmenter(network.to(memory_format=torch.channels_last), description)


def for_training(settings: Train, fold: int, weights: FirstWeights) -> Segmenter:
    """The network that a recipe's section `train` asks for, its sizes all looked at.

    Raises:
        UserError: as `build`, or the size of a phase does not fit.
    """
    network = build(describe(settings, fold), weights)
    for phase in settings.phases:
        _check_size(network.network, settings.model.architecture, phase.size)
    return network


def try_batches(settings: Train, devices: int) -> Segmenter:
    """Send a batch of each phase through the recipe's network, on torch's meta device.

    It takes neither time nor memory, and finds what shapes cannot do before a training does.

    Args:
        devices: that share each batch.

    Raises:
        UserError: as `for_training`, the devices cannot share a batch equally, or a layer's
            output has 2³¹ numbers or more: CUDA kernels that count in 32 bits (such as
            upsampling, backward) fail with words of their own.
    """
    numbers: list[int] = []

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        numbers.extend([output.numel()] if isinstance(output, Tensor) else [])

    with torch.device("meta"):
        network = for_training(settings, 0, "none").train()
        hooks = [layer.register_forward_hook(note) for layer in network.modules()]
        for phase in settings.phases:
            if phase.batch_size % devices:
                raise UserError(
                    f"train.phases: found batch_size {phase.batch_size} for {devices} processes, "
                    f"expected a multiple; change it, or runtime.devices"
                )
            numbers.clear()
            share = phase.batch_size // devices
            network(torch.empty(share, *phase.size, 3, dtype=torch.uint8))
            if (most := max(numbers)) >= 2**31:
                fits = share * (2**31 - 1) // most
                raise UserError(
                    f"train.phases: found batch_size {phase.batch_size} at size "
                    f"{list(phase.size)}, {most / 2**31:.1f} times 2^31 numbers in one layer's "
                    f"output, expected less than 2^31; lower it to {fits * devices} or less, and "
                    f"raise train.gradient.accumulate"
                )
    for hook in hooks:
        hook.remove()
    return network


def freeze_unused(network: Segmenter) -> None:
    """Exclude from training the parameters that the output does not depend on.

    An encoder that is used to a lesser depth has such. They get no gradient, so nothing changes
    but that DDP does not wait for theirs, which it calls an error in the second step.
    """
    tried = copy.deepcopy(network).to("meta").train()
    images = torch.empty(2, *network.description.size, 3, dtype=torch.uint8, device="meta")
    tried(images).sum().backward()
    for ours, theirs in zip(network.parameters(), tried.parameters(), strict=True):
        ours.requires_grad_(theirs.grad is not None)


def _of_library(
    architecture: str,
    encoder: str,
    weights: str,
    classes: int,
    pixel_unshuffle: int,
    **arguments: Any,
) -> nn.Module:
    """A network of segmentation-models-pytorch."""
    try:
        network: nn.Module = smp.create_model(
            architecture,
            encoder_name=encoder,
            encoder_weights=_encoder_weights(encoder, weights),
            in_channels=3 * pixel_unshuffle**2,
            classes=classes * pixel_unshuffle**2,
            **arguments,
        )
    except (KeyError, RuntimeError, ValueError) as error:
        if (refusal := _refusal(architecture, encoder, str(error))) is None:
            raise
        raise UserError(refusal) from None
    except OSError as error:  # what huggingface_hub and urllib raise without a network
        raise UserError(
            f"train.model.weights: found 'imagenet', but the weights of encoder "
            f"{encoder!r} could not be fetched ({_first_line(error)}); connect to "
            f"the network once (they are kept in ~/.cache afterwards), or set it to none"
        ) from None
    return network if pixel_unshuffle == 1 else Unshuffled(network, pixel_unshuffle)


def _check_size(network: nn.Module, architecture: str, size: tuple[int, int]) -> None:
    """Raise `UserError` unless height and width are such as the network takes."""
    smallest, step = _sides(network)
    for side in size:
        if side >= smallest and (side - smallest) % step == 0:
            continue
        below = smallest + max(side - smallest, 0) // step * step
        near = f"{below}" if side < smallest else f"{below} or {below + step}"
        raise UserError(
            f"train.phases: found size {list(size)}, but {architecture} takes sides of {smallest} "
            f"and any multiple of {step} more, expected {near} instead of {side}"
        )


def _sides(network: nn.Module) -> tuple[int, int]:
    """The smallest side a network takes, and the step from each that fits to the next."""
    if isinstance(network, unet.UNet | unet.UNet1024 | unet.Cnn):
        return network.smallest, network.step
    if isinstance(network, Unshuffled):
        smallest, step = _sides(network.network)
        return smallest * network.factor, step * network.factor
    assert isinstance(network, smp.base.SegmentationModel), type(network)
    stride: int = network.encoder.output_stride
    return stride, stride


def save(path: Path, model: Segmenter, weights: dict[str, Tensor]) -> None:
    """Write `weights` (a state of `model`) with the model's description, in one step."""
    content = {
        "format": FORMAT,
        "description": dataclasses.asdict(model.description),
        "weights": weights,
    }
    tensor_file.save(path, content)


def load(path: Path) -> Segmenter:
    """Rebuild a saved network on the CPU, ready for inference.

    Raises:
        UserError: the file is missing, damaged, not by this project, or of another format.
    """
    try:
        whole = files.intact(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the train stage of this fold first") from None
    content = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(
            f"{path}: damaged, or not a network of this project: found no right checksum at its "
            f"end; delete it and run the train stage again"
        )
    found = content["format"]
    shifted = content.get("description", {}).get("network", {}).get("up_kernel") == 3
    if found != FORMAT and (found != _LAST_FORMAT or shifted):
        raise UserError(f"{path}: found format {found}, expected {FORMAT}; train it again")
    model = build(Description(**content["description"]), weights="none")
    model.load_state_dict(content["weights"])
    return model.eval()


def load_alike(paths: Iterable[Path]) -> dict[str, Segmenter]:
    """Load the networks of one recipe's folds, by the paths of their files.

    Raises:
        UserError: as `load`, or one was trained before the recipe changed: they differ in more
            than what they have seen.
    """
    models = {str(path): load(path) for path in paths}
    (first, model), *_ = models.items()
    expected = dataclasses.asdict(model.description)
    for path, other in models.items():
        found = dataclasses.asdict(other.description)
        for key in expected:
            if key not in ("fold", "choices", "seen") and found[key] != expected[key]:
                raise UserError(
                    f"{path}: its {key} is {found[key]}, that of {first} {expected[key]}, expected "
                    f"the same; train the fold again whose settings are old, or delete its model.pt"
                )
    return models


def parameters(network: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return 255 * torch.tensor(values).reshape(1, 3, 1, 1)


def _encoder_weights(encoder: str, weights: str) -> str | bool | None:
    if weights == "none":
        return None
    return True if encoder.startswith("tu-") else weights  # timm names its weights itself


def _refusal(architecture: str, encoder: str, error: str) -> str | None:
    """The library's and timm's errors about a user's choice, in words; None for any other."""
    if "Unknown model" in error or "Wrong encoder" in error:
        return _unknown_encoder(encoder)
    if "Wrong pretrained weights" in error:
        return (
            f"train.model.weights: found 'imagenet', which encoder {encoder!r} has none of; set it "
            f"to none, or take another encoder"
        )
    if "support" in error:
        return (
            f"train.model.encoder: found {encoder!r}, which {architecture} cannot use "
            f"({error.strip()}); take another encoder or architecture"
        )
    return None


def _unknown_encoder(name: str) -> str:
    near = difflib.get_close_matches(name, smp.encoders.get_encoder_names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see the library's list of encoders"
    return f"train.model.encoder: found {name!r}, which segmentation-models-pytorch lacks; {hint}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
