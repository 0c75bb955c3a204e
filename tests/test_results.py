"""The mean of the best epochs is kept only where it scores better."""

from pathlib import Path

import pytest
import torch
from conftest import by_group
from training import convolutions, load, small_recipe

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.sources import carvana
from pipeline.split import split
from pipeline.support import hardware
from pipeline.support.interrupt import Stop
from pipeline.train import averages, results
from pipeline.train.checkpoint import Progress
from pipeline.train.held_out import HeldOut


@pytest.mark.parametrize("good", [True, False])
def test_the_better_of_best_and_mean_is_kept(raw: Path, tmp_path: Path, good: bool) -> None:
    """Two epochs that say foreground everywhere but little apart, or one all wrong."""
    recipe = load(tmp_path, small_recipe())
    network = convolutions(model.describe(recipe.train, 0))
    archives = Archives(raw)
    rows = samples.held_out(split(carvana.read_entries(archives), archives, by_group(2)), 0)
    fabric = hardware.launch("cpu", "32-true", 1, 1, 1)
    held_out = HeldOut(
        rows, archives, Predictor({}, (32, 64), "area", "none", fabric, 4, 0), pictures=False
    )

    def says(foreground: float) -> averages.State:
        state = averages.on_cpu(network)
        return {name: torch.zeros_like(value) for name, value in state.items()} | {
            "network.2.bias": torch.tensor([foreground])
        }

    progress = Progress(history=[{"loss": 1.0}, {"loss": 2.0}])
    # Claimed scores; that of the mean is measured.
    progress.best = [
        {"dice": 0.1 if good else 0.9, "epoch": 2, "weights": says(-1.0)},
        {"dice": 0.05, "epoch": 1, "weights": says(3.0)},
    ]
    weights, metrics = results.choose(network, progress, held_out, Stop())
    expected = 1.0 if good else -1.0  # the mean of -1 and 3, or the best one's
    assert weights["network.2.bias"].item() == expected
    assert 0.1 < metrics["dice_of_average"] < 0.9
    assert metrics["dice"] == (metrics["dice_of_average"] if good else 0.9)
    assert metrics["averaged"] == (2 if good else 1)
    assert (metrics["epoch"], metrics["loss"]) == (2, 2.0)
    archives.close()
