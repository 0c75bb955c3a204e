"""Time mask -> run-length text on one core: this project's encoders and others.

    python benchmarks/rle.py [--masks train_masks.zip] [--count 64] [--repeats 7]

Without `--masks` the masks are drawn: a car-like outline with rough edges. Each repeat runs
every encoder over all masks, so that a mask has left the cache before the next encoder reads
it (column `streamed`); each call is then made again at once (column `in cache`). The texts
are compared before anything is timed.
"""

import argparse
import io
import statistics
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.masks import rle

HEIGHT, WIDTH = 1280, 1918  # of Carvana's images, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="train_masks.zip, palette GIFs")
    parser.add_argument("--count", type=int, default=64, help="masks, spread over the archive")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    masks = list(read(args.masks, args.count) if args.masks else drawn(args.count))
    texts = compare(masks)
    runs, size = (statistics.mean(values) for values in (map(run_count, texts), map(len, texts)))
    source = args.masks.name if args.masks else "drawn masks"
    print(f"{len(masks)} masks of {source}: {runs:.0f} runs, {size:.0f} characters on average")
    report(measure(contestants(masks), args.repeats))


def read(path: Path, count: int) -> Iterator[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gif")]
        for name in names[:: max(1, len(names) // count)][:count]:
            yield np.array(Image.open(io.BytesIO(archive.read(name))))


def drawn(count: int) -> Iterator[np.ndarray]:
    """Outlines with two windows, wheels and ragged ends: 950 runs; real masks have 760."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    for seed in range(count):
        random = np.random.default_rng(seed)
        ragged = random.normal(0, 2, (HEIGHT, 1)).astype(np.float32)
        cx, cy = random.uniform(900, 1000), random.uniform(640, 740)
        body = ((x - cx) / (690 + 20 * ragged / 10)) ** 2 + ((y - cy) / 270) ** 4 < 1
        for side in (-1, 1):
            wheel_x, window_x = cx + side * 400 + ragged, cx + side * 180 + ragged
            body |= (x - wheel_x) ** 2 + (y - cy - 230) ** 2 < 110**2
            body &= ~((np.abs(x - window_x) < 120) & (np.abs(y - cy + 150) < 60))
        yield body.astype(np.uint8)


def classic(mask: np.ndarray) -> str:
    """The well-known way: flatten, find where neighbours differ, join as text."""
    pixels = mask.flatten()
    pixels[0] = pixels[-1] = 0
    changes = np.where(pixels[1:] != pixels[:-1])[0] + 2
    changes[1::2] -= changes[::2]
    return " ".join(map(str, changes))


def best_numpy(mask: np.ndarray) -> str:
    """The same without copies and without numpy's integers in the text."""
    pixels = mask.reshape(-1)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 2
    changes[1::2] -= changes[::2]
    return " ".join(map(str, changes.tolist()))


def pack(mask: np.ndarray) -> np.ndarray:
    return np.packbits(mask.reshape(-1), bitorder="little")


def from_bits(bits: np.ndarray) -> str:
    return rle.encode_packed(bits, HEIGHT, WIDTH)


def read_once(pixels: np.ndarray) -> int:
    return int(np.add.reduce(pixels.reshape(-1).view(np.uint64)))


def run_count(text: str) -> int:
    return len(text.split()) // 2


def compare(masks: list[np.ndarray]) -> list[str]:
    """Every encoder's text of every mask, which must be one and the same."""
    texts = []
    for mask in masks:
        found = {classic(mask), best_numpy(mask), rle.encode(mask), from_bits(pack(mask))}
        assert len(found) == 1, f"{len(found)} different texts of one mask"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools under numpy 2
            theirs = coco.decode(coco.encode(np.asfortranarray(mask)))
        assert (theirs == rle.decode(*found, *mask.shape)).all()
        texts += found
    return texts


Contestant = tuple[str, Callable[[np.ndarray], object], list[np.ndarray]]


def contestants(masks: list[np.ndarray]) -> list[Contestant]:
    """(name, function, its inputs, already in the form it takes)."""
    bits, columns = [pack(mask) for mask in masks], [np.asfortranarray(mask) for mask in masks]
    return [
        ("classic numpy (flatten, where, join)", classic, masks),
        ("best numpy (no copy, tolist)", best_numpy, masks),
        ("pycocotools, its compressed form, no text", coco.encode, columns),
        ("rle.encode, from bytes", rle.encode, masks),
        ("reading the bytes once (sum)", read_once, masks),
        ("rle.encode_packed, from bits", from_bits, bits),
        ("reading the bits once (sum)", read_once, bits),
    ]


def measure(entries: list[Contestant], repeats: int) -> dict[str, tuple[float, float]]:
    """Median microseconds a mask of each entry, (streamed, in cache), repeats interleaved."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, *_ in entries}
    for _ in range(repeats):
        for name, function, inputs in entries:
            for mask in inputs:
                for column in times[name]:
                    begin = time.perf_counter()
                    function(mask)
                    column.append(1e6 * (time.perf_counter() - begin))
    return {name: (statistics.median(a), statistics.median(b)) for name, (a, b) in times.items()}


def report(medians: dict[str, tuple[float, float]]) -> None:
    first = next(iter(medians.values()))
    print("\n| | streamed, us | times faster | in cache, us | times faster |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, pair in medians.items():
        cells = (f"{us:.0f} | {base / us:.1f}" for us, base in zip(pair, first, strict=True))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
