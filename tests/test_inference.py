import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from pipeline.data.archives import Archives
from pipeline.data.images import decode_image
from pipeline.data.samples import Sample
from pipeline.levels import scale
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.support.errors import UserError

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


def predictor(models, tta="none", batch=3, workers=0, precision="32-true") -> Predictor:
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    named = {f"network {number}": model for number, model in enumerate(models)}
    return Predictor(named, SIZE, "area", tta, fabric, batch, workers)


def predict(rows, archives, models, tta="none", batch=3, workers=0) -> list[Prediction]:
    found = list(predictor(models, tta, batch, workers).predict(rows, archives))
    assert [prediction.row for prediction in found] == list(rows)
    return found


def test_a_certain_pixel_is_the_last_level(rows, archives) -> None:
    """In float32 a logit of 50 is a probability of exactly 1, and not the level 256, a byte's 0."""
    (found,) = predict(rows[:1], archives, [Redness(50)])
    assert (found.levels == 255).all()


def assert_levels(found: np.ndarray, expected: np.ndarray) -> None:
    """Those of the expected probabilities, but for what lies within rounding of the next level."""
    assert found.dtype == np.uint8
    low, high = (scale.of(np.clip(expected + e, 0, 1)) for e in (-1e-6, 1e-6))
    assert ((found == low) | (found == high)).all()


def by_hand(row: Sample, archives: Archives, shift: float, ramp: float = 0.0) -> np.ndarray:
    image = decode_image(archives.read(row.image), row.size, row.image).astype(np.float64)
    logits = (image[..., 0] - image[..., 1]) / 40 + shift + ramp * np.linspace(-1, 1, SIZE[1])
    return 1 / (1 + np.exp(-logits))


def test_a_probability_is_the_mean_over_models(rows, archives) -> None:
    for found in predict(rows, archives, [Redness(0), Redness(1)]):
        expected = (by_hand(found.row, archives, 0) + by_hand(found.row, archives, 1)) / 2
        assert found.levels.shape == SIZE
        assert_levels(found.levels, expected)


def test_flips_are_undone_before_the_mean(rows, archives) -> None:
    for found in predict(rows[:2], archives, [Redness(0, ramp=1)], tta="hflip"):
        expected = (by_hand(found.row, archives, 0, 1) + by_hand(found.row, archives, 0, -1)) / 2
        assert_levels(found.levels, expected)


def softmax(row: Sample, archives: Archives, ramp: float) -> np.ndarray:
    image = decode_image(archives.read(row.image), row.size, row.image).astype(np.float64) / 40
    image[..., 0] += ramp * np.linspace(-1, 1, SIZE[1])
    powers = np.exp(image - image.max(axis=2, keepdims=True))
    return np.moveaxis(powers / powers.sum(axis=2, keepdims=True), 2, 0)


def test_several_classes_are_the_mean_softmax_over_models_and_flips(rows, archives) -> None:
    models = [ThreeColors(2), ThreeColors(-1)]
    for tta, ramps in (("none", (2, -1)), ("hflip", (2, -2, -1, 1))):
        for found in predict(rows[:3], archives, models, tta):
            expected = np.mean([softmax(found.row, archives, ramp) for ramp in ramps], axis=0)
            assert found.levels.shape == (3, *SIZE)
            assert_levels(found.levels, expected)


def test_several_models_disagree_where_their_classes_differ(rows, archives) -> None:
    for found in predict(rows[:4], archives, [ThreeColors(3), ThreeColors(-3)]):
        votes = [softmax(found.row, archives, ramp).argmax(axis=0) for ramp in (3, -3)]
        expected = np.mean(votes[0] != votes[1])
        assert found.disagreement == pytest.approx(expected, abs=2e-4) and expected > 0


def test_classes_are_decided_at_full_resolution() -> None:
    small = np.random.default_rng(0).integers(0, 256, (4, 20, 30), np.uint8)
    large = np.stack([scale.full_resolution(one, (51, 44)) for one in small])
    found = scale.decide(small, (51, 44))
    assert found.dtype == np.uint8 and found.shape == (51, 44)
    np.testing.assert_array_equal(found, large.argmax(axis=0))  # the first of equal ones
    binary = scale.decide(small[0], (51, 44), 77)
    np.testing.assert_array_equal(binary, large[0] >= 77)


def test_batches_and_workers_change_nothing(rows, archives) -> None:
    one = predict(rows, archives, [Redness(0)], batch=1)
    for batch, workers in ((5, 0), (16, 0), (3, 2)):
        other = predict(rows, archives, [Redness(0)], "none", batch, workers)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.levels, b.levels)


def test_an_unreadable_image_carries_its_error(rows, archives, raw: Path) -> None:
    (raw / "bad.jpg").write_bytes(b"\xff\xd8")
    mixed = [rows[0], dataclasses.replace(rows[1], image="bad.jpg"), rows[2]]
    found = predict(mixed, archives, [Redness(0), Redness(1)], batch=2)
    assert [bool(prediction.error) for prediction in found] == [False, True, False]
    assert found[1].disagreement == 0
    whole = predict(rows[2:3], archives, [Redness(0), Redness(1)])
    np.testing.assert_array_equal(found[2].levels, whole[0].levels)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_a_network_whose_output_is_no_number_is_refused(rows, archives, wrong, tta) -> None:
    class Spoilt(Redness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            logits[1, 5, 7] = wrong
            return logits

    spoilt = predictor([Redness(0), Spoilt(0)], tta)
    with pytest.raises(UserError) as error:
        list(spoilt.predict(rows, archives))
    assert str(error.value).startswith(f"network 1: its output for {rows[1].image} is NaN")

    class Nothing(Redness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * wrong

    with pytest.raises(UserError, match="network 0: its output for a.jpg is NaN or infinite"):
        predictor([Nothing(0)]).of_image(np.zeros((9, 9, 3), np.uint8), "a.jpg")


def test_one_image_of_any_size_is_predicted_as_in_a_stream(rows, archives) -> None:
    image = decode_image(archives.read(rows[0].image), rows[0].size, rows[0].image)
    (found,) = predict(rows[:1], archives, [Redness(0, 1)], "hflip")
    alone = predictor([Redness(0, 1)], "hflip").of_image(image, "car.jpg")
    np.testing.assert_array_equal(alone, found.levels)


def test_the_reader_does_not_run_ahead(rows, archives) -> None:
    """Taking one prediction must not decode the whole test set."""
    seen = []
    counting = Archives(archives.folder)
    read = counting.read
    counting.read = lambda name: seen.append(name) or read(name)  # type: ignore[method-assign]
    next(predictor([Redness(0)], batch=2).predict(rows, counting))
    assert len(seen) <= 4
    counting.close()


def test_full_resolution_is_bilinear_with_half_pixel_centres() -> None:
    """Against torch's independent implementation: the nearest level, but for 8-bit weights."""
    small = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small).float()[None, None], (128, 191), mode="bilinear"
    )[0, 0]
    found = scale.full_resolution(small, (128, 191))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=1)
    np.testing.assert_array_equal(scale.full_resolution(small, small.shape), small)


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
        found = predictor([Small()], "hflip", 4, precision=kind).predict(rows, archives)
        masks.append(np.stack([prediction.levels for prediction in found]) >= scale.HALF)
    assert 0.05 < masks[0].mean() < 0.95
    moved = np.mean(masks[0] != masks[1])
    assert moved <= (0.01 if precision == "bf16-mixed" else 0), moved


def test_disagreement_is_the_share_of_pixels_the_models_differ_on(rows, archives) -> None:
    models = [Redness(0), Redness(1), Redness(-3)]
    for found in predict(rows[:4], archives, models):
        votes = np.stack([by_hand(found.row, archives, shift) >= 0.5 for shift in (0, 1, -3)])
        expected = np.mean(votes.any(axis=0) != votes.all(axis=0))
        assert found.disagreement == pytest.approx(expected, abs=2e-4) and expected > 0
    assert [one.disagreement for one in predict(rows, archives, models[:1], "hflip")] == [0] * len(
        rows
    )
