"""From kept levels of held-out images to counts, measures and pictures; no network runs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data import rows as mask_rows
from pipeline.data.archives import Archives, base_name
from pipeline.data.images import read_image, read_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import out_of_fold
from pipeline.evaluation.out_of_fold import Judged
from pipeline.levels import scale
from pipeline.levels.kept import Image, Kept
from pipeline.masks import rle
from pipeline.paths import Paths
from pipeline.recipe.schema import Validate
from pipeline.support import concurrency, files, pictures
from pipeline.support.pictures import encode_jpeg

REMEDY = "run the validate stage of this fold again"


def open_levels(paths: Paths, fold: int, rows: Sequence[Sample]) -> Kept:
    """The kept levels of the held-out images of a fold, every byte checked.

    Raises:
        UserError: they are missing, damaged, or of other images.
    """
    return Kept.open(paths.oof_levels(fold), [row.sample_id for row in rows], REMEDY)


def judge_fold(
    paths: Paths, fold: int, rows: Sequence[Sample], threads: int, settings: Validate, choices: str
) -> list[Judged]:
    """Compare the kept levels of a fold's images with their true masks; write all there is.

    Args:
        settings: say how many images are drawn: those of the lowest Dice, and others.
        choices: what training has chosen by these images, see `OutOfFold`.
    """
    kept, archives = open_levels(paths, fold, rows), Archives(paths.raw)

    def judge(image: Image) -> Judged:
        row = by_id[image.sample_id]
        levels, truth = image.levels(), read_mask(archives, row)
        if row.classes > 1:
            return out_of_fold.judge_classes(row, scale.decide(levels, row.size), truth)
        return out_of_fold.judge_levels(row, scale.full_resolution(levels, row.size), truth)

    by_id = {row.sample_id: row for row in rows}
    images = tqdm(kept.images(), total=len(rows), desc="compare", unit="img")
    judged = list(concurrency.ordered(judge, images, max(1, threads)))
    _draw(paths, fold, kept, judged, settings)
    out_of_fold.write(paths, fold, judged, choices)
    return judged


def write_masks(path: Path, kept: Kept, rows: Sequence[Sample]) -> None:
    """Write the masks (one class) at 0.5 as a submission of these images, for `pipeline score`."""
    pairs = zip(rows, kept.images(), strict=True)
    lines = (
        f"{base_name(row.image)},{rle.encode(scale.decide(image.levels(), row.size))}\n"
        for row, image in pairs
    )
    files.write_text(path, f"{mask_rows.HEADER}\n{''.join(lines)}")


def _draw(
    paths: Paths, fold: int, kept: Kept, judged: Sequence[Judged], settings: Validate
) -> None:
    """Write an overlay an image, named by kind and rank, for `dvc plots`.

    They show the foreground; of several classes, each in its color, as predicted and as true.
    """
    scores = [one.dice for one in judged]
    chosen = pictures.choose(scores, settings.worst, settings.random, fold)
    kinds = [kind for _, kind in chosen]
    rows = [judged[index].row for index, _ in chosen]
    archives, folder = Archives(paths.raw), paths.overlays(fold)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)

    images = kept.some(row.sample_id for row in rows)
    for rank, (kind, row, kept_image) in enumerate(zip(kinds, rows, images, strict=True), start=1):
        image = read_image(archives, row)
        found, truth = scale.decide(kept_image.levels(), row.size), read_mask(archives, row)
        if row.classes == 1:
            drawn = pictures.panels(image, found > 0, truth > 0)
        else:
            drawn = pictures.side_by_side(image, found, truth)
        number = rank if kind == "worst" else rank - kinds.index("random")
        path = folder / f"{kind}-{number:02d}-{row.sample_id}.jpg"
        with files.written_whole(path) as temporary:
            temporary.write_bytes(encode_jpeg(drawn))


def mean_dice(judged: Sequence[Judged]) -> float:
    """The mean score of some images."""
    return float(np.mean([one.dice for one in judged]))
