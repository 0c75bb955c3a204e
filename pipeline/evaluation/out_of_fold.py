"""Held-out images beside their true masks: what `validate` writes down of each, and its reader.

Of one class that is the number of pixels at each probability level, from which the score at every
threshold follows, and measures of the mask at 0.5. Of several classes it is the number of pixels
by true and predicted class.
"""

import dataclasses
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.levels.scale import HALF, LEVELS, UNCERTAIN
from pipeline.masks import regions
from pipeline.metrics import boundary, classes
from pipeline.metrics.dice import count_levels, dice_by_threshold
from pipeline.paths import Paths
from pipeline.support import files, table
from pipeline.support.arrays import Int64, Mask, UInt8
from pipeline.support.errors import UserError

_ADVICE = "run the validate stage of this fold again"
# What numpy raises on archives with any byte changed.
_DAMAGE = (
    OSError, EOFError, KeyError, TypeError, ValueError, SyntaxError, RuntimeError, MemoryError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Measures:
    """One image of one class, its prediction cut at 0.5, at full resolution.

    `area` and `true_area` are foreground pixels, `parts` the number of connected parts predicted,
    `uncertain` the share of pixels (0..1) with a probability of 0.05 to 0.95 (`UNCERTAIN`),
    `boundary` how far the boundary lies from the true one, see `pipeline.metrics.boundary`.
    """

    sample_id: str
    dice: float
    area: int
    true_area: int
    parts: int
    uncertain: float = dataclasses.field(metadata=table.cells(digits=6))
    boundary: float = dataclasses.field(metadata=table.cells(digits=4))


@dataclasses.dataclass(frozen=True)
class Judged:
    """One held-out image compared with its true mask.

    `counts` is int64 (2, 256), see `pipeline.metrics.dice.count_levels`, or of several classes
    (C, C), see `pipeline.metrics.classes.count`. `dice` is its score: at 0.5, or the mean of all
    classes. `measures` are of one class alone: of several, the counts say it all.
    """

    row: Sample
    counts: Int64
    dice: float
    measures: Measures | None


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """All held-out images of some folds, in the order of folds and of the table of samples.

    `counts` is (N, 2, 256) or (N, C, C), `measures` has N rows, or none of several classes.
    `choices` says what the training of their folds has chosen by their score, which then
    flatters, and is "" where nothing was.
    """

    rows: Sequence[Sample]
    counts: Int64
    measures: Sequence[Measures]
    choices: str = ""

    @property
    def names(self) -> list[str]:
        """What the classes are called, background first."""
        return [label.name for label in self.rows[0].labels]

    @property
    def groups(self) -> np.ndarray:
        """The group of each image, (N,)."""
        return np.array([row.group for row in self.rows])

    @property
    def folds(self) -> np.ndarray:
        """The fold of each image, (N,)."""
        return np.array([row.fold for row in self.rows])


def judge_levels(row: Sample, levels: UInt8, truth: UInt8) -> Judged:
    """Compare an image's probability levels (H, W) with its true mask, nonzero = foreground."""
    counts = count_levels(levels, truth)
    score = float(dice_by_threshold(counts[None])[0, HALF])
    return Judged(row, counts, score, _measure(row, counts, score, levels >= HALF, truth))


def judge_classes(row: Sample, prediction: UInt8, truth: UInt8) -> Judged:
    """Compare an image's class indices (H, W) with the true ones."""
    counts = classes.count(prediction, truth, row.classes)
    return Judged(row, counts, float(classes.scores(counts[None]).dice.mean()), None)


def _measure(row: Sample, counts: Int64, score: float, mask: Mask, truth: UInt8) -> Measures:
    return Measures(
        sample_id=row.sample_id,
        dice=score,
        area=int(counts[:, HALF:].sum()),
        true_area=int(counts[1].sum()),
        parts=regions.measure(regions.of_mask(mask), row.width).count,
        uncertain=float(counts[:, UNCERTAIN].sum() / counts.sum()),
        boundary=boundary.compare(mask, truth > 0).distance,
    )


def write(paths: Paths, fold: int, judged: Sequence[Judged], choices: str = "") -> None:
    """Write counts and measures of a fold's images, each in one step; see `OutOfFold`."""
    ids = [one.row.sample_id for one in judged]
    counts = np.stack([one.counts for one in judged])
    with files.written_whole(paths.counts(fold)) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream, sample_id=np.array(ids), counts=counts, choices=np.array(choices)
        )
    measures = [one.measures for one in judged if one.measures]
    if measures:
        table.write(paths.measures(fold), Measures, measures)
    else:
        scores = pd.DataFrame(classes.table([label.name for label in judged[0].row.labels], counts))
        scores.insert(0, "sample_id", ids)
        files.write_text(paths.measures(fold), scores.to_csv(index=False, lineterminator="\n"))


def read(paths: Paths, folds: Sequence[int]) -> OutOfFold:
    """Read what was written of the held-out images of `folds`.

    Raises:
        UserError: a file of a fold is missing, damaged, or not of its images.
    """
    every = samples.read(paths.samples)
    rows, counts, measures, choices = [], [], [], set()
    for fold in folds:
        some = held_out(every, fold, paths.samples)
        rows += some
        counted, choice = _read_counts(paths.counts(fold), some)
        counts.append(counted)
        choices.add(choice)
        if some[0].classes == 1:
            measures += _read_measures(paths.measures(fold), some)
    return OutOfFold(rows, np.concatenate(counts), measures, ", ".join(sorted(choices - {""})))


def held_out(every: Sequence[Sample], fold: int, where: Path) -> list[Sample]:
    """The images that a fold holds out.

    Raises:
        UserError: there are none; `where` names the table of samples.
    """
    rows = samples.held_out(every, fold)
    if not rows:
        raise UserError(
            f"{where}: found no image that fold {fold} holds out; correct folds in "
            f"params.yaml, or run the split stage again"
        )
    return rows


def _read_counts(path: Path, rows: Sequence[Sample]) -> tuple[Int64, str]:
    try:
        with path.open("rb") as stream, np.load(stream) as content:
            counts, ids = content["counts"], content["sample_id"].tolist()
            choices = str(content["choices"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the validate stage of this fold") from None
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}); {_ADVICE}") from None
    _check_images(path, ids, rows)
    number = rows[0].classes
    shape = (len(ids), 2, LEVELS) if number == 1 else (len(ids), number, number)
    if counts.shape != shape or counts.dtype.kind != "i":
        raise UserError(
            f"{path}: found counts of {counts.dtype} {counts.shape}, expected integers {shape}; "
            f"{_ADVICE}"
        )
    return counts.astype(np.int64, copy=False), choices


def _read_measures(path: Path, rows: Sequence[Sample]) -> list[Measures]:
    found = table.read(path, Measures, _ADVICE)
    _check_images(path, [one.sample_id for one in found], rows)
    return found


def _check_images(path: Path, ids: Sequence[str], rows: Sequence[Sample]) -> None:
    if ids != [row.sample_id for row in rows]:
        raise UserError(
            f"{path}: found {len(ids)} images that are not the {len(rows)} of fold "
            f"{rows[0].fold} in samples.csv; {_ADVICE}"
        )
