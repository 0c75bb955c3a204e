"""Where everything lies: every path follows from the recipe's name and the fold.

All paths are relative to the project's folder, in which every command is run, but for the one that
keeps two clones from submitting at once.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pipeline.support.errors import UserError

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
LEDGER = Path("submissions/ledger.csv")


def recipe_file(name: str) -> Path:
    """The file of a recipe."""
    return RECIPES / f"{name}.yaml"


def submitting(slug: str) -> Path:
    """Held while something is sent to a competition: one place for all clones of a user."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state, "carvana-pipeline", f"submit-{slug}")


@dataclasses.dataclass(frozen=True)
class Paths:
    """The places of one recipe; each can be moved where a machine has only parts of the tree."""

    recipe: str
    archives: Path  # of all recipes, a folder an origin (a competition, a data set), kept once
    raw: Path  # links to those that this recipe uses
    samples: Path  # the table of samples (.csv)
    runs: Path  # a folder a fold: network, metrics, history
    oof: Path  # out-of-fold counts, measures and pictures, some files a fold
    kept: Path  # the test images' levels, in chunks
    evaluation: Path  # the threshold, scores, tables, the report
    submission: Path  # the submission, and a table of its images
    exported: Path  # networks as ONNX files
    work: Path  # checkpoints and other scratch, removed on success
    logs: Path  # TensorBoard's, a folder a fold

    @classmethod
    def of(cls, recipe: str, moved: Mapping[str, Path] | None = None) -> Self:
        """The places of `recipe`, but for those `moved` elsewhere, by name.

        Raises:
            UserError: there is no place of such a name.
        """
        places = {
            "archives": Path("data", "archives"),
            "raw": Path("data", recipe, "raw"),
            "samples": Path("data", recipe, "samples.csv"),
            "runs": Path("runs", recipe),
            "oof": Path("oof", recipe),
            "kept": Path("predictions", recipe),
            "evaluation": Path("eval", recipe),
            "submission": Path("submissions", recipe),
            "exported": Path("exports", recipe),
            "work": Path("work", recipe),
            "logs": Path("logs", recipe),
        }
        if unknown := sorted((moved or {}).keys() - places):
            raise UserError(f"--at: found {unknown[0]!r}, expected one of {', '.join(places)}")
        return cls(recipe, **{**places, **(moved or {})})

    @staticmethod
    def comparison(first: str, second: str) -> Path:
        """The page that compares two recipes."""
        return Path("eval", "compare", f"{first}-{second}.html".replace("/", "_"))

    def run(self, fold: int) -> Path:
        """The folder of a fold's training."""
        return self.runs / f"fold{fold}"

    def trained(self) -> tuple[int, ...]:
        """The folds that have a trained network, in order.

        Raises:
            UserError: none has.
        """
        names = [path.parent.name.removeprefix("fold") for path in self.runs.glob("fold*/model.pt")]
        if folds := sorted(int(name) for name in names if name.isdecimal()):
            return tuple(folds)
        raise UserError(
            f"{self.runs}: found no fold<k>/model.pt, expected one trained network or more; run "
            f"dvc repro tune@{self.recipe}, or copy the folder from the machine that trained"
        )

    def model(self, fold: int) -> Path:
        """A fold's network."""
        return self.run(fold) / "model.pt"

    def epochs(self, fold: int) -> Path:
        """The networks of all epochs of a fold, where a recipe keeps them."""
        return self.run(fold) / "epochs"

    def history(self, fold: int) -> Path:
        """What each epoch of a fold's training measured."""
        return self.run(fold) / "history.csv"

    def run_metrics(self, fold: int) -> Path:
        """The figures of a fold's training."""
        return self.run(fold) / "metrics.json"

    def member(self, other: str) -> Path:
        """What another recipe adds to this one, an ensemble: DVC's view of it."""
        return self.runs / "members" / f"{other}.json"

    def counts(self, fold: int) -> Path:
        """A fold's held-out pixels, counted at every level."""
        return self.oof / f"fold{fold}.npz"

    def oof_levels(self, fold: int) -> Path:
        """The folder of the kept levels of a fold's held-out images."""
        return self.oof / f"fold{fold}-levels"

    def measures(self, fold: int) -> Path:
        """What is noted of each held-out image of a fold."""
        return self.oof / f"fold{fold}-measures.csv"

    def overlays(self, fold: int) -> Path:
        """The folder of pictures of a fold's held-out images."""
        return self.oof / f"fold{fold}-overlays"

    @property
    def metrics(self) -> Path:
        """The threshold, and what out-of-fold predictions say of the score."""
        return self.evaluation / "metrics.json"

    @property
    def blending(self) -> Path:
        """The weights of an ensemble of recipes."""
        return self.runs / "blend.json"

    @property
    def report(self) -> Path:
        """The page about all of it."""
        return self.evaluation / "report.html"

    @property
    def preview(self) -> Path:
        """The page about what a training will see."""
        return self.evaluation / "preview.html"

    @property
    def sanity(self) -> Path:
        """The submitted images that deserve a look."""
        return self.evaluation / "sanity.csv"

    @property
    def prediction(self) -> Path:
        """The figures of the prediction."""
        return self.evaluation / "prediction.json"

    @property
    def encoding(self) -> Path:
        """The figures of the submission."""
        return self.evaluation / "submission.json"

    @property
    def submission_file(self) -> Path:
        """What Kaggle takes."""
        return self.submission / "submit.csv.gz"

    @property
    def submission_masks(self) -> Path:
        """One row a submitted mask: its area, and what was wrong with its image."""
        return self.submission / "masks.csv"
