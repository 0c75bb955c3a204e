"""Command: the competition's own score of a submission, against masks that you have.

    python -m pipeline.score submit.csv.gz masks

`masks` is a folder or a zip of mask files (`<image>_mask.gif`, `<image>.png`), or a table of
run lengths like `train_masks.csv`, which needs `--size HEIGHT WIDTH`.
"""

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline import rle, submission
from pipeline.errors import UserError, command
from pipeline.evaluation import runs, truth
from pipeline.evaluation.truth import Mask
from pipeline.files import write_text

_AT_ONCE = 512  # rows in memory


def score(
    path: Path, rows: Iterable[tuple[str, str]], masks: dict[str, Mask], partial: bool
) -> Iterator[tuple[str, float]]:
    """Yield (image name, Dice) of each row, in order; the runs are compared, no mask is made.

    Args:
        path: the submission's, for messages.
        rows: (image name, run-length text).
        masks: by name without ending, as `pipeline.evaluation.truth.read` finds them.
        partial: whether there may be masks of images that have no row.

    Raises:
        UserError: a row has no mask or comes twice, a mask has no row, a text is no mask of
            the true mask's size, or a mask does not decode.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen: set[str] = set()
        numbered = enumerate(rows, start=1)
        while some := list(itertools.islice(numbered, _AT_ONCE)):
            for number, (name, _) in some:
                _check_name(path, number, name, masks, seen)
            yield from pool.map(lambda item: _score(path, item[0], item[1], masks), some)
    missing = masks.keys() - seen
    if missing and not partial:
        raise UserError(
            f"{path}: found no row for {len(missing)} of {len(masks)} masks, the first is "
            f"{min(missing)!r}; add --partial to score the rows there are"
        )


def _check_name(path: Path, number: int, name: str, masks: dict[str, Mask], seen: set[str]) -> None:
    key = truth.stem(name)
    if key not in masks:
        raise UserError(
            f"{path}: row {number}: {name!r} has no mask among the {len(masks)}, expected a file "
            f"{key}_mask.gif, {key}.png or a row of the table; are these the masks of this set?"
        )
    if key in seen:
        raise UserError(f"{path}: row {number}: {name!r} for the second time; remove one row")
    seen.add(key)


def _score(
    path: Path, number: int, row: tuple[str, str], masks: dict[str, Mask]
) -> tuple[str, float]:
    name, text = row
    true, size = masks[truth.stem(name)]()
    try:
        return name, runs.dice(runs.read(text, *size), true)
    except rle.RleError as error:
        raise UserError(
            f"{path}: row {number}, {name}: {error}; the true mask is {size[0]}x{size[1]} "
            f"(height x width)"
        ) from None


@command
def main() -> None:
    """Score a submission."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("submission", type=Path, help=".csv, .csv.gz or .zip: img,rle_mask")
    parser.add_argument("masks", type=Path, help="folder, .zip, .csv or .csv.gz of true masks")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="mask size in pixels, for a table",
    )
    parser.add_argument("--partial", action="store_true", help="ignore masks that have no row")
    parser.add_argument("--out", type=Path, help="also write each image's Dice (.csv)")
    args = parser.parse_args()
    size = (args.size[0], args.size[1]) if args.size else None
    masks = truth.read(args.masks, size)
    rows = submission.read_rows(args.submission)
    scores = list(score(args.submission, rows, masks, args.partial))
    if not scores:
        raise UserError(f"{args.submission}: found no row, expected one an image")
    if args.out:
        write_text(args.out, "img,dice\n" + "".join(f"{name},{one!r}\n" for name, one in scores))
    worst, low = min(scores, key=lambda item: item[1])
    mean = float(np.mean([one for _, one in scores]))
    print(f"Dice {mean:.6f} over {len(scores)} images; the worst is {worst} with {low:.6f}")


if __name__ == "__main__":
    main()
