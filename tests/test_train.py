import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import by_group, tiny_recipe, write_yaml

from pipeline import checkpoint, hardware, model, params, samples, train
from pipeline.archives import Archives
from pipeline.augment import Augmentation
from pipeline.dataset import Decoder, TrainingSet
from pipeline.errors import UserError
from pipeline.interrupt import Stop
from pipeline.journal import Journal
from pipeline.samples import Sample
from pipeline.scoring import HeldOut
from pipeline.sources import carvana
from pipeline.split import split


@pytest.fixture
def archives(raw: Path) -> Iterator[Archives]:
    archives = Archives(raw)
    yield archives
    archives.close()


def load_recipe(folder: Path, **changes: object) -> params.Recipe:
    """The tiny recipe; a change to a section of `train` adds to what is there."""
    recipe = tiny_recipe()
    for key, value in changes.items():
        old = recipe["train"][key]
        recipe["train"][key] = {**old, **value} if isinstance(value, dict) else value
    return params.load(write_yaml(folder / "tiny.yaml", recipe))


def run(
    archives: Archives, recipe: params.Recipe, last: Path, stop: Stop | None = None
) -> checkpoint.Progress:
    rows = split(carvana.read_entries(archives), archives, by_group(2))
    settings = recipe.train
    fabric = hardware.launch("cpu", "32-true", recipe.runtime.threads, 1, 1)
    fabric.seed_everything(settings.seed, verbose=False)
    network = model.build(train._describe(settings, 0), "none")
    augment = Augmentation(**settings.augment.model_dump())
    training = samples.training(rows, 0)
    decoder = Decoder(training, archives, settings.size, settings.resize)
    dataset = TrainingSet(training, decoder, range(len(training)), augment)
    held_out = HeldOut(
        samples.held_out(rows, 0), archives, settings.size, settings.resize,
        settings.validation.tta, fabric, 16, 0, pictures=False,
    )  # fmt: skip
    with Journal(None) as journal:
        return train.train(
            network, dataset, held_out, settings, recipe.runtime, fabric, last, stop or Stop(),
            journal,
        )  # fmt: skip


def test_a_network_learns_and_its_best_epoch_is_kept(archives: Archives, tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, epochs=12, size=[64, 96], batch_size=3)
    progress = run(archives, recipe, tmp_path / "last.pt")
    losses = [epoch["loss"] for epoch in progress.history]
    scores = [epoch["dice"] for epoch in progress.history]
    assert losses[-1] < losses[0] / 2
    assert progress.best[0]["dice"] == max(scores) > 0.8
    assert [epoch["epoch"] for epoch in progress.history] == list(range(1, 13))


def same_end(one: checkpoint.Progress, other: checkpoint.Progress) -> None:
    """Equal to the last bit, but for what depends on the clock."""
    for key in ("epoch", "loss", "bce", "dice_loss", "dice", "learning_rate"):
        assert [row[key] for row in one.history] == [row[key] for row in other.history], key
    assert len(one.best) == len(other.best)
    for mine, theirs in zip(one.best, other.best, strict=True):
        assert (mine["epoch"], mine["dice"]) == (theirs["epoch"], theirs["dice"])
        for name, weight in mine["weights"].items():
            assert torch.equal(weight, theirs["weights"][name]), name


def test_a_loss_that_is_not_finite_stops_with_its_terms(archives: Archives, tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, epochs=2)
    steep = recipe.train.optimiser.model_copy(update={"learning_rate": 1e30})
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"optimiser": steep})}
    )
    with pytest.raises(UserError, match=r"the loss is .*\(BCE .*, Dice .*\) on aa.*_0[12].*lower"):
        run(archives, recipe, tmp_path / "last.pt")


def test_a_warm_up_of_one_step_is_refused(archives: Archives, tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, epochs=4, schedule={"name": "one-cycle", "warm_up": 0.25})
    with pytest.raises(UserError, match="train.schedule.warm_up: found 0.25, .* one of 4 steps"):
        run(archives, recipe, tmp_path / "last.pt")


def test_a_fold_without_rows_to_train_on_is_refused() -> None:
    row = Sample("a_01", "train", "a", "a.jpg", "a.gif", 0, 4, 4, 0.5)
    with pytest.raises(UserError, match="found 0 rows to train on and 1 held out in fold 0"):
        train._rows_of([row], 0, Path("samples.csv"))
    other = dataclasses.replace(row, fold=1)
    with pytest.raises(UserError, match="found 1 rows to train on and 0 held out in fold 0"):
        train._rows_of([other], 0, Path("samples.csv"))


@pytest.mark.parametrize(
    ("accelerator", "precision", "said"),
    [("cpu", "16-mixed", "needs a GPU"), ("cuda", "auto", "torch sees no GPU")],
)
def test_hardware_that_is_not_there_is_named(accelerator: str, precision: str, said: str) -> None:
    if accelerator == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=said):
        hardware.launch(accelerator, precision, 0, 1, 1)  # type: ignore[arg-type]
