"""Stage `predict`: what every fold's network says of every test image, kept as levels.

Nothing is decided here: no threshold, no clean-up, nothing about images that cannot be read. So
whatever is decided later takes no network. Threads decode, one thread drives the device, the
main one compresses and writes, each a few images ahead of the next and no further. A run that was
stopped goes on after its last whole chunk; several processes share the chunks among them.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from tqdm import tqdm

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.levels import kept
from pipeline.levels.kept import Chunk, Chunks, Image
from pipeline.networks import model
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import files, fingerprint, hardware
from pipeline.support.concurrency import ordered, read_ahead
from pipeline.support.distributed import decide_in_first, leave, wait_for_all
from pipeline.support.errors import UserError
from pipeline.support.progress import Timers

_SHOWN = 10  # unreadable images named on the terminal; `encode` names all of them


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
    hardware.reuse_freed_memory()
    with hardware.explain_failures(), contextlib.ExitStack() as stack:
        if rows:
            _run(recipe, paths, folds, rows, fabric, stack)
        elif fabric.is_global_zero:
            kept.write(paths.kept, "", iter([]), 0)
            files.write_text(paths.prediction, json.dumps({"images": 0}) + "\n")
            print(f"{paths.kept}: the data set has no test images, so there is nothing to keep")
    leave()


def _check_one_class(rows: Sequence[Sample], where: Path) -> None:
    for row in rows:
        if row.classes > 1:
            raise UserError(
                f"{where}: found test images of {row.classes} classes ({row.sample_id}), expected "
                f"one class and background: a submission's run-length masks hold no more; leave "
                f"test images out of the source, results then end at eval/"
            )


def _run(
    recipe: Recipe,
    paths: Paths,
    folds: Sequence[int],
    rows: Sequence[Sample],
    fabric: Fabric,
    stack: contextlib.ExitStack,
) -> None:
    """Predict `rows` as one of Fabric's processes; the first one gives the whole its place."""
    runtime, tta = recipe.runtime, recipe.validate_.tta
    size = kept.chunk_size(runtime.batch_size)

    def plan() -> tuple[str, list[int]]:
        stack.enter_context(files.only_process(paths.work / "predict"))
        files.check_writable(paths.kept.parent)  # now, and not after all images
        files.check_writable(paths.prediction.parent)
        key = fingerprint.key(
            "predict",
            f"{tta} {runtime.batch_size} {size} {hardware.arithmetic(fabric, runtime.compile)}",
            [paths.samples, *(paths.model(fold) for fold in folds)],
            paths.raw,
        )
        _take_back(paths.kept, _scratch(paths, key), key)
        return key, Chunks(_scratch(paths, key), key, rows, size).missing()

    models = model.load_alike(paths.model(fold) for fold in folds)
    key, missing = decide_in_first(fabric, plan)
    chunks = Chunks(_scratch(paths, key), key, rows, size)
    if fabric.is_global_zero and len(missing) < len(chunks):
        print(f"going on with {len(missing)} of {len(chunks)} chunks in {chunks.folder}")
    mine = missing[fabric.global_rank :: fabric.world_size]
    some, workers = chunks.rows(mine), hardware.workers(runtime.workers, fabric)
    compiled = runtime.compile and bool(mine)
    predictor = Predictor.of(models, tta, fabric, runtime.batch_size, workers, compiled)
    timers = Timers()  # compiling is no speed
    predictions = predictor.predict(some, Archives(paths.raw), timers)
    # As many predictions as two batches wait for whoever compresses them.
    stream = stack.enter_context(
        contextlib.closing(read_ahead(predictions, 2 * runtime.batch_size))
    )
    images = ordered(Prediction.packed, timers.each("levels", stream), min(2, workers))
    stack.enter_context(contextlib.closing(images))
    quiet = not fabric.is_global_zero
    bar = stack.enter_context(tqdm(total=len(some), desc="predict", unit="img", disable=quiet))
    chunks.write(mine, images, _teller(bar))
    bar.close()
    wait_for_all(fabric)
    if fabric.is_global_zero:
        kept.replace(chunks.folder, paths.kept)
        files.remove_folders(paths.work, "predict")
        values = _measure(timers, len(chunks.rows(missing)), workers, fabric)
        _finish(paths, rows, values)


def _scratch(paths: Paths, key: str) -> Path:
    return paths.work / f"predict-{key}"


def _take_back(published: Path, scratch: Path, key: str) -> None:
    """Go on with what an earlier run of the same networks and images has published.

    Where a chunk of it was damaged, that one alone is made again.
    """
    if scratch.exists():
        return
    for path in sorted(published.glob("*.levels")):
        if chunk := Chunk.open(path):
            if chunk.key == key:
                kept.replace(published, scratch)
            return


def _teller(bar: "tqdm[Any]") -> Callable[[Image], None]:
    """Moves the bar, and names the first images that cannot be read as soon as they are met."""
    told: list[str] = []

    def tell(image: Image) -> None:
        bar.update()
        if image.error:
            told.append(image.error)
            if len(told) <= _SHOWN:
                bar.write(f"not readable: {image.error}")

    return tell


def _measure(timers: Timers, images: int, workers: int, fabric: Fabric) -> dict[str, float]:
    """Speed, share of the time that each part waited, and memory, of this run.

    Waits and memory are this process's; `images` are those that all processes predicted. The
    device's waits are those of the thread that drives it.
    """
    seconds = timers.elapsed()
    values = {
        "predicted_now": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "decoders_waited": max(0.0, 1 - timers.fraction("decoding") / max(1, workers)),
        "device_waited_for_images": timers.fraction("images"),
        "device_waited_for_writer": timers.fraction("writer"),
        "writer_waited": timers.fraction("levels"),
        "peak_memory_mb": hardware.peak_memory(),
        "peak_gpu_memory_mb": 1000 * hardware.peak_gpu_memory(fabric),
    }
    return {name: round(value, 4) for name, value in values.items()}


def _finish(paths: Paths, rows: Sequence[Sample], values: dict[str, float]) -> None:
    """Write the figures, and say what a user wants to see at the end."""
    size = sum(file.stat().st_size for file in paths.kept.iterdir())
    values |= {"images": len(rows), "kilobytes_per_image": round(size / 1e3 / max(1, len(rows)), 3)}
    files.write_text(paths.prediction, json.dumps(values, indent=2) + "\n")
    print(
        f"{paths.kept}: {len(rows)} images, {values['kilobytes_per_image']:.1f} kB each; "
        f"pipeline encode {paths.recipe} makes the submission of them"
    )
    if values["predicted_now"]:
        print(
            f"{values['images_per_second']:.1f} img/s; waited: decoders "
            f"{values['decoders_waited']:.0%}, device {values['device_waited_for_images']:.0%} for "
            f"images and {values['device_waited_for_writer']:.0%} for the writer, writer "
            f"{values['writer_waited']:.0%}; peak memory {values['peak_memory_mb']:.0f} MB, of "
            f"the GPU {values['peak_gpu_memory_mb']:.0f} MB"
        )
