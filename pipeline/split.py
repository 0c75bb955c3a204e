"""Stage `split`: list every image, measure it, and assign whole groups to folds."""

import collections
import dataclasses
import importlib
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.model_selection import KFold, StratifiedGroupKFold
from tqdm import tqdm

from pipeline.data import samples
from pipeline.data.archives import Archives, DamagedMemberError, MissingMemberError
from pipeline.data.images import BadImageError, decode_mask, read_size
from pipeline.data.samples import NO_FOLD, Entry, Sample
from pipeline.paths import Paths
from pipeline.recipe.schema import (
    ByGroup,
    ByGroupOnce,
    FirstImages,
    FolderSource,
    NameOrder,
    Recipe,
    Source,
    Split,
)
from pipeline.sources import folders
from pipeline.support.arrays import Size
from pipeline.support.errors import UserError

_UNKNOWN = (0, 0)  # the size of an image whose header cannot be read


def split(entries: Sequence[Entry], archives: Archives, how: Split) -> list[Sample]:
    """Measure every entry that is used and give each training image its fold.

    Where folds are not made of groups, each training image becomes its own group: `group` is
    what falls into a fold as a whole.

    Raises:
        UserError: an image or mask does not open, a mask has another size than its image,
            or there is too little to make these folds of.
    """
    training = [entry for entry in entries if entry.split == "train"]
    if how.by in ("image", "first-images", "name-order"):
        training = [dataclasses.replace(entry, group=entry.sample_id) for entry in training]
    groups = sorted({entry.group for entry in training})
    if isinstance(how, FirstImages):
        training = _first(training, how)
    elif not isinstance(how, NameOrder):
        kept = set(_drawn(groups, how.fraction, how.seed))
        training = [entry for entry in training if entry.group in kept]
    test = [entry for entry in entries if entry.split == "test"]
    rows = _measured([*training, *test], archives)
    fold_of = _folds(rows[: len(training)], how)
    chosen_by = _validation(fold_of, how)
    return [
        dataclasses.replace(row, fold=fold_of[row.group], validation=row.group in chosen_by)
        if row.split == "train"
        else row
        for row in rows
    ]


def _validation(fold_of: dict[str, int], how: Split) -> set[str]:
    """The groups that no fold trains on, to choose by: of those not always held out."""
    if how.validation == "none":
        return set()
    free = list(fold_of) if how.folds > 1 else [g for g, fold in fold_of.items() if fold == NO_FOLD]
    count = max(2 if how.folds > 1 else 1, round(how.validation * len(free)))
    if len(free) - count < how.folds:
        raise UserError(
            f"split.validation: found {how.validation}, which leaves {len(free) - count} of "
            f"{len(free)} groups to train on; lower it, or set it to none"
        )
    if isinstance(how, FirstImages | NameOrder):
        return set(free[-count:])
    order = np.random.default_rng([how.seed, 1]).permutation(len(free))
    # In turns, one of each fold: a fold has no use for those that it holds out itself.
    of_fold: dict[int, list[str]] = {}
    for i in order:
        group = sorted(free)[i]
        of_fold.setdefault(fold_of[group], []).append(group)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*of_fold.values()))
    apart = set(itertools.islice(filter(None, turns), count))
    for fold in range(how.folds):
        if {group for group in free if fold_of[group] != fold} <= apart:
            raise UserError(
                f"split.validation: found {how.validation}, which leaves fold {fold} none of "
                f"{len(free)} groups to train on; lower it, or set it to none"
            )
    return apart


def _folds(rows: Sequence[Sample], how: Split) -> dict[str, int]:
    """The fold of each group."""
    groups = list(dict.fromkeys(row.group for row in rows))
    if isinstance(how, ByGroup):
        return assign_folds(rows, how.folds, how.seed)
    if isinstance(how, ByGroupOnce):
        held_out = _drawn(sorted(groups), how.held_out, how.seed)
        if len(held_out) == len(groups):
            raise _too_few(how.folds + 1, len(groups))
        return dict.fromkeys(groups, NO_FOLD) | dict.fromkeys(held_out, 0)
    if isinstance(how, NameOrder):
        last = len(groups) - max(1, round(how.held_out * len(groups)))
        if not last:
            raise _too_few(how.folds + 1, len(groups))
        return {group: NO_FOLD if i < last else 0 for i, group in enumerate(groups)}
    if isinstance(how, FirstImages):
        return {group: NO_FOLD if i < how.training else 0 for i, group in enumerate(groups)}
    if len(groups) < how.folds:
        raise _too_few(how.folds, len(groups))
    cut = KFold(how.folds, shuffle=True, random_state=how.seed).split(groups)
    return {groups[i]: fold for fold, (_, held_out) in enumerate(cut) for i in held_out}


def _drawn(names: Sequence[str], share: float, seed: int) -> list[str]:
    """A share of the names, rounded to a whole number but at least one; all of them at 1."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[i] for i in order[: max(1, round(share * len(names)))]]


def _first(training: list[Entry], how: FirstImages) -> list[Entry]:
    if len(training) < how.training + how.held_out:
        raise UserError(
            f"split.training: found {how.training} and {how.held_out} held out, but there are "
            f"{len(training)} training images; lower split.training or split.held_out"
        )
    return training[: how.training + how.held_out]


def _too_few(folds: int, groups: int) -> UserError:
    return UserError(
        f"split.folds: found {folds} folds for {groups} groups of training images, "
        f"expected at least one group a fold; lower split.folds in the recipe"
    )


def assign_folds(rows: Sequence[Sample], folds: int, seed: int) -> dict[str, int]:
    """The fold of each group.

    Folds are balanced in images and in the groups' mean share of foreground, so that no fold
    gets all the vans.
    """
    shares = collections.defaultdict(list)
    for row in rows:
        shares[row.group].append(row.foreground)
    if len(shares) < folds:
        raise _too_few(folds, len(shares))
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


def _measured(entries: Sequence[Entry], archives: Archives) -> list[Sample]:
    with ThreadPoolExecutor() as pool:
        measured = pool.map(lambda entry: _measure(entry, archives), entries)
        bar = tqdm(measured, total=len(entries), desc="measure", unit="img")
        return _with_sizes(list(bar))


def _with_sizes(rows: list[Sample]) -> list[Sample]:
    """Give test images without a readable header the size that most others of their group have.

    The predict stage will fail to read them too, and the encode stage decides what to do about it.
    """
    sizes: dict[str, collections.Counter[Size]] = collections.defaultdict(collections.Counter)
    for row in rows:
        if row.split == "test" and row.size != _UNKNOWN:
            sizes[row.group][row.size] += 1
            sizes[""][row.size] += 1
    for index, row in enumerate(rows):
        if row.size == _UNKNOWN:
            if not sizes[""]:
                raise UserError(f"{row.image}: no test image has a readable header; replace them")
            [(size, _)] = (sizes[row.group] or sizes[""]).most_common(1)
            rows[index] = dataclasses.replace(row, height=size[0], width=size[1])
    return rows


def _measure(entry: Entry, archives: Archives) -> Sample:
    try:
        height, width = read_size(archives.read(entry.image), entry.image)
    except (BadImageError, DamagedMemberError) as error:
        if entry.split == "train":
            raise
        tqdm.write(f"left for the encode stage: {error}")
        height, width = _UNKNOWN
    foreground = 0.0
    if entry.mask:
        advice = f" as its image {entry.image} has; replace one of the two"
        data = _mask_of(entry, archives)
        mask = decode_mask(data, (height, width), entry.mask, entry.values, advice)
        foreground = float((mask > 0).mean())
    return Sample(
        **{field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)},
        fold=NO_FOLD,
        height=height,
        width=width,
        foreground=foreground,
    )


def _mask_of(entry: Entry, archives: Archives) -> bytes:
    try:
        return archives.read(entry.mask)
    except MissingMemberError:
        raise UserError(
            f"{entry.image}: its mask {entry.mask} is not there; expected one mask for each "
            f"training image: put it into the archive, or correct how the source pairs them"
        ) from None


def read_entries(source: Source, archives: Archives) -> list[Entry]:
    """What the recipe's source knows of its images.

    Raises:
        UserError: something is missing, or there is no training image.
    """
    if isinstance(source, FolderSource):
        entries = folders.read_entries(archives, source)
    else:
        entries = importlib.import_module(f"pipeline.sources.{source}").read_entries(archives)
    if not any(entry.split == "train" for entry in entries):
        raise UserError(
            f"{archives.folder}: split.source: {source} found no training image; the folder holds "
            f"{archives.glimpse()}; expected names as pipeline/sources/{source}.py looks for: "
            f"correct it, or the archive"
        )
    return entries


def run(recipe: Recipe, paths: Paths) -> None:
    """Write `samples.csv` from the archives of one recipe."""
    archives = Archives(paths.raw)
    entries = read_entries(recipe.split.source, archives)
    rows = split(entries, archives, recipe.split)
    samples.write(paths.samples, rows)
    print(_summary(rows))
    if leaks := straddling(entries, rows):
        print(
            f"{leaks} groups of this data set are both trained on and held out "
            f"(split.by: {recipe.split.by}): scores will be flattered"
        )


def straddling(entries: Sequence[Entry], rows: Sequence[Sample]) -> int:
    """How many of the source's own groups have images in more than one place."""
    group_of = {entry.sample_id: entry.group for entry in entries}
    places = collections.defaultdict(set)
    for row in (row for row in rows if row.split == "train"):
        places[group_of[row.sample_id]].add(row.fold)
    return sum(len(folds) > 1 for folds in places.values())


def _summary(rows: Sequence[Sample]) -> str:
    train = [row for row in rows if row.split == "train"]
    sizes = collections.Counter(row.fold for row in train)
    never = sizes.pop(NO_FOLD, 0)
    apart = sum(row.validation for row in train)
    return (
        f"{len(train)} training images of {len({row.group for row in train})} groups in folds of "
        f"{[sizes[fold] for fold in sorted(sizes)]}"
        + (f" and {never} never held out" if never else "")
        + (f", {apart} set apart to choose by" if apart else "")
        + f"; {len(rows) - len(train)} test images"
    )
