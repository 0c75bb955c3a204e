import numpy as np
import pytest

from pipeline.evaluation import class_scores
from pipeline.metrics import confusion

NAMES = ["background", "pet", "border"]


def counted(images: int) -> np.ndarray:
    """Of pictures that are the better, the higher their number."""
    generator = np.random.default_rng(0)
    counts = []
    for number in range(images):
        truth = generator.choice(3, size=(20, 30), p=[0.6, 0.3, 0.1]).astype(np.uint8)
        other = generator.integers(3, size=truth.shape).astype(np.uint8)
        wrong = generator.random(truth.shape) < 0.5 - number / 100
        counts.append(confusion.count(np.where(wrong, other, truth), truth, 3))
    return np.stack(counts)


def summary(counts: np.ndarray, groups: list[str], folds: list[int]) -> class_scores.ClassResult:
    return class_scores.summarise(
        counts, NAMES, np.array(groups), np.array(folds), 0.95, bootstrap=200, seed=0
    )


def test_figures_are_means_over_images() -> None:
    counts = counted(12)
    result = summary(counts, [str(k) for k in range(12)], [0, 1] * 6)
    accuracy, dice, iou = confusion.scores(counts)
    assert result.threshold is None
    assert result.accuracy == pytest.approx(accuracy.mean())
    assert result.dice == pytest.approx(dice.mean()) and result.iou == pytest.approx(iou.mean())
    for index, name in enumerate(NAMES):
        assert result.classes[name]["dice"] == pytest.approx(dice[:, index].mean())
        assert result.classes[name]["iou"] == pytest.approx(iou[:, index].mean())
        assert result.classes[name]["iou_low"] < result.classes[name]["iou"]
    assert result.dice_low < result.dice < result.dice_high
    assert result.dice_by_fold["1"] == pytest.approx(dice[1::2].mean())
    assert result.accuracy_by_fold["0"] == pytest.approx(accuracy[::2].mean())
    assert result.worst == pytest.approx(dice.mean(axis=1).min())
    assert (result.majority, result.images, result.groups, result.folds) == (
        "background", 12, 12, 2,
    )  # fmt: skip
    assert result.majority_accuracy == pytest.approx(0.6, abs=0.05)


def test_intervals_are_over_groups() -> None:
    """The same images in two groups say less than in twelve."""
    counts = counted(12)
    few = summary(counts, ["a"] * 6 + ["b"] * 6, [0] * 12)
    one = summary(counts, ["a"] * 12, [0] * 12)
    assert few.accuracy_low < few.accuracy < few.accuracy_high
    assert one.accuracy_low == one.accuracy_high == pytest.approx(one.accuracy)


def test_an_image_s_row_has_every_class() -> None:
    row = class_scores.of_images(NAMES, counted(1))[0]
    assert list(row)[:3] == ["dice", "accuracy", "iou"]
    assert row["dice"] == pytest.approx(np.mean([row[f"dice_{name}"] for name in NAMES]))
    assert row["iou"] == pytest.approx(np.mean([row[f"iou_{name}"] for name in NAMES]))
