"""Stage `blend`: an ensemble of other recipes, made of their kept levels without any network.

The members' out-of-fold levels give the weights, and with these the members' levels become the
blend's own, held out and of the test set. From there on it is tuned, encoded, reported and
submitted like any other. DVC takes no list of recipes as deps: so of each recipe the stage `member`
notes what a blend takes from it, and the blend depends on the folder of these notes.

The weights are chosen greedily (Caruana et al., Ensemble selection from libraries of models, 2004):
the member that helps most is added again and again. Nested: the held-out images of a fold are
blended with weights chosen on the other folds, the test set with those chosen on all. Members
must hold out the same groups in the same folds; else one of them has seen what it is judged on.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import judge, out_of_fold
from pipeline.levels import kept, scale
from pipeline.levels.kept import Image, Kept
from pipeline.levels.scale import mix
from pipeline.metrics import classes
from pipeline.metrics.dice import count_levels, dice_by_threshold
from pipeline.paths import Paths, recipe_file
from pipeline.recipe.schema import Blend, Recipe
from pipeline.support import concurrency, files
from pipeline.support.arrays import Float64, Size
from pipeline.support.errors import UserError

ROUNDS = 10  # members added at most: weights are shares of so many
CHOOSING = 400  # images at most, drawn, on which weights are compared

Weights = tuple[int, ...]  # one a member


def note_member(recipe: Recipe, paths: Paths, other: str) -> None:
    """Write down what another recipe adds to a blend, so that DVC sees when that changes.

    A recipe that is no member of it adds nothing, whatever becomes of it.
    """
    found: dict[str, str] = {}
    if other in _section(recipe, paths).recipes:
        theirs = Paths.of(other)
        found["samples"] = _digest([theirs.samples])
        for folder in [*sorted(theirs.oof.glob("*-levels")), theirs.kept]:
            found[folder.name] = _digest(sorted(folder.glob("*.levels")))
    note = {"recipe": other, "adds": found}
    files.write_text(paths.member(other), json.dumps(note, indent=2) + "\n")


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _section(recipe: Recipe, paths: Paths) -> Blend:
    if recipe.blend is None:
        raise UserError(
            f"{recipe_file(paths.recipe)}: found no section blend, expected one that names recipes"
        )
    return recipe.blend


def run(recipe: Recipe, paths: Paths, folds: Sequence[int]) -> None:
    """Blend the members of a recipe: their held-out images of `folds`, and their test images."""
    blend = _section(recipe, paths)
    members = [Paths.of(name) for name in blend.recipes]
    rows = _agreed_rows(members)
    _adopt(paths, members[0], rows)
    held_out = {fold: out_of_fold.held_out(rows, fold, paths.samples) for fold in folds}
    levels = {
        fold: [judge.open_levels(member, fold, some) for member in members]
        for fold, some in held_out.items()
    }
    size = _common_size(levels)
    chosen_here = ""
    if blend.weights == "auto":
        scores = _Scores(paths, held_out, levels, size)
        weights = choose(scores, len(members), ())
        if len(folds) == 1:  # no other fold could choose
            by_fold, chosen_here = dict.fromkeys(folds, weights), "the weights of the blend"
        else:
            by_fold = {fold: choose(scores, len(members), (fold,)) for fold in folds}
    else:
        weights = blend.weights
        by_fold = dict.fromkeys(folds, weights)
    threads = concurrency.cores()
    for fold, some in held_out.items():
        choices = {out_of_fold.read(member, [fold]).choices for member in members}
        told = ", ".join(sorted((choices | {chosen_here}) - {""}))
        key = _key(levels[fold], by_fold[fold])
        images = _blended(levels[fold], by_fold[fold], size)
        kept.write(paths.oof_levels(fold), key, images, len(some))
        judged = judge.judge_fold(paths, fold, some, threads, recipe.validate_, told)
        shown = _shown(blend.recipes, by_fold[fold])
        print(f"fold {fold}: {shown}, out-of-fold Dice {judge.mean_dice(judged):.5f} at 0.5")
    _blend_test(paths, members, weights, size, samples.test(rows))
    values = {
        "weights": dict(zip(blend.recipes, _shares(weights), strict=True)),
        "weights_by_fold": {str(fold): _shares(one) for fold, one in by_fold.items()},
    }
    files.write_text(paths.blending, json.dumps(values, indent=2) + "\n")
    print(f"{_shown(blend.recipes, weights)} for the test set")


def _agreed_rows(members: Sequence[Paths]) -> list[Sample]:
    """The table of samples, which is the same for all members as far as folds go.

    Raises:
        UserError: a group is held out by other folds, or images differ.
    """
    first, *others = [samples.read(member.samples) for member in members]
    fold_of = {row.sample_id: row.fold for row in first if row.split == "train"}
    for member, table in zip(members[1:], others, strict=True):
        for row in table:
            if row.split == "train" and fold_of.get(row.sample_id, row.fold) != row.fold:
                raise UserError(
                    f"{member.samples}: image {row.sample_id} of group {row.group} is held out by "
                    f"fold {row.fold}, but by fold {fold_of[row.sample_id]} of "
                    f"{members[0].recipe}: it leaks, one of the two has learned from what the "
                    f"other is judged on; give both recipes the same section split"
                )
        if [row.sample_id for row in table] != [row.sample_id for row in first]:
            raise UserError(
                f"{member.samples}: found {len(table)} images that are not the {len(first)} of "
                f"{members[0].samples}; give both recipes the same sections download and split"
            )
        if table and table[0].labels != first[0].labels:
            raise UserError(f"{member.samples}: found other classes than {members[0].recipe} has")
    return first


def _adopt(paths: Paths, member: Paths, rows: Sequence[Sample]) -> None:
    """Give the blend the data of its first member: the archives, linked, and the table."""
    samples.write(paths.samples, rows)
    files.make_folder(paths.raw)
    theirs = {archive.name: archive for archive in member.raw.iterdir()}
    for left in paths.raw.iterdir():
        if left.name not in theirs:  # of another first member, or of a killed run
            left.unlink()
    for name, archive in theirs.items():
        files.share(archive, paths.raw / name)


def _common_size(levels: dict[int, list[Kept]]) -> Size:
    """The largest network size of all members: the others are brought to it."""
    shapes = [next(one.images()).shape[-2:] for some in levels.values() for one in some]
    return max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)


def _blended(members: Sequence[Kept], weights: Weights, size: Size) -> Iterator[Image]:
    """The images of all members, blended in threads, in order."""

    def one(images: tuple[Image, ...]) -> Image:
        error = next((image.error for image in images if image.error), "")
        maps = [image.levels() for image in images]
        found = mix(maps, weights, size)
        return Image.of(images[0].sample_id, found, _disagreement(images, size), error)

    together = zip(*(member.images() for member in members), strict=True)
    return concurrency.ordered(one, together, concurrency.cores())


def _disagreement(images: Sequence[Image], size: Size) -> float:
    """The share of pixels on which members differ at 0.5, or on which folds of one do, if more."""
    decided = [scale.decide(image.levels(), size) for image in images]
    differs = np.any([one != decided[0] for one in decided[1:]], axis=0)
    return max(float(differs.mean()), *(image.disagreement for image in images))


def _blend_test(
    paths: Paths, members: Sequence[Paths], weights: Weights, size: Size, rows: Sequence[Sample]
) -> None:
    ids = [row.sample_id for row in rows]
    each = [
        Kept.open(member.kept, ids, f"run the predict stage of {member.recipe}")
        for member in members
    ]
    images = tqdm(_blended(each, weights, size), total=len(rows), desc="blend", unit="img")
    kept.write(paths.kept, _key(each, weights), iter(images), len(rows))


def _key(members: Sequence[Kept], weights: Weights) -> str:
    """What blended levels depend on: those of the members, and the weights."""
    keys = [chunk.key for member in members for chunk in member.chunks[:1]]
    return hashlib.sha256(json.dumps([keys, weights]).encode()).hexdigest()[:12]


def drawn(held_out: dict[int, list[Sample]]) -> list[Sample]:
    """`CHOOSING` of the held-out images at most, as large a share of each fold, in order.

    Not each k-th of them: in the order of names, every eighth image of Carvana is of two of its
    sixteen views alone.
    """
    share = min(1.0, CHOOSING / sum(map(len, held_out.values())))
    chosen = []
    for fold, rows in held_out.items():
        some = np.random.default_rng(fold).permutation(len(rows))
        count = max(1, math.floor(share * len(rows)))
        chosen += [rows[at] for at in sorted(some[:count].tolist())]
    return chosen


class _Scores:
    """The Dice at each level of blended held-out images, computed once for each weights."""

    def __init__(
        self, paths: Paths, rows: dict[int, list[Sample]], levels: dict[int, list[Kept]], size: Size
    ) -> None:
        self._archives, self._size = Archives(paths.raw), size
        self._rows = drawn(rows)
        self.folds = np.array([row.fold for row in self._rows])
        self._levels = levels
        self._known: dict[Weights, Float64] = {}

    def of(self, weights: Weights) -> Float64:
        """(N, 256) for these weights; of several classes the mean Dice of them, (N, 1)."""
        divisor = math.gcd(*weights)
        weights = tuple(weight // divisor for weight in weights)
        if weights not in self._known:
            self._known[weights] = self._score(weights)
        return self._known[weights]

    def _score(self, weights: Weights) -> Float64:
        def score(item: tuple[Sample, tuple[Image, ...]]) -> Float64:
            row, images = item
            mixed = mix([image.levels() for image in images], weights, self._size)
            truth = read_mask(self._archives, row)
            if row.classes > 1:
                decided = scale.decide(mixed, row.size)
                return np.array([classes.mean_dice(decided, truth, row.classes)])
            full = scale.full_resolution(mixed, row.size)
            found: Float64 = dice_by_threshold(count_levels(full, truth)[None])[0]
            return found

        names = ":".join(map(str, weights))
        shown = tqdm(self._items(), total=len(self._rows), desc=f"weights {names}", unit="img")
        threads = concurrency.cores()
        return np.stack(list(concurrency.ordered(score, shown, threads)))

    def _items(self) -> Iterator[tuple[Sample, tuple[Image, ...]]]:
        for fold, members in self._levels.items():
            rows = [row for row in self._rows if row.fold == fold]
            some = [member.some(row.sample_id for row in rows) for member in members]
            yield from zip(rows, zip(*some, strict=True), strict=True)


def choose(scores: "_Scores", members: int, left_out: Sequence[int]) -> Weights:
    """Choose weights greedily by the Dice at its best threshold, without the folds `left_out`.

    Of all blends on the way the best is kept, the shortest of equal ones.
    """
    here = ~np.isin(scores.folds, left_out)
    weights: Weights = (0,) * members
    best: tuple[float, Weights] = (-1.0, weights)
    for _ in range(ROUNDS):
        added = [
            tuple(weight + (i == index) for i, weight in enumerate(weights))
            for index in range(members)
        ]
        values = [float(scores.of(one)[here].mean(axis=0).max()) for one in added]
        index = int(np.argmax(values))
        weights = added[index]
        if values[index] > best[0] + 1e-12:
            best = values[index], weights
    return best[1]


def _shares(weights: Weights) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _shown(names: Sequence[str], weights: Weights) -> str:
    shares = zip(names, _shares(weights), strict=True)
    return " + ".join(f"{share:.2f} {name}" for name, share in shares)
