"""The built-in sample: Carvana's archives with synthetic cars, drawn instead of downloaded.

File names, sizes and formats are the competition's; every car, word and make is invented.
Each car and each view has its own seeded generator, so the archives depend on the seed and
the numbers of cars alone, not on who draws what when.
"""

import contextlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.masks import rle
from pipeline.support.arrays import Mask, UInt8
from pipeline.support.concurrency import ordered
from pipeline.support.files import written_whole
from sample.design import Design, Metadata, design
from sample.render import Scene, render
from sample.studio import HEIGHT, VIEWS, WIDTH, backdrop
from sample.surfaces import surfaces

_DATE = (2017, 7, 25, 0, 0, 0)  # of every file in Kaggle's archives
_JPEG_QUALITY = 78  # with the sensor noise: about 100 kB an image, as the real ones
_VIEWS_A_TASK = 8  # a car is built once for these


class _Files(NamedTuple):
    """A view's files: name without suffix, JPEG, GIF, and the mask's bits for its RLE."""

    name: str
    image: bytes
    mask: bytes
    bits: UInt8


def write_archives(folder: Path, train_cars: int, test_cars: int, seed: int, threads: int) -> None:
    """Draw the sample and write Carvana's six archives of it into `folder` (made if missing).

    The bytes depend on `seed` and the two numbers of cars, not on `threads`. Each archive
    appears whole or not at all.

    Args:
        folder: where the archives go; those of the same name there are replaced.
        train_cars: cars with masks, 16 views each.
        test_cars: cars without.
        seed: 0 or more.
        threads: that draw; 0 counts as 1. (Most of the time is spent in OpenCV and NumPy, which
            let others run meanwhile.)
    """
    designs = [design(seed, index) for index in range(train_cars + test_cars)]
    train = _by_id(designs, range(train_cars))
    test = _by_id(designs, range(train_cars, len(designs)))
    drawn = _draw(seed, train + test, threads)
    files = iter(tqdm(drawn, "draw the sample", len(designs) * VIEWS, unit="image"))
    _write_train(folder, files, train_cars * VIEWS)
    names = _write_test(folder, files)
    submission = [["img", "rle_mask"], *([name, "1 1"] for name in names)]
    _write_csv(folder, "sample_submission.csv", submission)
    metadata = sorted([car.car_id, *car.metadata] for car in designs)
    _write_csv(folder, "metadata.csv", [["id", *Metadata._fields], *metadata], quote='"')


def _by_id(designs: list[Design], indices: range) -> list[int]:
    """The indices in the order of the cars' ids, as in Kaggle's archives."""
    return sorted(indices, key=lambda index: designs[index].car_id)


def _write_train(folder: Path, files: Iterator[_Files], count: int) -> None:
    """Write the archives of images, masks and run lengths of the first `count` views."""
    with (
        _archive(folder / "train.zip") as images,
        _archive(folder / "train_masks.zip") as masks,
        _archive(folder / "train_masks.csv.zip") as table,
        table.open(_entry("train_masks.csv", zipfile.ZIP_DEFLATED), "w") as rows,
    ):
        rows.write(b"img,rle_mask\n")
        for file in itertools.islice(files, count):
            images.writestr(_entry(f"train/{file.name}.jpg"), file.image)
            masks.writestr(_entry(f"train_masks/{file.name}_mask.gif"), file.mask)
            text = rle.encode_packed(file.bits, HEIGHT, WIDTH)
            rows.write(f"{file.name}.jpg,{text}\n".encode())


def _write_test(folder: Path, files: Iterator[_Files]) -> list[str]:
    """Write the test archive and return its images' names."""
    names = []
    with _archive(folder / "test.zip") as images:
        for file in files:
            images.writestr(_entry(f"test/{file.name}.jpg"), file.image)
            names.append(f"{file.name}.jpg")
    return names


def _write_csv(folder: Path, name: str, rows: list[list[str]], quote: str = "") -> None:
    """Write a table of one file; no field of ours holds a comma or a quote."""
    lines = (",".join(f"{quote}{field}{quote}" for field in row) for row in rows)
    with _archive(folder / f"{name}.zip") as archive:
        archive.writestr(_entry(name, zipfile.ZIP_DEFLATED), "\n".join([*lines, ""]))


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A new archive that appears at `path` when it is whole."""
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield archive


def _entry(name: str, compression: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """A file's head with Kaggle's date; JPEG and GIF do not deflate, so they are stored."""
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    return entry


def _draw(seed: int, indices: list[int], threads: int) -> Iterator[_Files]:
    """Every view of the cars, in order; few are drawn ahead, so memory stays flat."""
    cv2.setNumThreads(1)  # the threads here are enough
    tasks = itertools.product(indices, range(1, VIEWS + 1, _VIEWS_A_TASK))
    yield from itertools.chain.from_iterable(
        ordered(lambda task: _draw_views(seed, *task), tasks, threads)
    )


def _draw_views(seed: int, index: int, first: int) -> list[_Files]:
    """A task: `_VIEWS_A_TASK` views of a car, the first from 1."""
    car_id, car, studio, _ = design(seed, index)
    scene = Scene(car.shape, surfaces(car), studio, backdrop(studio))
    files = []
    for view in range(first, first + _VIEWS_A_TASK):
        rng = np.random.default_rng([seed, 2, index, view])
        image, mask = render(scene, view, rng)
        files.append(_Files(f"{car_id}_{view:02d}", _jpeg(image), _gif(mask), _bits(mask)))
    return files


def _jpeg(image: UInt8) -> bytes:
    """A JPEG of an image (H, W, 3), RGB."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    assert done, f"OpenCV did not encode an image of shape {image.shape}"
    return data.tobytes()


def _gif(mask: Mask) -> bytes:
    """A palette GIF of a mask (H, W): values 0 (black) and 1 (white)."""
    image, data = Image.fromarray(mask.astype(np.uint8), mode="P"), io.BytesIO()
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(data, "GIF")
    return data.getvalue()


def _bits(mask: Mask) -> UInt8:
    """Eight pixels a byte, the first in the lowest bit: an eighth to hand to the parent."""
    return np.packbits(mask, bitorder="little")
