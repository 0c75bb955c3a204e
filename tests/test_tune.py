import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.samples import Label, Sample
from pipeline.evaluation.out_of_fold import Measures, OutOfFold
from pipeline.levels import scale
from pipeline.levels.scale import HALF
from pipeline.metrics import classes
from pipeline.metrics.dice import count_levels, dice
from pipeline.paths import Paths
from pipeline.recipe.schema import Tune
from pipeline.tune import stage as tune


def rows(cars: int = 6, views: int = 4, folds: int = 3) -> list[Sample]:
    """In the order of folds, as the counts of several folds come."""
    every = [
        Sample(f"{car}_{view}", "train", str(car), "", "", car % folds, 20, 30, 0.3)
        for car in range(cars)
        for view in range(views)
    ]
    return sorted(every, key=lambda row: row.fold)


def maps(count: int, best: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Probability maps of which exactly the pixels above `best` are foreground."""
    generator = np.random.default_rng(0)
    probabilities = [generator.random((20, 30), dtype=np.float32) for _ in range(count)]
    return probabilities, [probability >= best for probability in probabilities]


def counted(probabilities: list[np.ndarray], truths: list[np.ndarray]) -> np.ndarray:
    pairs = zip(probabilities, truths, strict=True)
    return np.stack([count_levels(scale.of(probability), truth) for probability, truth in pairs])


OFF = {"keep_largest": False, "drop_specks": "none", "close": "none", "fill_holes": "none"}


def settings(threshold: object = "auto", **clean_up: object) -> Tune:
    given = {"threshold": threshold, "clean_up": OFF | clean_up, "bootstrap": 300, "seed": 0}
    return Tune.model_validate(given)


def tuned(table: list[Sample], counts: np.ndarray, threshold: object = "auto") -> tune.Tuned:
    measures = [Measures(row.sample_id, 0.5, 10, 10, 1, 0.1, 2.5) for row in table]
    found = OutOfFold(table, counts, measures)
    level = tune.choose_level(found, settings(threshold))
    return tune.score_masks(found, settings(threshold), level)


def test_a_threshold_that_is_not_half_is_found() -> None:
    table = rows()
    found = tuned(table, counted(*maps(len(table), best=170 / 256)))
    result = found.result
    assert result.level == 170 and result.threshold == 170 / 256
    assert result.threshold_low == result.threshold == result.threshold_high, "no car differs"
    assert result.dice == 1.0 == result.worst
    assert result.dice_by_fold == {"0": 1.0, "1": 1.0, "2": 1.0}
    assert result.gain == pytest.approx(1 - result.dice_at_half) and result.gain > 0.1
    assert result.honest_gain == pytest.approx(result.gain), "the other folds agree"
    assert (result.images, result.groups, result.folds) == (24, 6, 3)
    assert found.curve["dice"][170] == 1 and found.curve["threshold"][170] == 170 / 256
    assert "threshold 0.6641: out-of-fold Dice 1.00000 (1.00000 to 1.00000), +0." in found.line


def test_an_interval_covers_the_best_threshold_of_cars_that_differ() -> None:
    """Each car has a best threshold of its own, spread about 160/256."""
    table = rows(cars=30)
    own = 160 + 8 * np.random.default_rng(1).standard_normal(30)
    probabilities, _ = maps(len(table), best=0.5)
    truths = [
        probability >= own[int(row.group)] / 256
        for probability, row in zip(probabilities, table, strict=True)
    ]
    counts = counted(probabilities, truths)
    result = tuned(table, counts).result
    assert 150 / 256 < result.threshold_low <= 160 / 256 <= result.threshold_high < 170 / 256
    assert result.threshold_low < result.threshold_high
    assert 0 < result.gain_low < result.gain < result.gain_high
    fixed = tuned(table, counts, 0.5).result
    assert (fixed.level, fixed.gain, fixed.gain_low, fixed.gain_high) == (128, 0, 0, 0)
    for one in (result, fixed):
        assert one.threshold_gain == one.gain, "without repairs"
        assert (one.threshold_gain_low, one.threshold_gain_high) == (one.gain_low, one.gain_high)
    assert (fixed.threshold_low, fixed.threshold_high) == (
        result.threshold_low, result.threshold_high,
    ), "where the best one lies does not depend on the one that is used"  # fmt: skip


def test_scores_are_those_of_the_maps_themselves() -> None:
    table = rows()
    probabilities, truths = maps(len(table), best=0.4)
    found = tuned(table, counted(probabilities, truths), 0.6)
    result = found.result
    assert result.level == 154 and result.threshold == 154 / 256
    masks = [
        (probability >= 154 / 256, truth)
        for probability, truth in zip(probabilities, truths, strict=True)
    ]
    by_hand = [dice(*pair) for pair in masks]
    assert result.dice == pytest.approx(np.mean(by_hand), abs=1e-12)
    assert found.images["dice"].tolist() == by_hand and result.worst == min(by_hand)
    assert found.images["area"].tolist() == [mask.sum() for mask, _ in masks]
    assert found.images["true_area"].tolist() == [truth.sum() for _, truth in masks]
    assert result.accuracy == pytest.approx(np.mean([found == true for found, true in masks]))
    ious = [(found & true).sum() / (found | true).sum() for found, true in masks]
    assert result.iou == pytest.approx(np.mean(ious))
    # Levels of 1/256, told as multiples of 1/255.
    p, y = np.stack(probabilities), np.stack(truths)
    flat = (2 * p[y].sum() + 1) / (p.sum() + y.sum() + 1)
    assert result.dice_flattened == pytest.approx(flat, abs=0.002)


def test_the_interval_is_over_cars() -> None:
    table = rows(cars=8)
    probabilities, truths = maps(len(table), best=0.5)
    for index, row in enumerate(table):
        if row.group == "0":
            truths[index] = ~truths[index]  # one car is all wrong
    result = tuned(table, counted(probabilities, truths), 0.5).result
    assert result.dice_low < result.dice < result.dice_high
    assert result.dice_low == pytest.approx(5 / 8, abs=0.13)
    assert tuned(table, counted(probabilities, truths), 0.5).result == result


def test_levels_that_decide_alike_do_not_widen_the_interval() -> None:
    """Between 101 and 200 no pixel lies: 0.5 is as good as any, in every draw."""
    table, counts = rows(cars=12), np.zeros((48, 2, 256), np.int64)
    missed = np.random.default_rng(0).integers(1, 90, 48)
    counts[:, 0, 100], counts[:, 1, 100], counts[:, 1, 200] = 400, missed, 97
    result = tuned(table, counts).result
    assert result.threshold_low == result.threshold == result.threshold_high == 0.5


def of_classes(groups: list[str], folds: list[int]) -> OutOfFold:
    """Pictures of three classes that are the better, the higher their number."""
    generator = np.random.default_rng(0)
    labels = (Label("background", 0), Label("pet", 1), Label("border", 2))
    table, counts = [], []
    for number, (group, fold) in enumerate(zip(groups, folds, strict=True)):
        truth = generator.choice(3, size=(20, 30), p=[0.6, 0.3, 0.1]).astype(np.uint8)
        other = generator.integers(3, size=truth.shape).astype(np.uint8)
        wrong = generator.random(truth.shape) < 0.5 - number / 100
        counts.append(classes.count(np.where(wrong, other, truth), truth, 3))
        row = Sample(f"p{number}", "train", group, "", "", fold, 20, 30, 0.3, labels=labels)
        table.append(row)
    return OutOfFold(table, np.stack(counts), [])


def test_figures_of_classes_are_means_over_images() -> None:
    given = of_classes([str(k) for k in range(12)], [0, 1] * 6)
    found = tune.score_classes(given, settings())
    result = found.result
    accuracy, by_class, iou = classes.scores(given.counts)
    assert result.threshold is None
    assert result.accuracy == pytest.approx(accuracy.mean())
    assert result.dice == pytest.approx(by_class.mean())
    assert result.iou == pytest.approx(iou.mean())
    for index, name in enumerate(given.names):
        assert result.classes[name]["dice"] == pytest.approx(by_class[:, index].mean())
        assert result.classes[name]["iou"] == pytest.approx(iou[:, index].mean())
        assert result.classes[name]["iou_low"] < result.classes[name]["iou"]
    assert result.dice_low < result.dice < result.dice_high
    assert result.dice_by_fold["1"] == pytest.approx(by_class[1::2].mean())
    assert result.accuracy_by_fold["0"] == pytest.approx(accuracy[::2].mean())
    assert result.worst == pytest.approx(by_class.mean(axis=1).min())
    assert (result.majority, result.images, result.groups, result.folds) == (
        "background", 12, 12, 2,
    )  # fmt: skip
    assert result.majority_accuracy == pytest.approx(0.6, abs=0.05)
    assert len(found.curve) == 0 and found.images["dice_pet"].tolist() == by_class[:, 1].tolist()
    assert "always background: accuracy" in found.line


def test_intervals_of_classes_are_over_groups() -> None:
    """The same images in two groups say less than in twelve."""
    few = tune.score_classes(of_classes(["a"] * 6 + ["b"] * 6, [0] * 12), settings()).result
    one = tune.score_classes(of_classes(["a"] * 12, [0] * 12), settings()).result
    assert few.accuracy_low < few.accuracy < few.accuracy_high
    assert one.accuracy_low == one.accuracy_high == pytest.approx(one.accuracy)


def test_an_honest_gain_does_not_look_at_its_own_fold() -> None:
    """The best level of each fold is bad for the other."""
    scores = np.zeros((4, 256))
    scores[:2, 100], scores[2:, 200] = 1.0, 1.0
    scores[:, HALF] = 0.5
    gain = tune.honest_gain(scores, np.array([0, 0, 1, 1]))
    assert gain == pytest.approx(-0.5)
    assert tune.honest_gain(scores, np.zeros(4, int)) is None, "nothing to choose on"


def test_tables_hold_means_and_worsts(tmp_path: Path) -> None:
    images = pd.DataFrame({"sample_id": ["a_01", "a_02", "b_01"], "group": ["a", "a", "b"]})
    images["view"], images["fold"] = ["01", "02", "01"], [1, 1, 0]
    images["dice"], images["dice_at_half"] = [0.9, 0.8, 0.7], [0.8, 0.8, 0.8]
    curve = pd.DataFrame({"threshold": [0.5], "dice": [0.8]})
    result = tuned(rows(), counted(*maps(24, best=0.5))).result
    paths = Paths.of("tiny", {"evaluation": tmp_path})
    found = tune.Tuned(result, "", images, curve, ["dice_at_half"], "")
    tune.write(paths, found, True)
    columns = "images,dice,dice_at_half,worst,worst_image"
    assert (tmp_path / "groups.csv").read_text().splitlines() == [
        f"group,{columns}",
        "a,2,0.85000000,0.80000000,0.80000000,a_02",
        "b,1,0.70000000,0.80000000,0.70000000,b_01",
    ]
    assert (tmp_path / "views.csv").read_text().splitlines()[1] == (
        "01,2,0.80000000,0.80000000,0.70000000,b_01"
    )
    assert (tmp_path / "folds.csv").read_text().splitlines()[1].startswith("0,1,0.7")
    assert json.loads(paths.metrics.read_text())["level"] == result.level
    tune.write(paths, found._replace(images=images.assign(view="")), True)
    assert (tmp_path / "views.csv").read_text() == f"view,{columns}\n"
