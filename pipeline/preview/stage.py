"""Command `preview`: what a training will see, on one page, before hours go into it.

    pipeline preview <recipe>

Some training images with their masks, each augmented eight times as the recipe says: target and
image have to stay aligned, and the object recognizable. Sizes and shares of classes stand above
them. It needs the split, and no network.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.augmentation import Augmentation
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_image, read_mask, resize_image, soft_target
from pipeline.data.samples import NO_FOLD, Sample
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import files, pages
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError
from pipeline.support.pictures import CLASS_COLORS, encode_jpeg, tint

_IMAGES, _TIMES = 6, 8
_WIDTH, _QUALITY = 320, 75  # pixels, of JPEG


@dataclasses.dataclass(frozen=True)
class Seen:
    """A training image: `whole` with its mask, `augmented` as a training sees it; JPEGs."""

    name: str
    foreground: float
    whole: str
    augmented: Sequence[str]


def run(recipe: Recipe, paths: Paths, out: Path | None) -> None:
    """Write the page to `out`, or where the recipe's results go."""
    if out:
        files.check_output(out, "--out", "<!doctype html")
    rows = [row for row in samples.read(paths.samples) if row.split == "train"]
    if not rows:
        raise UserError(f"{paths.samples}: found no training image; run the split stage again")
    samples.check_classes(rows, recipe.train.classes, paths.samples)
    chosen = np.random.default_rng(recipe.train.seed).permutation(len(rows))[:_IMAGES]
    some = [rows[index] for index in sorted(chosen)]
    path = out or paths.preview
    files.write_text(path, _render(recipe, paths, rows, list(_see(recipe, some, paths))))
    print(f"preview: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _see(recipe: Recipe, rows: Sequence[Sample], paths: Paths) -> Iterator[Seen]:
    train, archives = recipe.train, Archives(paths.raw)
    augment = Augmentation(train.augment)
    seeds = np.random.default_rng(train.seed).integers(2**32, size=(len(rows), _TIMES))
    for row, own in zip(rows, seeds.tolist(), strict=True):
        image = read_image(archives, row)
        mask = read_mask(archives, row)
        small = resize_image(image, train.size, train.resize)
        target = soft_target(mask, train.size, row.classes, train.target.resize)
        changed = (augment(small.copy(), target.copy(), seed) for seed in own)
        yield Seen(
            row.sample_id, row.foreground, _picture(image, mask),
            [_picture(one, _classes(soft)) for one, soft in changed],
        )  # fmt: skip


def _classes(target: UInt8) -> UInt8:
    """The class of each pixel of a soft target, (H, W) of one class or (H, W, C)."""
    if target.ndim == 2:
        return (target > 127).astype(np.uint8)
    found: UInt8 = target.argmax(axis=2).astype(np.uint8)
    return found


def _picture(image: UInt8, classes: UInt8) -> str:
    """A small JPEG of an image with its classes tinted and outlined, as a data URI."""
    height, width = image.shape[:2]
    if width > _WIDTH:
        size = (_WIDTH, max(1, round(height * _WIDTH / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        classes = cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return pages.data_uri(encode_jpeg(tint(image, classes, CLASS_COLORS), _QUALITY), "jpeg")


def _render(recipe: Recipe, paths: Paths, rows: Sequence[Sample], seen: Sequence[Seen]) -> str:
    environment = pages.environment(Path(__file__).parent)
    shares = np.array([row.foreground for row in rows])
    sizes = collections.Counter(row.size for row in rows).most_common()
    labels = rows[0].labels
    colors = [f"rgb{CLASS_COLORS[i % len(CLASS_COLORS)]}" for i in range(len(labels) - 1)]
    return environment.get_template("preview.html").render(
        recipe=paths.recipe,
        images=len(rows),
        groups=len({row.group for row in rows}),
        folds=len({row.fold for row in rows} - {NO_FOLD}),
        sizes=[(height, width, count) for (height, width), count in sizes[:5]],
        other_sizes=sum(count for _, count in sizes[5:]),
        phases=[phase.size for phase in recipe.train.phases],
        labels=[label.name for label in labels],
        keys=list(zip([label.name for label in labels[1:]], colors, strict=True)),
        share=_shares(recipe, rows, paths),
        lowest=float(shares.min()),
        highest=float(shares.max()),
        empty=int((shares == 0).sum()),
        augment={name: value for name, value in recipe.train.augment.model_dump().items() if value},
        seen=seen,
        times=_TIMES,
    )


def _shares(recipe: Recipe, rows: Sequence[Sample], paths: Paths) -> list[tuple[str, float]]:
    """The mean share of pixels of each class; of several, over 64 images drawn at random."""
    labels = rows[0].labels
    if rows[0].classes == 1:
        foreground = float(np.mean([row.foreground for row in rows]))
        return [(labels[0].name, 1 - foreground), (labels[1].name, foreground)]
    archives = Archives(paths.raw)
    drawn = np.random.default_rng(recipe.train.seed).permutation(len(rows))[:64]
    counts = np.zeros((len(drawn), len(labels)))
    for place, index in enumerate(drawn):
        row = rows[index]
        mask = read_mask(archives, row)
        counts[place] = np.bincount(mask.ravel(), minlength=len(labels)) / mask.size
    return list(zip([label.name for label in labels], counts.mean(axis=0).tolist(), strict=True))
