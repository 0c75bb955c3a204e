import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.metrics import classes
from pipeline.metrics.dice import count_levels, dice, dice_by_threshold

CLASSES = 3


def classes_of(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(CLASSES, size=shape).astype(np.uint8)


masks = arrays.arrays(np.uint8, (5, 7), elements=st.integers(0, CLASSES - 1))


@given(masks, masks)
def test_counts_are_those_of_a_loop_over_pixels(prediction: np.ndarray, truth: np.ndarray) -> None:
    expected = np.zeros((CLASSES, CLASSES), int)
    for true, found in zip(truth.ravel(), prediction.ravel(), strict=True):
        expected[true, found] += 1
    np.testing.assert_array_equal(classes.count(prediction, truth, CLASSES), expected)


@given(masks, masks)
def test_scores_of_a_class_are_those_of_its_masks(
    prediction: np.ndarray, truth: np.ndarray
) -> None:
    counts = classes.count(prediction, truth, CLASSES)[None]
    accuracy, by_class, iou = classes.scores(counts)
    assert accuracy[0] == pytest.approx(np.mean(prediction == truth))
    for index in range(CLASSES):
        found, true = prediction == index, truth == index
        assert by_class[0, index] == dice(found, true)
        either = (found | true).sum()
        assert iou[0, index] == ((found & true).sum() / either if either else 1.0)
    mean = classes.mean_dice(prediction, truth, CLASSES)
    assert mean == pytest.approx(by_class[0].mean())


def test_a_class_that_is_nowhere_scores_1_and_one_only_predicted_0() -> None:
    truth = np.zeros((4, 5), np.uint8)
    counts = np.stack([classes.count(truth, truth, 3), classes.count(truth + 1, truth, 3)])
    assert classes.scores(counts).dice.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert classes.scores(counts).iou.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert classes.scores(counts).accuracy.tolist() == [1, 0]


def test_more_classes_than_a_byte_holds_pairs_of() -> None:
    generator = np.random.default_rng(0)
    prediction, truth = generator.integers(200, size=(2, 40, 50)).astype(np.uint8)
    expected = np.zeros((200, 200), int)
    np.add.at(expected, (truth, prediction), 1)
    np.testing.assert_array_equal(classes.count(prediction, truth, 200), expected)
    with pytest.raises(AssertionError, match="class 199 of 100"):
        classes.count(truth, truth, 100)


def test_a_threshold_s_counts_come_from_those_of_all_levels() -> None:
    generator = np.random.default_rng(0)
    levels = generator.integers(256, size=(4, 20, 30)).astype(np.uint8)
    truths = [classes_of((20, 30), seed) > 0 for seed in range(4)]
    pairs = list(zip(levels, truths, strict=True))
    counts = np.stack([count_levels(level, truth) for level, truth in pairs])
    found = classes.at_level(counts, 77)
    for index, (level, truth) in enumerate(pairs):
        expected = classes.count((level >= 77).view(np.uint8), truth.view(np.uint8), 2)
        np.testing.assert_array_equal(found[index], expected)
    np.testing.assert_array_equal(
        classes.scores(found).dice[:, 1], dice_by_threshold(counts)[:, 77]
    )


def test_the_share_of_a_class_is_what_answering_it_everywhere_reaches() -> None:
    truths = [classes_of((20, 30), 0), classes_of((5, 6), 1), np.zeros((9, 9), np.uint8)]
    answer = [np.zeros_like(truth) for truth in truths]
    counts = np.stack([classes.count(a, t, CLASSES) for a, t in zip(answer, truths, strict=True)])
    shares = classes.shares(counts)
    assert shares[0] == pytest.approx(classes.scores(counts).accuracy.mean())
    assert shares.sum() == pytest.approx(1)
