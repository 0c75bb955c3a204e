"""Time what knowing the score costs on one core: every threshold of an image, `tune`, a check.

    python benchmarks/tune.py [--masks train_masks.zip] [--count 16] [--repeats 5]

Without `--masks` the masks are drawn. Probability maps are the masks at 1024x1024, blurred
and resized to 1280x1918 as a network's are. Each repeat runs every way of scoring over all
maps, so that a map has left the cache before the next way reads it. The scores are compared
before anything is timed.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rle as masks_of  # benchmarks/rle.py, for its masks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.evaluation import out_of_fold
from pipeline.evaluation.out_of_fold import Judged, Measures
from pipeline.levels import scale
from pipeline.masks import regions, rle
from pipeline.metrics import dice
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import CleanUp
from pipeline.report import sanity
from pipeline.report.sanity import Note
from pipeline.tune import stage as tune

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
LOOPED = np.arange(0, 256, 256 / 100)  # 100 thresholds, as levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="train_masks.zip, palette GIFs")
    parser.add_argument("--count", type=int, default=16, help="masks, spread over the archive")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    source = masks_of.read(args.masks, args.count) if args.masks else masks_of.drawn(args.count)
    truths = [mask > 0 for mask in source]
    probabilities = [probability(truth) for truth in truths]
    levels = [scale.of(one) for one in probabilities]
    saturated = np.mean([((one == 0) | (one == 255)).mean() for one in levels])
    print(f"{len(truths)} maps, {saturated:.1%} of the pixels in the first or last level\n")
    compare(probabilities, levels, truths)
    report(measure(list(zip(probabilities, levels, truths, strict=True)), args.repeats))
    print()
    time_tune()
    print()
    time_checks(truths)


def probability(truth: np.ndarray) -> np.ndarray:
    """What a good network says: float32, sharp to a few pixels."""
    small = cv2.resize(truth.astype(np.float32), (1024, 1024), interpolation=cv2.INTER_AREA)
    logits = 14 * (cv2.GaussianBlur(small, (0, 0), 1.5) - 0.48)
    return cv2.resize(1 / (1 + np.exp(-logits)), truth.shape[::-1]).astype(np.float32)


# --- the ways: (float map, levels, truth) -> Dice at many thresholds


def counted(_: np.ndarray, levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return dice.dice_by_threshold(dice.count_levels(levels, truth)[None])[0]


def bincount(_: np.ndarray, levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """One pass of numpy's: level and class in one number."""
    joint = levels.ravel() + 256 * truth.ravel().astype(np.intp)
    return dice.dice_by_threshold(np.bincount(joint, minlength=512).reshape(1, 2, 256))[0]


def looped(prediction: np.ndarray, thresholds: np.ndarray, truth: np.ndarray) -> np.ndarray:
    true = np.count_nonzero(truth)
    scores = []
    for threshold in thresholds:
        mask = prediction >= threshold
        overlap, area = np.count_nonzero(mask & truth), np.count_nonzero(mask)
        scores.append(2 * overlap / (area + true))
    return np.array(scores)


def looped_levels(_: np.ndarray, levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return looped(levels, np.ceil(LOOPED).astype(np.uint8), truth)


def looped_floats(values: np.ndarray, _: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return looped(values, (np.ceil(LOOPED) / 256).astype(np.float32), truth)


WAYS: dict[str, Scorer] = {
    "`count_levels`, all 256 thresholds": counted,
    "`np.bincount`, all 256 thresholds": bincount,
    "loop over 100 thresholds, uint8 map": looped_levels,
    "loop over 100 thresholds, float map": looped_floats,
}


def compare(*maps: list[np.ndarray]) -> None:
    """All ways give the same scores, exactly."""
    for one in zip(*maps, strict=True):
        every = counted(*one)
        np.testing.assert_array_equal(bincount(*one), every)
        for way in (looped_levels, looped_floats):
            np.testing.assert_array_equal(way(*one), every[np.ceil(LOOPED).astype(int)])


def measure(maps: list[tuple[np.ndarray, ...]], repeats: int) -> dict[str, float]:
    """Milliseconds an image, the median of repeats of the mean."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            started = time.perf_counter()
            for one in maps:
                way(*one)
            taken[name].append((time.perf_counter() - started) / len(maps) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def report(times: dict[str, float]) -> None:
    least = next(iter(times.values()))
    print("| | ms an image | times `count_levels` |\n| --- | ---: | ---: |")
    for name, value in times.items():
        print(f"| {name} | {value:.2f} | {value / least:.1f} |")


# --- the stage


def time_tune(cars: int = 318, views: int = 16, folds: int = 5) -> None:
    """`tune` on the counts of Carvana's 5,088 images, beside its imports."""
    command = [sys.executable, "-c", "import pipeline.tune.stage"]
    started = time.perf_counter()
    subprocess.run(command, cwd=Path(__file__).resolve().parents[1], check=True)
    imports = time.perf_counter() - started
    rows = [
        Sample(f"car{car}_{view:02d}", "train", f"car{car}", "i", "m", car % folds, 1280, 1918, 0.2)
        for car in range(cars)
        for view in range(1, views + 1)
    ]
    recipe = read.load(recipe_file("carvana"))
    off = CleanUp(keep_largest=False, drop_specks="none", close="none", fill_holes="none")
    recipe = recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"clean_up": off})})
    with tempfile.TemporaryDirectory() as name:
        places = {place: Path(name, place) for place in ("samples", "oof", "evaluation")}
        paths = Paths.of("carvana", places)
        samples.write(paths.samples, rows)
        for fold in range(folds):
            out_of_fold.write(paths, fold, [judged(row) for row in samples.held_out(rows, fold)])
        started = time.perf_counter()
        tune.run(recipe, paths, range(folds))
        taken = time.perf_counter() - started
    print(
        f"`tune` of {len(rows)} images, {recipe.tune.bootstrap} resamples: {taken:.2f} s, "
        f"besides {imports:.2f} s of Python's start and imports"
    )


def judged(row: Sample) -> Judged:
    random = np.random.default_rng(len(row.sample_id))
    counts = random.poisson(60, (2, 256)).astype(np.int64)
    counts[0, 0], counts[1, 255] = 1_920_000, 500_000 + random.integers(0, 10_000)
    return Judged(row, counts, 0.99, Measures(row.sample_id, 0.99, 1, 1, 1, 0.01, 0.5))


# --- submissions


def time_checks(truths: list[np.ndarray], rows: int = 3000) -> None:
    """The sanity check and the score of a submission, a row, beside pixels instead of runs."""
    height, width = truths[0].shape
    texts = [rle.encode(truth) for truth in truths]
    test = [
        Sample(f"c_{i}", "test", "c", f"{i}.jpg", "", -1, height, width, 0) for i in range(rows)
    ]
    given = [(f"{i}.jpg", texts[i % len(texts)]) for i in range(rows)]
    notes = {name: Note(1, 0.0, "") for name, _ in given}
    training = [Sample("t", "train", "t", "", "", 0, height, width, 0.2)]
    expected = sanity.usual(training, 100)
    started = time.perf_counter()
    sanity.examine(given, test, notes, expected)
    checked = (time.perf_counter() - started) / rows * 1e6

    true = regions.of_mask(truths[0])
    started = time.perf_counter()
    for _, text in given:
        regions.dice(rle.read(text, height, width), true)
    scored = (time.perf_counter() - started) / rows * 1e6

    started = time.perf_counter()
    for text in texts:
        mask = rle.decode(text, height, width)
        cv2.connectedComponents(mask.view(np.uint8))
    pixels = (time.perf_counter() - started) / len(texts) * 1e6
    started = time.perf_counter()
    for text in texts:
        regions.measure(rle.read(text, height, width), width)
    from_runs = (time.perf_counter() - started) / len(texts) * 1e6
    print(f"sanity check: {checked:.0f} us a row, {checked * 100_064 / 1e6:.0f} s for 100,064")
    print(f"area and parts from runs {from_runs:.0f} us, from pixels {pixels:.0f} us a row")
    print(f"score against run lengths: {scored:.0f} us a row")


if __name__ == "__main__":
    main()
