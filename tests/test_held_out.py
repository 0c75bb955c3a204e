"""A device that counts pixels itself finds the score that the host finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import by_group
from lightning_fabric import Fabric
from training import convolutions, load, small_recipe

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_mask
from pipeline.levels import scale
from pipeline.metrics.dice import dice
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.sources import carvana
from pipeline.split import split
from pipeline.support.interrupt import Stop
from pipeline.train.data import Decoder
from pipeline.train.held_out import HeldOut, count_pixels, full_resolution

SIZES = [((37, 53), (128, 191)), ((100, 90), (40, 33)), ((32, 64), (64, 96)), ((9, 5), (9, 7))]


@pytest.mark.parametrize(("small", "large"), SIZES, ids=str)
def test_full_resolution_is_opencv_s_to_the_last_bit(
    small: tuple[int, int], large: tuple[int, int]
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, small, np.uint8)
    found = full_resolution(torch.from_numpy(levels), large)
    np.testing.assert_array_equal(found, scale.full_resolution(levels, large))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_counted_pixels_are_those_of_the_dice(share: float) -> None:
    random = np.random.default_rng(1)
    levels = (random.integers(0, 256, (20, 30)) * (share > 0)).astype(np.uint8)
    truth = random.random((43, 51)) < share
    bits = torch.from_numpy(np.packbits(truth))
    overlap, found, true, right = count_pixels(torch.from_numpy(levels), bits, (43, 51)).tolist()
    mask = scale.decide(levels, (43, 51)) > 0
    assert (found, true) == (mask.sum(), truth.sum()) and right == (mask == truth).sum()
    assert dice(mask, truth) == (2 * overlap / (found + true) if share else 1.0)


def test_flips_are_those_of_prediction(archives: Archives, tmp_path: Path) -> None:
    recipe = load(tmp_path, small_recipe(size=[32, 64]))
    rows = samples.training(split(carvana.read_entries(archives), archives, by_group(2)), 0)
    network = convolutions(model.describe(recipe.train, 0)).eval()
    fabric = Fabric(accelerator="cpu", devices=1)
    images = Decoder(rows, archives, (32, 64), "area")
    judge = HeldOut(rows, archives, recipe.train.loss, "hflip", fabric, 4, 0, False, keep=True)
    said = Predictor({"it": network}, (32, 64), "area", "hflip", fabric, 4, 0)
    expected = [
        dice(scale.decide(one.levels, one.row.size) > 0, read_mask(archives, one.row) > 0)
        for one in said.predict(rows, archives)
    ]
    found = judge.score(network, images, Stop())
    assert found and found.dice == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_score_is_the_same_wherever_pixels_are_counted(
    batch_size: int, archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(tmp_path, small_recipe(size=[32, 64]))
    rows = samples.training(split(carvana.read_entries(archives), archives, by_group(2)), 0)
    network = convolutions(model.describe(recipe.train, 0))
    images = Decoder(rows, archives, (32, 64), "area")
    fabric = Fabric(accelerator="cpu", devices=1)
    scores = []
    for on_device in (False, True):
        monkeypatch.setattr(HeldOut, "_counts", lambda self, here=on_device: here)
        judge = HeldOut(
            rows, archives, recipe.train.loss, "hflip", fabric, batch_size, 2, True, keep=True
        )
        for _ in range(2):  # the second time with the masks that were kept
            scores.append(judge.score(network, images, Stop()))
    first, *others = scores
    assert first is not None and 0 < first.dice < 1 and len(first.pictures) == 4
    for other in others:
        assert other is not None and other[:-1] == first[:-1]
        for name, picture in first.pictures.items():
            np.testing.assert_array_equal(other.pictures[name], picture)
