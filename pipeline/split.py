"""Stage `split`: list every image, measure it, and assign whole groups to folds."""

import argparse
import collections
import dataclasses
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from pipeline import params, samples
from pipeline.archives import Archives
from pipeline.errors import UserError, command
from pipeline.images import decode_mask, read_size
from pipeline.samples import NO_FOLD, Entry, Sample


def split(entries: Sequence[Entry], archives: Archives, folds: int, seed: int) -> list[Sample]:
    """Measure every entry and give each training group one fold.

    Folds are balanced in images and in the groups' mean share of foreground, so that no fold
    gets all the vans.

    Raises:
        UserError: an image or mask does not open, a mask has another size than its image,
            or there are fewer groups than folds.
    """
    with ThreadPoolExecutor() as pool:
        measured = pool.map(lambda entry: _measure(entry, archives), entries)
        rows = list(tqdm(measured, total=len(entries), desc="measure", unit="img"))
    fold_of = assign_folds([row for row in rows if row.split == "train"], folds, seed)
    return [
        dataclasses.replace(row, fold=fold_of[row.group]) if row.split == "train" else row
        for row in rows
    ]


def assign_folds(rows: Sequence[Sample], folds: int, seed: int) -> dict[str, int]:
    """The fold of each group, balanced by images and by the groups' foreground share."""
    shares = collections.defaultdict(list)
    for row in rows:
        shares[row.group].append(row.foreground)
    if len(shares) < folds:
        raise UserError(
            f"split.folds: found {folds} folds for {len(shares)} groups of training images, "
            f"expected at least one group a fold; lower split.folds in the recipe"
        )
    strata = _strata({group: float(np.mean(values)) for group, values in shares.items()}, folds)
    groups = [row.group for row in rows]
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    cut = splitter.split(np.zeros(len(rows)), [strata[group] for group in groups], groups)
    return {groups[i]: fold for fold, (_, held_out) in enumerate(cut) for i in held_out}


def _strata(share: dict[str, float], folds: int) -> dict[str, int]:
    """Cut groups, sorted by foreground share, into classes of about one group a fold."""
    count = len(share) // folds
    ordered = sorted(share, key=lambda group: (share[group], group))
    return {group: rank * count // len(ordered) for rank, group in enumerate(ordered)}


def _measure(entry: Entry, archives: Archives) -> Sample:
    height, width = read_size(archives.read(entry.image), entry.image)
    foreground = 0.0
    if entry.mask:
        mask = decode_mask(archives.read(entry.mask), (height, width), entry.mask)
        foreground = float(mask.mean())
    return Sample(
        **dataclasses.asdict(entry),
        fold=NO_FOLD,
        height=height,
        width=width,
        foreground=foreground,
    )


@command
def main() -> None:
    """Write `samples.csv` from the archives of one recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="recipes/<name>.yaml")
    parser.add_argument("--raw", type=Path, required=True, help="folder of archives")
    parser.add_argument("--out", type=Path, required=True, help="samples.csv to write")
    args = parser.parse_args()
    recipe = params.load(args.recipe)
    source = _source(recipe.split.source, args.recipe)
    archives = Archives(args.raw)
    rows = split(source.read_entries(archives), archives, recipe.split.folds, recipe.split.seed)
    samples.write(args.out, rows)
    print(_summary(rows))


def _source(name: str, recipe: Path) -> ModuleType:
    try:
        return importlib.import_module(f"pipeline.sources.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"pipeline.sources.{name}":
            raise
        raise UserError(
            f"{recipe}: split.source: found {name!r}, but there is no pipeline/sources/{name}.py"
        ) from None


def _summary(rows: Sequence[Sample]) -> str:
    train = [row for row in rows if row.split == "train"]
    sizes = collections.Counter(row.fold for row in train)
    return (
        f"{len(train)} training images of {len({row.group for row in train})} groups in folds of "
        f"{[sizes[fold] for fold in sorted(sizes)]}; {len(rows) - len(train)} test images"
    )


if __name__ == "__main__":
    main()
