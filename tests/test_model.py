import dataclasses
import typing
from pathlib import Path

import pytest
import torch

from pipeline import model
from pipeline.errors import UserError
from pipeline.settings.network import Model

TINY = model.Description(
    architecture="Unet",
    encoder="resnet18",
    decoder_channels=(16, 16, 8, 8, 8),
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


def test_normalisation_is_that_of_the_description(network: model.Segmenter) -> None:
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


@pytest.mark.parametrize("architecture", ["Unet", "UnetPlusPlus", "MAnet"])
def test_every_architecture_takes_its_decoder_channels(architecture: str) -> None:
    allowed = Model.model_fields["architecture"].annotation
    assert architecture in typing.get_args(allowed) and len(typing.get_args(allowed)) == 3
    description = dataclasses.replace(TINY, architecture=architecture)
    wider = dataclasses.replace(description, decoder_channels=(32, 16, 16, 8, 8))
    small, large = model.build(description, "none"), model.build(wider, "none")
    assert model.parameters(small) < model.parameters(large)
    with torch.inference_mode():
        assert small.eval()(images()).shape == (2, 32, 64)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: not a checkpoint of this project"):
        model.load(path)


def test_a_truncated_checkpoint_is_refused(network: model.Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    model.save(path, network, network.state_dict())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        model.load(path)


def test_a_missing_checkpoint_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the train stage of this fold first"):
        model.load(tmp_path / "model.pt")


@pytest.mark.parametrize(("name", "hint"), [("resnt34", "resnet34"), ("tu-nothing", "")])
def test_an_unknown_encoder_is_named(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"train.model.encoder: found '{name}'.*{hint}"):
        model.build(dataclasses.replace(TINY, encoder=name), "none")


def test_weights_that_cannot_be_fetched_say_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real loading code of the library, with its hub unreachable and its cache empty."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="train.model.weights: found 'imagenet'.*set it to none"):
        model.build(TINY, "imagenet")
