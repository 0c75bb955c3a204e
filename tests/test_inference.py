import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import by_group
from lightning_fabric import Fabric

from pipeline.data.archives import Archives
from pipeline.data.decoding import decoded
from pipeline.data.images import decode_image
from pipeline.data.samples import Sample
from pipeline.networks.predictor import decided, forward, full_resolution, stream
from pipeline.sources import carvana
from pipeline.split import split

SIZE = (64, 96)  # the tiny images' own, so that nothing is resized


class Redness(torch.nn.Module):
    """A network whose logits are known: red minus green, shifted, plus a left-right ramp."""

    def __init__(self, shift: float, ramp: float = 0.0) -> None:
        super().__init__()
        self.shift, self.ramp = shift, ramp

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red = images[..., 0].float() - images[..., 1].float()
        return red / 40 + self.shift + self.ramp * torch.linspace(-1, 1, images.shape[2])


class ThreeColors(torch.nn.Module):
    """Logits of three classes: the channels, with a left-right ramp on the first."""

    def __init__(self, ramp: float) -> None:
        super().__init__()
        self.ramp = ramp

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = images.permute(0, 3, 1, 2).float() / 40
        logits[:, 0] += self.ramp * torch.linspace(-1, 1, images.shape[2])
        return logits


@pytest.fixture
def archives(raw: Path) -> Iterator[Archives]:
    archives = Archives(raw)
    yield archives
    archives.close()


@pytest.fixture
def rows(archives: Archives) -> list[Sample]:
    return split(carvana.read_entries(archives), archives, by_group(2))


def probabilities(rows, archives, models, tta="none", batch=3, workers=0) -> list[np.ndarray]:
    fabric = Fabric(accelerator="cpu", devices=1)
    found = list(stream(rows, archives, models, SIZE, "area", tta, fabric, batch, workers))
    assert [prediction.row for prediction in found] == list(rows)
    return [prediction.probability for prediction in found]


def by_hand(row: Sample, archives: Archives, shift: float, ramp: float = 0.0) -> np.ndarray:
    image = decode_image(archives.read(row.image), row.size, row.image).astype(np.float64)
    logits = (image[..., 0] - image[..., 1]) / 40 + shift + ramp * np.linspace(-1, 1, SIZE[1])
    return 1 / (1 + np.exp(-logits))


def test_a_probability_is_the_mean_over_models(rows, archives) -> None:
    for row, found in zip(
        rows, probabilities(rows, archives, [Redness(0), Redness(1)]), strict=True
    ):
        expected = (by_hand(row, archives, 0) + by_hand(row, archives, 1)) / 2
        assert found.dtype == np.float32 and found.shape == SIZE
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_flips_are_undone_before_the_mean(rows, archives) -> None:
    found = probabilities(rows[:2], archives, [Redness(0, ramp=1)], tta="hflip")
    for row, probability in zip(rows[:2], found, strict=True):
        expected = (by_hand(row, archives, 0, 1) + by_hand(row, archives, 0, -1)) / 2
        np.testing.assert_allclose(probability, expected, atol=1e-6)


def softmax(row: Sample, archives: Archives, ramp: float) -> np.ndarray:
    image = decode_image(archives.read(row.image), row.size, row.image).astype(np.float64) / 40
    image[..., 0] += ramp * np.linspace(-1, 1, SIZE[1])
    powers = np.exp(image - image.max(axis=2, keepdims=True))
    return np.moveaxis(powers / powers.sum(axis=2, keepdims=True), 2, 0)


def test_several_classes_are_the_mean_softmax_over_models_and_flips(rows, archives) -> None:
    models = [ThreeColors(2), ThreeColors(-1)]
    for tta, ramps in (("none", (2, -1)), ("hflip", (2, -2, -1, 1))):
        for row, found in zip(
            rows[:3], probabilities(rows[:3], archives, models, tta), strict=True
        ):
            expected = np.mean([softmax(row, archives, ramp) for ramp in ramps], axis=0)
            assert found.dtype == np.float32 and found.shape == (3, *SIZE)
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_several_models_disagree_where_their_classes_differ(rows, archives) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    (batch,) = decoded(rows[:4], archives, SIZE, "area", 4, 0, False)
    found = forward(batch.images, [ThreeColors(3), ThreeColors(-3)], "none", fabric, 0.5)
    for row, share in zip(rows[:4], found.disagreement, strict=True):
        votes = [softmax(row, archives, ramp).argmax(axis=0) for ramp in (3, -3)]
        expected = np.mean(votes[0] != votes[1])
        assert share.item() == pytest.approx(expected, abs=2e-4) and expected > 0


def test_classes_are_decided_at_full_resolution() -> None:
    small = np.random.default_rng(0).random((4, 20, 30)).astype(np.float32)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None], (51, 44), mode="bilinear", align_corners=False
    )[0]
    found = decided(small, (51, 44))
    assert found.dtype == np.uint8 and found.shape == (51, 44)
    assert np.mean(found != large.argmax(dim=0).numpy()) < 1e-3, "but for rounding"
    np.testing.assert_array_equal(decided(np.ones((3, 2, 2), np.float32), (4, 4)), np.zeros((4, 4)))
    binary = decided(small[0], (51, 44))
    np.testing.assert_array_equal(binary, full_resolution(small[0], (51, 44)) >= 0.5)


def test_batches_and_workers_change_nothing(rows, archives) -> None:
    one = probabilities(rows, archives, [Redness(0)], batch=1)
    for batch, workers in ((5, 0), (16, 0), (3, 2)):
        for a, b in zip(
            one, probabilities(rows, archives, [Redness(0)], "none", batch, workers), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_an_unreadable_image_carries_its_error(rows, archives, raw: Path) -> None:
    (raw / "bad.jpg").write_bytes(b"\xff\xd8")
    mixed = [rows[0], dataclasses.replace(rows[1], image="bad.jpg"), rows[2]]
    fabric = Fabric(accelerator="cpu", devices=1)
    found = list(stream(mixed, archives, [Redness(0)], SIZE, "area", "none", fabric, 2, 0))
    assert [bool(prediction.error) for prediction in found] == [False, True, False]
    np.testing.assert_allclose(found[2].probability, by_hand(rows[2], archives, 0), atol=1e-6)


def test_the_reader_does_not_run_ahead(rows, archives) -> None:
    """Taking one prediction must not decode the whole test set."""
    seen = []
    counting = Archives(archives.folder)
    read = counting.read
    counting.read = lambda name: seen.append(name) or read(name)  # type: ignore[method-assign]
    fabric = Fabric(accelerator="cpu", devices=1)
    next(stream(rows, counting, [Redness(0)], SIZE, "area", "none", fabric, 2, 0))
    assert len(seen) <= 4
    counting.close()


def test_full_resolution_is_bilinear_with_half_pixel_centres() -> None:
    """Against torch's independent implementation."""
    small = np.random.default_rng(0).random((37, 53), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], (128, 191), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(full_resolution(small, (128, 191)), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_half_precision_moves_few_pixels(rows, archives, precision) -> None:
    """A network whose products are rounded to bfloat16 decides pixels near the threshold anew."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(3, 8, 5, padding=2)
    network = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 5, padding=2))

    class Small(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = network(images.permute(0, 3, 1, 2) / 64.0).squeeze(1)
            return 20 * (logits - logits.mean((1, 2), keepdim=True))

    masks = []
    for kind in ("32-true", precision):
        fabric = Fabric(accelerator="cpu", devices=1, precision=kind)
        found = list(stream(rows, archives, [Small()], SIZE, "area", "hflip", fabric, 4, 0))
        masks.append(np.stack([prediction.probability for prediction in found]) >= 0.5)
    assert 0.05 < masks[0].mean() < 0.95
    moved = np.mean(masks[0] != masks[1])
    assert moved <= (0.01 if precision == "bf16-mixed" else 0), moved


def test_disagreement_is_the_share_of_pixels_the_models_differ_on(rows, archives) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    (batch,) = decoded(rows[:4], archives, SIZE, "area", 4, 0, False)
    models = [Redness(0), Redness(1), Redness(-3)]
    found = forward(batch.images, models, "none", fabric, 0.7)
    for row, share in zip(rows[:4], found.disagreement, strict=True):
        votes = np.stack([by_hand(row, archives, shift) >= 0.7 for shift in (0, 1, -3)])
        expected = np.mean(votes.any(axis=0) != votes.all(axis=0))
        assert share.item() == pytest.approx(expected, abs=2e-4) and expected > 0
    alone = forward(batch.images, models[:1], "hflip", fabric, 0.7)
    assert alone.disagreement.tolist() == [0] * 4
