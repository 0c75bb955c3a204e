"""Pictures of out-of-fold predictions: small photographs, and masks to lay over them.

A photograph is stored once; prediction, truth and their difference are transparent layers of
a few hundred bytes, so a page can switch between them without a picture for each.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from pipeline.support.arrays import Mask, UInt8
from pipeline.support.errors import UserError
from pipeline.support.files import written_whole
from pipeline.support.overlay import (
    FALSE_POSITIVE,
    HIT,
    IS_FALSE,
    IS_HIT,
    IS_MISSED,
    MISSED,
    compare,
    encode_webp,
    paint,
    shrink,
    worst_window,
)

Kind = Literal["worst", "random"]

PREDICTION, TRUTH = (86, 180, 233), (240, 228, 66)  # RGB, also of Okabe and Ito
_WIDTH = 960  # pixels of a photograph
_WINDOW = (288, 384)  # of the part shown pixel by pixel
_QUALITY = 65  # of WebP
_PALETTE = (0, 0, 0, *HIT, *MISSED, *FALSE_POSITIVE)
_SOLID = bytes([0, 255])
_OPACITIES = bytes([0, 110, 255, 255])  # hits are most of a mask: mistakes shall stand out
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal pictures make equal files


@dataclasses.dataclass(frozen=True)
class Layers:
    """A WebP photograph and three transparent PNGs of its size to lay over it."""

    photograph: bytes
    prediction: bytes
    truth: bytes
    difference: bytes


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image: whole and small, and the window with the most wrong pixels at full size."""

    sample_id: str
    kind: Kind
    whole: Layers
    window: Layers


def choose(scores: Sequence[float], worst: int, random: int, seed: int) -> list[tuple[int, Kind]]:
    """Which images to draw: the indices of the lowest scores, worst first, then random others.

    The random ones are drawn without looking at the scores, so they show what is usual.
    """
    order = np.argsort(scores, kind="stable")
    others = np.random.default_rng(seed).permutation(np.sort(order[worst:]))
    lowest: list[tuple[int, Kind]] = [(int(index), "worst") for index in order[:worst]]
    return lowest + [(int(index), "random") for index in np.sort(others[:random])]


def picture(sample_id: str, kind: Kind, image: UInt8, prediction: Mask, truth: Mask) -> Picture:
    """Draw one image (H, W, 3) uint8 RGB with its (H, W) bool masks."""
    classes = compare(prediction, truth)
    place = worst_window(classes, _WINDOW)
    return Picture(
        sample_id,
        kind,
        _layers(*shrink(image, classes, _WIDTH)),
        _layers(image[place], classes[place]),
    )


def panels(image: UInt8, prediction: Mask, truth: Mask) -> UInt8:
    """One RGB picture for `dvc plots`: the difference, the truth, and the worst window."""
    classes = compare(prediction, truth)
    place = worst_window(classes, _WINDOW)
    small, found = shrink(image, classes, _WIDTH)
    wanted = np.isin(found, (IS_HIT, IS_MISSED)).astype(np.uint8)
    window = paint(image[place], classes[place])
    height = len(small)
    width = round(window.shape[1] * height / len(window))
    window = cv2.resize(window, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return np.concatenate([paint(small, found), paint(small, wanted), window], axis=1)


def write(path: Path, pictures: Iterable[Picture]) -> None:
    """Write the pictures as one zip, in one step: equal pictures make equal bytes."""
    index = []
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number, one in enumerate(pictures):
            index.append({"sample_id": one.sample_id, "kind": one.kind})
            for part, layers in (("whole", one.whole), ("window", one.window)):
                for name, data in dataclasses.asdict(layers).items():
                    archive.writestr(zipfile.ZipInfo(f"{number}/{part}/{name}", _DATE), data)
        archive.writestr(zipfile.ZipInfo("index.json", _DATE), json.dumps(index))


def read(path: Path) -> list[Picture]:
    """Read what `write` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read("index.json"))
            return [
                Picture(
                    entry["sample_id"], entry["kind"],
                    _read_layers(archive, f"{number}/whole"),
                    _read_layers(archive, f"{number}/window"),
                )
                for number, entry in enumerate(index)
            ]  # fmt: skip
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {error}; run the validate stage of this fold") from None


def _read_layers(archive: zipfile.ZipFile, folder: str) -> Layers:
    names = [field.name for field in dataclasses.fields(Layers)]
    return Layers(**{name: archive.read(f"{folder}/{name}") for name in names})


def _layers(image: UInt8, classes: UInt8) -> Layers:
    predicted = np.isin(classes, (IS_HIT, IS_FALSE)).astype(np.uint8)
    true = np.isin(classes, (IS_HIT, IS_MISSED)).astype(np.uint8)
    return Layers(
        photograph=encode_webp(image, _QUALITY),
        prediction=_transparent(predicted, (0, 0, 0, *PREDICTION), _SOLID),
        truth=_transparent(true, (0, 0, 0, *TRUTH), _SOLID),
        difference=_transparent(classes, _PALETTE, _OPACITIES),
    )


def _transparent(classes: UInt8, palette: tuple[int, ...], opacities: bytes) -> bytes:
    """A PNG of a few colors, with the opacity (0 to 255) of each."""
    layer = Image.fromarray(classes)
    layer.putpalette(palette)
    stream = io.BytesIO()
    bits = 1 if len(opacities) == 2 else 2
    layer.save(stream, "PNG", bits=bits, transparency=opacities, optimize=True)
    return stream.getvalue()
