"""Command: the competition's own score of a submission, against masks that you have.

    pipeline score submit.csv.gz masks

`masks` is a folder or a zip of mask files (`<image>_mask.gif`, `<image>.png`), or a table of
run lengths like `train_masks.csv`, which needs `--size HEIGHT WIDTH`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.data import rows as mask_rows
from pipeline.masks import regions, rle, truth
from pipeline.masks.truth import Mask
from pipeline.support import concurrency
from pipeline.support.arrays import Size
from pipeline.support.errors import UserError
from pipeline.support.files import check_output, write_text

SCORES = "img,dice\n"


def score(
    path: Path, rows: Iterable[tuple[str, str]], masks: dict[str, Mask], partial: bool
) -> Iterator[tuple[str, float]]:
    """Yield (image name, Dice) of each row, in order; the runs are compared, no mask is made.

    Args:
        path: the submission's, for messages.
        rows: (image name, run-length text).
        masks: by name without ending, as `pipeline.masks.truth.read` finds them.
        partial: whether there may be masks of images that have no row.

    Raises:
        UserError: a row has no mask or comes twice, a mask has no row, a text is no mask of
            the true mask's size, or a mask does not decode.
    """
    seen: set[str] = set()

    def checked() -> Iterator[tuple[int, str, str]]:
        for number, (name, text) in enumerate(rows, start=1):
            _check_name(path, number, name, masks, seen)
            yield number, name, text

    def scored(row: tuple[int, str, str]) -> tuple[str, float]:
        return _score(path, *row, masks)

    yield from concurrency.ordered(scored, checked(), concurrency.cores())
    missing = masks.keys() - seen
    if missing and not partial:
        raise UserError(
            f"{path}: found no row for {len(missing)} of {len(masks)} masks, the first is "
            f"{min(missing)!r}; add --partial to score the rows there are"
        )


def _check_name(path: Path, number: int, name: str, masks: dict[str, Mask], seen: set[str]) -> None:
    key = truth.key_of(name, masks)
    if key not in masks:
        raise UserError(
            f"{path}: row {number}: {name!r} has no mask among the {len(masks)}, expected a file "
            f"{key}_mask.gif, {key}.png or a row of the table; are these the masks of this set?"
        )
    if key in seen:
        raise UserError(f"{path}: row {number}: {name!r} for the second time; remove one row")
    seen.add(key)


def _score(
    path: Path, number: int, name: str, text: str, masks: dict[str, Mask]
) -> tuple[str, float]:
    true, size = masks[truth.key_of(name, masks)]()
    try:
        return name, regions.dice(rle.read(text, *size), true)
    except rle.RleError as error:
        raise UserError(
            f"{path}: row {number}, {name}: {error}; the true mask is {size[0]}x{size[1]} "
            f"(height x width)"
        ) from None


def run(path: Path, masks: Path, size: Size | None, partial: bool, out: Path | None) -> None:
    """Score the submission `path` and print it; see `score` and `pipeline.masks.truth.read`."""
    if out:
        check_output(out, "--out", SCORES)
    scores = list(score(path, mask_rows.read_rows(path), truth.read(masks, size), partial))
    if not scores:
        raise UserError(f"{path}: found no row, expected one an image")
    if out:
        write_text(out, SCORES + "".join(f"{name},{one!r}\n" for name, one in scores))
    worst, low = min(scores, key=lambda item: item[1])
    mean = float(np.mean([one for _, one in scores]))
    print(f"Dice {mean:.6f} over {len(scores)} images; the worst is {worst} with {low:.6f}")
