"""The counts of a fold's held-out images, as `validate` writes and `tune` reads them."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.levels.scale import LEVELS
from pipeline.support.errors import UserError
from pipeline.support.files import written_whole


def shape(row: Sample) -> tuple[int, int]:
    """Of one image's counts: by truth and level, or, of several classes, by truth and prediction.

    See `pipeline.metrics.dice.count_levels` and `pipeline.metrics.confusion.count`.
    """
    return (2, LEVELS) if row.classes == 1 else (row.classes, row.classes)


def write(path: Path, rows: Sequence[Sample], counts: NDArray[np.int64]) -> None:
    """Write the counts (N, ...) of `rows`, in one step."""
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream, sample_id=np.array([row.sample_id for row in rows]), counts=counts
        )


def read(
    folder: Path, folds: Sequence[int], table: Sequence[Sample]
) -> tuple[NDArray[np.int64], list[Sample]]:
    """The counts of all folds and their rows, in the order of folds and of `table`.

    Raises:
        UserError: a fold's `fold<k>.npz` is missing, damaged, or not of its images.
    """
    counts, rows = [], []
    for fold in folds:
        path = folder / f"fold{fold}.npz"
        held_out = samples.held_out(table, fold)
        try:
            with path.open("rb") as stream, np.load(stream) as content:
                found, ids = content["counts"], content["sample_id"].tolist()
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: {error}; run the validate stage of this fold") from None
        if ids != [row.sample_id for row in held_out]:
            raise UserError(
                f"{path}: found {len(ids)} images that are not the {len(held_out)} of fold "
                f"{fold} in samples.csv; run the validate stage of this fold again"
            )
        if held_out and found.shape[1:] != shape(held_out[0]):
            raise UserError(
                f"{path}: found counts of shape {found.shape}, expected {shape(held_out[0])} an "
                f"image; run the validate stage of this fold again"
            )
        counts.append(found)
        rows += held_out
    return np.concatenate(counts), rows
