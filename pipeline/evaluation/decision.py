"""What the tune stage decided: how levels become masks, the same for all who make masks."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

from pipeline.levels import scale
from pipeline.levels.scale import LEVELS
from pipeline.masks import regions
from pipeline.masks.clean_up import CleanUp, clean
from pipeline.masks.regions import Runs
from pipeline.support.arrays import Mask, Size, UInt8
from pipeline.support.errors import UserError

_ADVICE = "run the tune stage again"


@dataclasses.dataclass(frozen=True)
class Decision:
    """Foreground is what reaches `level` at full resolution, after the repairs of `clean_up`."""

    level: int
    clean_up: CleanUp = CleanUp()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The decision in a `metrics.json` of the tune stage.

        Raises:
            UserError: there is no such file, it is damaged, or of several classes, which know
                no threshold.
        """
        metrics = read_metrics(path)
        threshold, repairs = metrics["threshold"], metrics.get("clean_up")
        if type(threshold) not in (int, float) or not 0 <= threshold <= 1:
            raise UserError(
                f"{path}: found the threshold {threshold!r}, expected a number from 0 to 1; "
                f"{_ADVICE}"
            )
        names = {field.name for field in dataclasses.fields(CleanUp)}
        if not (
            isinstance(repairs, dict)
            and set(repairs) == names
            and all(type(size) in (int, bool) and size >= 0 for size in repairs.values())
        ):
            raise UserError(
                f"{path}: found the clean_up {repairs!r}, expected sizes of {', '.join(names)}; "
                f"{_ADVICE}"
            )
        return cls(scale.nearest(threshold), CleanUp(**repairs))

    @property
    def threshold(self) -> float:
        """The probability that foreground reaches, a multiple of 1/256."""
        return self.level / LEVELS

    def as_metrics(self) -> dict[str, Any]:
        """The part of `metrics.json` that `read` reads."""
        return {"threshold": self.threshold, "clean_up": dataclasses.asdict(self.clean_up)}

    def mask(self, levels: UInt8, size: Size) -> Mask:
        """The mask (H, W) of an image of `size`, from its levels (h, w) of one class."""
        return clean(scale.full_resolution(levels, size) >= self.level, self.clean_up)

    def runs(self, levels: UInt8, size: Size) -> Runs:
        """The runs of that mask, which need not be made where nothing is repaired."""
        if self.clean_up == CleanUp():
            return regions.of_levels(scale.full_resolution(levels, size), self.level)
        return regions.of_mask(self.mask(levels, size))


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a `metrics.json` of the tune stage.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the tune stage first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; {_ADVICE}") from None
    if not isinstance(found, dict) or "threshold" not in found:
        raise UserError(f"{path}: found no threshold in it; {_ADVICE}")
    return found
