"""Stage `encode`: the submission, made of kept levels without any network.

Here everything is decided that is not in the levels: threshold and clean-up, as `tune` chose them,
and what becomes of images that cannot be read. Threads bring levels to full resolution and masks to
run lengths; rows go in order into one gzip member, which is read back and checked before it
gets its name. It takes minutes, so a run that was stopped begins again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import cv2
from tqdm import tqdm

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import base_name
from pipeline.data.images import BadImageError
from pipeline.data.samples import Sample
from pipeline.evaluation.decision import Decision
from pipeline.levels.kept import Image, Kept
from pipeline.masks import regions, rle, submission
from pipeline.masks.submission import Note
from pipeline.paths import Paths
from pipeline.recipe.schema import Encode, Recipe
from pipeline.support import concurrency, files, table
from pipeline.support.concurrency import ordered


def run(recipe: Recipe, paths: Paths) -> None:
    """Write and check the submission of one recipe."""
    settings = recipe.encode
    rows = samples.test(samples.read(paths.samples))
    files.check_writable(paths.submission)
    files.check_writable(paths.encoding.parent)
    remedy = f"run the predict stage: pipeline predict {paths.recipe}"
    kept = Kept.open(paths.kept, [row.sample_id for row in rows], remedy)
    if not rows:
        _write_nothing(paths)
        return
    sample = mask_rows.find_sample(paths.raw)  # missing, it ends the run now and not after it
    decision = Decision.read(paths.metrics)
    for row in rows:
        submission.check_name(base_name(row.image))
    errors = kept.errors() | samples.odd_sizes(rows)
    _refuse_bad(errors, settings)

    work = paths.work / "encode"
    with files.only_process(work):
        file, notes = work / "submit.csv.gz", work / "masks.csv"
        made = encode(rows, kept.images(), decision, errors)
        shown = tqdm(made, desc="encode", total=len(rows), unit="img")
        submission.write(file, notes, shown, settings.compression)
        sizes = {base_name(row.image): row.size for row in rows}
        summary = submission.check(file, sample, sizes)
        files.move(notes, paths.submission_masks)
        files.move(file, paths.submission_file)
        values = {
            "images": summary.rows, "bad_images": len(errors), "empty_rows": summary.empty_rows,
            "threshold": decision.threshold,
        }  # fmt: skip
        files.write_text(paths.encoding, json.dumps(values, indent=2) + "\n")
    files.remove_folders(paths.work, "encode")
    print(
        f"{paths.submission_file}: {summary.rows} rows, {summary.empty_rows} of them empty, at "
        f"threshold {decision.threshold:.4f}"
    )
    if errors:
        print(f"{len(errors)} bad images, encode.on_bad_image is empty:")
    for error in errors.values():
        print(f"left empty: {error}")


def encode(
    rows: Sequence[Sample], images: Iterator[Image], decision: Decision, errors: Mapping[str, str]
) -> Iterator[tuple[Note, str]]:
    """Yield what is told of each image, and its mask's run-length text, in order.

    Args:
        images: the levels of `rows`, in their order.
        errors: why images are to have no mask, by sample.
    """
    cv2.setNumThreads(1)  # the images are what runs side by side

    def one(pair: tuple[Sample, Image]) -> tuple[Note, str]:
        row, image = pair
        name, error = base_name(row.image), errors.get(row.sample_id, "")
        if error:
            return Note(name, 0, 0.0, error), ""
        runs = decision.runs(image.levels(), row.size)
        return Note(name, regions.area(runs), image.disagreement, ""), rle.write(runs)

    cores = concurrency.cores()
    return ordered(one, zip(rows, images, strict=True), cores)


def _refuse_bad(errors: Mapping[str, str], settings: Encode) -> None:
    """Raise the first error there is, unless bad images are to be empty."""
    if errors and settings.on_bad_image == "fail":
        first = next(iter(errors.values()))
        others = f" (and {len(errors) - 1} others)" if len(errors) > 1 else ""
        raise BadImageError(f"{first}{others}; or set encode.on_bad_image to empty")


def _write_nothing(paths: Paths) -> None:
    """The results of a data set without test images."""
    paths.submission_file.unlink(missing_ok=True)
    table.write(paths.submission_masks, Note, [])
    files.write_text(paths.encoding, json.dumps({"images": 0}) + "\n")
    print(f"{paths.submission}: the data set has no test images, so there is no submission")
