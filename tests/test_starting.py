"""Weights of another recipe's fold, and no leak through them."""

import dataclasses
import shutil
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
    with pytest.raises(UserError, match=r"train.x: found 'first', .* dvc repro train@first-1 firs"):
        checkpoint.find_other("train.x", "first", 1, Paths.of("second"))


@pytest.fixture
def moved(places: tuple[Place, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of both recipes' networks and tables, to spoil."""
    for name in ("runs", "data", "recipes"):
        shutil.copytree(places[0].folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(name: str = "first", fold: int = 0) -> checkpoint.Other:
    return checkpoint.find_other("train.weights.init_from", name, fold, Paths.of("second"))


def rewrite(name: str, **changes: object) -> None:
    path = Paths.of(name).model(0)
    network = model.load(path)
    network.description = dataclasses.replace(network.description, **changes)
    model.save(path, network, network.state_dict())


def test_a_network_knows_what_it_was_trained_on(moved: Path) -> None:
    rows = samples.training(samples.read(Paths.of("first").samples), 0)
    trained = {name for row in rows for name in (row.group, row.sample_id)}
    assert set(find().network.description.seen) == trained


def test_a_network_that_has_seen_what_is_held_out_is_refused(moved: Path) -> None:
    """By group or by image, whatever the tables say by now."""
    table = Paths.of("second").samples
    rows = samples.read(table)
    swap = {0: 1, 1: 0, samples.NO_FOLD: samples.NO_FOLD}
    other = [dataclasses.replace(row, fold=swap[row.fold]) for row in rows]
    by_image = [dataclasses.replace(row, group=f"image {row.sample_id}") for row in other]
    for ours, count in ((other, 3), (by_image, 6)):
        samples.write(table, ours)
        said = f"trained on {count} of the {count} groups held out here"
        with pytest.raises(UserError, match=said):
            find()
    samples.write(table, rows)
    assert find().path == Paths.of("first").model(0)


def test_another_fold_or_network_is_refused(moved: Path) -> None:
    theirs = find()
    network = {**theirs.network.description.network, "decoder_channels": (32, 8, 8, 8, 8)}
    wider = dataclasses.replace(theirs.network.description, network=network)
    with pytest.raises(UserError, match="weights that do not fit this network"):
        checkpoint.load_start(model.build(wider, "none"), theirs)
    rewrite("first", fold=1)
    with pytest.raises(UserError, match="trained without fold 1, expected fold 0"):
        find()


def test_what_the_other_has_chosen_and_seen_counts_here_too(moved: Path, raw: Path) -> None:
    """As chosen by this training: its score flatters, and who starts from it is asked for both."""
    rewrite("first", choices="the epoch", seen=("a car of another data set",))
    third = Place(moved, raw, small_recipe(weights={"init_from": "first"}), "third")
    third.run()
    assert third.metrics()["flatters"] and third.metrics()["chosen_on_held_out"] == "the epoch"
    found = model.load(Paths.of("third").model(0)).description
    assert found.choices == "the epoch" and "a car of another data set" in found.seen
