"""Stage `validate`: one pass over a fold's held-out images, counted for every threshold.

Of several classes, pixels are counted by true and predicted class instead.
"""

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.data import samples
from pipeline.data.archives import Archives, base_name
from pipeline.data.images import decode_image, decode_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import class_scores, measures, out_of_fold
from pipeline.evaluation.measures import Measures
from pipeline.levels import scale
from pipeline.masks import rle, runs
from pipeline.metrics import confusion
from pipeline.metrics.dice import count_levels
from pipeline.networks import model
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import concurrency, files, hardware, pictures
from pipeline.support.errors import UserError
from pipeline.support.pictures import Kind, encode_jpeg


def validate(
    predictions: Iterator[Prediction],
    archives: Archives,
    total: int,
    keep: Callable[[Sample, str], None],
    threads: int,
) -> tuple[npt.NDArray[np.int64], list[Measures]]:
    """Count the pixels of every image at each probability level, and measure it at 0.5.

    Args:
        keep: called with each row, in order, and the run-length text of its prediction at 0.5.
        threads: that count.

    Returns:
        int64 (N, 2, 256), for each image, in order, the pixels of its background and of its
        foreground at each level; and the measures of each, all at full resolution.

    Raises:
        UserError: an image or a mask does not decode.
    """

    def look(prediction: Prediction) -> tuple[Sample, npt.NDArray[np.int64], Measures, str]:
        row = prediction.row
        found = scale.full_resolution(prediction.levels, row.size)
        truth = _truth(archives, row)
        counted = count_levels(found, truth)
        text = rle.encode(found >= scale.HALF)
        at_half, true = runs.read(text, row.height, row.width), runs.of_mask(truth)
        return (
            row,
            counted,
            measures.measure(row.sample_id, counted, at_half, true, row.width),
            text,
        )

    counts, measured = np.zeros((total, 2, 256), np.int64), []
    looked = concurrency.ordered(look, _readable(predictions, total), max(1, threads))
    for index, (row, counted, measure, text) in enumerate(looked):
        counts[index] = counted
        measured.append(measure)
        keep(row, text)
    return counts, measured


def validate_classes(
    predictions: Iterator[Prediction], archives: Archives, total: int, classes: int, threads: int
) -> npt.NDArray[np.int64]:
    """Count the pixels of every image by true and predicted class, at full resolution.

    Returns:
        int64 (N, C, C), see `pipeline.metrics.confusion.count`.

    Raises:
        UserError: an image or a mask does not decode.
    """

    def look(prediction: Prediction) -> npt.NDArray[np.int64]:
        row = prediction.row
        found = scale.decide(prediction.levels, row.size)
        return confusion.count(found, _truth(archives, row), classes)

    counts = np.zeros((total, classes, classes), np.int64)
    looked = concurrency.ordered(look, _readable(predictions, total), max(1, threads))
    for index, counted in enumerate(looked):
        counts[index] = counted
    return counts


def _readable(predictions: Iterator[Prediction], total: int) -> Iterator[Prediction]:
    """The predictions, with a progress bar; an image that cannot be read ends them."""
    for prediction in tqdm(predictions, total=total, desc="validate", unit="img"):
        if prediction.error:
            raise UserError(prediction.error)
        yield prediction


def _truth(archives: Archives, row: Sample) -> npt.NDArray[np.uint8]:
    return decode_mask(archives.read(row.mask), row.size, row.mask, row.values)


def _draw(
    folder: Path, kinds: Sequence[Kind], predictions: Iterator[Prediction], archives: Archives
) -> Iterator[pictures.Picture]:
    """Write one overlay an image, named by kind and rank, and yield its pictures.

    They show the foreground; with several classes, all but the first: the name says `not-<it>`.
    """
    for rank, (kind, prediction) in enumerate(zip(kinds, predictions, strict=True), start=1):
        row = prediction.row
        image = decode_image(archives.read(row.image), row.size, row.image)
        mask = scale.decide(prediction.levels, row.size) > 0
        truth = _truth(archives, row) > 0
        picture = encode_jpeg(pictures.panels(image, mask, truth))
        number = rank if kind == "worst" else rank - kinds.index("random")
        shown = "" if row.classes == 1 else f"not-{row.labels[0].name}-"
        path = folder / f"{kind}-{number:02d}-{shown}{row.sample_id}.jpg"
        with files.written_whole(path) as temporary:
            temporary.write_bytes(picture)
        yield pictures.picture(row.sample_id, kind, image, mask, truth)


def _write_scores(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with files.written_whole(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_masks(path: Path, texts: Sequence[tuple[str, str]]) -> None:
    """A submission of the fold's own images, for `pipeline.score`."""
    rows = "".join(f"{name},{text}\n" for name, text in texts)
    files.write_text(path, f"img,rle_mask\n{rows}")


@hardware.explain_failures()
def run(recipe: Recipe, paths: Paths, fold: int, masks: Path | None) -> None:
    """Validate one fold of one recipe; write its masks at 0.5 to `masks` too, if that is given."""
    settings, runtime = recipe.validate_, recipe.runtime
    hardware.reuse_freed_memory()
    network = model.load(paths.model(fold))
    description = network.description
    if description.fold != fold:
        raise UserError(
            f"{paths.model(fold)}: trained without fold {description.fold}, expected fold {fold}; "
            f"its score on this fold would not be out-of-fold"
        )
    fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
    if runtime.deterministic:
        hardware.make_deterministic()
    archives = Archives(paths.raw)
    rows = samples.held_out(samples.read(paths.samples), fold)
    workers = hardware.workers(runtime.workers)
    samples.check_classes(rows, description.classes, paths.samples)

    predictor = Predictor.of(
        {str(paths.model(fold)): network}, settings.tta, fabric, runtime.batch_size, workers
    )

    def predict(some: Sequence[Sample]) -> Iterator[Prediction]:
        return predictor.predict(some, archives)

    measures_file = paths.measures(fold)
    if description.classes == 1:
        counts, scores = _one_class(predict(rows), archives, rows, measures_file, masks, workers)
    else:
        counts, scores = _several_classes(
            predict(rows), archives, rows, measures_file, masks, workers
        )
    chosen = pictures.choose(scores, settings.worst, settings.random, fold)
    overlays = paths.overlays(fold)
    if overlays.exists():
        shutil.rmtree(overlays)
    overlays.mkdir(parents=True)
    kinds = [kind for _, kind in chosen]
    again = predict([rows[index] for index, _ in chosen])
    pictures.write(paths.gallery(fold), _draw(overlays, kinds, again, archives))
    out_of_fold.write(paths.counts(fold), rows, counts)
    at = " at 0.5" if description.classes == 1 else f", mean of {description.classes} classes"
    print(f"fold {fold}: out-of-fold Dice {np.mean(scores):.5f}{at}, {len(rows)} images")


def _one_class(
    predictions: Iterator[Prediction],
    archives: Archives,
    rows: Sequence[Sample],
    out: Path,
    masks: Path | None,
    threads: int,
) -> tuple[npt.NDArray[np.int64], list[float]]:
    """Count, write measures and masks; return the counts and the Dice of each image at 0.5."""
    texts: list[tuple[str, str]] = []

    def keep(row: Sample, text: str) -> None:
        if masks:
            texts.append((base_name(row.image), text))

    counts, measured = validate(predictions, archives, len(rows), keep, threads)
    if masks:
        _write_masks(masks, texts)
    measures.write(out, measured)
    return counts, [one.dice for one in measured]


def _several_classes(
    predictions: Iterator[Prediction],
    archives: Archives,
    rows: Sequence[Sample],
    out: Path,
    masks: Path | None,
    threads: int,
) -> tuple[npt.NDArray[np.int64], list[float]]:
    """Count, write scores; return the counts and the mean Dice of each image."""
    if masks:
        raise UserError(
            f"--masks: run-length masks hold one class, but the samples have {rows[0].classes}; "
            f"leave it out"
        )
    counts = validate_classes(predictions, archives, len(rows), rows[0].classes, threads)
    names = [label.name for label in rows[0].labels]
    scores = class_scores.of_images(names, counts)
    told = zip(rows, scores, strict=True)
    _write_scores(out, [{"sample_id": row.sample_id, **one} for row, one in told])
    return counts, [one["dice"] for one in scores]
