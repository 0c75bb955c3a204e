import dataclasses
import math
import re
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import by_group
from training import Place, convolutions, failing, load, run, small_recipe

from pipeline.__main__ import main
from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.networks import model
from pipeline.recipe.schema import Recipe
from pipeline.sources import carvana
from pipeline.split import split
from pipeline.support import hardware
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.train import checkpoint, data, held_out, stage
from pipeline.train.data import Cache, TrainingSet, prefer_foreground


def test_a_network_learns_and_its_last_weights_are_kept(archives: Archives, tmp_path: Path) -> None:
    recipe = load(tmp_path, small_recipe(epochs=16, size=[64, 96], learning_rate=0.01))
    _, progress = run(archives, recipe, tmp_path / "last.pt")
    for name in ("loss", "held_out_loss"):
        assert progress.history[-1][name] < progress.history[0][name] / 1.5, name
    assert progress.history[-1]["dice"] > 0.8 and progress.history[-1]["pixel_accuracy"] > 0.8
    assert not progress.best, "nothing is chosen"
    assert [epoch["epoch"] for epoch in progress.history] == list(range(1, 17))
    row = progress.history[-1]
    assert row["loss"] == pytest.approx(row["bce"] + row["dice_loss"])
    assert row["held_out_loss"] == pytest.approx(row["held_out_bce"] + row["held_out_dice_loss"])
    assert 0 <= row["waiting"] < 1 and row["images_per_second"] > 0


def test_what_is_said_of_a_training(raw: Path, tmp_path: Path) -> None:
    said = Place(tmp_path / "project", raw, small_recipe(epochs=1)).run()
    assert re.search(r"fold 0: 6 images to train on, 6 held out; 0\.\d M parameters on CPU", said)
    assert "epoch 1/1: 100%" in said and "| 6/6 [" in said, "the bar ends full"


def test_four_images_are_learned_by_heart(archives: Archives, tmp_path: Path) -> None:
    """Held out are the images trained on: nothing in the way keeps a network from them."""
    still = {"hflip": 0.0, "affine": 0.0, "color": 0.0}
    recipe = load(
        tmp_path,
        small_recipe(epochs=40, size=[64, 96], batch_size=4, augment=still,
                     learning_rate=0.01),
    )  # fmt: skip
    four = split(carvana.read_entries(archives), archives, by_group(2))[:4]
    rows = [
        dataclasses.replace(row, sample_id=f"{row.sample_id}-{fold}", fold=fold)
        for row in four
        for fold in (0, 1)
    ]
    started = time.monotonic()
    _, progress = run(archives, recipe, tmp_path / "last.pt", rows)
    assert progress.history[-1]["dice"] > 0.99
    assert time.monotonic() - started < 60


OPTIMIZERS: dict[str, tuple[dict, float]] = {
    "adamw": ({"weight_decay": 0.01}, 0.001),
    "adam": ({"weight_decay": 0.0}, 0.001),
    "sgd": ({"weight_decay": 0.0005, "momentum": 0.9, "nesterov": True}, 0.01),
    "rmsprop": ({"weight_decay": 0.0, "momentum": 0.0, "smoothing": 0.99}, 0.0005),
}
SCHEDULES: list[dict] = [
    {"name": "one-cycle", "warm_up": 0.3},
    {"name": "cosine", "warm_up": 0.2, "end": 0.0},
    {"name": "plateau", "factor": 0.5, "patience": 0, "gain": 2.0},
    {"name": "constant"},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["name"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_with_every_schedule(
    optimizer: str, schedule: dict, archives: Archives, tmp_path: Path
) -> None:
    """By the same few steps, all of them; a gain of 2 in Dice never comes, so plateaus do."""
    (values, peak), small = OPTIMIZERS[optimizer], small_recipe(epochs=3, schedule=schedule)
    small["train"]["phases"][0]["learning_rate"] = peak
    small["train"]["optimizer"] = {"name": optimizer, **values}
    recipe = load(tmp_path, small)
    _, progress = run(archives, recipe, tmp_path / "last.pt")
    losses = [row["loss"] for row in progress.history]
    assert losses[-1] < losses[0]
    rates = [row["learning_rate"] for row in progress.history]
    expected = {
        "one-cycle": rates[0] > rates[-1] and rates[-1] == pytest.approx(peak / 250_000),
        "cosine": rates[0] > rates[1] > rates[2] > 0,
        # The first epoch is a gain over nothing; the rate in a row is the one before its Dice.
        "plateau": rates == pytest.approx([peak, peak, peak / 2]),
        "constant": rates == [peak] * 3,
    }
    assert expected[schedule["name"]], rates


def weights_after(archives: Archives, folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    recipe = load(folder, small_recipe(**changes))
    return run(archives, recipe, folder / f"{len(list(folder.iterdir()))}.pt")[0]


def test_two_small_batches_are_one_large_one(archives: Archives, tmp_path: Path) -> None:
    """But for BatchNorm, whose statistics are of the batch: with a network that has none."""

    def ends(**changes: object) -> dict[str, torch.Tensor]:
        recipe = load(tmp_path, small_recipe(epochs=2, **changes))
        last = tmp_path / f"{changes['batch_size']}.pt"
        network = convolutions(model.describe(recipe.train, 0))
        return run(archives, recipe, last, network=network)[0]

    large = ends(batch_size=4)
    small = ends(batch_size=2, gradient={"accumulate": 2})
    other = ends(batch_size=3)
    for name, weight in large.items():
        torch.testing.assert_close(small[name], weight, rtol=1e-4, atol=1e-6)
    assert any((other[name] - large[name]).abs().max() > 1e-4 for name in large)
    # AdamW divides by the gradients' scale, and would not notice a sum for a mean.
    sgd = {"optimizer": STILL, "schedule": {"name": "constant"}, "learning_rate": 0.1}
    large = ends(batch_size=4, **sgd)
    small = ends(batch_size=2, gradient={"accumulate": 2}, **sgd)
    for name, weight in large.items():
        torch.testing.assert_close(small[name], weight, rtol=1e-4, atol=1e-6)


def test_every_epoch_draws_anew(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, get = [], TrainingSet.__getitem__
    monkeypatch.setattr(
        TrainingSet, "__getitem__", lambda self, draw: seen.append(draw) or get(self, draw)
    )
    run(archives, load(tmp_path, small_recipe(epochs=3)), tmp_path / "last.pt")
    assert len(seen) == len(set(seen)) == 18, "a row with its seed came up twice"


def test_an_epoch_is_drawn_as_the_recipe_says(tmp_path: Path) -> None:
    settings = load(tmp_path, small_recipe(
        batch_size=4, drop_last=False, augment={"triple": True},
        sampler={"name": "prefer-foreground", "uniform": 0.2},
    )).train  # fmt: skip
    rows = [Sample(f"{n}", "train", f"{n}", "", "", 1, 4, 4, n / 10) for n in range(5)]
    alone = types.SimpleNamespace(global_rank=0, world_size=1)
    job = types.SimpleNamespace(
        rows=rows, settings=settings, fabric=alone, pseudo=None,
        runtime=types.SimpleNamespace(devices=1),
    )  # fmt: skip
    batches = stage._shuffle(settings.phases[0], job)
    assert (batches.images, batches.steps, batches.sizes) == (15, 4, [4, 3])
    drawn = []
    for batches.epoch in range(200):
        drawn += [index for batch in batches for index, _ in batch]
    found = np.bincount(np.array(drawn) % 5, minlength=5) / len(drawn)
    np.testing.assert_allclose(found, prefer_foreground(rows, 0.2), atol=0.03)
    assert {index // 5 for index in drawn} == {0, 1, 2}, "as it is, left-right, upside-down"


def test_masks_become_targets_as_the_recipe_says(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those trained on and those judged by alike."""
    asked, soft_target = set(), data.soft_target

    def note(mask, size, classes, how):
        asked.add(how)
        return soft_target(mask, size, classes, how)

    monkeypatch.setattr(data, "soft_target", note)
    seen: dict = {stage: [], held_out: []}
    for module, kept in seen.items():

        def shares(*given, kept=kept, make=module.shares):
            kept.append(make(*given))
            return kept[-1]

        monkeypatch.setattr(module, "shares", shares)
    place = Place(tmp_path, raw, small_recipe(target={"resize": "linear", "hard": True}))
    monkeypatch.chdir(tmp_path)
    main(place.arguments(0))
    assert asked == {"linear"}
    for kept in seen.values():
        assert kept and all(set(one.unique().tolist()) <= {0, 1} for one in kept)


def test_clipping_shortens_the_step(archives: Archives, tmp_path: Path) -> None:
    plain = {"name": "sgd", "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    common = {"optimizer": plain, "schedule": {"name": "constant"}, "batch_size": 6}
    start = weights_after(archives, tmp_path, learning_rate=1e-12, **common)
    common["learning_rate"] = 1.0
    clipped = weights_after(archives, tmp_path, gradient={"clip": 0.01}, **common)
    free = weights_after(archives, tmp_path, **common)

    def length(end: dict[str, torch.Tensor]) -> float:
        network = model.build(model.describe(load(tmp_path, small_recipe()).train, 0), "none")
        names = [name for name, _ in network.named_parameters()]
        return sum(((end[n] - start[n]) ** 2).sum().item() for n in names) ** 0.5

    assert length(clipped) == pytest.approx(0.01, rel=0.01), "one step at rate 1"
    assert length(free) > 0.02


STILL = {"name": "sgd", "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}


def test_training_stops_when_nothing_is_gained(archives: Archives, tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        small_recipe(epochs=30, optimizer=STILL, learning_rate=1e-12, weights={"ema": 0.5},
                     schedule={"name": "constant"}, validation={"patience": 3}),
    )  # fmt: skip
    _, progress = run(archives, recipe, tmp_path / "last.pt")
    assert progress.epoch - progress.best["epoch"] == 3 and progress.epoch < 30
    assert "when to stop" in recipe.train.choices


def score_of(archives: Archives, recipe: Recipe, weights: dict[str, torch.Tensor]) -> float:
    """The held-out Dice of weights, measured anew: one more epoch that changes nothing."""
    still = small_recipe(optimizer=STILL, learning_rate=1e-30, schedule={"name": "constant"})
    network = model.build(model.describe(recipe.train, 0), "none")
    network.load_state_dict(weights)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    with tempfile.TemporaryDirectory() as folder:
        other = load(Path(folder), still)
        _, progress = run(archives, other, Path(folder) / "last.pt", network=network)
    return progress.history[-1]["dice"]


def test_the_moving_average_is_what_is_judged_and_kept(archives: Archives, tmp_path: Path) -> None:
    common: dict = {"epochs": 2, "batch_size": 3, "learning_rate": 0.01}
    plain, last = run(archives, load(tmp_path, small_recipe(**common)), tmp_path / "plain.pt")
    recipe = load(tmp_path, small_recipe(weights={"ema": 0.9}, **common))
    kept, averaged = run(archives, recipe, tmp_path / "averaged.pt")
    assert [r["loss"] for r in last.history] == [r["loss"] for r in averaged.history]
    assert [r["dice"] for r in last.history] != [r["dice"] for r in averaged.history]
    assert any(not torch.equal(kept[name], plain[name]) for name in kept)
    assert score_of(archives, recipe, kept) == pytest.approx(averaged.history[-1]["dice"], abs=1e-6)
    assert score_of(archives, recipe, plain) == pytest.approx(last.history[-1]["dice"], abs=1e-6)


def test_the_best_epoch_is_kept_where_it_is_asked_for(archives: Archives, tmp_path: Path) -> None:
    """With a rate that soon spoils what was learned."""
    recipe = load(tmp_path, small_recipe(epochs=6, learning_rate=0.05, weights={"keep": "best"}))
    weights, progress = run(archives, recipe, tmp_path / "last.pt")
    best = max(row["dice"] for row in progress.history)
    assert progress.best["dice"] == best
    assert score_of(archives, recipe, weights) == pytest.approx(best, abs=1e-6)


def test_phases_go_on_from_each_other_at_their_own_sizes(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, at = [], Cache.at
    monkeypatch.setattr(Cache, "at", lambda self, size: asked.append(size) or at(self, size))
    content = small_recipe(epochs=8, learning_rate=0.01, weights={"ema": 0.5})
    (first,) = content["train"]["phases"]
    still = first | {"size": [64, 96], "epochs": 2, "batch_size": 3, "learning_rate": 1e-30,
                     "schedule": {"name": "constant"}}  # fmt: skip
    content["train"]["phases"] = [first, still]
    recipe = load(tmp_path, content)
    assert (recipe.train.epochs, recipe.train.size) == (10, (64, 96))
    _, progress = run(archives, recipe, tmp_path / "last.pt")
    phases = [row["phase"] for row in progress.history]
    assert phases == [1] * 8 + [2] * 2 and asked == [(32, 64), (64, 96)]
    assert progress.history[-1]["loss"] < progress.history[0]["loss"] / 1.3, "it began afresh"
    assert progress.history[-1]["dice"] > progress.history[0]["dice"]


def test_what_the_held_out_images_choose_they_choose_in_the_last_phase(
    archives: Archives, tmp_path: Path
) -> None:
    """A size that the network is not used at chooses nothing, and stops nothing."""
    content = small_recipe(
        epochs=6, learning_rate=1e-30, optimizer=STILL, schedule={"name": "constant"},
        weights={"keep": "best"}, validation={"patience": 2},
    )  # fmt: skip
    (first,) = content["train"]["phases"]
    content["train"]["phases"] = [first, first | {"size": [64, 96], "epochs": 9}]
    _, progress = run(archives, load(tmp_path, content), tmp_path / "last.pt")
    assert progress.best["epoch"] > 6
    assert progress.epoch == progress.best["epoch"] + 2 < 15
    assert [row["phase"] for row in progress.history][:7] == [1] * 6 + [2]


def test_epochs_are_scored_as_often_as_asked_and_the_last_one(
    archives: Archives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load(tmp_path, small_recipe(epochs=5, validation={"every": 2}))
    _, progress = run(archives, recipe, tmp_path / "last.pt")
    measured = [row["dice"] is not None for row in progress.history]
    assert measured == [False, True, False, True, True]
    assert all((row["held_out_loss"] is None) == (row["dice"] is None) for row in progress.history)
    assert capsys.readouterr().out.count("held-out Dice") == 3


def test_a_loss_that_is_not_finite_stops_with_its_terms(archives: Archives, tmp_path: Path) -> None:
    recipe = load(tmp_path, small_recipe(epochs=2, learning_rate=1e30))
    with pytest.raises(UserError, match=r"the loss is .*\(BCE .*, Dice .*\) on aa.*_0[12].*lower"):
        run(archives, recipe, tmp_path / "last.pt")


def test_weights_that_are_not_finite_are_not_saved(archives: Archives, tmp_path: Path) -> None:
    """The loss looked at is that before the step: its weights would be gone on from for ever."""
    recipe = load(tmp_path, small_recipe({"checkpoint_seconds": 0}, epochs=2))
    network = convolutions(model.describe(recipe.train, 0))
    first, step = next(network.parameters()), checkpoint.Checkpointer.is_due
    taken = iter(range(99))

    def spoil(self, epoch_ends: bool = False) -> bool:
        if next(taken) == 1:
            first.data[0] = torch.nan
        return step(self, epoch_ends)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "is_due", spoil)
        with pytest.raises(UserError, match=r"weights that are NaN .*last.pt holds an earlier"):
            run(archives, recipe, tmp_path / "last.pt", network=network)
    network = convolutions(model.describe(recipe.train, 0))
    _, progress = run(archives, recipe, tmp_path / "last.pt", network=network)
    assert all(math.isfinite(row["loss"]) for row in progress.history)


def test_a_warm_up_of_one_step_is_refused(archives: Archives, tmp_path: Path) -> None:
    recipe = load(tmp_path, small_recipe(epochs=4, batch_size=4, warm_up=0.25))
    with pytest.raises(
        UserError, match="train.phases: found a schedule with warm_up 0.25, .* one of 4 steps"
    ):
        run(archives, recipe, tmp_path / "last.pt")


def test_too_little_memory_says_what_to_lower() -> None:
    with pytest.raises(UserError, match=r"does not suffice \(CUDA out of memory.*batch_size.*size"):
        with hardware.explain_failures():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried\nmore")


def test_a_fold_without_rows_to_train_on_is_refused() -> None:
    row = Sample("a_01", "train", "a", "a.jpg", "a.gif", 0, 4, 4, 0.5)
    with pytest.raises(UserError, match="found 0 rows to train on and 1 held out in fold 0"):
        stage.divide([row], 0, Path("samples.csv"))
    other = dataclasses.replace(row, fold=1)
    with pytest.raises(UserError, match="found 1 rows to train on and 0 held out in fold 0"):
        stage.divide([other], 0, Path("samples.csv"))


def test_training_is_judged_by_what_is_set_apart() -> None:
    out = Sample("a_01", "train", "a", "a.jpg", "a.gif", 0, 4, 4, 0.5)
    learned = dataclasses.replace(out, sample_id="b_01", group="b", fold=1)
    apart = dataclasses.replace(learned, sample_id="c_01", group="c", validation=True)
    where = Path("samples.csv")
    assert stage.divide([out, learned, apart], 0, where) == ([learned], [apart])
    assert stage.divide([out, learned], 0, where) == ([learned], [out])


@pytest.mark.parametrize(
    ("accelerator", "precision", "said"),
    [("cpu", "16-mixed", "needs a GPU"), ("cuda", "auto", "torch sees no GPU")],
)
def test_hardware_that_is_not_there_is_named(accelerator: str, precision: str, said: str) -> None:
    if accelerator == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=said):
        hardware.launch(accelerator, precision, 0, 1, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["eager", failing], ids=["compiles", "does not"])
def test_compiled_or_not_the_same_is_learned(
    backend: object, archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is compiled here is the graph alone: its operations are those of before."""
    common: dict = {"epochs": 2, "weights": {"ema": 0.9}}
    plain, _ = run(archives, load(tmp_path, small_recipe(**common)), tmp_path / "plain.pt")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **_: compile_(net, backend=backend))
    monkeypatch.setattr(hardware, "compiles", lambda asked, fabric: asked)  # as on a GPU
    capsys.readouterr()
    recipe = load(tmp_path, small_recipe({"compile": True}, **common))
    compiled, _ = run(archives, recipe, tmp_path / "compiled.pt")
    torch._dynamo.reset()
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-4, atol=1e-5)
    said = capsys.readouterr().out
    assert ("compiled in " in said) == (backend == "eager"), said
    assert ("does not compile" in said and "no such kernel" in said) == (backend is failing), said


def test_an_error_has_a_line_of_its_own_below_the_bar(
    archives: Archives, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = load(tmp_path, small_recipe(epochs=2, learning_rate=1e30))
    with pytest.raises(UserError):
        run(archives, recipe, tmp_path / "last.pt")
    assert capfd.readouterr().err.endswith("\n")


def test_a_run_that_goes_on_keeps_its_precision(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Measured where the CPU has the instructions; another moment could choose otherwise."""
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: True)
    seconds = iter([2.0] * 3 + [1.0] * 3)  # bfloat16 is the faster one
    monkeypatch.setattr(hardware, "_seconds", lambda step: next(seconds, 1.0))
    recipe = load(tmp_path, small_recipe({"precision": "auto", "checkpoint_seconds": 0}, epochs=2))
    run(archives, recipe, tmp_path / "last.pt")
    assert "precision bf16-mixed, measured on this machine" in capsys.readouterr().out
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: False)
    run(archives, recipe, tmp_path / "last.pt")
    assert "precision bf16-mixed, as before" in capsys.readouterr().out


def test_a_run_begun_in_another_precision_goes_on(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As a GPU's float16 leaves it, for a machine without one; and the other way round."""
    recipe = load(tmp_path, small_recipe({"precision": "auto", "checkpoint_seconds": 0}, epochs=2))
    run(archives, recipe, tmp_path / "last.pt")
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert not saved["parts"]["precision"], "float32 has no loss scale"
    read = checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda *a: {**read(*a), "precision": "16-mixed"})
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: False)
    capsys.readouterr()
    run(archives, recipe, tmp_path / "last.pt")
    assert "going on after epoch 2" in (said := capsys.readouterr().out) and "16-mixed" not in said

    class Scaler:
        def state_dict(self) -> dict:
            return {"scale": 1.0}

        def load_state_dict(self, state: dict) -> None:
            assert state, "as torch's GradScaler refuses it"

    checkpointer = checkpoint.Checkpointer(
        tmp_path / "last.pt", 0, Stop(), hardware.launch("cpu", "32-true", 1, 1, 1)
    )
    names = dict.fromkeys(("precision",), Scaler())
    assert checkpointer.resume(names, {}).epoch == 2
