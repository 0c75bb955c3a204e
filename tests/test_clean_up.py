"""Each repair on masks whose right answer is plain, and on masks it has nothing to do with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.masks.clean_up import CleanUp, clean, holes


def block() -> np.ndarray:
    mask = np.zeros((120, 160), bool)
    mask[20:100, 30:130] = True
    return mask


def test_holes_up_to_a_size_are_filled() -> None:
    mask = block()
    mask[40:44, 50:55] = False  # 20 pixels
    mask[60:70, 60:70] = False  # 100 pixels
    mask[20:25, 90] = False  # a notch is no hole
    mask[50, 50] = mask[51, 51] = False  # two holes that touch at a corner, 1 pixel each
    expected = mask.copy()
    expected[[50, 51], [50, 51]] = True
    np.testing.assert_array_equal(clean(mask, CleanUp(fill_holes=1)), expected)
    expected[40:44, 50:55] = True
    np.testing.assert_array_equal(clean(mask, CleanUp(fill_holes=20)), expected)
    np.testing.assert_array_equal(clean(mask, CleanUp(fill_holes=99)), expected)
    expected[60:70, 60:70] = True
    np.testing.assert_array_equal(clean(mask, CleanUp(fill_holes=10**6)), expected)


def test_background_at_the_picture_s_edge_is_no_hole() -> None:
    mask = np.ones((30, 40), bool)
    mask[0, 5:9] = mask[12:15, -1] = mask[-1, 20:24] = mask[20, 0] = False
    np.testing.assert_array_equal(clean(mask, CleanUp(fill_holes=10**6)), mask)


def test_specks_go_that_are_far_from_the_largest_part() -> None:
    mask = block()
    mask[50:53, 135:138] = True  # its nearest pixel is 6 columns from the block's last, 129
    mask[50:55, 150:155] = True  # 21 columns
    near, far = mask.copy(), mask.copy()
    near[50:55, 150:155] = False
    far[50:53, 135:] = far[50:55, 150:] = False
    np.testing.assert_array_equal(clean(mask, CleanUp(drop_specks=22)), mask)
    np.testing.assert_array_equal(clean(mask, CleanUp(drop_specks=21)), near)
    np.testing.assert_array_equal(clean(mask, CleanUp(drop_specks=7)), near)
    np.testing.assert_array_equal(clean(mask, CleanUp(drop_specks=6)), far)
    np.testing.assert_array_equal(clean(mask, CleanUp(keep_largest=True)), far)


def test_the_largest_part_may_hang_together_by_a_corner() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[6:10, 6:10] = True
    mask[12:17, 12:17] = True  # more than either block, less than both
    expected = mask.copy()
    expected[12:, 12:] = False
    np.testing.assert_array_equal(clean(mask, CleanUp(keep_largest=True)), expected)


@pytest.mark.parametrize(("width", "closes"), [(5, True), (9, False)])
def test_a_deep_gap_is_closed_where_it_is_narrow(width: int, closes: bool) -> None:
    mask = block()
    mask[20:60, 70 : 70 + width] = False  # open at the top, 40 deep
    found = clean(mask, CleanUp(close=3))
    deep = found[30:55, 70 : 70 + width]
    assert deep.all() if closes else not deep.any()
    assert not (mask & ~found).any(), "closing takes nothing away"
    assert not (found & ~block()).any(), "and adds nothing outside"


def test_closing_fills_the_gap_and_nothing_beside_the_object() -> None:
    """An object that does not fill its own bounding box."""
    mask = block()
    mask[60:, 100:] = False
    expected = mask.copy()
    mask[20:60, 70:75] = False
    added = clean(mask, CleanUp(close=3)) & ~mask
    assert added[30:55, 70:75].all() and not (added & ~expected).any()


def test_areas_know_every_piece_also_one_that_lies_outside() -> None:
    mask = block()
    mask[30:34, 60:64] = mask[50:55, 90:95] = False
    inside = np.zeros_like(mask)
    inside[:40] = True
    found = holes(mask)
    assert found.areas().tolist() == [16, 25] and found.areas(inside).tolist() == [16, 0]


def test_shallow_notches_and_the_picture_s_edge_stay() -> None:
    mask = block()
    mask[20:26, 70:74] = False  # narrow, but 6 deep
    mask[40:90, 60:63] = False  # narrow and long, but a hole
    np.testing.assert_array_equal(clean(mask, CleanUp(close=3)), mask)
    beside = np.zeros((60, 80), bool)
    beside[3:57, 3:77] = True  # near all edges of the picture: that is no gap
    np.testing.assert_array_equal(clean(beside, CleanUp(close=8)), beside)


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24)),
    st.builds(CleanUp, st.booleans(), *[st.integers(0, 9)] * 3),
)
def test_any_mask_can_be_cleaned(mask: np.ndarray, how: CleanUp) -> None:
    before = mask.copy()
    found = clean(mask, how)
    np.testing.assert_array_equal(mask, before)
    assert found.shape == mask.shape and found.dtype == bool
    assert found.any() == mask.any()
    np.testing.assert_array_equal(clean(mask, CleanUp()), mask)
    if not how.keep_largest and not how.drop_specks:
        assert not (mask & ~found).any()


@pytest.mark.parametrize(("depth", "closes"), [(12, False), (13, True)])
def test_a_gap_is_deep_from_four_times_the_radius_on(depth: int, closes: bool) -> None:
    mask = block()
    mask[20 : 20 + depth, 70:74] = False
    assert clean(mask, CleanUp(close=3))[20 + depth - 1, 70:74].all() == closes


def test_a_hole_behind_a_wall_of_one_pixel_is_no_gap() -> None:
    mask = block()
    mask[21:60, 70:74] = False
    np.testing.assert_array_equal(clean(mask, CleanUp(close=3)), mask)
