"""Stage `tune`: the threshold with the best out-of-fold Dice, the repairs that gain, their worth.

Of several classes the most probable one wins: there is no threshold to choose, only scores.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.evaluation import breakdown, out_of_fold
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.levels import scale
from pipeline.levels.scale import HALF, LEVELS
from pipeline.masks.clean_up import CleanUp
from pipeline.metrics import classes
from pipeline.metrics.dice import (
    best_threshold,
    dice_by_threshold,
    flattened_dice,
    interval,
    losses,
    resample_groups,
)
from pipeline.paths import Paths
from pipeline.recipe.schema import OF_WHOLE_GROUPS, Recipe, Tune
from pipeline.support import files
from pipeline.support.arrays import Float64
from pipeline.tune import repairs
from pipeline.tune.repairs import Choice, Gain


@dataclasses.dataclass(frozen=True)
class Result:
    """What out-of-fold predictions say about the score of a submission.

    `threshold` is `level`/256; the best one lies from `threshold_low` to `threshold_high`, without
    a clean-up. `clean_up` are the repairs that masks get after the threshold, `repairs` what each
    that was tried would bring. `dice` is the mean over images of the masks that would be
    submitted, `gain` that minus the Dice at 0.5 without repairs, `threshold_gain` what the
    threshold alone adds. Low and high are 95 % intervals from resampling groups; a threshold whose
    gain's interval holds 0 is no reason to leave 0.5. It is chosen on the images it is scored on,
    so these gains flatter: `honest_gain`, of the threshold alone, chooses it for each fold on the
    other folds (None with one fold). `worst` is the lowest Dice of an image. `accuracy` (share of
    pixels that are right) and `iou` (of the foreground) are means over images; `dice_flattened`
    pools all pixels, see `pipeline.metrics.dice.flattened_dice`.
    """

    threshold: float
    level: int
    clean_up: CleanUp
    repairs: dict[str, Gain]
    threshold_low: float
    threshold_high: float
    dice: float
    dice_low: float
    dice_high: float
    dice_at_half: float
    gain: float
    gain_low: float
    gain_high: float
    threshold_gain: float
    threshold_gain_low: float
    threshold_gain_high: float
    honest_gain: float | None
    worst: float
    images: int
    groups: int
    folds: int
    dice_by_fold: dict[str, float]
    accuracy: float
    iou: float
    dice_flattened: float


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Scores of several classes, each the mean over images; see `pipeline.metrics.classes`.

    `dice` and `iou` are the means over all classes, background included; `classes` has those
    of each class, by name. Low and high are the ends of 95 % intervals from resampling groups.
    The class is the one of the highest probability, so there is no threshold. `majority` is
    the commonest class, `majority_accuracy` what answering it everywhere would reach. `worst`
    is the lowest mean Dice of an image.
    """

    threshold: None
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    majority: str
    majority_accuracy: float
    dice: float
    dice_low: float
    dice_high: float
    iou: float
    iou_low: float
    iou_high: float
    classes: dict[str, dict[str, float]]
    worst: float
    images: int
    groups: int
    folds: int
    dice_by_fold: dict[str, float]
    accuracy_by_fold: dict[str, float]


class Tuned(NamedTuple):
    """A result, what it says in a line, and its tables.

    `images` has a row an image, `curve` the mean Dice at each threshold. `beside` are the columns
    of `images` whose means by fold, view and group are told beside that of the Dice.
    """

    result: Result | ClassResult
    line: str
    images: pd.DataFrame
    curve: pd.DataFrame
    beside: Sequence[str]
    choices: str  # see `OutOfFold`


def run(recipe: Recipe, paths: Paths, folds: Sequence[int]) -> None:
    """Tune one recipe on the held-out images of `folds`."""
    found = out_of_fold.read(paths, folds)
    if len(found.names) == 2:
        level = choose_level(found, recipe.tune)
        repaired = repairs.choose(found, paths, recipe.tune, level)
        tuned = score_masks(found, recipe.tune, level, repaired)
    else:
        tuned = score_classes(found, recipe.tune)
    by = recipe.split.by
    write(paths, tuned, by in OF_WHOLE_GROUPS)
    print(tuned.line)
    if by not in OF_WHOLE_GROUPS:
        print(
            f"images, not whole groups, are held out (split.by: {by}): where a group has several, "
            f"these scores flatter and their intervals are too narrow"
        )
    if tuned.choices:
        print(f"these scores flatter: training has chosen by the same images {tuned.choices}")


def write(paths: Paths, tuned: Tuned, whole_groups: bool) -> None:
    """Write the result as `metrics.json`, and its tables.

    Beside the scores stand `flatters`, whether training has chosen by the images scored, and
    whether whole groups were held out.
    """
    _write_table(paths.evaluation / "thresholds.csv", tuned.curve)
    _write_table(paths.evaluation / "images.csv", tuned.images)
    for name in ("fold", "view", "group"):
        by_name = breakdown.table(name, tuned.images, tuned.beside)
        _write_table(paths.evaluation / f"{name}s.csv", by_name)
    honesty = {"flatters": bool(tuned.choices), "chosen_on_held_out": tuned.choices}
    honesty |= {"whole_groups": whole_groups}
    values = json.dumps(dataclasses.asdict(tuned.result) | honesty, indent=2)
    files.write_text(paths.metrics, values + "\n")


def choose_level(found: OutOfFold, settings: Tune) -> int:
    """The level of the threshold: the best one, or the nearest to what is set.

    A threshold that is set, not `auto`, is rounded to a multiple of 1/256, the resolution of the
    counts.
    """
    if settings.threshold != "auto":
        return scale.nearest(settings.threshold)
    return best_threshold(dice_by_threshold(found.counts).mean(axis=0))


def score_masks(
    found: OutOfFold, settings: Tune, level: int, repaired: Choice = repairs.NONE
) -> Tuned:
    """Score the masks of one class at a level with their repairs, at all others without."""
    counts, folds, measures = found.counts, found.folds, found.measures
    scores = dice_by_threshold(counts)  # N, 256
    mean = scores.mean(axis=0)
    pixels = classes.at_level(counts, level) if repaired.counts is None else repaired.counts
    at_level = classes.scores(pixels)
    dice = at_level.dice[:, 1]
    gain, alone = dice - scores[:, HALF], scores[:, level] - scores[:, HALF]
    # Together with the thresholds, so that all are of the same draws.
    values = np.column_stack([scores, dice, gain, alone])
    drawn = resample_groups(values, found.groups, settings.bootstrap, settings.seed)
    dice_low, dice_high = interval(drawn[:, LEVELS])
    gain_low, gain_high = interval(drawn[:, LEVELS + 1])
    alone_low, alone_high = interval(drawn[:, LEVELS + 2])
    # Sums of drawn groups round differently at levels that are equal: that is no best level.
    low, high = interval(np.array([best_threshold(curve) for curve in drawn[:, :LEVELS].round(12)]))
    result = Result(
        threshold=level / LEVELS,
        level=level,
        clean_up=repaired.clean_up,
        repairs=repaired.gains,
        threshold_low=low / LEVELS,
        threshold_high=high / LEVELS,
        dice=float(dice.mean()),
        dice_low=dice_low,
        dice_high=dice_high,
        dice_at_half=float(mean[HALF]),
        gain=float(gain.mean()),
        gain_low=gain_low,
        gain_high=gain_high,
        threshold_gain=float(alone.mean()),
        threshold_gain_low=alone_low,
        threshold_gain_high=alone_high,
        honest_gain=honest_gain(scores, folds),
        worst=float(dice.min()),
        images=len(scores),
        groups=len(set(found.groups)),
        folds=len(set(folds)),
        dice_by_fold=_by_fold(dice, folds),
        accuracy=float(at_level.accuracy.mean()),
        iou=float(at_level.iou[:, 1].mean()),
        dice_flattened=flattened_dice(counts),
    )
    bce, dice_loss = losses(counts)
    images = breakdown.places(found.rows).assign(
        dice=dice,
        dice_at_half=scores[:, HALF],
        area=pixels[:, :, 1].sum(axis=1),
        true_area=pixels[:, 1].sum(axis=1),
        parts=[one.parts for one in measures],
        uncertain=[one.uncertain for one in measures],
        boundary=[one.boundary for one in measures],
        bce=bce,
        dice_loss=dice_loss,
    )
    line = (
        f"threshold {result.threshold:.4f}: out-of-fold Dice {result.dice:.5f} "
        f"({dice_low:.5f} to {dice_high:.5f}), {result.gain:+.6f} against 0.5 "
        f"({gain_low:+.6f} to {gain_high:+.6f})"
    )
    line += "".join(_tell_repair(name, gain) for name, gain in repaired.gains.items())
    curve = pd.DataFrame({"threshold": np.arange(LEVELS) / LEVELS, "dice": mean})
    return Tuned(result, line, images, curve, ["dice_at_half"], found.choices)


def _tell_repair(name: str, gain: Gain) -> str:
    does = "is made" if gain.accepted else "is left out"
    size = "" if name == "keep_largest" else f" {gain.size}"
    honest = "one fold cannot tell"
    if gain.honest_gain is not None:
        honest = f"{gain.honest_gain:+.6f} ({gain.honest_low:+.6f} to {gain.honest_high:+.6f})"
    return f"\nclean-up {name}{size} {does}: {honest}"


def honest_gain(scores: Float64, folds: np.ndarray) -> float | None:
    """Mean gain over 0.5 of a threshold chosen without the fold it is applied to.

    Args:
        scores: (N, 256), the Dice of each image at each level; `folds` (N,) are theirs.
    """
    if len(set(folds)) < 2:
        return None
    gains = np.empty(len(scores))
    for fold in set(folds):
        here = folds == fold
        level = best_threshold(scores[~here].mean(axis=0))
        gains[here] = scores[here, level] - scores[here, HALF]
    return float(gains.mean())


def score_classes(found: OutOfFold, settings: Tune) -> Tuned:
    """Score several classes by class, image, fold and group; the table of thresholds is empty."""
    names, folds = found.names, found.folds
    accuracy, dice, iou = classes.scores(found.counts)
    columns = [accuracy, dice.mean(axis=1), iou.mean(axis=1), *dice.T, *iou.T]
    values = np.stack(columns, axis=1)
    drawn = resample_groups(values, found.groups, settings.bootstrap, settings.seed)

    def estimate(name: str, column: int) -> dict[str, float]:
        low, high = interval(drawn[:, column])
        return {name: float(values[:, column].mean()), f"{name}_low": low, f"{name}_high": high}

    shares = classes.shares(found.counts)
    result = ClassResult(
        threshold=None,
        majority=names[int(shares.argmax())],
        majority_accuracy=float(shares.max()),
        classes={
            name: estimate("dice", 3 + i) | estimate("iou", 3 + len(names) + i)
            for i, name in enumerate(names)
        },
        worst=float(values[:, 1].min()),
        images=len(values),
        groups=len(set(found.groups)),
        folds=len(set(folds)),
        dice_by_fold=_by_fold(values[:, 1], folds),
        accuracy_by_fold=_by_fold(accuracy, folds),
        **estimate("accuracy", 0),
        **estimate("dice", 1),
        **estimate("iou", 2),
    )
    line = (
        f"no threshold, {len(names)} classes: accuracy {result.accuracy:.5f} "
        f"({result.accuracy_low:.5f} to {result.accuracy_high:.5f}), mean Dice of the classes "
        f"{result.dice:.5f} ({result.dice_low:.5f} to {result.dice_high:.5f}); always "
        f"{result.majority}: accuracy {result.majority_accuracy:.5f}"
    )
    scores = pd.DataFrame(classes.table(names, found.counts))
    no_curve = pd.DataFrame({"threshold": [], "dice": []})
    images = breakdown.places(found.rows).join(scores)
    return Tuned(result, line, images, no_curve, ["accuracy", "iou"], found.choices)


def _by_fold(values: Float64, folds: np.ndarray) -> dict[str, float]:
    return {str(fold): float(values[folds == fold].mean()) for fold in sorted(set(folds))}


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with files.written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8f")
