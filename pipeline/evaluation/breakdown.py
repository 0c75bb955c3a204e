"""Scores by what images have in common: their fold, their view, their car."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.samples import Entry

_VIEW = re.compile(r"_(\d{2})")


def views(rows: Sequence[Entry]) -> list[str]:
    """The view of each row, "" where a data set has none.

    A data set has views when every sample is named `<group>_<two digits>`, as Carvana's are:
    the digits number 16 directions that all cars were seen from.
    """
    found = [_VIEW.fullmatch(row.sample_id.removeprefix(row.group)) for row in rows]
    if all(found):
        return [match[1] for match in found if match]
    return [""] * len(rows)


def table(
    name: str,
    labels: Sequence[str | int],
    sample_ids: Sequence[str],
    scores: npt.NDArray[np.float64],
    at_half: npt.NDArray[np.float64],
) -> pd.DataFrame:
    """One row a label, in ascending order: images, mean Dice, the worst image and its Dice.

    Args:
        name: the heading of the labels' column. Images labelled "" are left out.
        scores, at_half: (N,) Dice of each image at the chosen threshold and at 0.5.
    """
    images = pd.DataFrame(
        {name: labels, "worst_image": sample_ids, "worst": scores, "at_half": at_half}
    )
    ordered = images[images[name] != ""].sort_values("worst", kind="stable")
    found = ordered.groupby(name).agg(
        images=("worst", "size"),
        dice=("worst", "mean"),
        dice_at_half=("at_half", "mean"),
        worst=("worst", "first"),
        worst_image=("worst_image", "first"),
    )
    return found.reset_index()
