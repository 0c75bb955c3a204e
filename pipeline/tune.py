"""Stage `tune`: the threshold with the best out-of-fold Dice, and what it is worth."""

import argparse
import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline import files, params, samples
from pipeline.dice import HALF, LEVELS, best_threshold, dice_by_threshold, interval, resample_groups
from pipeline.errors import UserError, command
from pipeline.evaluation import breakdown, measures
from pipeline.evaluation.measures import Measures
from pipeline.samples import Sample

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Result:
    """What out-of-fold predictions say about the score of a submission.

    `threshold` is `level`/256; the best one lies from `threshold_low` to `threshold_high`.
    `dice` is the mean over images at that threshold, `gain` what that is above 0.5. Low and
    high are 95 % intervals from resampling groups; a gain whose interval holds 0 is no
    reason to leave 0.5. The threshold is chosen on the images it is scored on, so `gain`
    flatters: `honest_gain` chooses it for each fold on the other folds (None with one fold).
    `gain_largest` is what keeping each mask's largest part alone adds at 0.5. `worst` is the
    lowest Dice of an image.
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
    level = best_threshold(mean) if threshold == "auto" else min(LEVELS - 1, round(256 * threshold))
    groups = np.array([row.group for row in rows])
    folds = np.array([row.fold for row in rows])
    drawn = resample_groups(scores, groups, bootstrap, seed)
    dice_low, dice_high = interval(drawn[:, level], CONFIDENCE)
    gain_low, gain_high = interval(drawn[:, level] - drawn[:, HALF], CONFIDENCE)
    # Sums of drawn groups round differently at levels that are equal: that is no best level.
    levels = np.array([best_threshold(curve) for curve in drawn.round(12)])
    low, high = interval(levels, CONFIDENCE)
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


def _read_counts(
    folder: Path, folds: Sequence[int], table: Sequence[Sample]
) -> tuple[npt.NDArray[np.int64], list[Sample]]:
    """The counts of all folds and their rows, in the order of folds and of `samples.csv`."""
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
        counts.append(found)
        rows += held_out
    return np.concatenate(counts), rows


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with files.written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8f")


def _read_measures(folder: Path, folds: Sequence[int], rows: Sequence[Sample]) -> list[Measures]:
    """The measures of all folds, which must be those of the same images as the counts."""
    found = [one for fold in folds for one in measures.read(folder / f"fold{fold}-images.csv")]
    if [one.sample_id for one in found] != [row.sample_id for row in rows]:
        raise UserError(
            f"{folder}: found fold<k>-images.csv of {len(found)} images that are not the "
            f"{len(rows)} of fold<k>.npz; run the validate stage again"
        )
    return found


def _image_table(
    rows: Sequence[Sample],
    counts: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
    level: int,
    measured: Sequence[Measures],
) -> pd.DataFrame:
    """One row an image: its Dice at the threshold and at 0.5, predicted and true pixels."""
    return pd.DataFrame(
        {
            "sample_id": [row.sample_id for row in rows],
            "group": [row.group for row in rows],
            "view": breakdown.views(rows),
            "fold": [row.fold for row in rows],
            "dice": scores[:, level],
            "dice_at_half": scores[:, HALF],
            "predicted": counts[:, :, level:].sum(axis=(1, 2)),
            "true": counts[:, 1].sum(axis=1),
            "parts": [one.parts for one in measured],
            "uncertain": [one.uncertain for one in measured],
            "dice_largest_at_half": [one.dice_largest for one in measured],
        }
    )


def _write_tables(out: Path, images: pd.DataFrame, mean: npt.NDArray[np.float64]) -> None:
    curve = pd.DataFrame({"threshold": np.arange(256) / 256, "dice": mean})
    _write_table(out / "thresholds.csv", curve)
    _write_table(out / "images.csv", images)
    ids = images["sample_id"].tolist()
    for name in ("fold", "view", "group"):
        scores = (images[column].to_numpy(np.float64) for column in ("dice", "dice_at_half"))
        found = breakdown.table(name, images[name].tolist(), ids, *scores)
        _write_table(out / f"{name}s.csv", found)


@command
def main() -> None:
    """Tune one recipe on all the folds that `params.yaml` lists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="recipes/<name>.yaml")
    parser.add_argument("--params", type=Path, required=True, help="params.yaml, for the folds")
    parser.add_argument("--samples", type=Path, required=True, help="samples.csv")
    parser.add_argument(
        "--counts", type=Path, required=True, help="folder of fold<k>.npz and -images.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    recipe = params.load(args.recipe)
    folds = params.load_folds(args.params, recipe.split.folds)
    settings = recipe.tune
    counts, rows = _read_counts(args.counts, folds, samples.read(args.samples))
    measured = _read_measures(args.counts, folds, rows)
    largest = np.array([one.dice_largest for one in measured])
    result, scores = tune(
        counts, rows, largest, settings.threshold, settings.bootstrap, settings.seed
    )
    images = _image_table(rows, counts, scores, result.level, measured)
    _write_tables(args.out, images, scores.mean(axis=0))
    values = json.dumps(dataclasses.asdict(result), indent=2)
    files.write_text(args.out / "metrics.json", values + "\n")
    print(
        f"threshold {result.threshold:.4f}: out-of-fold Dice {result.dice:.5f} "
        f"({result.dice_low:.5f} to {result.dice_high:.5f}), {result.gain:+.6f} against 0.5 "
        f"({result.gain_low:+.6f} to {result.gain_high:+.6f})"
    )


if __name__ == "__main__":
    main()
