"""What is written down of every out-of-fold prediction, beside its counts at every level."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.samples import Sample
from pipeline.masks import parts, runs
from pipeline.masks.runs import Runs
from pipeline.metrics.dice import HALF, dice_by_threshold
from pipeline.support.errors import UserError
from pipeline.support.files import written_whole

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
    uncertain: float


COLUMNS = tuple(field.name for field in dataclasses.fields(Measures))


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
    with written_whole(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in measures:
            row = {**dataclasses.asdict(one), "uncertain": f"{one.uncertain:.6f}"}
            writer.writerow(row[column] for column in COLUMNS)


def read(path: Path) -> list[Measures]:
    """Read the table.

    Raises:
        UserError: it is missing, has other columns or an unreadable row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"found columns {reader.fieldnames}, expected {list(COLUMNS)}")
            return [_parse(row) for row in reader]
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}; run the validate stage of this fold") from None


def read_folds(folder: Path, folds: Sequence[int], rows: Sequence[Sample]) -> list[Measures]:
    """Read the tables of all folds, which must be those of `rows`.

    Raises:
        UserError: one cannot be read, or they are of other images.
    """
    found = [one for fold in folds for one in read(folder / f"fold{fold}-images.csv")]
    if [one.sample_id for one in found] != [row.sample_id for row in rows]:
        raise UserError(
            f"{folder}: found fold<k>-images.csv of {len(found)} images that are not the "
            f"{len(rows)} of fold<k>.npz; run the validate stage again"
        )
    return found


def _parse(row: dict[str, Any]) -> Measures:
    return Measures(**{field.name: field.type(row[field.name]) for field in _FIELDS})


_FIELDS: Any = dataclasses.fields(Measures)
