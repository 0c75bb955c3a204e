"""Tables of masks, `img,rle_mask`: submissions, the sample submission, `train_masks.csv`."""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

from pipeline.support.errors import UserError
from pipeline.support.files import ZIP_DAMAGE

HEADER = "img,rle_mask"
SAMPLES = tuple(f"sample_submission{ending}" for ending in (".csv.zip", ".csv", ".csv.gz"))

_READ = 1 << 16  # bytes of a file read at once
_PIECE = 1 << 20  # bytes decompressed at once
_BOM = b"\xef\xbb\xbf"
GZIP_WBITS = 31  # zlib's number for a gzip wrapper with the largest window
_DAMAGE = (isal_zlib.IsalError, *ZIP_DAMAGE)


def find_sample(folder: Path) -> Path:
    """The competition's sample submission in a folder of archives.

    Raises:
        UserError: there is none.
    """
    for name in SAMPLES:
        path = folder / name
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
    return rows_of(path, foreign=True)


def rows_of(path: Path, foreign: bool) -> Iterator[tuple[str, str]]:
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
    except OSError as error:  # the disk's, or of a zip that names places outside the file
        raise UserError(
            f"{path}: not readable after line {number} ({error}); put that right, or make or "
            "download it again"
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
    stream = isal_zlib.decompressobj(wbits=GZIP_WBITS)
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
