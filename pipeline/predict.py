"""Stage `predict`: every test image through every fold's network into `submit.csv.gz`."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline import files, hardware, model, params, rle, samples, submission
from pipeline.archives import Archives, base_name
from pipeline.errors import UserError, command
from pipeline.images import BadImageError
from pipeline.inference import Prediction, full_resolution, stream


def predict(
    predictions: Iterator[Prediction],
    total: int,
    threshold: float,
    on_bad_image: str,
    writer: submission.Writer,
) -> list[str]:
    """Write one row an image, as the predictions come.

    Args:
        threshold: a pixel is foreground if its probability at full resolution is at least
            this.
        on_bad_image: `fail`, or `empty` to write an empty mask for an unreadable image.

    Returns:
        Why each unreadable image was unreadable.

    Raises:
        BadImageError: an image is unreadable and `on_bad_image` is `fail`.
    """
    bad = []
    for prediction in tqdm(predictions, total=total, desc="predict", unit="img"):
        name = base_name(prediction.row.image)
        if prediction.error and on_bad_image == "fail":
            raise BadImageError(f"{prediction.error} (or set predict.on_bad_image to empty)")
        if prediction.error:
            bad.append(prediction.error)
            writer.write(name, "")
            continue
        mask = full_resolution(prediction.probability, prediction.row.size) >= threshold
        writer.write(name, rle.encode(mask))
    return bad


def _load_models(runs: Path, folds: Sequence[int]) -> list[model.Segmenter]:
    """The networks of all folds, which must take the same input."""
    models = [model.load(runs / f"fold{fold}" / "model.pt") for fold in folds]
    first = models[0].description
    for fold, network in zip(folds, models, strict=True):
        found = network.description
        if (found.size, found.resize) != (first.size, first.resize):
            raise UserError(
                f"{runs}/fold{fold}/model.pt: takes {found.size} ({found.resize}), fold "
                f"{folds[0]} takes {first.size} ({first.resize}), expected the same; train "
                f"the folds again"
            )
    return models


def _read_threshold(path: Path) -> float:
    try:
        return float(json.loads(path.read_text())["threshold"])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no threshold ({error!r}); run the tune stage first") from None


@command
def main() -> None:
    """Predict the test set of one recipe with all the folds that `params.yaml` lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="recipes/<name>.yaml")
    parser.add_argument("--params", type=Path, required=True, help="params.yaml, for the folds")
    parser.add_argument("--raw", type=Path, required=True, help="folder of archives")
    parser.add_argument("--samples", type=Path, required=True, help="samples.csv")
    parser.add_argument("--runs", type=Path, required=True, help="folder of fold<k>/model.pt")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.json of tune")
    parser.add_argument("--out", type=Path, required=True, help="submission to write (.csv.gz)")
    args = parser.parse_args()
    recipe = params.load(args.recipe)
    folds = params.load_folds(args.params, recipe.split.folds)
    runtime = recipe.runtime
    threshold = _read_threshold(args.metrics)
    rows = samples.test(samples.read(args.samples))
    sample_submission = submission.find_sample(args.raw)

    models = _load_models(args.runs, folds)
    fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
    wrapped = [fabric.setup_module(network).eval() for network in models]
    description = models[0].description
    predictions = stream(
        rows, Archives(args.raw), wrapped, description.size, description.resize,
        recipe.validate_.tta, fabric, runtime.batch_size, hardware.workers(runtime.workers),
    )  # fmt: skip
    with files.only_process(args.out.parent):
        # Under another name until it has been read back and checked, row by row.
        unchecked = args.out.with_name(f"unchecked-{args.out.name}")
        try:
            with submission.Writer(unchecked, recipe.predict.compression) as writer:
                bad = predict(
                    predictions, len(rows), threshold, recipe.predict.on_bad_image, writer
                )
            sizes = {base_name(row.image): row.size for row in rows}
            summary = submission.check(unchecked, sample_submission, sizes)
            os.replace(unchecked, args.out)
        finally:
            unchecked.unlink(missing_ok=True)
    print(
        f"{args.out}: {summary.rows} rows, {summary.empty_rows} of them empty, "
        f"at threshold {threshold:.4f}"
    )
    for error in bad:
        print(f"left empty: {error}")


if __name__ == "__main__":
    main()
