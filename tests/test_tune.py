from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import tune
from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.evaluation import measures, out_of_fold
from pipeline.evaluation.measures import Measures
from pipeline.levels import scale
from pipeline.metrics.dice import count_levels, dice
from pipeline.support.errors import UserError

NO_PARTS = np.zeros(24)  # of images in `rows`


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


def test_a_threshold_that_is_not_half_is_found() -> None:
    table = rows()
    counts = counted(*maps(len(table), best=170 / 256))
    result, scores = tune.tune(counts, table, NO_PARTS, "auto", bootstrap=200, seed=0)
    assert result.level == 170 and result.threshold == 170 / 256
    assert result.threshold_low == result.threshold == result.threshold_high, "no car differs"
    assert result.dice == 1.0 == result.worst
    assert result.dice_by_fold == {"0": 1.0, "1": 1.0, "2": 1.0}
    assert result.gain == pytest.approx(1 - result.dice_at_half) and result.gain > 0.1
    assert result.honest_gain == pytest.approx(result.gain), "the other folds agree"
    assert (result.images, result.groups, result.folds) == (24, 6, 3)
    assert scores.shape == (24, 256)


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
    result, scores = tune.tune(counts, table, np.zeros(120), "auto", bootstrap=500, seed=0)
    assert 150 / 256 < result.threshold_low <= 160 / 256 <= result.threshold_high < 170 / 256
    assert result.threshold_low < result.threshold_high
    assert 0 < result.gain_low < result.gain < result.gain_high
    fixed, _ = tune.tune(counts, table, np.zeros(120), 0.5, bootstrap=500, seed=0)
    assert (fixed.level, fixed.gain, fixed.gain_low, fixed.gain_high) == (128, 0, 0, 0)
    assert (fixed.threshold_low, fixed.threshold_high) == (
        result.threshold_low, result.threshold_high,
    ), "where the best one lies does not depend on the one that is used"  # fmt: skip


def test_the_gain_of_the_largest_part_is_told() -> None:
    table = rows()
    counts = counted(*maps(len(table), best=0.5))
    result, scores = tune.tune(counts, table, np.full(24, 0.75), "auto", bootstrap=50, seed=0)
    assert result.gain_largest == pytest.approx(0.75 - scores[:, 128].mean())


def test_scores_are_those_of_the_maps_themselves() -> None:
    table = rows()
    probabilities, truths = maps(len(table), best=0.4)
    result, _ = tune.tune(
        counted(probabilities, truths), table, NO_PARTS, 0.6, bootstrap=50, seed=0
    )
    assert result.level == 154 and result.threshold == 154 / 256
    pairs = zip(probabilities, truths, strict=True)
    by_hand = [dice(probability >= 154 / 256, truth) for probability, truth in pairs]
    assert result.dice == pytest.approx(np.mean(by_hand), abs=1e-12)
    masks = [
        (probability >= 154 / 256, truth)
        for probability, truth in zip(probabilities, truths, strict=True)
    ]
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
    result, _ = tune.tune(
        counted(probabilities, truths), table, np.zeros(32), 0.5, bootstrap=500, seed=0
    )
    assert result.dice_low < result.dice < result.dice_high
    assert result.dice_low == pytest.approx(5 / 8, abs=0.13)
    again, _ = tune.tune(
        counted(probabilities, truths), table, np.zeros(32), 0.5, bootstrap=500, seed=0
    )
    assert again == result


def test_an_honest_gain_does_not_look_at_its_own_fold() -> None:
    """The best level of each fold is bad for the other."""
    scores = np.zeros((4, 256))
    scores[:2, 100], scores[2:, 200] = 1.0, 1.0
    scores[:, tune.HALF] = 0.5
    gain = tune.honest_gain(scores, np.array([0, 0, 1, 1]))
    assert gain == pytest.approx(-0.5)
    assert tune.honest_gain(scores, np.zeros(4, int)) is None, "nothing to choose on"


def test_counts_of_other_images_are_refused(tmp_path: Path) -> None:
    table = rows()
    held_out = samples.held_out(table, 0)
    path = tmp_path / "fold0.npz"
    np.savez(path, counts=np.zeros((8, 2, 256)), sample_id=[row.sample_id for row in held_out])
    assert out_of_fold.read(tmp_path, [0], table)[1] == held_out
    np.savez(path, counts=np.zeros((8, 2, 256)), sample_id=["other"] * 8)
    with pytest.raises(UserError, match=r"fold0\.npz: found 8 images that are not the 8 of fold 0"):
        out_of_fold.read(tmp_path, [0], table)
    with pytest.raises(UserError, match=r"fold1\.npz: .*run the validate stage of this fold"):
        out_of_fold.read(tmp_path, [1], table)
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[:100], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="run the validate stage of this fold"):
            out_of_fold.read(tmp_path, [0], table)


def measured(sample_id: str) -> Measures:
    return Measures(sample_id, 0.5, 0.5, 10, 10, 1, 0.1)


def test_measures_of_other_images_are_refused(tmp_path: Path) -> None:
    table = rows(cars=3)[:4]
    path = tmp_path / "fold0-measures.csv"
    measures.write(path, [measured(row.sample_id) for row in table])
    assert [one.sample_id for one in measures.read_folds(tmp_path, [0], table)] == [
        row.sample_id for row in table
    ]
    with pytest.raises(UserError, match="of 4 images that are not the 3 of"):
        measures.read_folds(tmp_path, [0], table[:3])
    path.write_text("sample_id,dice\n")
    with pytest.raises(UserError, match=r"fold0-measures\.csv: found columns .*run the validate"):
        measures.read_folds(tmp_path, [0], table)


def test_tables_hold_means_and_worsts(tmp_path: Path) -> None:
    images = pd.DataFrame({"sample_id": ["a_01", "a_02", "b_01"], "group": ["a", "a", "b"]})
    images["view"], images["fold"] = ["01", "02", "01"], [1, 1, 0]
    images["dice"], images["dice_at_half"] = [0.9, 0.8, 0.7], [0.8, 0.8, 0.8]
    curve = pd.DataFrame({"threshold": [0.5], "dice": [0.8]})
    tune._write_tables(tmp_path, images, curve, ["dice_at_half"])
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
    tune._write_tables(tmp_path, images.assign(view=""), curve, ["dice_at_half"])
    assert (tmp_path / "views.csv").read_text() == f"view,{columns}\n"
