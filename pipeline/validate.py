"""Stage `validate`: one pass over a fold's held-out images, counted for every threshold."""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline import files, hardware, model, params, samples
from pipeline.archives import Archives
from pipeline.dice import HALF, count_levels, dice_by_threshold, levels
from pipeline.errors import UserError, command
from pipeline.images import decode_image, decode_mask
from pipeline.inference import Prediction, full_resolution
from pipeline.inference import stream as stream_predictions
from pipeline.report import encode_jpeg, overlay
from pipeline.samples import Sample


def validate(
    predictions: Iterator[Prediction], archives: Archives, total: int
) -> npt.NDArray[np.int64]:
    """Count pixels per probability level at full resolution.

    Returns:
        int64 (N, 2, 256): for each image, in order, the pixels of its background and of its
        foreground at each level.

    Raises:
        UserError: an image or a mask does not decode.
    """
    counts = np.zeros((total, 2, 256), np.int64)
    bar = tqdm(predictions, total=total, desc="validate", unit="img")
    for index, prediction in enumerate(bar):
        if prediction.error:
            raise UserError(prediction.error)
        row = prediction.row
        probability = full_resolution(prediction.probability, row.size)
        counts[index] = count_levels(levels(probability), _truth(archives, row))
    return counts


def _truth(archives: Archives, row: Sample) -> npt.NDArray[np.uint8]:
    return decode_mask(archives.read(row.mask), row.size, row.mask, row.values)


def _draw(folder: Path, predictions: Iterator[Prediction], archives: Archives) -> None:
    """Write one overlay an image, named by rank."""
    for rank, prediction in enumerate(predictions, start=1):
        row = prediction.row
        image = decode_image(archives.read(row.image), row.size, row.image)
        mask = full_resolution(prediction.probability, row.size) >= HALF / 256
        picture = overlay(image, mask, _truth(archives, row) > 0)
        (folder / f"{rank:02d}-{row.sample_id}.jpg").write_bytes(encode_jpeg(picture))


def _write_counts(path: Path, rows: Sequence[Sample], counts: npt.NDArray[np.int64]) -> None:
    with files.written_whole(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream, sample_id=np.array([row.sample_id for row in rows]), counts=counts
        )


@command
def main() -> None:
    """Validate one fold of one recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="recipes/<name>.yaml")
    parser.add_argument("--fold", type=int, required=True, help="the fold held out")
    parser.add_argument("--raw", type=Path, required=True, help="folder of archives")
    parser.add_argument("--samples", type=Path, required=True, help="samples.csv")
    parser.add_argument("--model", type=Path, required=True, help="the fold's model.pt")
    parser.add_argument("--out", type=Path, required=True, help="counts to write (.npz)")
    parser.add_argument("--worst", type=Path, required=True, help="folder for overlays")
    args = parser.parse_args()
    recipe = params.load(args.recipe)
    params.check_fold(args.fold, recipe.split.folds, "--fold")
    settings, runtime = recipe.validate_, recipe.runtime

    network = model.load(args.model)
    description = network.description
    if description.fold != args.fold:
        raise UserError(
            f"{args.model}: trained without fold {description.fold}, expected fold {args.fold}; "
            f"its score on this fold would not be out-of-fold"
        )
    fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
    wrapped = fabric.setup_module(network).eval()
    archives = Archives(args.raw)
    rows = samples.held_out(samples.read(args.samples), args.fold)

    def predict(some: Sequence[Sample]) -> Iterator[Prediction]:
        return stream_predictions(
            some, archives, [wrapped], description.size, description.resize, settings.tta, fabric,
            runtime.batch_size, hardware.workers(runtime.workers),
        )  # fmt: skip

    counts = validate(predict(rows), archives, len(rows))
    scores = dice_by_threshold(counts)[:, HALF]
    if args.worst.exists():
        shutil.rmtree(args.worst)
    args.worst.mkdir(parents=True)
    worst = [rows[index] for index in np.argsort(scores, kind="stable")[: settings.worst]]
    _draw(args.worst, predict(worst), archives)
    _write_counts(args.out, rows, counts)
    print(f"fold {args.fold}: out-of-fold Dice {scores.mean():.5f} at 0.5, {len(rows)} images")


if __name__ == "__main__":
    main()
