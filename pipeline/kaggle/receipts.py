"""Proof that a file is right, and a receipt that spares proving it again."""

import base64
import dataclasses
import hashlib
import json
import os
import sys
import zipfile
import zlib
from pathlib import Path

from pipeline.support.files import write_text

_CHUNK = 1 << 20  # bytes read at a time

# End-of-central-directory record without its comment, in bytes (APPNOTE.TXT 4.3.16).
_ZIP_END = 22

# What a zip with wrong bytes raises, by where they lie; see the zipfile and zlib modules.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is known of a file before it is here; None: not known.

    `length` in bytes; `md5` and `crc32c` in base64, as Google's storage sends them in the
    header x-goog-hash. `is_zip`: the file must open as a zip and pass its checksums.
    """

    length: int | None
    md5: str | None
    crc32c: str | None
    is_zip: bool


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What a file was when it was checked.

    `origin` says which file it is (slug and name, or the settings that drew it), `stored`
    under which name it lies, `md5` is hexadecimal, `mtime_ns` nanoseconds since 1970.
    """

    origin: str
    stored: str
    size: int
    mtime_ns: int
    md5: str


def flaw(path: Path, expected: Expected) -> str | None:
    """Return what is wrong with `path`, in words, or None when every known fact holds."""
    size = path.stat().st_size
    if expected.length is not None and size != expected.length:
        return f"found {size:,} bytes, expected {expected.length:,}"
    if expected.md5 is not None and (found := _base64_md5(path)) != expected.md5:
        return f"found MD5 {found}, expected {expected.md5}"
    if expected.crc32c is not None and (found := _base64_crc32c(path)) != expected.crc32c:
        return f"found CRC32C {found}, expected {expected.crc32c}"
    return zip_flaw(path) if expected.is_zip else None


def zip_flaw(path: Path) -> str | None:
    """Read every member of a zip; return the first thing wrong, in words, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
            junk = _junk(path, archive)
    except _ZIP_ERRORS as error:
        return f"not a whole zip ({error}; it starts with {_start(path)})"
    return f"the checksum of its member {member} is wrong" if member else junk


def _junk(path: Path, archive: zipfile.ZipFile) -> str | None:
    """Bytes before or after a good zip, which readers skip in silence: a spliced file."""
    start = min((info.header_offset for info in archive.infolist()), default=0)
    if start:
        return f"{start:,} foreign bytes before the zip begins"
    with path.open("rb") as stream:
        stream.seek(-_ZIP_END - len(archive.comment), os.SEEK_END)
        return None if stream.read(4) == b"PK\5\6" else "foreign bytes after the zip's end"


def folder_of(out: Path) -> Path:
    """Where the receipts and unfinished files of a folder of archives lie: beside it."""
    return out.with_name(f".download-{out.name}")


def issue(folder: Path, origin: str, file: Path, stored: str) -> None:
    """Write the receipt of a checked file that lies, or is about to lie, under `stored`."""
    status = file.stat()
    write(folder, Receipt(origin, stored, status.st_size, status.st_mtime_ns, md5(file).hex()))


def write(folder: Path, receipt: Receipt) -> None:
    """Write a receipt in one step."""
    content = json.dumps(dataclasses.asdict(receipt), indent=1)
    write_text(_path(folder, receipt.origin), f"{content}\n")


def find(folder: Path, origin: str) -> Receipt | None:
    """Return the receipt for `origin`, or None; one that cannot be read counts as none."""
    try:
        receipt = Receipt(**json.loads(_path(folder, origin).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # the file is then checked against its source once more
    return receipt if receipt.origin == origin else None


def renewed(receipt: Receipt, file: Path) -> Receipt | None:
    """The receipt with the file's time of change, or None where `file` is not what it says.

    Same size and time of change: taken as the same. Another time: read and hashed.
    """
    if not file.is_file() or file.stat().st_size != receipt.size:
        return None
    mtime_ns = file.stat().st_mtime_ns  # before the bytes are read: a later change shows
    if mtime_ns != receipt.mtime_ns and md5(file).hex() != receipt.md5:
        return None
    return dataclasses.replace(receipt, mtime_ns=mtime_ns)


def holds(folder: Path, receipt: Receipt, file: Path) -> bool:
    """Whether `file` still is what its receipt says; a touched file's receipt is renewed."""
    now = renewed(receipt, file)
    if now is not None and now != receipt:
        write(folder, now)
    return now is not None


def kept(folder: Path, origin: str, out: Path) -> bool:
    """Whether the file of `origin` is in `out` and `holds`; says so when it no longer does."""
    receipt = find(folder, origin)
    if receipt is None:
        return False
    file = out / receipt.stored
    if holds(folder, receipt, file):
        return True
    if file.exists():
        print(f"{file}: changed since it was checked; looking for it again", file=sys.stderr)
    return False


def keep(folder: Path, origin: str, file: Path, target: Path) -> None:
    """Write a checked file's receipt and put it in place.

    In this order: a file without receipt would be fetched again, a receipt without its file
    finds it complete in `folder`.
    """
    issue(folder, origin, file, target.name)
    place(file, target)


def place(source: Path, target: Path) -> None:
    """Flush `source` to disk and rename it to `target` (same file system)."""
    _flush(source)
    os.replace(source, target)
    source.unlink(missing_ok=True)  # rename leaves both names when they are links to one file
    _flush(target.parent)  # so that the name survives a power cut, too


def _flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def md5(path: Path) -> bytes:
    """Hash a file. MD5 as Google's storage and DVC use it: against accidents, not attacks."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def _home(value: object) -> str:
    """Name of the module that defines a function or class; "" for other values."""
    return str(getattr(value, "__module__", None) or "")


def _base64_md5(path: Path) -> str:
    return base64.b64encode(md5(path)).decode()


def _base64_crc32c(path: Path) -> str:
    from pipeline.kaggle import crc32c  # numba: only when a server sends nothing better

    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = crc32c.update(value, chunk)
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def _path(folder: Path, origin: str) -> Path:
    return folder / f"{origin.replace('/', '--')}.receipt.json"


def _start(path: Path) -> str:
    with path.open("rb") as stream:
        return repr(stream.read(24))
