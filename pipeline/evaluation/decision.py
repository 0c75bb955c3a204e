"""What the tune stage decided: how probabilities become masks, for all who make masks."""

import json
from pathlib import Path
from typing import Any

from pipeline.support.errors import UserError


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a `metrics.json` of the tune stage.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; run the tune stage first") from None
    if not isinstance(found, dict) or "threshold" not in found:
        raise UserError(f"{path}: found no threshold in it; run the tune stage again")
    return found


def read_threshold(path: Path) -> float:
    """Return the threshold in a `metrics.json` of the tune stage.

    Raises:
        UserError: there is no such file, or no threshold of 0 to 1 in it.
    """
    found = read_metrics(path)["threshold"]
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        raise UserError(
            f"{path}: found the threshold {found!r}, expected a number from 0 to 1; "
            f"run the tune stage again"
        )
    return float(found)
