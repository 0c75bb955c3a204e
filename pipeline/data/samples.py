"""The table of samples: one row an image, training and test, with its size and its fold."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.support import table
from pipeline.support.errors import UserError

NO_FOLD = -1


COLOR = 1 << 24  # plus 0xRRGGBB: the value of a class that masks show by a color


class Label(NamedTuple):
    """A class: what it is called, and the value its pixels have in mask files.

    A value is a grey level or palette index, of 8 or 16 bits, or `COLOR` plus 0xRRGGBB.
    """

    name: str
    value: int


BINARY = (Label("background", 0), Label("foreground", 1))


def shown(value: int) -> str:
    """A pixel's value as recipes and tables have it: 255, or #ff0000 for a color."""
    return f"#{value - COLOR:06x}" if value >= COLOR else str(value)


def parsed(text: str) -> int:
    """The value that `shown` shows.

    Raises:
        ValueError: it is none.
    """
    if len(text) == 7 and text.startswith("#"):
        return COLOR + int(text[1:], 16)
    if not text.isdecimal():
        raise ValueError("a number, or a color like #ff0000")
    return int(text)


def _written(labels: Iterable[Label]) -> str:
    for label in labels:
        if not label.name or set(label.name) & {*" =\t\r\n"}:
            raise UserError(
                f"labels: found the name {label.name!r}, expected one without blanks and ="
            )
    return " ".join(f"{label.name}={shown(label.value)}" for label in labels)


@functools.cache
def _read(cell: str) -> tuple[Label, ...]:
    """The labels of one row; the same object for all rows that have the same ones."""
    words = [word.partition("=") for word in cell.split()]
    if len(words) < 2:
        raise ValueError("two or more of name=value")
    return tuple(Label(name, parsed(value)) for name, _, value in words)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What a source knows of an image before anything is opened.

    `image` and `mask` are references as in `pipeline.data.archives`; `mask` is empty for a test
    image. `group` names what must not straddle folds: a car, a patient. `labels` are the
    classes in the order of their indices; the first is the background.
    """

    sample_id: str
    split: Literal["train", "test"]
    group: str
    image: str
    mask: str
    labels: tuple[Label, ...] = dataclasses.field(
        default=BINARY, kw_only=True, metadata=table.cells(encode=_written, decode=_read)
    )

    @property
    def values(self) -> tuple[int, ...]:
        """The values of the mask file's pixels, by class index."""
        return tuple(label.value for label in self.labels)

    @property
    def classes(self) -> int:
        """What a network has to tell apart: one foreground, or three classes and more."""
        return 1 if len(self.labels) == 2 else len(self.labels)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample(Entry):
    """An image with its measures.

    `height` and `width` are in pixels, `foreground` is the share of the mask that is not
    background (0..1, 0 for a test image), `fold` is the fold that holds it out (`NO_FOLD` for
    a test image, and for a training image that no fold holds out). No fold trains on an image
    whose `validation` is true: those that do not hold it out choose by it.
    """

    fold: int
    height: int
    width: int
    foreground: float = dataclasses.field(metadata=table.cells(digits=6))
    validation: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write the table as CSV, in one step. `foreground` keeps six decimals.

    Raises:
        UserError: a group leaks, see `check_no_leak`.
    """
    check_no_leak(samples, path)
    table.write(path, Sample, samples)


def read(path: Path) -> list[Sample]:
    """Read the table.

    Raises:
        UserError: it is missing, has other columns, an unreadable row, or a group leaks.
    """
    rows = table.read(path, Sample, "run the split stage")
    check_no_leak(rows, path)
    return rows


def training(samples: Iterable[Sample], fold: int) -> list[Sample]:
    """The rows a fold's model learns from: training rows it neither holds out nor chooses by."""
    return [s for s in samples if s.split == "train" and s.fold != fold and not s.validation]


def validation(samples: Iterable[Sample], fold: int) -> list[Sample]:
    """The rows by which a fold's training chooses, which `split.validation` may set apart."""
    return [s for s in samples if s.split == "train" and s.fold != fold and s.validation]


def held_out(samples: Iterable[Sample], fold: int) -> list[Sample]:
    """The rows a fold's model must never see in training."""
    return [s for s in samples if s.split == "train" and s.fold == fold]


def test(samples: Iterable[Sample]) -> list[Sample]:
    """The rows to predict, in the submission's order."""
    return [s for s in samples if s.split == "test"]


def odd_sizes(samples: Iterable[Sample]) -> dict[str, str]:
    """What is wrong with images that have another size than their neighbours, by sample_id.

    Neighbours are the images of a group of three or more, of which three quarters have one
    size: one camera took them, and a picture of another size is not of that series.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    odd: dict[str, str] = {}
    for group in groups.values():
        (size, count), *others = Counter(sample.size for sample in group).most_common()
        if others and len(group) >= 3 and 4 * count >= 3 * len(group):
            odd |= {s.sample_id: _odd(s, size, count) for s in group if s.size != size}
    return odd


def _odd(sample: Sample, size: tuple[int, int], count: int) -> str:
    return (
        f"{sample.image}: found {sample.height}x{sample.width} pixels (height x width), expected "
        f"{size[0]}x{size[1]} as {count} others of {sample.group} have; replace the file and run "
        f"the split stage again"
    )


def check_no_leak(samples: Iterable[Sample], where: Path) -> None:
    """Refuse a table in which a group is held out by two folds, or trained on and predicted.

    So is one that names two images alike, of which one would stand for both.

    Raises:
        UserError: names the group and the first row that strays, or the two images.
    """
    places: dict[str, str] = {}
    images: dict[str, str] = {}
    for sample in samples:
        if other := images.get(sample.sample_id):
            raise UserError(
                f"{where}: found sample_id {sample.sample_id} of {other} and of {sample.image}, "
                f"expected another for each image; correct how the source names them"
            )
        images[sample.sample_id] = sample.image
        place = places.setdefault(sample.group, _place(sample))
        if place != _place(sample):
            raise UserError(
                f"{where}: group {sample.group} is in {place} and in {_place(sample)} "
                f"({sample.sample_id}), expected one place; correct how the source groups images"
            )


def check_classes(samples: Iterable[Sample], classes: int, where: Path) -> None:
    """Refuse rows whose masks have other classes than a network is to tell apart.

    Raises:
        UserError: names the classes and the first row that has them.
    """
    for sample in samples:
        if sample.classes != classes:
            names = ", ".join(label.name for label in sample.labels)
            raise UserError(
                f"train.classes: found {classes}, but {where} has masks of {names} "
                f"({sample.sample_id}), expected {sample.classes}"
            )


def _place(sample: Sample) -> str:
    if sample.split == "test":
        return "the test set"
    return "no fold" if sample.fold == NO_FOLD else f"fold {sample.fold}"
