"""Stage `validate`: one pass over a fold's held-out images, compared with their true masks.

What it writes is enough to know the score at every threshold, so choosing one needs no network.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import Archives, base_name
from pipeline.data.images import decode_image, decode_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import out_of_fold
from pipeline.evaluation.out_of_fold import Judged
from pipeline.levels import scale
from pipeline.masks import rle
from pipeline.networks import model
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import concurrency, files, hardware, pictures
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError
from pipeline.support.pictures import Kind, Picture, encode_jpeg


@hardware.explain_failures()
def run(recipe: Recipe, paths: Paths, fold: int, masks: Path | None) -> None:
    """Validate one fold of one recipe; write its masks at 0.5 to `masks` too, if that is given."""
    settings, runtime = recipe.validate_, recipe.runtime
    hardware.reuse_freed_memory()
    network = model.load(paths.model(fold))
    description = network.description
    _check_fold(paths.model(fold), description.fold, fold)
    rows = samples.held_out(samples.read(paths.samples), fold)
    samples.check_classes(rows, description.classes, paths.samples)
    if masks and description.classes > 1:
        raise UserError(
            f"--masks: run-length masks hold one class, but the samples have "
            f"{description.classes}; leave it out"
        )
    fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
    if runtime.deterministic:
        hardware.make_deterministic()
    workers = hardware.workers(runtime.workers)
    name = str(paths.model(fold))
    predictor = Predictor.of({name: network}, settings.tta, fabric, runtime.batch_size, workers)
    archives = Archives(paths.raw)

    def judge(prediction: Prediction) -> tuple[Judged, str]:
        return _judge(prediction, archives, with_text=masks is not None)

    predictions = predictor.predict(rows, archives)
    shown = tqdm(predictions, total=len(rows), desc="validate", unit="img")
    found = list(concurrency.ordered(judge, shown, max(1, workers)))
    judged = [one for one, _ in found]
    scores = [one.dice for one in judged]
    chosen = pictures.choose(scores, settings.worst, settings.random, fold)
    again = predictor.predict([rows[index] for index, _ in chosen], archives)
    _draw(paths, fold, [kind for _, kind in chosen], again, archives)
    if masks:
        lines = (f"{base_name(one.row.image)},{text}\n" for one, text in found)
        files.write_text(masks, f"{mask_rows.HEADER}\n{''.join(lines)}")
    out_of_fold.write(paths, fold, judged)
    at = " at 0.5" if description.classes == 1 else f", mean of {description.classes} classes"
    print(f"fold {fold}: out-of-fold Dice {np.mean(scores):.5f}{at}, {len(rows)} images")


def _check_fold(path: Path, trained: int, fold: int) -> None:
    if trained != fold:
        raise UserError(
            f"{path}: trained without fold {trained}, expected fold {fold}; "
            f"its score on this fold would not be out-of-fold"
        )


def _judge(prediction: Prediction, archives: Archives, with_text: bool) -> tuple[Judged, str]:
    """Compare a prediction with the true mask; of one class, with its run-length text at 0.5."""
    if prediction.error:
        raise UserError(prediction.error)
    row, truth = prediction.row, _truth(archives, prediction.row)
    if row.classes > 1:
        classes = scale.decide(prediction.levels, row.size)
        return out_of_fold.judge_classes(row, classes, truth), ""
    found = scale.full_resolution(prediction.levels, row.size)
    text = rle.encode(found >= scale.HALF) if with_text else ""
    return out_of_fold.judge_levels(row, found, truth), text


def _truth(archives: Archives, row: Sample) -> UInt8:
    return decode_mask(archives.read(row.mask), row.size, row.mask, row.values)


def _draw(
    paths: Paths, fold: int, kinds: Sequence[Kind], predictions: Iterator[Prediction],
    archives: Archives,
) -> None:  # fmt: skip
    """Write an overlay an image, named by kind and rank, and the gallery of their layers.

    They show the foreground; with several classes, all but the first: the name says `not-<it>`.
    """
    folder = paths.overlays(fold)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)

    def drawn() -> Iterator[Picture]:
        for rank, (kind, prediction) in enumerate(zip(kinds, predictions, strict=True), start=1):
            row = prediction.row
            image = decode_image(archives.read(row.image), row.size, row.image)
            mask = scale.decide(prediction.levels, row.size) > 0
            truth = _truth(archives, row) > 0
            number = rank if kind == "worst" else rank - kinds.index("random")
            shown = "" if row.classes == 1 else f"not-{row.labels[0].name}-"
            path = folder / f"{kind}-{number:02d}-{shown}{row.sample_id}.jpg"
            with files.written_whole(path) as temporary:
                temporary.write_bytes(encode_jpeg(pictures.panels(image, mask, truth)))
            yield pictures.picture(row.sample_id, kind, image, mask, truth)

    pictures.write(paths.gallery(fold), drawn())
