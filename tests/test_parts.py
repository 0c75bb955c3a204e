import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.masks import parts, runs
from pipeline.masks.runs import Runs

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 70)).flatmap(
    lambda shape: arrays.arrays(np.bool_, shape)
)


def labelled(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """OpenCV's count and labels, 8-connected."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count - 1, labels


@settings(deadline=None)
@given(MASKS)
def test_parts_are_those_of_opencv(mask: np.ndarray) -> None:
    count, labels = labelled(mask)
    areas = np.bincount(labels.ravel(), minlength=1)[1:]
    found = parts.measure(runs.of_mask(mask), mask.shape[1])
    assert found == parts.Parts(int(mask.sum()), count, int(areas.max(initial=0)))
    kept = parts.largest(mask)
    assert kept.sum() == found.largest and not (kept & ~mask).any()
    assert labelled(kept)[0] == min(count, 1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_noise_of_a_large_mask(share: float) -> None:
    mask = np.random.default_rng(0).random((300, 401)) < share
    assert parts.measure(runs.of_mask(mask), 401).count == labelled(mask)[0]


def test_runs_that_touch_are_one_part() -> None:
    touching: Runs = runs.read("1 2 3 4", 2, 10)
    assert parts.measure(touching, 10) == parts.Parts(6, 1, 6)


def test_a_run_over_the_end_of_a_row_is_two_pieces() -> None:
    """Its halves lie at opposite sides of the picture."""
    assert parts.measure(runs.read("9 4", 3, 10), 10) == parts.Parts(4, 2, 2)


def test_the_first_of_equal_parts_is_kept() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 1]], bool)
    np.testing.assert_array_equal(parts.largest(mask), mask & np.array([True, False, False]))
