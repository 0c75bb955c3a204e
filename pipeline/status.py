"""Command `status`: which recipes and folds are trained, scored and submitted, in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.kaggle import ledger
from pipeline.paths import RECIPES, Paths
from pipeline.support.errors import UserError
from pipeline.support.table import aligned

HEADINGS = (
    "recipe", "images", "folds trained", "validated", "out-of-fold Dice", "threshold",
    "submission", "sent", "public", "private",
)  # fmt: skip
_NONE = "-"


def run(path: Path) -> None:
    """Print the table.

    Args:
        path: of the ledger of submissions.

    Raises:
        UserError: there is no recipe, or the ledger cannot be read.
    """
    if not (names := sorted(file.stem for file in RECIPES.glob("*.yaml"))):
        raise UserError(f"{RECIPES}: found no recipe; run this in the project's folder")
    sent = ledger.read(path)
    print(aligned([HEADINGS, *(_row(Paths.of(name), sent) for name in names)]))


def _row(paths: Paths, sent: Sequence[ledger.Row]) -> Sequence[str]:
    metrics = _read(paths.metrics)
    own = [row for row in sent if row.recipe == paths.recipe]
    return (
        paths.recipe,
        _images(paths.samples),
        _folds(paths.runs.glob("fold*/model.pt"), "/model.pt"),
        _folds(paths.oof.glob("fold*.npz"), ".npz"),
        _shown(metrics.get("dice"), 5) + (" (flatters)" if metrics.get("flatters") else ""),
        _shown(metrics.get("threshold"), 4),
        "ready" if paths.submission_file.exists() else _NONE,
        str(len(own)) if own else _NONE,
        own[-1].public or _NONE if own else _NONE,
        own[-1].private or _NONE if own else _NONE,
    )


def _images(table: Path) -> str:
    """How many rows the table of samples has; no row of it is read."""
    if not table.is_file():
        return _NONE
    with table.open("rb") as stream:
        return str(sum(1 for _ in stream) - 1)


def _folds(found: Any, ending: str) -> str:
    """The numbers of the folds that have a file: `0 1 4`."""
    names = (str(path).removesuffix(ending).rpartition("fold")[2] for path in found)
    return " ".join(sorted((n for n in names if n.isdecimal()), key=int)) or _NONE


def _shown(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else _NONE


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not made yet; the stage that reads it says what is wrong
        return {}
    return found if isinstance(found, dict) else {}
