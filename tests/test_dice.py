"""The score and its level counts against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.levels import scale
from pipeline.metrics import dice

anything = settings(deadline=None, max_examples=100)
shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=24)


def mask(rows):
    return np.array(rows, bool)


def brute_force(probability, truth):
    """Dice at k/256 straight from the float map."""
    values = []
    for k in range(256):
        prediction = probability >= np.float64(k) / 256
        both, total = (prediction & truth).sum(), prediction.sum() + truth.sum()
        values.append(2 * both / total if total else 1.0)
    return np.array(values)


def bins(levels, truth):
    truth = truth != 0
    return np.stack([np.bincount(levels[side], minlength=256) for side in (~truth, truth)])


def soft_disc(height, width, blur):
    """A map that a trained network could give: certain but for a band around a disc."""
    y, x = np.mgrid[:height, :width]
    distance = 0.4 * height - np.hypot(y - height / 2, x - width / 2)
    probability = (1 / (1 + np.exp(-np.clip(distance / blur, -40, 40)))).astype(np.float32)
    return probability, distance > 2


@pytest.mark.parametrize(
    ("prediction", "truth", "score"),
    [
        ([[0, 0]], [[0, 0]], 1.0),
        ([[1, 0]], [[0, 0]], 0.0),
        ([[0, 0]], [[0, 1]], 0.0),
        ([[1, 1]], [[1, 1]], 1.0),
        ([[1, 1]], [[0, 1]], 2 / 3),
        ([[1, 0]], [[0, 1]], 0.0),
    ],
)
def test_dice_of_small_masks(prediction, truth, score):
    assert dice.dice(mask(prediction), mask(truth)) == score


def test_dice_refuses_what_it_cannot_compare():
    with pytest.raises(AssertionError, match=r"prediction \(1, 2\), truth \(2, 1\)"):
        dice.dice(mask([[1, 1]]), mask([[1], [1]]))
    with pytest.raises(AssertionError, match="masks are bool, not float64 and bool"):
        dice.dice(np.ones((1, 2)), mask([[1, 1]]))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_levels_are_floors(kind):
    edges = np.arange(256, dtype=np.float64).astype(kind) / kind(256)
    below = np.nextafter(edges[1:], kind(0), dtype=kind)
    np.testing.assert_array_equal(scale.of(edges), np.arange(256))
    np.testing.assert_array_equal(scale.of(below), np.arange(255))
    assert scale.of(np.array([0, 1], kind)).tolist() == [0, 255]
    assert scale.of(np.zeros((0, 4), kind)).shape == (0, 4)
    assert scale.of(np.zeros((3, 4), kind)).dtype == np.uint8


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.001, np.inf, -np.inf])
def test_levels_refuse_what_is_no_probability(wrong):
    with pytest.raises(AssertionError, match="expected 0 to 1"):
        scale.of(np.array([[0.5, wrong, 0.5]], np.float32))


@anything
@given(st.data())
def test_every_threshold_equals_brute_force(data):
    shape = data.draw(shapes)
    floats = st.floats(0, 1, width=32) | st.integers(0, 256).map(lambda k: k / 256)
    probability = data.draw(arrays.arrays(np.float32, shape, elements=floats))
    truth = data.draw(arrays.arrays(bool, shape))
    levels = scale.of(probability)
    found = dice.dice_by_threshold(dice.count_levels(levels, truth)[None])[0]
    np.testing.assert_array_equal(found, brute_force(probability, truth))
    assert found[100] == dice.dice(levels >= 100, truth)


@pytest.mark.parametrize("height, width", [(1280, 1918), (641, 959)])
def test_every_threshold_at_real_size(height, width):
    maps = [soft_disc(height, width, blur) for blur in (1, 20)]
    counts = np.stack([dice.count_levels(scale.of(p), truth) for p, truth in maps])
    found = dice.dice_by_threshold(counts)
    for row, (probability, truth) in zip(found, maps, strict=True):
        for k in (0, 1, 2, 64, 127, 128, 129, 254, 255):
            assert row[k] == dice.dice(probability >= k / 256, truth)


def test_empty_images_score_one_where_nothing_is_predicted():
    levels = np.full((4, 5), 10, np.uint8)
    found = dice.dice_by_threshold(dice.count_levels(levels, np.zeros((4, 5), bool))[None])
    assert found.shape == (1, 256)
    assert (found[0, :11] == 0).all() and (found[0, 11:] == 1).all()


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 7), (1, 8), (7, 9), (8, 8), (1, 63), (1, 65), (37, 53)]
)
@pytest.mark.parametrize("foreground", [1, 255])
def test_counts_of_odd_sizes(height, width, foreground):
    random = np.random.default_rng(height * 100 + width)
    for certain in (0, 0.5, 0.95, 1):
        levels = random.integers(0, 256, (height, width), dtype=np.uint8)
        sure = random.random((height, width)) < certain
        levels[sure] = np.where(levels[sure] < 128, 0, 255)
        truth = ((random.random((height, width)) < 0.4) * foreground).astype(np.uint8)
        counts = dice.count_levels(levels, truth)
        assert counts.dtype == np.int64 and counts.shape == (2, 256)
        np.testing.assert_array_equal(counts, bins(levels, truth))
        np.testing.assert_array_equal(dice.count_levels(levels, truth != 0), counts)


@anything
@given(st.data())
def test_counts_of_blocks(data):
    """Long equal stretches, which are counted 8 and 64 at a time, at every offset."""
    stretches = st.lists(
        st.tuples(st.integers(1, 150), st.sampled_from([0, 255, 7]), st.sampled_from([0, 1, 255])),
        min_size=1, max_size=12,
    )  # fmt: skip
    lengths, levels, labels = zip(*data.draw(stretches), strict=True)
    level = np.repeat(np.array(levels, np.uint8), lengths)[None]
    label = np.repeat(np.array(labels, np.uint8), lengths)[None]
    np.testing.assert_array_equal(dice.count_levels(level, label), bins(level, label))


def test_counts_of_other_layouts():
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (50, 70), dtype=np.uint8)
    truth = random.random((50, 70)) < 0.5
    for view in (np.s_[::2, ::3], np.s_[::-1], np.s_[1:, 1:]):
        expected = bins(levels[view], truth[view])
        np.testing.assert_array_equal(dice.count_levels(levels[view], truth[view]), expected)
    counts = dice.count_levels(np.asfortranarray(levels), truth)
    np.testing.assert_array_equal(counts, bins(levels, truth))


def test_counts_refuse_what_does_not_fit():
    levels = np.zeros((2, 3), np.uint8)
    with pytest.raises(AssertionError, match=r"levels \(2, 3\), truth \(3, 2\)"):
        dice.count_levels(levels, np.zeros((3, 2), bool))
    with pytest.raises(AssertionError, match="levels are uint8, not float32"):
        dice.count_levels(levels.astype(np.float32), np.zeros((2, 3), bool))
    with pytest.raises(AssertionError, match="truth is bool or uint8, not int64"):
        dice.count_levels(levels, np.zeros((2, 3), np.int64))
    with pytest.raises(AssertionError, match="counts of"):
        dice.dice_by_threshold(np.zeros((2, 256), np.int64))


def test_best_threshold():
    scores = np.zeros(256)
    scores[[40, 120, 135, 200]] = 0.9
    assert dice.best_threshold(scores) == 135
    scores[121] = 0.9
    assert dice.best_threshold(scores) == 121  # as near as 135: the lower
    scores[3] = 0.91
    assert dice.best_threshold(scores) == 3
    assert dice.best_threshold(np.full(256, 0.5)) == 128
    with pytest.raises(AssertionError, match="NaN"):
        dice.best_threshold(np.where(np.arange(256) == 7, np.nan, 0.5))
    with pytest.raises(AssertionError, match=r"\(100,\)"):
        dice.best_threshold(np.zeros(100))


def bootstrap_interval(values, groups, repeats, seed, confidence):
    drawn = dice.resample_groups(values, groups, repeats, seed)
    assert drawn.shape == (repeats,)
    return dice.interval(drawn, confidence)


def test_columns_are_resampled_together():
    values = np.random.default_rng(0).random((40, 3))
    groups = np.arange(40) // 4
    together = dice.resample_groups(values, groups, 30, 5)
    for column in range(3):
        alone = dice.resample_groups(values[:, column], groups, 30, 5)
        np.testing.assert_allclose(together[:, column], alone, atol=1e-12)


def test_bootstrap_is_seeded_and_holds_the_mean():
    random = np.random.default_rng(0)
    groups = np.repeat([f"car{i}" for i in range(60)], 16)
    values = random.normal(0.99, 0.002, 60).repeat(16) + random.normal(0, 0.001, 960)
    low, high = bootstrap_interval(values, groups, 2000, 7, 0.95)
    assert (low, high) == bootstrap_interval(values, groups, 2000, 7, 0.95)
    assert (low, high) != bootstrap_interval(values, groups, 2000, 8, 0.95)
    assert low < values.mean() < high
    # The spread is that of 60 cars, not of 960 images.
    expected = 2 * 1.96 * values.reshape(60, 16).mean(axis=1).std() / np.sqrt(60)
    assert high - low == pytest.approx(expected, rel=0.1)
    narrow = bootstrap_interval(values, groups, 2000, 7, 0.5)
    assert low < narrow[0] < narrow[1] < high
    shuffled = random.permutation(960)
    again = bootstrap_interval(values[shuffled], groups[shuffled], 2000, 7, 0.95)
    assert again == pytest.approx((low, high), abs=1e-12)


def test_bootstrap_weighs_images_not_groups():
    values, groups = np.array([0.0, 1.0, 1.0, 1.0]), np.array([5, 9, 9, 9])
    low, high = bootstrap_interval(values, groups, 500, 0, 0.9)
    assert (low, high) == (0, 1)
    assert bootstrap_interval(values, np.zeros(4), 50, 0, 0.9) == (0.75, 0.75)


@pytest.mark.parametrize(
    ("values", "groups", "repeats", "confidence"),
    [([], [], 10, 0.95), ([1.0], [1, 2], 10, 0.95), ([1.0], [1], 0, 0.95), ([1.0], [1], 10, 95)],
)
def test_bootstrap_refuses(values, groups, repeats, confidence):
    with pytest.raises(AssertionError):
        bootstrap_interval(np.array(values), np.array(groups), repeats, 0, confidence)


def test_the_flattened_dice_is_of_all_pixels_and_of_probabilities():
    generator = np.random.default_rng(0)
    probability = generator.integers(256, size=(3, 20, 30)) / 255
    truth = generator.random((3, 20, 30)) < 0.3
    levels = (probability * 255).round().astype(np.uint8)
    counts = np.stack([dice.count_levels(*pair) for pair in zip(levels, truth, strict=True)])
    expected = (2 * probability[truth].sum() + 1) / (probability.sum() + truth.sum() + 1)
    assert dice.flattened_dice(counts) == pytest.approx(expected)
    assert dice.flattened_dice(np.zeros((1, 2, 256), np.int64)) == 1


def test_a_threshold_is_rounded_to_a_level_that_there_is():
    found = [scale.nearest(t) for t in (1 / 256, 0.5, 254.4 / 256, 255 / 256, 0.999, 1)]
    assert found == [1, 128, 254, 255, 255, 255]


def test_an_interval_is_of_95_percent():
    assert dice.interval(np.arange(1001.0)) == pytest.approx((25, 975))
