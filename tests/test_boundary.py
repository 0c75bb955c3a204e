"""Distances between boundaries against a slow computation that shares no code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.metrics import boundary
from pipeline.metrics.dice import dice


def edge(mask: np.ndarray) -> list[tuple[int, int]]:
    padded = np.pad(mask, 1)
    return [(y, x) for y, x in np.argwhere(mask).tolist() if not padded[y : y + 3, x : x + 3].all()]


def slow(prediction: np.ndarray, truth: np.ndarray) -> float:
    found, true = edge(prediction), edge(truth)
    each = [min(np.hypot(y - v, x - u) for v, u in true) for y, x in found]
    each += [min(np.hypot(y - v, x - u) for v, u in found) for y, x in true]
    return float(np.mean(each))


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(deadline=None, max_examples=60)
@given(shapes.flatmap(lambda shape: st.tuples(*[arrays.arrays(bool, shape)] * 2)))
def test_distances_are_those_of_a_slow_computation(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = pair
    found = boundary.compare(prediction, truth)
    if prediction.any() and truth.any():
        assert found.distance == pytest.approx(slow(prediction, truth), abs=1e-4)
    elif prediction.any() or truth.any():
        assert found == (pytest.approx(np.hypot(*truth.shape)), 0)
    else:
        assert found == (0, 1)


def test_a_shift_is_its_distance_and_only_the_band_counts() -> None:
    truth = np.zeros((80, 100), bool)
    truth[20:60, 20:80] = True
    assert boundary.compare(truth, truth) == (0, 1)
    wider = truth.copy()
    wider[18:62, 18:82] = True
    found = boundary.compare(wider, truth)
    assert found.distance == pytest.approx(2, abs=0.05)
    assert found.dice < dice(wider, truth)
    far = truth.copy()
    far[70:78, 90:98] = True  # no pixel of it is near the true boundary
    assert boundary.compare(far, truth).dice == 1


@pytest.mark.parametrize(("row", "counts"), [(62, True), (63, False)])
def test_the_band_reaches_three_pixels(row: int, counts: bool) -> None:
    truth = np.zeros((80, 100), bool)
    truth[20:60, 20:80] = True
    found = truth.copy()
    found[row, 40] = True  # 3 and 4 pixels below the last row of truth
    assert (boundary.compare(found, truth).dice < 1) == counts
