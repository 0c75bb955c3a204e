"""Runs and parts of masks against pixels and OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.masks import regions, rle
from pipeline.masks.regions import Parts
from pipeline.metrics.dice import dice

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 150))
MASKS = SHAPES.flatmap(lambda shape: arrays.arrays(np.bool_, shape))
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*2 * [arrays.arrays(np.bool_, shape)]))


def slow_runs(mask: np.ndarray) -> list[list[int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(np.int8), [0]])))
    return edges.reshape(-1, 2).tolist()


@settings(deadline=None)
@given(MASKS)
def test_runs_are_those_of_the_pixels_and_back(mask: np.ndarray) -> None:
    expected = slow_runs(mask)
    found = regions.of_mask(mask)
    assert found.tolist() == expected and found.dtype == np.int64
    assert regions.of_mask(mask.astype(np.uint8) * 7).tolist() == expected
    bits = np.packbits(mask, bitorder="little")
    assert regions.of_packed(bits, mask.size).tolist() == expected
    spoilt = np.append(bits, np.uint8(255))
    spoilt[-2] |= np.uint8((0xFF << (mask.size % 8 or 8)) & 0xFF)
    assert regions.of_packed(spoilt, mask.size).tolist() == expected
    np.testing.assert_array_equal(regions.to_mask(found, *mask.shape), mask)


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape)), st.integers(0, 255))
def test_runs_of_levels_are_those_of_the_pixels_that_reach_one(
    levels: np.ndarray, level: int
) -> None:
    assert regions.of_levels(levels, level).tolist() == slow_runs(levels >= level)
    levels.flags.writeable = False
    assert regions.of_levels(levels, level).tolist() == slow_runs(levels >= level)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_noise_has_as_many_runs_as_it_has(share: float) -> None:
    noise = np.random.default_rng(1).random((311, 407)) < share
    checkers = np.indices((311, 407)).sum(axis=0) % 2 > 0
    for mask in (noise, checkers):  # more runs than there is room for at first
        assert regions.of_mask(mask).tolist() == slow_runs(mask)
        bits = np.packbits(mask, bitorder="little")
        assert regions.of_packed(bits, mask.size).tolist() == slow_runs(mask)


def test_the_last_pixels_runs_have_room_too() -> None:
    """2047 runs in whole words, where the first room is for 2048, and 32 after them."""
    mask = np.arange(64 * 64 + 63) % 2 == 0
    mask[0] = False
    assert regions.of_mask(mask[None]).tolist() == slow_runs(mask)
    bits = np.packbits(mask, bitorder="little")
    assert regions.of_packed(bits, mask.size).tolist() == slow_runs(mask)


@settings(deadline=None)
@given(PAIRS)
def test_runs_say_what_the_masks_say(masks: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (regions.of_mask(mask) for mask in masks)
    assert regions.area(first) == masks[0].sum()
    assert regions.overlap(first, second) == (masks[0] & masks[1]).sum()
    assert regions.dice(first, second) == dice(*masks)


def labelled(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """OpenCV's count and labels, 8-connected."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count - 1, labels


@settings(deadline=None)
@given(MASKS)
def test_parts_are_those_of_opencv(mask: np.ndarray) -> None:
    count, _ = labelled(mask)
    found = regions.measure(regions.of_mask(mask), mask.shape[1])
    assert found == Parts(int(mask.sum()), count)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_parts_of_a_large_mask_of_noise(share: float) -> None:
    mask = np.random.default_rng(0).random((300, 401)) < share
    assert regions.measure(regions.of_mask(mask), 401).count == labelled(mask)[0]


def test_runs_that_touch_are_one_part() -> None:
    assert regions.measure(rle.read("1 2 3 4", 2, 10), 10) == Parts(6, 1)


def test_a_run_over_the_end_of_a_row_is_two_pieces() -> None:
    """Its halves lie at opposite sides of the picture."""
    assert regions.measure(rle.read("9 4", 3, 10), 10) == Parts(4, 2)
