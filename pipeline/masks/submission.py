"""The file Kaggle scores: `img,rle_mask` rows, gzipped, in the sample submission's order."""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

from pipeline.data.rows import GZIP_WBITS, HEADER, read_rows, rows_of
from pipeline.masks import rle
from pipeline.support import files, table
from pipeline.support.errors import UserError


def check_name(name: str) -> None:
    """Refuse an image name that a submission cannot hold plainly.

    Raises:
        UserError: it is empty, or holds a comma, a quote or a line break.
    """
    if not name or set(name) & set(',"\r\n'):
        raise UserError(
            f"image name {name!r}: a submission's names are not empty and hold no comma, "
            "quote or line break; rename the file"
        )


@dataclass(frozen=True, slots=True)
class Note:
    """What is told of a submitted mask, a row of `masks.csv`.

    `img` is the name of its file, `area` in pixels at full size, `disagreement` the share of
    pixels (0..1) on which the folds' networks decide differently at 0.5, `error` why it could
    not be read, which left its mask empty, or "".
    """

    img: str
    area: int
    disagreement: float = field(metadata=table.cells(digits=6))
    error: str


def write(file: Path, notes: Path, masks: Iterable[tuple[Note, str]], compression: int) -> None:
    """Write a submission as one gzip member, and the table of its masks; nothing grows with them.

    Args:
        masks: what is told of each image, and its run-length text, in the order of the rows.
        compression: isal's level, 0 to 3.
    """

    def written(stream: BinaryIO) -> Iterator[Note]:
        packer = isal_zlib.compressobj(compression, isal_zlib.DEFLATED, GZIP_WBITS)
        stream.write(packer.compress(f"{HEADER}\n".encode()))
        for note, text in masks:
            stream.write(packer.compress(f"{note.img},{text}\n".encode()))
            yield note
        stream.write(packer.flush())

    with files.written_whole(file) as temporary, temporary.open("wb") as stream:
        table.write(notes, Note, written(stream))


@dataclass(frozen=True)
class Summary:
    """What a valid submission holds; shares are foreground pixels over pixels of an image."""

    rows: int
    empty_rows: int
    mean_share: float
    lowest_share: float
    highest_share: float


def check(
    submission: Path, sample_submission: Path, sizes: Mapping[str, tuple[int, int]]
) -> Summary:
    """Refuse a submission that Kaggle would refuse or misread.

    Its names are to be the sample submission's in the same order, every text a mask of its
    image's size, (height, width) in `sizes` by that name, and the file one gzip member
    without byte order mark and CRLF. Both files are streamed.

    Raises:
        UserError: names the first row that is wrong.
    """
    shares, empty = array("d"), 0
    pairs = itertools.zip_longest(rows_of(submission, foreign=False), read_rows(sample_submission))
    for number, (row, sample) in enumerate(pairs, start=1):
        name, text = _same_name(submission, number, row, sample)
        shares.append(_share(submission, number, name, text, sizes))
        empty += not text
    if not shares:
        raise UserError(f"{sample_submission}: found no row under the header; download it again")
    return Summary(len(shares), empty, sum(shares) / len(shares), min(shares), max(shares))


def _same_name(
    path: Path, number: int, row: tuple[str, str] | None, sample: tuple[str, str] | None
) -> tuple[str, str]:
    if row is None or sample is None or row[0] != sample[0]:
        found = "the end of the file" if row is None else repr(row[0])
        expected = "the end of the file" if sample is None else repr(sample[0])
        raise UserError(
            f"{path}: row {number}: found {found}, expected {expected} as in the sample "
            "submission; run the encode stage again"
        )
    return row


def _share(
    path: Path, number: int, name: str, text: str, sizes: Mapping[str, tuple[int, int]]
) -> float:
    if name not in sizes:
        raise UserError(
            f"{path}: row {number}, {name}: its image is not among the {len(sizes)} with a known "
            "size; check that the test archive is the sample submission's and split again"
        )
    height, width = sizes[name]
    try:
        return rle.check(text, height, width) / (height * width)
    except rle.RleError as error:
        raise UserError(
            f"{path}: row {number}, {name}: {error}; run the encode stage again"
        ) from error
