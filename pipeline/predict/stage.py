"""Stage `predict`: every test image through every fold's network into `submit.csv.gz`.

Threads decode, one thread drives the device, the main thread writes; each works a few batches
ahead of the next and no further. Rows are kept in chunks: a run that was stopped goes on after
its last whole chunk, and several processes share the chunks among them.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from tqdm import tqdm

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import Archives, base_name
from pipeline.data.images import BadImageError
from pipeline.data.samples import Sample
from pipeline.evaluation.decision import Decision
from pipeline.levels import scale
from pipeline.masks import submission as submissions
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.paths import Paths
from pipeline.predict import csv_rows, mask_bits, timing
from pipeline.predict.chunks import TABLE_HEADER, Chunk, Chunks, Told
from pipeline.predict.mask_stream import Masks, masks
from pipeline.recipe.schema import Predict, Recipe
from pipeline.support import files, fingerprint, hardware
from pipeline.support.concurrency import read_ahead
from pipeline.support.distributed import decide_in_first, wait_for_all
from pipeline.support.errors import UserError
from pipeline.support.progress import Timers

CHUNK = 512  # images, about: a batch more or less; a killed run loses at most so many
AHEAD = 2  # batches of masks that wait for the writer


def predict(
    batches: Iterator[Masks],
    chunks: Chunks,
    numbers: Sequence[int],
    odd: dict[str, str],
    settings: Predict,
    advance: Callable[[int], object],
) -> None:
    """Write the chunks `numbers` of a submission, as their masks come.

    Args:
        batches: of all images in these chunks, in order; no batch belongs to two chunks.
        odd: an error message for each image of an unexpected size, by sample_id.
        advance: called with the number of images of each batch.

    Raises:
        BadImageError: an image is bad and `settings.on_bad_image` is `fail`.
    """
    for number in numbers:
        rest = len(chunks.samples([number]))
        with chunks.written(number, settings.compression) as chunk:
            while rest:
                batch = next(batches)
                rest -= len(batch.rows)
                _write(chunk, batch, odd, settings)
                advance(len(batch.rows))


def _write(chunk: Chunk, batch: Masks, odd: dict[str, str], settings: Predict) -> None:
    errors = [
        odd.get(row.sample_id, error) for row, error in zip(batch.rows, batch.errors, strict=True)
    ]
    _refuse_bad(errors, settings)
    start = 0
    for words in batch.words:
        some = range(start, start := start + len(words))
        names = [base_name(batch.rows[i].image) for i in some]
        words[[i - some.start for i in some if errors[i]]] = 0
        height, width = batch.rows[some.start].size
        if settings.keep == "largest":
            words = mask_bits.largest_parts(words, (height, width))
        differs = [0.0 if errors[i] else float(batch.disagreement[i]) for i in some]
        areas = csv_rows.foreground(words).tolist()
        chunk.add(
            csv_rows.encode(names, words, height * width),
            [
                Told(name, area, f"{share:.6f}", errors[i])
                for name, area, share, i in zip(names, areas, differs, some, strict=True)
            ],
        )


def _refuse_bad(errors: Iterable[str], settings: Predict) -> None:
    """Raise the first error there is, unless bad images are to be empty."""
    first = next(filter(None, errors), "")
    if first and settings.on_bad_image == "fail":
        raise BadImageError(f"{first} (or set predict.on_bad_image to empty)")


def _check_one_class(rows: Sequence[Sample], where: Path) -> None:
    for row in rows:
        if row.classes > 1:
            raise UserError(
                f"{where}: found test images of {row.classes} classes ({row.sample_id}), expected "
                f"one class and background: a submission's run-length masks hold no more; leave "
                f"test images out of the source, results then end at eval/"
            )


def _publish(
    chunks: Chunks,
    scratch: Path,
    sample: Path,
    rows: Sequence[Sample],
    out: Path,
    settings: Predict,
) -> tuple[submissions.Summary, list[str]]:
    """Put the chunks together, check the whole, and only then give it its name."""
    submission, table = scratch / "submit.csv.gz", scratch / "masks.csv"
    errors = chunks.write_table(table)
    _refuse_bad(errors, settings)  # of chunks made when empty rows were allowed
    chunks.write_submission(submission, settings.compression)
    sizes = {base_name(row.image): row.size for row in rows}
    summary = submissions.check(submission, sample, sizes)
    files.move(table, out / "masks.csv")
    files.move(submission, out / "submit.csv.gz")
    return summary, errors


def _write_nothing(paths: Paths) -> None:
    """The results of a data set without test images."""
    out, summary = paths.submission, paths.prediction
    (out / "submit.csv.gz").unlink(missing_ok=True)
    files.write_text(out / "masks.csv", f"{TABLE_HEADER}\n")
    files.write_text(summary, json.dumps({"images": 0}) + "\n")
    print(f"{out}: the data set has no test images, so there is no submission to write")


def _run(
    paths: Paths,
    recipe: Recipe,
    folds: Sequence[int],
    rows: Sequence[Sample],
    fabric: Fabric,
) -> None:
    """Predict `rows`, as one of Fabric's processes; the first puts all shares together."""
    settings, runtime, tta = recipe.predict, recipe.runtime, recipe.validate_.tta
    threshold = Decision.read(paths.metrics).threshold
    hardware.reuse_freed_memory()
    mask_rows.find_sample(paths.raw)  # missing, it ends the run now and not after it
    for folder in (paths.submission, paths.evaluation):  # unwritable, likewise
        files.check_writable(folder)
    for row in rows:
        submissions.check_name(base_name(row.image))
    odd = samples.odd_sizes(rows)
    _refuse_bad(odd.values(), settings)
    size = max(1, CHUNK // runtime.batch_size) * runtime.batch_size

    with contextlib.ExitStack() as stack:
        stack.enter_context(hardware.explain_failures())

        def plan() -> tuple[Path, list[int]]:
            stack.enter_context(files.only_process(paths.work / "predict"))
            # Not on_bad_image: without bad images, chunks are what they would have been.
            how = (settings.keep, settings.compression, tta, threshold, runtime.batch_size, size)
            key = fingerprint.key(
                "predict",
                f"{how} {hardware.arithmetic(fabric)}",
                [paths.samples, *(paths.model(fold) for fold in folds)],
                paths.raw,
            )
            folder = paths.work / f"predict-{key}"
            return folder, Chunks(folder, rows, size).missing()

        models = model.load_alike(paths.model(fold) for fold in folds)
        folder, missing = decide_in_first(fabric, plan)
        chunks = Chunks(folder, rows, size)
        if fabric.is_global_zero and len(missing) < len(chunks):
            print(f"going on with {len(missing)} of {len(chunks)} chunks from {folder}", flush=True)
        mine = missing[fabric.global_rank :: fabric.world_size]
        some, workers = chunks.samples(mine), hardware.workers(runtime.workers, fabric)
        waits = Timers()
        predictor = Predictor.of(models, recipe.validate_.tta, fabric, runtime.batch_size, workers)
        level = scale.nearest(threshold)
        stream = masks(some, Archives(paths.raw), predictor, level, waits)
        batches = stack.enter_context(contextlib.closing(read_ahead(stream, AHEAD)))
        bar = stack.enter_context(
            tqdm(total=len(some), desc="predict", unit="img", disable=not fabric.is_global_zero)
        )
        predict(
            waits.each("masks", batches), chunks, mine,
            odd, settings, bar.update,
        )  # fmt: skip
        bar.close()
        wait_for_all(fabric)
        if fabric.is_global_zero:
            values = timing.measure(waits, len(chunks.samples(missing)), workers, fabric)
            values["threshold"] = threshold
            _finish(paths, chunks, folder, rows, settings, values)


def _finish(
    paths: Paths,
    chunks: Chunks,
    scratch: Path,
    rows: Sequence[Sample],
    settings: Predict,
    values: dict[str, Any],
) -> None:
    """Publish the whole, write its figures (to which `values` belong), remove the scratch."""
    sample = mask_rows.find_sample(paths.raw)
    summary, errors = _publish(chunks, scratch, sample, rows, paths.submission, settings)
    values |= {
        "images": summary.rows, "bad_images": len(errors), "empty_rows": summary.empty_rows,
    }  # fmt: skip
    files.write_text(paths.prediction, json.dumps(values, indent=2) + "\n")
    files.remove_folders(paths.work, "predict")
    timing.tell(paths.submission / "submit.csv.gz", values, errors)


def run(recipe: Recipe, paths: Paths, folds: Sequence[int]) -> None:
    """Predict the test set of one recipe with the networks of `folds`."""
    runtime = recipe.runtime
    rows = samples.test(samples.read(paths.samples))
    _check_one_class(rows, paths.samples)
    fabric = hardware.launch(
        runtime.accelerator, runtime.precision, runtime.threads, runtime.devices, runtime.nodes
    )
    if runtime.deterministic:
        hardware.make_deterministic()
    if rows:
        _run(paths, recipe, folds, rows, fabric)
    elif fabric.is_global_zero:
        _write_nothing(paths)
