"""Boundary distances against their definition, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.masks import boundary

SIZE = (9, 12)


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbor at a side that is in the picture, not in the mask."""
    height, width = mask.shape
    found = [
        (y, x)
        for y, x in np.argwhere(mask)
        if any(
            0 <= y + dy < height and 0 <= x + dx < width and not mask[y + dy, x + dx]
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        )
    ]
    return np.array(found).reshape(-1, 2)


def slow_distance(first: np.ndarray, second: np.ndarray) -> float:
    one, other = slow_boundary(first), slow_boundary(second)
    if not len(one) or not len(other):
        return 0.0 if np.array_equal(first, second) else float(np.hypot(*first.shape))
    apart = np.hypot(*(one[:, None] - other[None]).transpose(2, 0, 1))
    return float(np.concatenate([apart.min(axis=1), apart.min(axis=0)]).mean())


@given(arrays(bool, SIZE), arrays(bool, SIZE))
@settings(max_examples=60, deadline=None)
def test_the_distance_is_that_of_its_definition(first: np.ndarray, second: np.ndarray) -> None:
    expected = slow_distance(first, second)
    assert boundary.mean_distance(first, second) == pytest.approx(expected, abs=1e-4)
    assert boundary.mean_distance(second, first) == pytest.approx(expected, abs=1e-4)
    assert boundary.mean_distance(first, first) == 0


@given(arrays(bool, SIZE), arrays(bool, SIZE), st.sampled_from([1.0, 1.5, 3.0]))
@settings(max_examples=60, deadline=None)
def test_dice_near_counts_near_pixels_alone(
    first: np.ndarray, second: np.ndarray, pixels: float
) -> None:
    edge = slow_boundary(second)
    if not len(edge):
        assert boundary.dice_near(first, second, pixels) == 1
        return
    places = np.indices(SIZE).transpose(1, 2, 0)
    near = np.hypot(*(places[:, :, None] - edge).transpose(3, 0, 1, 2)).min(axis=2) <= pixels + 1e-6
    total = (first & near).sum() + (second & near).sum()
    expected = 2 * (first & second & near).sum() / total if total else 1
    assert boundary.dice_near(first, second, pixels) == pytest.approx(expected)


def test_a_shift_is_its_own_distance() -> None:
    truth = np.zeros((200, 300), bool)
    truth[:, 100:150] = True  # two straight edges
    moved = np.roll(truth, 3, axis=1)
    assert boundary.mean_distance(moved, truth) == pytest.approx(3)
    assert boundary.mean_distance(np.zeros_like(truth), truth) == pytest.approx(np.hypot(200, 300))
    assert boundary.mean_distance(np.zeros_like(truth), np.zeros_like(truth)) == 0
