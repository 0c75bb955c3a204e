from pathlib import Path

import numpy as np
import pytest

from pipeline import samples, tune
from pipeline.dice import count_levels, dice, levels
from pipeline.errors import UserError
from pipeline.samples import Sample


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
    return np.stack([count_levels(levels(probability), truth) for probability, truth in pairs])


def test_a_threshold_that_is_not_half_is_found() -> None:
    table = rows()
    counts = counted(*maps(len(table), best=170 / 256))
    result, scores = tune.tune(counts, table, "auto", bootstrap=200, seed=0)
    assert result.level == 170 and result.threshold == 170 / 256
    assert result.dice == 1.0
    assert result.gain == pytest.approx(1 - result.dice_at_half) and result.gain > 0.1
    assert result.honest_gain == pytest.approx(result.gain), "the other folds agree"
    assert (result.images, result.groups, result.folds) == (24, 6, 3)
    assert scores.shape == (24, 256)


def test_scores_are_those_of_the_maps_themselves() -> None:
    table = rows()
    probabilities, truths = maps(len(table), best=0.4)
    result, _ = tune.tune(counted(probabilities, truths), table, 0.6, bootstrap=50, seed=0)
    assert result.level == 154 and result.threshold == 154 / 256
    pairs = zip(probabilities, truths, strict=True)
    by_hand = [dice(probability >= 154 / 256, truth) for probability, truth in pairs]
    assert result.dice == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_the_interval_is_over_cars() -> None:
    table = rows(cars=8)
    probabilities, truths = maps(len(table), best=0.5)
    for index, row in enumerate(table):
        if row.group == "0":
            truths[index] = ~truths[index]  # one car is all wrong
    result, _ = tune.tune(counted(probabilities, truths), table, 0.5, bootstrap=500, seed=0)
    assert result.dice_low < result.dice < result.dice_high
    assert result.dice_low == pytest.approx(5 / 8, abs=0.13)
    again, _ = tune.tune(counted(probabilities, truths), table, 0.5, bootstrap=500, seed=0)
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
    assert tune._read_counts(tmp_path, [0], table)[1] == held_out
    np.savez(path, counts=np.zeros((8, 2, 256)), sample_id=["other"] * 8)
    with pytest.raises(UserError, match=r"fold0\.npz: found 8 images that are not the 8 of fold 0"):
        tune._read_counts(tmp_path, [0], table)
    with pytest.raises(UserError, match=r"fold1\.npz: .*run the validate stage of this fold"):
        tune._read_counts(tmp_path, [1], table)
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[:100], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="run the validate stage of this fold"):
            tune._read_counts(tmp_path, [0], table)
