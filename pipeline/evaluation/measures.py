"""What is written down of every out-of-fold prediction, beside its counts at every level."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.samples import Sample
from pipeline.levels.scale import HALF
from pipeline.masks import parts, runs
from pipeline.masks.runs import Runs
from pipeline.metrics.dice import dice_by_threshold
from pipeline.support import table
from pipeline.support.errors import UserError

# Levels that are neither nearly 0 nor nearly 1: probabilities from 13/256 to below 243/256.
UNCERTAIN = slice(13, 243)


@dataclasses.dataclass(frozen=True, slots=True)
class Measures:
    """One image, its prediction cut at 0.5.

    `dice_largest` is the Dice of the prediction's largest connected part alone. `predicted`
    and `true` are foreground pixels, `parts` the number of connected parts predicted,
    `uncertain` the share of pixels (0..1) with a probability of 0.05 to 0.95 (`UNCERTAIN`).
    """

    sample_id: str
    dice: float
    dice_largest: float
    predicted: int
    true: int
    parts: int
    uncertain: float = dataclasses.field(metadata=table.cells(digits=6))


def measure(
    sample_id: str, counts: npt.NDArray[np.int64], prediction: Runs, truth: Runs, width: int
) -> Measures:
    """Measure one image.

    Args:
        counts: (2, 256) pixels at each level, see `pipeline.metrics.dice.count_levels`.
        prediction: the runs of the prediction at 0.5.
        truth, width: the runs of the true mask, and how wide both are in pixels.
    """
    score = float(dice_by_threshold(counts[None])[0, HALF])
    found = parts.measure(prediction, width)
    alone = score
    if found.count > 1:
        alone = runs.dice(parts.largest_runs(prediction, width), truth)
    return Measures(
        sample_id=sample_id,
        dice=score,
        dice_largest=alone,
        predicted=found.area,
        true=runs.area(truth),
        parts=found.count,
        uncertain=float(counts[:, UNCERTAIN].sum() / counts.sum()),
    )


def write(path: Path, measures: Sequence[Measures]) -> None:
    """Write the table as CSV, in one step."""
    table.write(path, Measures, measures)


def read(path: Path) -> list[Measures]:
    """Read the table.

    Raises:
        UserError: it is missing, has other columns or an unreadable row.
    """
    return table.read(path, Measures, "run the validate stage of this fold")


def read_folds(folder: Path, folds: Sequence[int], rows: Sequence[Sample]) -> list[Measures]:
    """Read the tables of all folds, which must be those of `rows`.

    Raises:
        UserError: one cannot be read, or they are of other images.
    """
    found = [one for fold in folds for one in read(folder / f"fold{fold}-measures.csv")]
    if [one.sample_id for one in found] != [row.sample_id for row in rows]:
        raise UserError(
            f"{folder}: found fold<k>-measures.csv of {len(found)} images that are not the "
            f"{len(rows)} of fold<k>.npz; run the validate stage again"
        )
    return found
