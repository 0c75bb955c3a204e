"""The threshold that the tune stage chose, or one that a person asks for."""

import json
from pathlib import Path

from pipeline.levels.scale import LEVELS
from pipeline.support.errors import UserError


def read(path: Path) -> float:
    """Return the threshold in a `metrics.json` of the tune stage.

    Raises:
        UserError: there is no such file, or no threshold in it.
    """
    try:
        return float(json.loads(path.read_text())["threshold"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no threshold ({error!r}); run the tune stage first") from None


def nearest_level(threshold: float) -> int:
    """Return the level k whose threshold k/256 is nearest, at most 255."""
    return min(LEVELS - 1, round(LEVELS * threshold))
