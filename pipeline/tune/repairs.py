"""Which repairs of masks gain anything, measured on out-of-fold masks before any is accepted.

Each repair is tried alone at several sizes, on the masks at the threshold in use. Its honest gain
takes for each fold the size that is best on the other folds; a repair that `auto` governs is
accepted when the interval of that gain lies above 0. (To nest the threshold too would take the
masks of up to as many thresholds as folds, and shifts both sides of the difference alike.)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.data.archives import Archives
from pipeline.data.images import read_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import judge
from pipeline.evaluation.decision import Decision
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.levels import scale
from pipeline.levels.kept import Image
from pipeline.masks import clean_up
from pipeline.masks.clean_up import CleanUp, Pieces
from pipeline.metrics import classes
from pipeline.metrics.dice import interval, resample_groups
from pipeline.paths import Paths
from pipeline.recipe.schema import Tune
from pipeline.support import concurrency
from pipeline.support.arrays import Float64, Int64, Mask

# What `auto` tries; pixels at full resolution, see `CleanUp`.
SIZES: Mapping[str, Sequence[int]] = {
    "keep_largest": (1,),
    "drop_specks": (10, 50, 200),
    "close": (2, 4, 8),
    "fill_holes": (30, 100, 300, 1000, 10_000),
}


@dataclasses.dataclass(frozen=True)
class Gain:
    """What a repair alone adds to the mean Dice at the threshold, at the `size` that adds most.

    That size is chosen on the images it is scored on. `honest_gain` is not, with its 95 %
    interval; None with one fold. `accepted` says whether masks get the repair.
    """

    size: int
    gain: float
    honest_gain: float | None
    honest_low: float | None
    honest_high: float | None
    accepted: bool


class Choice(NamedTuple):
    """The repairs that are accepted, what each that was tried would add, and, if any is
    accepted, the pixels (N, 2, 2) of each image's repaired mask; see `pipeline.metrics.classes`.
    """

    clean_up: CleanUp
    gains: dict[str, Gain]
    counts: Int64 | None


NONE = Choice(CleanUp(), {}, None)


def choose(found: OutOfFold, paths: Paths, settings: Tune, level: int) -> Choice:
    """Choose the repairs for masks at `level`."""
    sizes = _sizes(settings)
    if not sizes:
        return NONE
    measured = _measure(found, paths, sizes, level)
    each = {
        name: decide(found, settings, name, some, measured[name]) for name, some in sizes.items()
    }
    accepted = [name for name, one in each.items() if one.accepted]
    sizes_of: dict[str, Any] = {name: each[name].size for name in accepted}
    if "keep_largest" in sizes_of:
        sizes_of["keep_largest"] = True
    chosen = CleanUp(**sizes_of)
    counts = _count(found, paths, Decision(level, chosen)) if accepted else None
    return Choice(chosen, each, counts)


def _sizes(settings: Tune) -> dict[str, Sequence[int]]:
    """The sizes to try of each repair that is not `none`."""
    asked = settings.clean_up.model_dump()
    return {
        name: SIZES[name] if size == "auto" else (int(size),)
        for name, size in asked.items()
        if size not in ("none", False)
    }


def decide(
    found: OutOfFold, settings: Tune, name: str, sizes: Sequence[int], added: Float64
) -> Gain:
    """Decide about one repair from what each of its sizes adds to each image, (N, sizes)."""
    means = added.mean(axis=0)
    best = int(means.argmax())
    automatic = getattr(settings.clean_up, name) == "auto"
    honest = low = high = None
    if len(set(found.folds)) > 1:
        values = np.zeros(len(added))
        for fold in set(found.folds):
            held_out = found.folds == fold
            others = added[~held_out].mean(axis=0)
            if others.max() > 0 or not automatic:
                values[held_out] = added[held_out, others.argmax()]
        honest = float(values.mean())
        low, high = interval(
            resample_groups(values, found.groups, settings.bootstrap, settings.seed)
        )
    beyond_doubt = low is not None and low > 0 and means[best] > 0
    accepted = bool(beyond_doubt or not automatic)
    return Gain(sizes[best], float(means[best]), honest, low, high, accepted)


def _measure(
    found: OutOfFold, paths: Paths, sizes: Mapping[str, Sequence[int]], level: int
) -> dict[str, Float64]:
    """What each size of each repair adds to the Dice of each image: (N, sizes) by name."""
    archives = Archives(paths.raw)

    def measure(item: tuple[Sample, Image]) -> dict[str, Float64]:
        row, image = item
        full = scale.full_resolution(image.levels(), row.size)
        return gains(full >= level, read_mask(archives, row) > 0, sizes)

    each = list(
        concurrency.ordered(measure, _images(found, paths, "clean-up"), concurrency.cores())
    )
    return {name: np.stack([one[name] for one in each]) for name in sizes}


def gains(mask: Mask, truth: Mask, sizes: Mapping[str, Sequence[int]]) -> dict[str, Float64]:
    """What each size of each repair alone adds to the Dice of one mask (H, W).

    Equal to making the repair and scoring the mask, but every piece is found once for all sizes.
    """
    area, true = np.count_nonzero(mask), np.count_nonzero(truth)
    overlap = np.count_nonzero(mask & truth)
    before = 2 * overlap / (area + true) if area + true else 1.0

    def gain(pieces: Pieces, taken: Mask, sign: int) -> float:
        if not taken.any():
            return 0.0
        changed = sign * int(pieces.areas()[taken].sum())
        hit = sign * int(pieces.areas(truth)[taken].sum())
        return 2 * (overlap + hit) / (area + changed + true) - before

    added = {name: np.zeros(len(some)) for name, some in sizes.items()}
    if not area:
        return added
    if "keep_largest" in sizes or "drop_specks" in sizes:
        others = clean_up.specks(mask)
        for name in sizes.keys() & {"keep_largest", "drop_specks"}:
            least = (0,) if name == "keep_largest" else sizes[name]
            added[name][:] = [gain(others, others.sizes >= size, -1) for size in least]
    for i, radius in enumerate(sizes.get("close", ())):
        gaps = clean_up.narrow_gaps(mask, radius)
        added["close"][i] = gain(gaps, gaps.sizes >= 0, 1)
    if "fill_holes" in sizes:
        inside = clean_up.holes(mask)
        added["fill_holes"][:] = [
            gain(inside, inside.sizes <= size, 1) for size in sizes["fill_holes"]
        ]
    return added


def _count(found: OutOfFold, paths: Paths, decision: Decision) -> Int64:
    """The pixels (N, 2, 2) of all masks as they would be submitted."""
    archives = Archives(paths.raw)

    def count(item: tuple[Sample, Image]) -> Int64:
        row, image = item
        mask = decision.mask(image.levels(), row.size)
        truth = read_mask(archives, row) > 0
        return classes.count(mask.view(np.uint8), truth.view(np.uint8), 2)

    return np.stack(
        list(concurrency.ordered(count, _images(found, paths, "repair"), concurrency.cores()))
    )


def _images(found: OutOfFold, paths: Paths, title: str) -> "tqdm[tuple[Sample, Image]]":
    """The rows with their kept levels, in order, with a progress bar."""
    by_fold: dict[int, list[Sample]] = {}
    for row in found.rows:
        by_fold.setdefault(row.fold, []).append(row)
    pairs = (
        pair
        for fold, rows in by_fold.items()
        for pair in zip(rows, judge.open_levels(paths, fold, rows).images(), strict=True)
    )
    return tqdm(pairs, total=len(found.rows), desc=title, unit="img")
