"""Pseudo-labels: test images to learn from too, with what another recipe's network says of them.

The student of fold k learns from the teacher's network of fold k alone, which has not seen what the
student is judged on: a mean over folds, as `predict` keeps it, has. So the levels are made here,
those that `pipeline predict <teacher> --fold k` would keep, in chunks that survive a kill.
Images are decoded as they are drawn: of a large test set they would fill any cache.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from lightning_fabric import Fabric
from tqdm import tqdm

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_image, resize_image
from pipeline.data.samples import Sample
from pipeline.levels import kept
from pipeline.levels.kept import Chunks, Image, Kept
from pipeline.levels.scale import UNCERTAIN
from pipeline.networks import model
from pipeline.networks.predictor import Predictor, Tta
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import Recipe, Resize
from pipeline.support import concurrency, distributed, fingerprint, hardware
from pipeline.support.arrays import Size, UInt8
from pipeline.support.errors import UserError
from pipeline.train import checkpoint
from pipeline.train.data import Extra, Images


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """Test images and what the teacher says of them, kept as levels at its network's size."""

    teacher: Path  # its network
    description: model.Description  # of that
    tta: Tta  # with which it has labelled
    rows: Sequence[Sample]  # those that are confident enough
    drawn: int  # of them, in each epoch
    kept: Kept
    archives: Archives
    resize: Resize

    @property
    def extra(self) -> Extra:
        """How they come among the others."""
        return Extra(len(self.rows), self.drawn)

    def at(self, size: Size) -> Images:
        """Images (H, W, 3) and soft targets (H, W) at one size."""
        return _AtSize(self, size)


class _AtSize:
    def __init__(self, labels: PseudoLabels, size: Size) -> None:
        self.rows = labels.rows
        self._labels, self._size = labels, size

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]:
        row, labels = self.rows[position], self._labels
        image = resize_image(read_image(labels.archives, row), self._size, labels.resize)
        (found,) = labels.kept.some([row.sample_id])
        return image, soft_target(found.levels(), self._size)


def soft_target(levels: UInt8, size: Size) -> UInt8:
    """A map of levels (h, w) as a soft target (H, W), uint8 0..255: a level k counts as k/255.

    So a level at either end is a certain pixel, as in a true mask; in between it is up to 0.002
    off the middle of its probabilities.
    """
    shrinks = size[0] < levels.shape[0] or size[1] < levels.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(levels, size[::-1], interpolation=interpolation)
    return resized.astype(np.uint8, copy=False)


def make(
    recipe: Recipe, paths: Paths, fold: int, images: int, fabric: Fabric, work: Path
) -> PseudoLabels:
    """Let the teacher predict the test images, and choose those that it is sure of.

    Args:
        images: those with true masks, in an epoch.
        work: the folder of the training's scratch; levels that an earlier run has left there
            are not made again.

    Raises:
        UserError: there is no teacher of this fold, it has seen what is held out here, or no
            test image is good enough.
    """
    asked, runtime = recipe.train.pseudo, recipe.runtime
    assert asked != "none"
    path, teacher = checkpoint.find_other("train.pseudo.recipe", asked.recipe, fold, paths)
    if teacher.description.classes != 1 or recipe.train.classes != 1:
        raise UserError(
            f"train.pseudo: found {recipe.train.classes} classes, and "
            f"{teacher.description.classes} in {path}, expected 1 in both; set it to none"
        )
    rows = samples.test(samples.read(paths.samples))
    archives = Archives(paths.raw)
    theirs = read.load(recipe_file(asked.recipe)).validate_.tta
    key = fingerprint.key(
        "train",
        f"{theirs} {runtime.batch_size} {hardware.arithmetic(fabric, runtime.compile)}",
        [paths.samples, path],
        paths.raw,
    )
    size = kept.chunk_size(runtime.batch_size)
    chunks = Chunks(work / f"pseudo-{key}", key, rows, size)
    workers = hardware.workers(runtime.workers, fabric)
    missing = distributed.decide_in_first(fabric, chunks.missing)
    compiled = runtime.compile and bool(missing)
    predictor = Predictor.of(
        {str(path): teacher}, theirs, fabric, runtime.batch_size, workers, compiled
    )
    _predict(predictor, chunks, missing, archives)
    distributed.wait_for_all(fabric)
    remedy = "run the train stage again"
    labels = Kept.open(chunks.folder, [row.sample_id for row in rows], remedy)
    pairs = zip(rows, _unsure(labels), strict=True)
    sure = [row for row, share in pairs if share is not None and share <= asked.confident]
    drawn = round(asked.share * images)
    fabric.print(
        f"{len(sure)} of {len(rows)} test images have labels of {path} that are sure enough; "
        f"{drawn} of them an epoch"
    )
    if not sure or not drawn:
        raise UserError(
            f"train.pseudo: found {len(sure)} of {len(rows)} test images of which {path} is sure "
            f"enough and {drawn} to draw an epoch, expected some; raise confident or share, or "
            f"set it none"
        )
    return PseudoLabels(
        path, teacher.description, theirs, sure, drawn, labels, archives, recipe.train.resize
    )


def _predict(
    predictor: Predictor, chunks: Chunks[Sample], missing: Sequence[int], archives: Archives
) -> None:
    """Make this process's share of the missing chunks."""
    fabric = predictor.fabric
    mine = missing[fabric.global_rank :: fabric.world_size]
    rows = chunks.rows(mine)
    predictions = predictor.predict(rows, archives)
    images = (one.packed() for one in predictions)
    quiet = not fabric.is_global_zero
    with tqdm(total=len(rows), desc="label", unit="img", disable=quiet) as bar:
        chunks.write(mine, images, lambda _: bar.update())


def _unsure(labels: Kept) -> Iterator[float | None]:
    """The share of each image's pixels that are neither nearly 0 nor 1; None: it has no levels."""

    def share(image: Image) -> float | None:
        if image.error:
            return None
        levels = image.levels()
        between = (levels >= UNCERTAIN.start) & (levels < UNCERTAIN.stop)
        return float(between.mean())

    return concurrency.ordered(share, labels.images(), concurrency.cores())
