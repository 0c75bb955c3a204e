"""CPU time an image of prediction without the network: this project and the classic loop.

    python benchmarks/predict_host.py --raw data/carvana/raw [--count 96] [--repeats 3]

Both get the same test images from the same zip and, instead of a network's output, the same
probabilities at 1024x1024, made of real masks with edges as soft as a network's. The classic
loop is that of public solutions: one thread that decodes, resizes the image, resizes the map with
OpenCV, thresholds, encodes with numpy, and writes a gzipped CSV (level 9). This project does it
in two stages: `predict` decodes and keeps levels, `encode` makes the submission of them. Measured
is the CPU time of the whole process, all threads, in a new one each time after a first call there;
repeats are interleaved. Maps are levels resized in 8 bits in one case and floats in the other, so
the masks may differ in a few pixels along their edges: that is checked.
"""

import argparse
import csv
import gzip
import io
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data import rows as mask_rows
from pipeline.data.archives import Archives, base_name
from pipeline.data.decoding import decode_batches
from pipeline.data.samples import Sample
from pipeline.encode import encode
from pipeline.evaluation.decision import Decision
from pipeline.levels import kept, scale
from pipeline.levels.kept import Kept
from pipeline.masks import rle, submission
from pipeline.support import hardware

SIZE, FULL = (1024, 1024), (1280, 1918)  # height, width of the network's input and the images
BATCH = 4  # small: a ring of buffers is to be used many times over, as in a long run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="test.zip and train_masks.zip")
    parser.add_argument("--count", type=int, default=96, help="images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", help="time this one alone: for the processes this one starts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    archives = Archives(args.raw)
    names = [name for name in archives.members("test.zip") if name.endswith(".jpg")]
    rows = [Sample(name, "test", "", name, "", -1, *FULL, 0.0) for name in names[: args.count]]
    maps = list(real_maps(archives, len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        ways = contestants(args.raw / "test.zip", archives, rows, maps, Path(folder))
        if args.way:
            if args.way.endswith("encode"):
                ways["this project, predict"]()
            print(cpu_seconds(ways[args.way], args.way))
            return
        for way in ways.values():  # compiles what is to be compiled
            way()
        compare(Path(folder))
        size = sum(path.stat().st_size for path in (Path(folder) / "kept").iterdir())
        print(f"{size / len(rows) / 1e3:.1f} kB of levels an image")
    report(measure(list(ways), args.repeats, len(rows)))


def real_maps(archives: Archives, count: int) -> Iterator[np.ndarray]:
    """Probabilities (h, w) of real masks, float32."""
    members = [name for name in archives.members("train_masks.zip") if name.endswith(".gif")]
    for member in itertools.islice(itertools.cycle(members), count):
        mask = np.array(Image.open(io.BytesIO(archives.read(member))), np.float32)
        small = cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_AREA)
        yield cv2.GaussianBlur(small, (0, 0), 1)


def classic(archive: Path, rows, maps, out: Path, with_pillow: bool) -> None:
    """One thread, one image after the other."""
    with (
        zipfile.ZipFile(archive) as members,
        gzip.open(out, "wt", compresslevel=9, newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(mask_rows.HEADER.split(","))
        for row, probability in zip(rows, maps, strict=True):
            data = members.read(row.image.partition("!")[2])
            if with_pillow:
                picture = Image.open(io.BytesIO(data)).resize(SIZE[::-1], Image.Resampling.LANCZOS)
                image = np.asarray(picture)
            else:
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                image = cv2.resize(pixels, SIZE[::-1])
            assert image.shape == (*SIZE, 3)
            large = cv2.resize(probability, FULL[::-1])
            writer.writerow((base_name(row.image), numpy_rle(large >= 0.5)))


def numpy_rle(mask: np.ndarray) -> str:
    """The well-known way: flatten, find where neighbours differ, join as text."""
    pixels = mask.flatten()
    pixels[0] = pixels[-1] = 0
    changes = np.where(pixels[1:] != pixels[:-1])[0] + 2
    changes[1::2] -= changes[::2]
    return " ".join(map(str, changes))


def predict(archives: Archives, rows, levels, folder: Path) -> None:
    """The host's part of the stage `predict`: decode, resize, keep the levels."""

    def images() -> Iterator[kept.Image]:
        found = iter(levels)
        for batch in decode_batches(rows, archives, SIZE, "linear", BATCH, 1, False):
            for row in batch.rows:
                yield kept.Image.of(row.sample_id, next(found), 0.0, "")

    kept.write(folder, "benchmark", images(), len(rows))


def encode_all(rows, folder: Path, out: Path) -> None:
    """The stage `encode`."""
    opened = Kept.open(folder, [row.sample_id for row in rows], "")
    made = encode(rows, opened.images(), Decision(scale.HALF), {})
    submission.write(out, out.with_name("masks.csv"), made, 2)


def contestants(archive, archives, rows, maps, out) -> dict[str, Callable[[], None]]:
    levels = [scale.of(one) for one in maps]
    return {
        "classic loop, Pillow with Lanczos": lambda: classic(
            archive, rows, maps, out / "pillow.csv.gz", True
        ),
        "classic loop, all in OpenCV": lambda: classic(
            archive, rows, maps, out / "opencv.csv.gz", False
        ),
        "this project, predict": lambda: predict(archives, rows, levels, out / "kept"),
        "this project, encode": lambda: encode_all(rows, out / "kept", out / "ours.csv.gz"),
    }


def compare(out: Path) -> None:
    """Hold our masks against the classic loop's."""
    worst = 0
    pairs = (mask_rows.read_rows(out / f"{name}.csv.gz") for name in ("opencv", "ours"))
    for (name, theirs), (same, ours) in zip(*pairs, strict=True):
        assert name == same
        worst = max(worst, np.count_nonzero(rle.decode(theirs, *FULL) != rle.decode(ours, *FULL)))
    print(f"at most {worst} of {FULL[0] * FULL[1]} pixels of an image differ")
    assert worst < 5000, worst


def measure(ways: list[str], repeats: int, images: int) -> dict[str, float]:
    """Median CPU milliseconds an image, each time in a new process, repeats interleaved."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name in ways:
            command = [sys.executable, *sys.argv, "--way", name]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            times[name].append(1e3 * float(printed) / images)
    return {name: statistics.median(values) for name, values in times.items()}


def cpu_seconds(way: Callable[[], None], name: str) -> float:
    """CPU seconds of the second of two calls in this process."""
    if name.endswith("predict"):  # the stage sets its memory up so
        hardware.reuse_freed_memory()
    way()
    begin = time.process_time()
    way()
    return time.process_time() - begin


def report(medians: dict[str, float]) -> None:
    first = next(iter(medians.values()))
    print("\n| | CPU ms an image | times less |\n| --- | ---: | ---: |")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {first / value:.1f} |")


if __name__ == "__main__":
    main()
