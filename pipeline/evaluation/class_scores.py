"""What out-of-fold predictions of several classes are worth: by class, image, fold and group."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import confusion
from pipeline.metrics.dice import interval, resample_groups


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Scores at full resolution, each the mean over images; see `pipeline.metrics.confusion`.

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


def summarise(
    counts: NDArray[np.int64],
    names: Sequence[str],
    groups: NDArray[np.str_],
    folds: NDArray[np.int64],
    confidence: float,
    bootstrap: int,
    seed: int,
) -> ClassResult:
    """Score the counts (N, C, C) of images in `groups` (N,) and `folds` (N,).

    Args:
        names: of the classes.
        confidence: of the intervals, 0 to 1.
        bootstrap: how many times groups are resampled for them.
    """
    accuracy, dice, iou = confusion.scores(counts)
    columns = [accuracy, dice.mean(axis=1), iou.mean(axis=1), *dice.T, *iou.T]
    values = np.stack(columns, axis=1)
    drawn = resample_groups(values, groups, bootstrap, seed)
    means = values.mean(axis=0)

    def told(name: str, column: int) -> dict[str, float]:
        low, high = interval(drawn[:, column], confidence)
        return {name: float(means[column]), f"{name}_low": low, f"{name}_high": high}

    def by_fold(column: int) -> dict[str, float]:
        return {str(k): float(values[folds == k, column].mean()) for k in sorted(set(folds))}

    shares = confusion.shares(counts)
    return ClassResult(
        threshold=None,
        majority=names[int(shares.argmax())],
        majority_accuracy=float(shares.max()),
        classes={
            name: told("dice", 3 + i) | told("iou", 3 + len(names) + i)
            for i, name in enumerate(names)
        },
        worst=float(values[:, 1].min()),
        images=len(values),
        groups=len(set(groups)),
        folds=len(set(folds)),
        dice_by_fold=by_fold(1),
        accuracy_by_fold=by_fold(0),
        **told("accuracy", 0),
        **told("dice", 1),
        **told("iou", 2),
    )


def of_images(names: Sequence[str], counts: NDArray[np.int64]) -> list[dict[str, float]]:
    """One row an image: mean Dice of the classes, accuracy, mean IoU, and those of each class."""
    accuracy, dice, iou = confusion.scores(counts)
    headings = ["dice", "accuracy", "iou"]
    headings += [f"{score}_{name}" for score in ("dice", "iou") for name in names]
    values = np.column_stack([dice.mean(axis=1), accuracy, iou.mean(axis=1), dice, iou])
    return [dict(zip(headings, row, strict=True)) for row in values.tolist()]
