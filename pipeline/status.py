"""Command `status`: which recipes and folds are trained, scored and submitted, in one table."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.paths import RECIPES, Paths

HEADINGS = (
    "recipe", "images", "trained", "validated", "out-of-fold", "threshold", "submission",
    "submitted", "public", "private",
)  # fmt: skip


def run(ledger: Path) -> None:
    """Print the table."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    rows = [HEADINGS, *(_row(Paths.of(name), ledger) for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _row(paths: Paths, ledger: Path) -> Sequence[str]:
    metrics = _read(paths.metrics)
    sent = [row for row in _rows(ledger) if row.get("recipe") == paths.recipe]
    latest = sent[-1] if sent else {}
    return (
        paths.recipe,
        str(sum(1 for _ in _rows(paths.samples))) if paths.samples.exists() else "-",
        _folds(paths.runs.glob("fold*/model.pt"), "/model.pt"),
        _folds(paths.oof.glob("fold*.npz"), ".npz"),
        _shown(metrics.get("dice"), 5),
        _shown(metrics.get("threshold"), 4),
        "yes" if paths.submission_file.exists() else "-",
        str(len(sent)) if sent else "-",
        latest.get("public") or "-",
        latest.get("private") or "-",
    )


def _folds(found: Any, ending: str) -> str:
    """The numbers of the folds that have a file: `0 1 4`."""
    names = (str(path).removesuffix(ending).rpartition("fold")[2] for path in found)
    return " ".join(sorted(name for name in names if name.isdecimal())) or "-"


def _shown(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not made yet; the stage that reads it says what is wrong
        return {}
    return found if isinstance(found, dict) else {}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error):
        return []
