"""The file Kaggle scores: `img,rle_mask` rows, gzipped, in the sample submission's order."""

import itertools
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

from pipeline import rle
from pipeline.errors import UserError

HEADER = "img,rle_mask"

_READ = 1 << 16  # bytes of a file read at once
_PIECE = 1 << 20  # bytes decompressed at once
_BOM = b"\xef\xbb\xbf"
_GZIP_WBITS = 31  # zlib's number for a gzip wrapper with the largest window
_DAMAGE = (isal_zlib.IsalError, zlib.error, zipfile.BadZipFile, EOFError)


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


@dataclass(frozen=True)
class Summary:
    """What a valid submission holds; shares are foreground pixels over pixels of an image."""

    rows: int
    empty_rows: int
    mean_share: float
    lowest_share: float
    highest_share: float


def find_sample(folder: Path) -> Path:
    """The competition's sample submission in a folder of archives.

    Raises:
        UserError: there is none.
    """
    for ending in (".csv.zip", ".csv", ".csv.gz"):
        path = folder / f"sample_submission{ending}"
        if path.is_file():
            return path
    raise UserError(
        f"{folder}: no sample_submission.csv.zip, which says the rows of a submission; add it "
        "to the recipe's download.files"
    )


def read_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (image name, run-length text) of a submission or a sample submission, in order.

    `path` is a `.csv`, a `.csv.gz` of one member or a `.zip` with one CSV (and perhaps macOS
    resource forks). It is streamed: memory holds a few rows. The byte order mark and the
    CRLF line ends that Windows programs add are accepted.

    Raises:
        UserError: the file is missing, short, corrupt, of another kind, or a line is not
            `name,text`.
    """
    return _rows(path, foreign=True)


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
    pairs = itertools.zip_longest(_rows(submission, foreign=False), read_rows(sample_submission))
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
            "submission; predict again"
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
        raise UserError(f"{path}: row {number}, {name}: {error}; predict again") from error


def _rows(path: Path, foreign: bool) -> Iterator[tuple[str, str]]:
    """Rows of a CSV; `foreign` files may have a byte order mark and CRLF."""
    number = 0
    try:
        for number, line in enumerate(_lines(_blocks(path)), start=1):
            if foreign:
                line = line.removeprefix(_BOM if number == 1 else b"").removesuffix(b"\r")
            name, text = _fields(path, number, line)
            if number > 1:
                yield name, text
    except _DAMAGE as error:  # type: ignore[misc]
        raise UserError(
            f"{path}: damaged or cut short after line {number} ({error}); make or download it again"
        ) from error
    if number == 0:
        raise UserError(f"{path}: line 1: found an empty file, expected {HEADER!r}; make it again")


def _fields(path: Path, number: int, line: bytes) -> list[str]:
    text = line.decode(errors="replace")
    if number == 1:
        right, expected = text == HEADER, repr(HEADER)
    else:
        right = text.count(",") == 1 and not text.endswith("\r")
        expected = "an image name, one comma and run-length text"
    if not right:
        raise UserError(
            f"{path}: line {number}: found {text[:60]!r} ({text.count(',') + 1} columns), expected "
            f"{expected}, ended by LF and without byte order mark; make or download it again"
        )
    return text.split(",")


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of the CSV in `path`, a block at a time."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; predict or download it first")
    if path.suffix not in (".csv", ".gz", ".zip"):
        raise UserError(f"{path}: expected a .csv, .csv.gz or .zip file")
    with path.open("rb") as file:
        if path.suffix == ".gz":
            yield from _unzipped(path, file)
        elif path.suffix == ".zip":
            yield from _member(path, file)
        else:
            yield from iter(lambda: file.read(_READ), b"")


def _unzipped(path: Path, file: BinaryIO) -> Iterator[bytes]:
    stream = isal_zlib.decompressobj(wbits=_GZIP_WBITS)
    while not stream.eof:
        packed = stream.unconsumed_tail or file.read(_READ)
        block = stream.decompress(packed, _PIECE)  # a limit: empty rows shrink a thousandfold
        if not packed and not block and not stream.eof:
            raise EOFError("the gzip stream has no end")
        yield block
    if stream.unused_data or file.read(1):
        raise UserError(
            f"{path}: found bytes after the first gzip member, expected one member: readers that "
            "stop there see a short file; write it again"
        )


def _member(path: Path, file: BinaryIO) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        # macOS adds a ._ resource fork beside each file.
        real = [name for name in archive.namelist() if "/._" not in f"/{name}"]
        names = [name for name in real if name.endswith(".csv")]
        if len(names) != 1:
            raise UserError(f"{path}: found {len(names)} CSV files {names[:3]}, expected one")
        with archive.open(names[0]) as member:
            yield from iter(lambda: member.read(_READ), b"")
