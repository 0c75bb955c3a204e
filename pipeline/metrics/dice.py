"""The competition's score, and what is enough to know it at every threshold.

Probabilities are levels here, see `pipeline.levels.scale`. Two 256-bin counts an image, of the
levels of background and of foreground pixels, give the exact Dice at all 256 thresholds.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.levels.scale import LEVELS
from pipeline.support.arrays import Float64, Int64, Mask, UInt8

CONFIDENCE = 0.95  # of all intervals


def dice(prediction: Mask, truth: Mask) -> float:
    """Return 2 |X and Y| / (|X| + |Y|) of two (H, W) bool masks; 1 when both are empty.

    Source: the evaluation page of the Carvana competition, whose score is the mean of this
    over images at their full size.
    """
    _check_masks(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else 1.0


def count_levels(levels: UInt8, truth: Mask | UInt8) -> Int64:
    """Count the pixels of an image at each level.

    Args:
        levels: (H, W) uint8, as `pipeline.levels.scale` has them.
        truth: (H, W) bool or uint8, nonzero = foreground.

    Returns:
        (2, 256) int64: row 0 counts background pixels, row 1 foreground.
    """
    assert levels.shape == truth.shape, f"levels {levels.shape}, truth {truth.shape}"
    assert levels.dtype == np.uint8, f"levels are uint8, not {levels.dtype}"
    assert truth.dtype in (np.bool_, np.uint8), f"truth is bool or uint8, not {truth.dtype}"
    level, label = np.ravel(levels), np.ravel(truth).view(np.uint8)
    whole = level.size // 64 * 64
    level_words, label_words = (
        np.require(pixels[:whole].view(np.uint64), requirements="A") for pixels in (level, label)
    )
    counts = _count(level_words, label_words)
    np.add.at(counts, ((label[whole:] != 0).astype(np.intp), level[whole:]), 1)
    return counts


def dice_by_threshold(counts: Int64) -> Float64:
    """Return each image's Dice at the thresholds k/256, k = 0..255, from its level counts.

    Args:
        counts: (N, 2, 256) integers, one `count_levels` an image.

    Returns:
        (N, 256) float64, equal to `dice(levels >= k, truth)` to the last bit.
    """
    assert counts.ndim == 3 and counts.shape[1:] == (2, LEVELS), f"counts of {counts.shape}"
    at_or_above = np.cumsum(counts[:, :, ::-1], axis=2, dtype=np.int64)[:, :, ::-1]
    overlap = at_or_above[:, 1]
    total = at_or_above.sum(axis=1) + at_or_above[:, 1, :1]  # prediction + truth
    return np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)


def flattened_dice(counts: Int64) -> float:
    """Return the Dice of all pixels of all images together, of probabilities, not of masks.

    (2 sum(p y) + 1) / (sum(p) + sum(y) + 1), with each probability p to 1/255. Large masks
    count more, and nothing is decided, so it says little beside the competition's score.

    Args:
        counts: (N, 2, 256) integers, one `count_levels` an image.

    Source: the metric of the Posit AI blog's article on Carvana, there over a batch.
    """
    probability = np.arange(LEVELS) / (LEVELS - 1)
    background, foreground = counts.sum(axis=0)
    predicted = float((background + foreground) @ probability)
    return float((2 * (foreground @ probability) + 1) / (predicted + foreground.sum() + 1))


def losses(counts: Int64) -> tuple[Float64, Float64]:
    """Return each image's binary cross-entropy and 1 - soft Dice, of probabilities, not of masks.

    Each probability counts as the middle of its level, so the cross-entropy is 0.002 at least. The
    Dice is (2 sum(p y) + 1) / (sum(p) + sum(y) + 1).

    Args:
        counts: (N, 2, 256) integers, one `count_levels` an image.

    Returns:
        Two arrays (N,).
    """
    probability = (np.arange(LEVELS) + 0.5) / LEVELS
    background, foreground = counts[:, 0], counts[:, 1]
    pixels = counts.sum(axis=(1, 2))
    entropy = -(background @ np.log(1 - probability) + foreground @ np.log(probability)) / pixels
    areas = (background + foreground) @ probability + foreground.sum(axis=1)
    return entropy, 1 - (2 * (foreground @ probability) + 1) / (areas + 1)


def best_threshold(mean_dice: Float64) -> int:
    """Return the level k, 0 to 255, with the highest mean Dice of (256,).

    Of equal ones the nearest to 128 wins, then the lower: a probability of 0.5 is where a
    calibrated network decides, and a tie is no reason to leave it.
    """
    assert mean_dice.shape == (LEVELS,), f"mean Dice of {mean_dice.shape}, not ({LEVELS},)"
    assert not np.isnan(mean_dice).any(), "mean Dice holds NaN"
    best = np.flatnonzero(mean_dice == mean_dice.max())
    return int(best[np.argmin(np.abs(best - LEVELS // 2))])


def resample_groups(
    values: NDArray[np.floating], groups: NDArray[np.generic], repeats: int, seed: int
) -> Float64:
    """Return bootstrap resamples of the mean of `values` over whole groups.

    Images of one car resemble each other, so cars are drawn (with replacement, as many as
    there are), each with all its images, and the mean is over the images drawn.

    Args:
        values: (N,) or (N, M) floats, one row an image. The M columns are resampled together.
        groups: (N,) labels, one an image.
        repeats: resamples to draw; 1,000 or more for a 95 % interval.
        seed: of the draws; the same seed draws the same groups.

    Returns:
        (repeats,) or (repeats, M) float64.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    assert groups.shape == (len(values),), f"{values.shape}, {groups.shape}"
    assert len(values) and repeats > 0, f"{len(values)} values, {repeats} repeats"
    labels, group_of = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(labels), *values.shape[1:]))
    np.add.at(sums, group_of, values)
    random = np.random.default_rng(seed)
    times = np.empty((repeats, len(labels)))  # how often each group is drawn
    for i in range(repeats):
        drawn = random.integers(len(labels), size=len(labels))
        times[i] = np.bincount(drawn, minlength=len(labels))
    images = times @ np.bincount(group_of)
    means: Float64 = ((times @ sums).T / images).T
    return means


def interval(values: NDArray[np.floating], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the percentiles between which a share `confidence` (0 to 1) of `values` lies."""
    assert 0 < confidence < 1, f"confidence {confidence}; expected between 0 and 1"
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _check_masks(prediction: Mask, truth: Mask) -> None:
    assert prediction.shape == truth.shape, f"prediction {prediction.shape}, truth {truth.shape}"
    both_bool = prediction.dtype == truth.dtype == np.bool_
    assert both_bool, f"masks are bool, not {prediction.dtype} and {truth.dtype}"


@numba.njit(nogil=True, cache=True)
def _rotated(word: np.uint64) -> np.uint64:
    """Rotate by one byte; a word equals its rotation when its eight bytes are equal."""
    return (word << np.uint64(8)) | (word >> np.uint64(56))


@numba.njit(nogil=True, cache=True)
def _count(levels: NDArray[np.uint64], truth: NDArray[np.uint64]) -> Int64:
    """Count eight pixels a word, 64 at a time where all of them are alike.

    About 95 % of the pixels of a trained network are in the first or the last level.
    """
    counts = np.zeros((2, 256), np.int64)
    for i in range(0, levels.size, 8):
        differs = (levels[i] ^ _rotated(levels[i])) | (truth[i] ^ _rotated(truth[i]))
        for k in range(1, 8):
            differs |= (levels[i] ^ levels[i + k]) | (truth[i] ^ truth[i + k])
        if differs == 0:
            counts[np.intp(truth[i] != 0), levels[i] & np.uint64(255)] += 64
        else:
            for k in range(8):
                _count_word(levels[i + k], truth[i + k], counts)
    return counts


@numba.njit(nogil=True, cache=True)
def _count_word(levels: np.uint64, truth: np.uint64, counts: Int64) -> None:
    byte = np.uint64(255)
    if levels == _rotated(levels) and truth == _rotated(truth):
        counts[np.intp(truth != 0), levels & byte] += 8
        return
    for _ in range(8):
        counts[np.intp((truth & byte) != 0), levels & byte] += 1
        levels >>= np.uint64(8)
        truth >>= np.uint64(8)
