import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.masks import rle, runs
from pipeline.metrics.dice import dice

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 70)).flatmap(
    lambda shape: st.tuples(*2 * [arrays.arrays(np.bool_, shape)])
)


@settings(deadline=None)
@given(MASKS)
def test_runs_say_what_the_masks_say(masks: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (runs.of_mask(mask) for mask in masks)
    assert runs.area(first) == masks[0].sum()
    assert runs.overlap(first, second) == (masks[0] & masks[1]).sum()
    assert runs.dice(first, second) == dice(*masks)


def test_runs_are_pixels_from_zero() -> None:
    assert runs.read("1 3 10 9", 4, 5).tolist() == [[0, 3], [9, 18]]
    assert runs.read("", 4, 5).shape == (0, 2)


def test_text_that_is_no_mask_is_refused() -> None:
    with pytest.raises(rle.RleError, match="token 4 of 4 is '12'"):
        runs.read("1 3 10 12", 4, 5)
