import dataclasses
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import ROOT

from pipeline.networks import model
from pipeline.networks.model import Description
from pipeline.recipe import read
from pipeline.recipe.schema import Library, LibraryAsPublished, Section
from pipeline.support import tensor_file
from pipeline.support.errors import UserError

TINY = Description(
    network={
        "architecture": "Unet",
        "encoder": "resnet18",
        "decoder_channels": (16, 16, 8, 8, 8),
        "pixel_unshuffle": 1,
    },
    size=(32, 64),
    resize="area",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    classes=1,
    fold=3,
)


@pytest.fixture(scope="module")
def network() -> model.Segmenter:
    torch.manual_seed(0)
    return model.build(TINY, "none").eval()


def images(batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 32, 64, 3), dtype=torch.uint8, generator=generator)


def test_pictures_go_in_and_logits_come_out(network: model.Segmenter) -> None:
    with torch.inference_mode():
        logits = network(images())
        assert logits.shape == (2, 32, 64)
        assert network(images(1)).shape == (1, 32, 64), "a last batch of one keeps its axis"


def test_normalization_is_that_of_the_description(network: model.Segmenter) -> None:
    seen = []
    handle = network.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        network(images())
    handle.remove()
    expected = images().float().permute(0, 3, 1, 2) / 255
    expected = (expected - torch.tensor(TINY.mean)[:, None, None]) / torch.tensor(TINY.std)[
        :, None, None
    ]
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_checkpoint_describes_itself(network: model.Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    model.save(path, network, network.state_dict())
    loaded = model.load(path)
    assert loaded.description == TINY
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(images()), network(images()))


def tiny(architecture: str, size: tuple[int, int] = (32, 64), **arguments: Any) -> Description:
    if "encoder" in arguments:  # of the library
        arguments = {"pixel_unshuffle": 1, **arguments}
    network = {"architecture": architecture, **arguments}
    return dataclasses.replace(TINY, network=network, size=size)


def literals(section: type[Section]) -> tuple[str, ...]:
    return typing.get_args(section.model_fields["architecture"].annotation)


@pytest.mark.parametrize("architecture", literals(Library))
def test_every_architecture_takes_its_decoder_channels(architecture: str) -> None:
    small, large = (
        model.build(tiny(architecture, encoder="resnet18", decoder_channels=channels), "none")
        for channels in ((16, 16, 8, 8, 8), (32, 16, 16, 8, 8))
    )
    assert model.parameters(small) < model.parameters(large)
    with torch.inference_mode():
        assert small.eval()(images()).shape == (2, 32, 64)


@pytest.mark.parametrize("architecture", literals(LibraryAsPublished))
def test_every_other_architecture_of_the_library_can_be_built(architecture: str) -> None:
    encoder = "mobileone_s0" if architecture not in ("PAN", "DeepLabV3") else "resnet18"
    network = model.build(tiny(architecture, (128, 128), encoder=encoder), "none").eval()
    with torch.inference_mode():
        pictures = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
        assert network(pictures).shape == (1, 128, 128)


@pytest.mark.parametrize("classes", [1, 3])
def test_an_unshuffled_network_works_on_a_quarter_and_loses_no_pixel(classes: int) -> None:
    description = dataclasses.replace(
        tiny(
            "Unet", (64, 128), encoder="resnet18", decoder_channels=(16, 16, 8, 8, 8),
            pixel_unshuffle=2,
        ),
        classes=classes,
    )  # fmt: skip
    network = model.build(description, "none").eval()
    seen: list[torch.Tensor] = []
    library = next(m for m in network.modules() if isinstance(m, smp.Unet))
    library.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    whole = torch.zeros(1, 64, 128, 3, dtype=torch.uint8)
    whole[0, 10, 20, 1] = 255
    with torch.inference_mode():
        logits = network(whole)
    assert logits.shape[-2:] == (64, 128) and logits.ndim == (3 if classes == 1 else 4)
    (inner,) = seen
    assert inner.shape == (1, 12, 32, 64)
    brightest = (inner == inner.max()).nonzero().tolist()
    assert brightest == [[0, 4, 5, 10]], "green's first of four, at half the coordinates"
    with pytest.raises(UserError, match=r"multiple of 64"):
        model.build(dataclasses.replace(description, size=(96, 128)), "none")


UNET = {
    "width": 2, "depth": 2, "convolutions": 1, "batch_norm": True, "dropout": 0.1,
    "dropout_at": "before-bottleneck", "padding": "valid", "up_kernel": 2,
}  # fmt: skip
OURS = [
    tiny("plain-unet", (14, 18), **UNET),
    tiny("unet1024", (64, 70)),
    tiny("cnn", (3, 5), widths=(4, 4)),
]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("description", OURS, ids=lambda d: d.network["architecture"])
def test_our_networks_come_back_from_their_checkpoints(
    description: Description, classes: int, tmp_path: Path
) -> None:
    description = dataclasses.replace(description, classes=classes)
    network = model.build(description, "he").eval()
    model.save(tmp_path / "model.pt", network, network.state_dict())
    loaded = model.load(tmp_path / "model.pt")
    assert loaded.description == description
    pictures = torch.randint(0, 256, (2, *description.size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits = loaded(pictures)
        assert torch.equal(logits, network(pictures))
    channels = () if classes == 1 else (classes,)
    assert logits.shape == (2, *channels, *description.size)


@pytest.mark.parametrize(
    ("description", "size", "said"),
    [
        (TINY, (100, 64), r"\[100, 64\], but Unet takes .* of 32 .* expected 96 or 128 i"),
        (TINY, (64, 31), "expected 32 instead of 31"),
        (OURS[0], (14, 20), "but plain-unet takes .* 14 and any .* of 4 more, expected 18 or 22 "),
        (OURS[1], (63, 64), "but unet1024 takes .* expected 64 instead of 63"),
    ],
)  # fmt: skip
def test_a_size_that_does_not_fit_is_refused_with_the_nearest(
    description: Description, size: tuple[int, int], said: str
) -> None:
    with pytest.raises(UserError, match=f"train.phases: .*{said}"):
        model.build(dataclasses.replace(description, size=size), "none")


def test_weights_of_he_keep_the_size_of_what_flows_through() -> None:
    """torch's own weights shrink it by the square root of six in each convolution."""
    torch.manual_seed(0)
    deep = tiny("cnn", (16, 16), widths=(64,) * 8)
    pictures = torch.randn(1, 3, 16, 16)
    he, plain = (model.build(deep, weights).network for weights in ("he", "none"))
    with torch.inference_mode():
        last = [network.layers[:-1](pictures).std().item() for network in (he, plain)]
    assert 0.2 < last[0] < 5 and last[1] < 0.1


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: damaged, or not a network of this project"):
        model.load(path)
    tensor_file.save(path, {"weights": {}})  # whole, but of another kind
    with pytest.raises(UserError, match=r"model\.pt: damaged, or not a network of this project"):
        model.load(path)


def test_no_damage_to_a_network_goes_unnoticed(network: model.Segmenter, tmp_path: Path) -> None:
    """Zip's own checksums miss some of it: the weights are then others, without a word."""
    path, rng = tmp_path / "model.pt", np.random.default_rng(0)
    model.save(path, network, network.state_dict())
    whole = path.read_bytes()
    model.load(path)
    for _ in range(60):
        content = bytearray(whole)
        at, length = int(rng.integers(len(whole))), int(rng.integers(1, 1000))
        match rng.integers(4):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                content[at : at + length] = rng.bytes(len(content[at : at + length]))
            case 2:
                del content[at : at + length]
            case _:
                del content[at:]
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.pt: damaged, .*run the train stage again"):
            model.load(path)


def test_a_missing_checkpoint_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the train stage of this fold first"):
        model.load(tmp_path / "model.pt")


@pytest.mark.parametrize(("name", "hint"), [("resnt34", "resnet34"), ("tu-nothing", "")])
def test_an_unknown_encoder_is_named(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"train.model.encoder: found '{name}'.*{hint}"):
        model.build(tiny("Linknet", encoder=name), "none")


def test_weights_that_cannot_be_fetched_say_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real loading code of the library, with its hub unreachable and its cache empty."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="train.model.weights: found 'imagenet'.*set it to none"):
        model.build(TINY, "imagenet")


def test_each_image_can_be_stretched_to_its_own_range() -> None:
    """A darker copy of an image is the same to the network; one grey is no division by zero."""
    stretching = dataclasses.replace(TINY, min_max=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    seen: list[torch.Tensor] = []

    class Seen(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images[:, :1]

    image = torch.randint(0, 100, (1, 32, 32, 3), dtype=torch.uint8)
    image[0, 0, 0] = torch.tensor([0, 50, 99])
    grey = torch.full((1, 32, 32, 3), 7, dtype=torch.uint8)
    model.Segmenter(Seen(), stretching)(torch.cat([image, image + 100, grey]))
    (found,) = seen
    torch.testing.assert_close(found[0], found[1])
    assert found[0].amin() == 0 and found[0].amax() == 1 and (found[2] == 0).all()


def test_a_batch_too_large_for_32_bit_kernels_is_refused() -> None:
    settings = read.load(ROOT / "recipes/carvana.yaml").train
    model.try_batches(settings, 1)
    large = settings.model_copy(
        update={"phases": (settings.phases[-1].model_copy(update={"batch_size": 256}),)}
    )
    with pytest.raises(
        UserError, match=r"found batch_size 256 at size \[1024, 1024\], .*lower it to"
    ):
        model.try_batches(large, 1)
    model.try_batches(large, 8)


@pytest.mark.parametrize(("up_kernel", "refused"), [(2, False), (3, True)])
def test_a_file_of_the_last_format_is_read_where_it_means_the_same(
    tmp_path: Path, up_kernel: int, refused: bool
) -> None:
    path = tmp_path / "model.pt"
    description = OURS[0]
    network = description.network | {"up_kernel": up_kernel}
    description = dataclasses.replace(description, network=network)
    weights = model.build(description, "none").state_dict()
    for older in (1, 2):
        content = {
            "format": model.FORMAT - older,
            "description": dataclasses.asdict(description),
            "weights": weights,
        }
        tensor_file.save(path, content)
        if refused or older > 1:
            with pytest.raises(UserError, match=f"found format {model.FORMAT - older}, expected"):
                model.load(path)
        else:
            model.load(path)
