"""Scores by what images have in common: their fold, their view, their car."""

import re
from collections.abc import Sequence

import pandas as pd

from pipeline.data.samples import Entry, Sample

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


def places(rows: Sequence[Sample]) -> pd.DataFrame:
    """One row an image: what it is called and what it belongs to."""
    return pd.DataFrame(
        {
            "sample_id": [row.sample_id for row in rows],
            "group": [row.group for row in rows],
            "view": views(rows),
            "fold": [row.fold for row in rows],
        }
    )


def table(name: str, images: pd.DataFrame, beside: Sequence[str]) -> pd.DataFrame:
    """One row a value of the column `name`: images, mean Dice, the worst image and its Dice.

    Args:
        images: one row an image, with the columns `name` ("": leave the image out),
            `sample_id`, `dice` and those of `beside`.
        beside: columns whose means to tell too.
    """
    kept = images[images[name] != ""].sort_values("dice", kind="stable")
    found = kept.groupby(name).agg(
        images=("dice", "size"),
        dice=("dice", "mean"),
        **{column: (column, "mean") for column in beside},
        worst=("dice", "first"),
        worst_image=("sample_id", "first"),
    )
    return found.reset_index()
