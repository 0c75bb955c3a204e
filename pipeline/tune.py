"""Stage `tune`: the threshold with the best out-of-fold Dice, and what it is worth.

Of several classes the most probable one wins: there is no threshold to choose, only scores.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.evaluation import breakdown, class_scores, measures, out_of_fold
from pipeline.evaluation.class_scores import ClassResult
from pipeline.evaluation.measures import Measures
from pipeline.evaluation.threshold import nearest_level
from pipeline.levels.scale import HALF, LEVELS
from pipeline.metrics import confusion
from pipeline.metrics.dice import (
    best_threshold,
    dice_by_threshold,
    flattened_dice,
    interval,
    resample_groups,
)
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe, Tune
from pipeline.support import files

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Result:
    """What out-of-fold predictions say about the score of a submission.

    `threshold` is `level`/256; the best one lies from `threshold_low` to `threshold_high`.
    `dice` is the mean over images at that threshold, `gain` that minus the Dice at 0.5. Low and
    high are 95 % intervals from resampling groups; a gain whose interval holds 0 is no
    reason to leave 0.5. The threshold is chosen on the images it is scored on, so `gain`
    flatters: `honest_gain` chooses it for each fold on the other folds (None with one fold).
    `gain_largest` is what keeping each mask's largest part alone adds at 0.5. `worst` is the
    lowest Dice of an image. `accuracy` (share of pixels that are right) and `iou` (of the
    foreground) are means over images at the threshold; `dice_flattened` pools all
    pixels, see `pipeline.metrics.dice.flattened_dice`.
    """

    threshold: float
    level: int
    threshold_low: float
    threshold_high: float
    dice: float
    dice_low: float
    dice_high: float
    dice_at_half: float
    gain: float
    gain_low: float
    gain_high: float
    honest_gain: float | None
    gain_largest: float
    worst: float
    images: int
    groups: int
    folds: int
    dice_by_fold: dict[str, float]
    accuracy: float
    iou: float
    dice_flattened: float


def tune(
    counts: npt.NDArray[np.int64],
    rows: Sequence[Sample],
    largest: npt.NDArray[np.float64],
    threshold: Literal["auto"] | float,
    bootstrap: int,
    seed: int,
) -> tuple[Result, npt.NDArray[np.float64]]:
    """Score every threshold on the counts (N, 2, 256) of `rows`.

    Args:
        largest: (N,) Dice of each image at 0.5 with the prediction's largest part alone.
        threshold: `auto` for the best one, or a number to use instead; it is rounded to a
            multiple of 1/256, the resolution of the counts.
        bootstrap: how many times groups are resampled for the intervals.

    Returns:
        The result and the Dice of each image at each level, float64 (N, 256).
    """
    scores = dice_by_threshold(counts)
    mean = scores.mean(axis=0)
    level = best_threshold(mean) if threshold == "auto" else nearest_level(threshold)
    groups = np.array([row.group for row in rows])
    folds = np.array([row.fold for row in rows])
    drawn = resample_groups(scores, groups, bootstrap, seed)
    dice_low, dice_high = interval(drawn[:, level], CONFIDENCE)
    gain_low, gain_high = interval(drawn[:, level] - drawn[:, HALF], CONFIDENCE)
    # Sums of drawn groups round differently at levels that are equal: that is no best level.
    levels = np.array([best_threshold(curve) for curve in drawn.round(12)])
    low, high = interval(levels, CONFIDENCE)
    at_level = confusion.scores(confusion.of_levels(counts, level))
    result = Result(
        threshold=level / 256,
        level=level,
        threshold_low=low / 256,
        threshold_high=high / 256,
        dice=float(mean[level]),
        dice_low=dice_low,
        dice_high=dice_high,
        dice_at_half=float(mean[HALF]),
        gain=float(mean[level] - mean[HALF]),
        gain_low=gain_low,
        gain_high=gain_high,
        honest_gain=honest_gain(scores, folds),
        gain_largest=float((largest - scores[:, HALF]).mean()),
        worst=float(scores[:, level].min()),
        images=len(rows),
        groups=len(set(groups)),
        folds=len(set(folds)),
        dice_by_fold={str(k): float(scores[folds == k, level].mean()) for k in sorted(set(folds))},
        accuracy=float(at_level.accuracy.mean()),
        iou=float(at_level.iou[:, 1].mean()),
        dice_flattened=flattened_dice(counts),
    )
    return result, scores


def honest_gain(scores: npt.NDArray[np.float64], folds: npt.NDArray[np.int64]) -> float | None:
    """Mean gain over 0.5 of a threshold chosen without the fold it is applied to."""
    if len(set(folds)) < 2:
        return None
    gains = np.empty(len(scores))
    for fold in set(folds):
        here = folds == fold
        level = best_threshold(scores[~here].mean(axis=0))
        gains[here] = scores[here, level] - scores[here, HALF]
    return float(gains.mean())


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with files.written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8f")


def _image_table(
    rows: Sequence[Sample],
    counts: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
    level: int,
    measured: Sequence[Measures],
) -> pd.DataFrame:
    """One row an image: its Dice at the threshold and at 0.5, predicted and true pixels."""
    return breakdown.places(rows).assign(
        dice=scores[:, level],
        dice_at_half=scores[:, HALF],
        predicted=counts[:, :, level:].sum(axis=(1, 2)),
        true=counts[:, 1].sum(axis=1),
        parts=[one.parts for one in measured],
        uncertain=[one.uncertain for one in measured],
        dice_largest_at_half=[one.dice_largest for one in measured],
    )


def _write_tables(
    out: Path, images: pd.DataFrame, curve: pd.DataFrame, beside: Sequence[str]
) -> None:
    """Write the tables; those by fold, view and group have the means of `beside` too."""
    _write_table(out / "thresholds.csv", curve)
    _write_table(out / "images.csv", images)
    for name in ("fold", "view", "group"):
        _write_table(out / f"{name}s.csv", breakdown.table(name, images, beside))


def run(recipe: Recipe, paths: Paths, folds: Sequence[int]) -> None:
    """Tune one recipe on the held-out images of `folds`."""
    counts, rows = out_of_fold.read(paths.oof, folds, samples.read(paths.samples))
    out = paths.evaluation
    if rows[0].classes == 1:
        measured = measures.read_folds(paths.oof, folds, rows)
        result: Result | ClassResult = _one_class(counts, rows, measured, recipe.tune, out)
    else:
        result = _several_classes(counts, rows, recipe.tune, out)
    values = json.dumps(dataclasses.asdict(result), indent=2)
    files.write_text(paths.metrics, values + "\n")


def _one_class(
    counts: npt.NDArray[np.int64],
    rows: Sequence[Sample],
    measured: Sequence[Measures],
    settings: Tune,
    out: Path,
) -> Result:
    """Choose the threshold, write the tables and say what came of it."""
    largest = np.array([one.dice_largest for one in measured])
    result, scores = tune(
        counts, rows, largest, settings.threshold, settings.bootstrap, settings.seed
    )
    images = _image_table(rows, counts, scores, result.level, measured)
    curve = pd.DataFrame({"threshold": np.arange(LEVELS) / LEVELS, "dice": scores.mean(axis=0)})
    _write_tables(out, images, curve, ["dice_at_half"])
    print(
        f"threshold {result.threshold:.4f}: out-of-fold Dice {result.dice:.5f} "
        f"({result.dice_low:.5f} to {result.dice_high:.5f}), {result.gain:+.6f} against 0.5 "
        f"({result.gain_low:+.6f} to {result.gain_high:+.6f})"
    )
    return result


def _several_classes(
    counts: npt.NDArray[np.int64], rows: Sequence[Sample], settings: Tune, out: Path
) -> ClassResult:
    """Score the classes, write the tables (that of thresholds is empty) and say what came of it."""
    names = [label.name for label in rows[0].labels]
    groups, folds = np.array([row.group for row in rows]), np.array([row.fold for row in rows])
    result = class_scores.summarise(
        counts, names, groups, folds, CONFIDENCE, settings.bootstrap, settings.seed
    )
    scores = pd.DataFrame(class_scores.of_images(names, counts))
    curve = pd.DataFrame({"threshold": [], "dice": []})
    _write_tables(out, breakdown.places(rows).join(scores), curve, ["accuracy", "iou"])
    print(
        f"no threshold, {len(names)} classes: accuracy {result.accuracy:.5f} "
        f"({result.accuracy_low:.5f} to {result.accuracy_high:.5f}), mean Dice of the classes "
        f"{result.dice:.5f} ({result.dice_low:.5f} to {result.dice_high:.5f}); always "
        f"{result.majority}: accuracy {result.majority_accuracy:.5f}"
    )
    return result
