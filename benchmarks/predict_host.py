"""CPU time an image of prediction without the network: this project and the classic loop.

    python benchmarks/predict_host.py --raw data/carvana/raw [--count 96] [--repeats 3]

Both get the same test images from the same zip and, instead of a network's output, the same
logits at 1024x1024, made of real masks with edges as soft as a network's. The classic loop is
that of public solutions: one thread that decodes, resizes, makes the map a probability with
numpy, resizes it with OpenCV, thresholds, encodes with numpy, and writes a gzipped CSV (level
9). Measured is the CPU time of the whole process, all threads, in a new one each time after
a first call there; repeats are interleaved. The texts of all ways are compared first.

The processes are new and not forked: in a forked one torch's sigmoid took ten times as long.
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
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from pipeline.data.archives import Archives, base_name
from pipeline.data.decoding import decoded
from pipeline.data.samples import Sample
from pipeline.predict import csv_rows, mask_bits
from pipeline.predict.gzip_member import PieceFile
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
    logits = list(real_logits(archives, args.count))
    bits = [words_of(map_) for map_ in logits]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        ways = contestants(args.raw / "test.zip", archives, rows, logits, bits, out)
        if args.way:
            print(cpu_seconds(ways[args.way], args.way))
            return
        texts = {way() for way in ways.values()}  # and compiles what is to be compiled
        assert len(texts) == 1, f"{len(texts)} different submissions"
    report(measure(list(ways), args.repeats, len(rows)))


def real_logits(archives: Archives, count: int):
    members = [name for name in archives.members("train_masks.zip") if name.endswith(".gif")]
    for member in itertools.islice(itertools.cycle(members), count):
        mask = np.array(Image.open(io.BytesIO(archives.read(member))), np.float32)
        small = cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(small, (0, 0), 1).clip(1e-4, 1 - 1e-4)
        yield np.log(soft / (1 - soft))


def words_of(logits: np.ndarray) -> np.ndarray:
    """What a GPU hands over: the bits of the mask. Made by the classic arithmetic."""
    mask = cv2.resize(sigmoid(logits), FULL[::-1]) >= 0.5
    return np.packbits(mask.reshape(-1), bitorder="little").view(np.uint64)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def classic(archive: Path, rows, logits, out: Path, with_pillow: bool) -> bytes:
    """One thread, one image after the other."""
    with (
        zipfile.ZipFile(archive) as members,
        gzip.open(out, "wt", compresslevel=9, newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        for row, map_ in zip(rows, logits, strict=True):
            data = members.read(row.image.partition("!")[2])
            if with_pillow:
                picture = Image.open(io.BytesIO(data)).resize(SIZE[::-1], Image.Resampling.LANCZOS)
                image = np.asarray(picture)
            else:
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                image = cv2.resize(pixels, SIZE[::-1])
            assert image.shape == (*SIZE, 3)
            probability = cv2.resize(sigmoid(map_), FULL[::-1])
            writer.writerow((base_name(row.image), numpy_rle(probability >= 0.5)))
    return gzip.decompress(out.read_bytes())


def numpy_rle(mask: np.ndarray) -> str:
    """The well-known way: flatten, find where neighbours differ, join as text."""
    pixels = mask.flatten()
    pixels[0] = pixels[-1] = 0
    changes = np.where(pixels[1:] != pixels[:-1])[0] + 2
    changes[1::2] -= changes[::2]
    return " ".join(map(str, changes))


def ours(archives: Archives, rows, logits, bits, out: Path, on_gpu: bool) -> bytes:
    """Decode, and what follows the network: with bits from a GPU, or all of it on the CPU."""
    written = []
    with PieceFile(out, 2) as piece:
        start = 0
        for batch in decoded(rows, archives, SIZE, "linear", BATCH, 1, False):
            some = slice(start, start := start + len(batch.rows))
            if on_gpu:
                words = np.stack(bits[some])
            else:
                maps = [torch.sigmoid(torch.from_numpy(map_)).numpy() for map_ in logits[some]]
                words = np.concatenate([mask_bits.on_cpu(map_[None], FULL, 0.5) for map_ in maps])
            csv_rows.foreground(words)
            names = [base_name(row.image) for row in batch.rows]
            written.append(csv_rows.encode(names, words, FULL[0] * FULL[1]))
            piece.add(written[-1])
    return b"".join(written)


def contestants(archive, archives, rows, logits, bits, out) -> dict[str, Callable[[], bytes]]:
    file = out / "out.gz"
    return {
        "classic loop, Pillow with Lanczos": lambda: classic(archive, rows, logits, file, True),
        "classic loop, all in OpenCV": lambda: classic(archive, rows, logits, file, False),
        "this project, all on the CPU": lambda: ours(archives, rows, logits, bits, file, False),
        "this project, bits from a GPU": lambda: ours(archives, rows, logits, bits, file, True),
    }


def measure(ways: list[str], repeats: int, images: int) -> dict[str, float]:
    """Median CPU milliseconds an image, each time in a new process, repeats interleaved."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name in ways:
            command = [sys.executable, *sys.argv, "--way", name]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            times[name].append(1e3 * float(printed) / images)
    return {name: statistics.median(values) for name, values in times.items()}


def cpu_seconds(way: Callable[[], bytes], name: str) -> float:
    """CPU seconds of the second of two calls in this process."""
    if name.startswith("this project"):  # the stage sets its memory up so
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
