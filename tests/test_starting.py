"""Weights of another recipe's fold, and no leak through them."""

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_archives
from training import Place, small_recipe

from pipeline.data import samples
from pipeline.networks import model
from pipeline.paths import Paths
from pipeline.support.errors import UserError
from pipeline.train import checkpoint

SMALLER = {"name": "sgd", "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    """Two recipes, the second of which starts at another size from the first one's weights."""
    folder = tmp_path_factory.mktemp("starting")
    write_tiny_archives(folder / "raw")
    first = Place(folder, folder / "raw", small_recipe(), "first")
    first.run()
    recipe = small_recipe(
        {"tensorboard": True, "cache": "disk"},
        size=[64, 96], weights={"init_from": "first"}, optimizer=SMALLER, epochs=2,
        learning_rate=1e-12,
        schedule={"name": "constant"},
    )  # fmt: skip
    second = Place(folder, folder / "raw", recipe, "second")
    second.run()
    return first, second


def test_training_starts_from_the_others_weights(places: tuple[Place, Place]) -> None:
    first, second = (place.weights() for place in places)
    learned = [name for name in first if "running" not in name and "num_batches" not in name]
    for name in learned:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-6)
    assert model.load(places[1].runs / "fold0/model.pt").description.size == (64, 96)


def test_tensorboard_shows_the_training(places: tuple[Place, Place]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = EventAccumulator(str(places[1].folder / "logs/second/fold0")).Reload()
    assert {
        "loss",
        "bce",
        "dice_loss",
        "dice",
        "held_out_loss",
        "pixel_accuracy",
        "phase",
        "waiting",
    } <= set(logs.Tags()["scalars"])
    assert [event.step for event in logs.Scalars("dice")] == [1, 2]
    shown = logs.Tags()["images"]
    assert len(shown) == 4 and all(len(logs.Images(name)) == 2 for name in shown)


def test_a_missing_network_says_what_to_run(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places[0].folder)
    with pytest.raises(UserError, match=r"run dvc repro train@first-1 first"):
        checkpoint.find_start("first", 1, Paths.of("second"))


def test_a_network_that_has_seen_what_is_held_out_is_refused(
    places: tuple[Place, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = places
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(first.folder / "runs")
    rows = samples.read(second.samples)
    table = tmp_path / "data/other/samples.csv"
    swap = {0: 1, 1: 0, samples.NO_FOLD: samples.NO_FOLD}
    samples.write(table, [dataclasses.replace(row, fold=swap[row.fold]) for row in rows])
    first_table = tmp_path / "data/first/samples.csv"
    by_image = [dataclasses.replace(row, group=row.sample_id) for row in rows]
    for theirs in (rows, by_image):
        samples.write(first_table, theirs)
        with pytest.raises(UserError, match="trained on 3 of the 3 groups held out here"):
            checkpoint.find_start("first", 0, Paths.of("other"))


def test_another_fold_or_network_is_refused(places: tuple[Place, Place]) -> None:
    path = places[0].runs / "fold0/model.pt"
    theirs = model.load(path)
    other = dataclasses.replace(theirs.description, fold=1)
    with pytest.raises(UserError, match="trained without fold 0, expected fold 1"):
        checkpoint.load_start(model.build(other, "none"), path)
    network = {**theirs.description.network, "decoder_channels": (32, 8, 8, 8, 8)}
    wider = dataclasses.replace(theirs.description, network=network)
    with pytest.raises(UserError, match="weights that do not fit this network"):
        checkpoint.load_start(model.build(wider, "none"), path)


def test_what_the_other_has_chosen_by_the_fold_counts_here_too(
    places: tuple[Place, Place], tmp_path: Path
) -> None:
    path = places[0].runs / "fold0/model.pt"
    theirs = model.load(path)
    theirs.description = dataclasses.replace(theirs.description, choices="the epoch")
    model.save(tmp_path / "model.pt", theirs, theirs.state_dict())
    ours = model.build(theirs.description, "none")
    assert checkpoint.load_start(ours, path) == ""
    assert checkpoint.load_start(ours, tmp_path / "model.pt") == "the epoch"
