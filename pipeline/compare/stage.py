"""Command `compare`: what one recipe does better than another, on one offline page.

    pipeline compare A B             two recipes, as they lie here
    pipeline compare A A@REVISION    one as it was at a revision of git, an experiment of DVC

Both are judged on the held-out images that both have, by the masks they would submit: levels as
`validate` kept them, threshold and clean-up as `tune` chose them. The difference is taken image by
image, and its interval over groups: two recipes are wrong on the same images, so that the
difference of their means is known far better than either.
"""

import dataclasses
import functools
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import decode_image, read_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import breakdown, judge
from pipeline.evaluation.decision import Decision, read_metrics
from pipeline.levels.kept import Image
from pipeline.metrics import boundary
from pipeline.metrics.dice import dice, interval, resample_groups
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import Recipe
from pipeline.support import concurrency, files, pages, pictures
from pipeline.support.arrays import Mask, UInt8
from pipeline.support.errors import UserError

_MOVED = 12  # images with pictures
_GROUPS = 10  # in the table
_WIDTH, _WINDOW, _QUALITY = 640, (288, 384), 75  # pixels; of JPEG
_REPEATS, _SEED = 2000, 0  # of the bootstrap
_ONLY_A, _ONLY_B, _BOTH = (230, 159, 0), (86, 180, 233), (0, 158, 115)  # RGB, of Okabe and Ito

# What is measured of a mask, and whether more is better.
MEASURES = {
    "dice": ("Dice", True),
    "distance": ("mean distance of the boundary, pixels", False),
    "near": (f"Dice within {boundary.NEAR} pixels of the true boundary", True),
}


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two: what it is called, and what it wrote."""

    name: str
    recipe: Recipe
    paths: Paths
    decision: Decision
    flatters: str

    @classmethod
    def open(cls, name: str, recipe: Path, paths: Paths) -> "Side":
        """Read a recipe and what `tune` decided for it.

        Raises:
            UserError: something is missing or damaged, or it has several classes.
        """
        settings = read.load(recipe)  # first: the name may be misspelt
        metrics = read_metrics(paths.metrics)
        if metrics["threshold"] is None:
            raise UserError(f"{paths.metrics}: found several classes, expected masks of one")
        said = str(metrics.get("chosen_on_held_out", ""))
        return cls(name, settings, paths, Decision.read(paths.metrics), said)

    def images(self, rows: Sequence[Sample]) -> Iterator[Image]:
        """The kept levels of `rows`, in their order; they are sorted by fold of this side."""
        for fold in dict.fromkeys(row.fold for row in rows):
            mine = samples.held_out(samples.read(self.paths.samples), fold)
            kept = judge.open_levels(self.paths, fold, mine)
            yield from kept.some(row.sample_id for row in rows if row.fold == fold)


class Difference(NamedTuple):
    """A measure's mean of both, B minus A, and that difference's 95 % interval over groups."""

    title: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    verdict: str


def run(first: str, second: str, folds: Sequence[int] | None) -> None:
    """Compare two recipes on the held-out images of `folds`, or of all folds that both have."""
    with tempfile.TemporaryDirectory() as scratch:
        a, b = (_open(name, Path(scratch, side)) for name, side in ((first, "a"), (second, "b")))
        match = Match(a, b, _pairs(a, b, folds))
        table = pd.DataFrame(_measure(match))
        text = _page(match, table)
    out = Paths.comparison(first, second)
    files.write_text(out, text)
    whole = difference(table, "dice")
    print(f"{second} against {first}: {whole.verdict}, {len(table)} images")
    print(f"comparison: {out} ({len(text) / 1e6:.1f} MB)")


def _open(name: str, scratch: Path) -> Side:
    recipe, at, revision = name.partition("@")
    if not at:
        return Side.open(name, recipe_file(recipe), Paths.of(recipe))
    commit = _commit(revision)
    places = {key: scratch / key for key in ("samples", "oof", "evaluation")}
    paths, here = Paths.of(recipe, places), Paths.of(recipe)
    folder = recipe_file(recipe).parent
    (scratch / folder).mkdir(parents=True)
    listed = _output("git", "ls-tree", "--name-only", commit, f"./{folder}/").decode()
    for path in listed.splitlines():
        (scratch / path).write_bytes(_output("git", "show", f"{commit}:./{path}"))
    dvc = Path(sys.executable).with_name("dvc")
    for source, target in (
        (here.samples, paths.samples), (here.oof, paths.oof), (here.metrics, paths.metrics),
    ):  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _output(str(dvc), "get", ".", str(source), "--rev", commit, "-o", str(target))
        except UserError as error:
            raise UserError(
                f"{name}: {source} of that revision cannot be had; expected it among the results "
                f"that were committed there (git add dvc.lock, git commit) and are still in DVC's "
                f"cache or remote ({str(error).partition(': ')[2]})"
            ) from None
    then = scratch / recipe_file(recipe)
    try:
        read.load(then)
    except UserError as error:
        raise UserError(
            f"{name}: the recipe of that revision is none for this version of the pipeline "
            f"({str(error).removeprefix(f'{scratch}/')}); compare with a later revision"
        ) from None
    return Side.open(name, then, paths)


def _commit(revision: str) -> str:
    """The commit of a revision of git, or of an experiment of DVC, which git finds by no name."""
    listed = _output("git", "for-each-ref", "--format=%(objectname) %(refname)").decode()
    refs = [line.partition(" ")[::2] for line in listed.splitlines()]
    for commit, ref in refs:
        if ref.startswith("refs/exps/") and ref.rpartition("/")[2] == revision:
            return commit
    try:
        found = _output("git", "rev-parse", "--verify", f"{revision}^{{commit}}")
    except UserError:
        exps = [ref.rpartition("/")[2] for _, ref in refs if ref.startswith("refs/exps/")]
        there = f"; experiments: {', '.join(sorted(set(exps))[:5])}" if exps else ""
        raise UserError(
            f"@{revision}: no revision of git and no experiment of DVC, expected a commit, a tag, "
            f"a branch or a name that dvc exp show lists{there}"
        ) from None
    return found.decode().strip()


def _output(*command: str) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: no such program") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        raise UserError(f"{' '.join(command)}: {said}")
    return done.stdout


def _pairs(first: Side, second: Side, folds: Sequence[int] | None) -> list[tuple[Sample, Sample]]:
    """The held-out images that both have, sorted by their folds."""
    tables = []
    for side in (first, second):
        wanted = range(side.recipe.split.folds) if folds is None else folds
        there = {fold for fold in wanted if side.paths.oof_levels(fold).exists()}
        rows = samples.read(side.paths.samples)
        tables.append({row.sample_id: row for row in rows if row.fold in there})
    pairs = [(row, tables[1][name]) for name, row in tables[0].items() if name in tables[1]]
    if not pairs:
        raise UserError(
            f"{first.paths.oof} and {second.paths.oof}: found no held-out image that both have; "
            f"run the validate stage of the same folds of both"
        )
    return sorted(pairs, key=lambda pair: (pair[0].fold, pair[1].fold, pair[0].sample_id))


class Masks(NamedTuple):
    """The masks (H, W) of one image: of both, and the true one."""

    first: Mask
    second: Mask
    truth: Mask


@dataclasses.dataclass(frozen=True)
class Match:
    """Two sides, and the images that both have: each as a row of either table."""

    a: Side
    b: Side
    pairs: Sequence[tuple[Sample, Sample]]

    @functools.cached_property
    def _archives(self) -> Archives:
        return Archives(self.a.paths.raw)  # once: it reads the list of all members

    def only(self, sample_ids: Collection[str]) -> "Match":
        """The match on some of its images."""
        some = [pair for pair in self.pairs if pair[0].sample_id in sample_ids]
        return dataclasses.replace(self, pairs=some)

    def images(self) -> Iterator[tuple[Sample, Image, Image]]:
        """The kept levels of both, in order."""
        rows = [row for row, _ in self.pairs]
        # B may have other folds: its images come in the order of its own, and wait for their turn.
        others = self.b.images(sorted((row for _, row in self.pairs), key=lambda row: row.fold))
        waiting: dict[str, Image] = {}
        for row, one in zip(rows, self.a.images(rows), strict=True):
            while row.sample_id not in waiting:
                other = next(others)
                waiting[other.sample_id] = other
            yield row, one, waiting.pop(row.sample_id)

    def masks(self, row: Sample, one: Image, other: Image) -> Masks:
        """The masks of one image."""
        truth = read_mask(self._archives, row) > 0
        first = self.a.decision.mask(one.levels(), row.size)
        return Masks(first, self.b.decision.mask(other.levels(), row.size), truth)


def _measure(match: Match) -> Iterator[dict[str, Any]]:
    """One row an image: both sides' measures, `a_<measure>` and `b_<measure>`."""

    def measure(item: tuple[Sample, Image, Image]) -> dict[str, Any]:
        row, masks = item[0], match.masks(*item)
        found: dict[str, Any] = {"sample_id": row.sample_id, "group": row.group}
        for side, mask in (("a", masks.first), ("b", masks.second)):
            edge = boundary.compare(mask, masks.truth)
            found |= {f"{side}_dice": dice(mask, masks.truth)}
            found |= {f"{side}_distance": edge.distance, f"{side}_near": edge.dice}
        return found

    shown = tqdm(match.images(), total=len(match.pairs), desc="compare", unit="img")
    views = breakdown.views([row for row, _ in match.pairs])
    measured = concurrency.ordered(measure, shown, concurrency.cores())
    for view, found in zip(views, measured, strict=True):
        yield found | {"view": view}


def difference(table: pd.DataFrame, measure: str) -> Difference:
    """B minus A of a measure over the images of `table`, and what it says in words."""
    title, more_is_better = MEASURES[measure]
    first, second = table[f"a_{measure}"], table[f"b_{measure}"]
    values = (second - first).to_numpy()
    drawn = resample_groups(values, table["group"].to_numpy(), _REPEATS, _SEED)
    low, high = interval(drawn)
    mean = float(values.mean())
    if table["group"].nunique() < 2:
        verdict = "one group cannot tell"
    elif low <= 0 <= high:
        verdict = "no difference beyond chance"
    else:
        verdict = "better" if (mean > 0) == more_is_better else "worse"
        least, most = sorted((abs(low), abs(high)))
        verdict += f" by {abs(mean):.6f} ({least:.6f} to {most:.6f})"
    return Difference(title, float(first.mean()), float(second.mean()), mean, low, high, verdict)


def count_wins(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row a value of the column `name`: images, means, the difference, who wins how often."""
    more = table["b_dice"] - table["a_dice"]
    found = (
        table.assign(difference=more, b_wins=more > 0, a_wins=more < 0)
        .groupby(name)
        .agg(
            images=("difference", "size"),
            a=("a_dice", "mean"),
            b=("b_dice", "mean"),
            difference=("difference", "mean"),
            a_wins=("a_wins", "sum"),
            b_wins=("b_wins", "sum"),
        )  # fmt: skip
    )
    return found.reset_index()


def settings_that_differ(first: Recipe, second: Recipe) -> list[tuple[str, str, str]]:
    """Each key whose value differs, with both values; "" where a recipe has no such key."""
    flat = [_flat(recipe.model_dump(mode="json", by_alias=True)) for recipe in (first, second)]
    keys = dict.fromkeys([*flat[0], *flat[1]])
    rows = [(key, flat[0].get(key, ""), flat[1].get(key, "")) for key in keys]
    return [row for row in rows if row[1] != row[2]]


def _flat(content: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(content, dict) or not content:
        return {prefix: str(content)}
    found: dict[str, str] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}.{key}".lstrip("."))
    return found


def _page(match: Match, table: pd.DataFrame) -> str:
    environment = pages.environment(Path(__file__).parent)
    environment.filters["signed"] = lambda value: f"{value:+.6f}".replace("-", "\N{MINUS SIGN}")
    more = table["b_dice"] - table["a_dice"]
    by_group = count_wins(table, "group")
    most = by_group.reindex(by_group["difference"].abs().sort_values(ascending=False).index)
    moved = table.assign(by=more.abs()).sort_values("by", ascending=False, kind="stable")[:_MOVED]
    return environment.get_template("page.html").render(
        a=match.a,
        b=match.b,
        images=len(table),
        groups=table["group"].nunique(),
        measures=[difference(table, name) for name in MEASURES],
        b_wins=int((more > 0).sum()),
        a_wins=int((more < 0).sum()),
        views=count_wins(table[table["view"] != ""], "view").to_dict("records"),
        worst=most[:_GROUPS].to_dict("records"),
        all_groups=len(by_group),
        moved=_draw(match, moved),
        settings=settings_that_differ(match.a.recipe, match.b.recipe),
        colors={"only A": _ONLY_A, "only B": _ONLY_B, "both": _BOTH},
    )


def _draw(match: Match, moved: pd.DataFrame) -> list[dict[str, Any]]:
    """Pictures of some images: where the two differ, and each beside the truth there."""
    archives, drawn = Archives(match.a.paths.raw), {}
    for row, *levels in match.only(set(moved["sample_id"])).images():
        image = decode_image(archives.read(row.image), row.size, row.image)
        masks = match.masks(row, *levels)
        either = masks.first.astype(np.uint8) + 2 * masks.second.astype(np.uint8)
        differ = np.where((either == 1) | (either == 2), pictures.MISSED, pictures.NEITHER)
        place = pictures.worst_window(differ.astype(np.uint8), _WINDOW)
        beside = [
            pictures.overlay(image[place], mask[place], masks.truth[place])
            for mask in (masks.first, masks.second)
        ]
        drawn[row.sample_id] = {
            "whole": _jpeg(_tinted(image, either)),
            "window": _jpeg(_tinted(image[place], either[place])),
            "first": _jpeg(beside[0]),
            "second": _jpeg(beside[1]),
        }
    scores = zip(moved["sample_id"], moved["a_dice"], moved["b_dice"], strict=True)
    return [drawn[name] | {"name": name, "a": a, "b": b, "by": b - a} for name, a, b in scores]


def _tinted(image: UInt8, either: UInt8) -> UInt8:
    """Paint pixels of A alone (1) and of B alone (2) strongly, those of both (3) lightly."""
    colors = np.array([(0, 0, 0), _ONLY_A, _ONLY_B, _BOTH], np.float32)
    opacity = np.array([0, 0.9, 0.9, 0.25], np.float32)[either][..., None]
    painted = (1 - opacity) * image + opacity * colors[either]
    small, _ = pictures.shrink(painted.astype(np.uint8), either, _WIDTH)
    return small


def _jpeg(image: UInt8) -> str:
    return pages.data_uri(pictures.encode_jpeg(image, _QUALITY), "jpeg")
