"""What the stages before wrote of one recipe, read once and checked, and what follows from it.

Everything the page says of out-of-fold predictions comes from here; the submission is looked at
in `pipeline.report.sanity`.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.evaluation import out_of_fold
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.levels.scale import UNCERTAIN
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe, Section
from pipeline.report import sanity
from pipeline.support.errors import UserError

# Columns that the page cannot do without, by table of the tune stage.
_TABLES = {
    "thresholds": ("threshold", "dice"),
    "images": ("sample_id", "group", "view", "fold", "dice"),
    "folds": ("fold", "images", "dice", "worst", "worst_image"),
    "views": ("view", "images", "dice", "worst", "worst_image"),
    "groups": ("group", "images", "dice", "worst", "worst_image"),
}
_SCORES = ("dice", "dice_low", "dice_high", "images", "groups", "folds", "worst", "threshold")
_OF_THRESHOLD = ("threshold_gain", "threshold_gain_low", "threshold_gain_high")
_TUNE = "run the tune stage"
_BINS = 16  # of the 256 levels, where probabilities are held against what is true


@dataclasses.dataclass(frozen=True)
class Training:
    """One fold's training: its `metrics.json`, and its `history.csv` with one row an epoch."""

    fold: int
    metrics: dict[str, Any]
    history: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Suspect:
    """An image whose true mask a confident network contradicts: perhaps the mask is wrong.

    `extra` and `lacking` are pixels that the network is 95 % sure of, as shares of the true
    mask: object where the mask has none, and none where it has some.
    """

    sample_id: str
    fold: int
    extra: float
    lacking: float


@dataclasses.dataclass(frozen=True)
class Results:
    """All that is known of a recipe's out-of-fold predictions.

    `settings` is each section of the recipe as YAML; `metrics` and `tables` are the tune
    stage's. `samples` are all, those for the test too.
    """

    recipe: str
    settings: dict[str, str]
    metrics: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    trainings: list[Training]
    samples: list[Sample]
    held_out: OutOfFold

    @classmethod
    def read(cls, recipe: Recipe, paths: Paths, folds: Sequence[int]) -> Self:
        """Read the results of `folds`.

        Raises:
            UserError: a file is missing, damaged, or not what its stage writes.
        """
        return cls(
            recipe=paths.recipe,
            settings=_settings(recipe),
            metrics=_read_scores(paths.metrics),
            tables={name: _read_table(paths.evaluation, name) for name in _TABLES},
            trainings=[] if recipe.blend else [_training(paths, fold) for fold in folds],
            samples=samples.read(paths.samples),
            held_out=out_of_fold.read(paths, folds),
        )

    @property
    def several_classes(self) -> bool:
        """Whether the most probable class wins, so that there is no threshold."""
        return self.held_out.rows[0].classes > 1

    def precision_and_recall(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each image, at the threshold: the share of predicted pixels that are true (1 where
        none is predicted), and of true pixels that are predicted (1 where none is true).
        """
        counts = self.held_out.counts
        above = counts[:, :, self.metrics["level"] :].sum(axis=2)
        hit, predicted, true = above[:, 1], above.sum(axis=1), counts[:, 1].sum(axis=1)
        return (
            np.where(predicted > 0, hit / np.maximum(predicted, 1), 1.0),
            np.where(true > 0, hit / np.maximum(true, 1), 1.0),
        )

    def calibration(self) -> pd.DataFrame:
        """How often pixels of a probability are foreground, over all held-out images.

        Returns:
            `probability`, the mean in each of 16 bins, `observed` (0 to 1) and `pixels`.
        """
        pixels = self.held_out.counts.sum(axis=0)  # 2, 256
        probability = (np.arange(256) + 0.5) / 256
        expected = (pixels.sum(axis=0) * probability).reshape(_BINS, -1).sum(axis=1)
        background, foreground = pixels.reshape(2, _BINS, -1).sum(axis=2)
        total = background + foreground
        some = total > 0
        return pd.DataFrame(
            {
                "probability": expected[some] / total[some],
                "observed": foreground[some] / total[some],
                "pixels": total[some],
            }
        )

    def suspects(self) -> list[Suspect]:
        """Images that their network contradicts with confidence more than is usual in their fold.

        A fold's network may be a weak one, which makes its images no suspects: an image is held
        against the others of its fold. Each is judged by the one network that never saw it.
        """
        rows, counts, folds = self.held_out.rows, self.held_out.counts, self.held_out.folds
        true = np.maximum(counts[:, 1].sum(axis=1), 1)
        extra = counts[:, 0, UNCERTAIN.stop :].sum(axis=1) / true
        lacking = counts[:, 1, : UNCERTAIN.start].sum(axis=1) / true
        away = sanity.deviations(extra + lacking, folds, least=0.002)
        return [
            Suspect(rows[i].sample_id, int(folds[i]), float(extra[i]), float(lacking[i]))
            for i in np.argsort(-(extra + lacking), kind="stable")
            if away[i] > sanity.FAR
        ]


def _settings(recipe: Recipe) -> dict[str, str]:
    sections: dict[str, Section] = {
        "download": recipe.download, "split": recipe.split, "train": recipe.train,
        "validate": recipe.validate_, "tune": recipe.tune, "encode": recipe.encode,
        "runtime": recipe.runtime,
    }  # fmt: skip
    if recipe.blend:
        del sections["train"]
        sections["blend"] = recipe.blend
    return {
        name: yaml.dump(section.model_dump(mode="json"), Dumper=_Settings, sort_keys=False).strip()
        for name, section in sections.items()
    }


class _Settings(yaml.SafeDumper):
    """YAML as people write settings: a key a line, lists on one."""


_Settings.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True)
)


def _training(paths: Paths, fold: int) -> Training:
    needed = ("epoch", "loss", "dice", "images_per_second")
    history = _read_csv(paths.history(fold), needed, "run the train stage")
    return Training(fold, _read_object(paths.run_metrics(fold), (), "run the train stage"), history)


def _read_table(folder: Path, name: str) -> pd.DataFrame:
    return _read_csv(folder / f"{name}.csv", _TABLES[name], "run the tune stage")


_NAMES = ("sample_id", "group", "view", "worst_image")  # columns of text


def _read_csv(path: Path, needed: Sequence[str], advice: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        # Names stay what they are: "0001" is no number, "NA" is not missing.
        names = pd.read_csv(
            path, usecols=lambda name: name in _NAMES, dtype=str, keep_default_na=False
        )
        table[names.columns] = names
    except (OSError, ValueError) as error:  # pandas' errors end in a line end
        raise UserError(f"{path}: {' '.join(str(error).split())}; {advice}") from None
    if lacking := [name for name in needed if name not in table]:
        raise UserError(
            f"{path}: found columns {', '.join(map(str, table.columns))}, expected "
            f"{', '.join(lacking)} too; {advice}"
        )
    return table


def _read_scores(path: Path) -> dict[str, Any]:
    scores = _read_object(path, _SCORES, _TUNE)
    if scores["threshold"] is not None:
        _read_object(path, _OF_THRESHOLD, _TUNE)
    return scores


def _read_object(path: Path, needed: Sequence[str], advice: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; {advice}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected an object; {advice}")
    if lacking := [name for name in needed if name not in content]:
        raise UserError(f"{path}: found no {', '.join(lacking)}; {advice}")
    return content
