"""Whether a file's bytes are the right ones, by all that is known of it."""

import base64
import dataclasses
import hashlib
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from pipeline.support.files import ZIP_DAMAGE

_CHUNK = 1 << 20  # bytes read at a time
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp")

# Records at the end of a zip, without their comments (APPNOTE.TXT 4.3.14 to 4.3.16).
_END = struct.Struct("<4s4H2LH")  # count of members: field 4
_LOCATOR = struct.Struct("<4sLQL")  # where the zip64 record begins: field 2
_END64 = struct.Struct("<4sQ2H2L4Q")  # count of members: field 7


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a server says of a file; None: nothing.

    `length` in bytes; `md5` and `crc32c` in base64, as Google's storage sends them in the
    header x-goog-hash.
    """

    length: int | None = None
    md5: str | None = None
    crc32c: str | None = None


def flaw(path: Path, name: str, expected: Expected, arrived: bool = False) -> str | None:
    """What is wrong with a file, in words, or None when all that is known of it holds.

    Args:
        path: where it lies.
        name: what it is called; a zip is read through, each member against its checksum, and a
            picture without a hash is decoded.
        expected: by its server.
        arrived: it came over a network: a picture is to have no fault at all, not even one that
            decoders get over. A user's own may.
    """
    if not (size := path.stat().st_size):
        return "found an empty file"
    if expected.length is not None and size != expected.length:
        return f"found {size:,} bytes, expected {expected.length:,}"
    if expected.md5 is not None and (found := _base64(md5(path))) != expected.md5:
        return f"found MD5 {found}, expected {expected.md5}"
    if expected.crc32c is not None and (found := _base64(_crc32c(path))) != expected.crc32c:
        return f"found CRC32C {found}, expected {expected.crc32c}"
    if name.lower().endswith(".zip"):
        return _zip_flaw(path)
    has_hash = expected.md5 or expected.crc32c
    return (
        None if has_hash or not name.lower().endswith(_PICTURES) else _picture_flaw(path, arrived)
    )


def _picture_flaw(path: Path, strict: bool) -> str | None:
    """What a decoder finds; a JPEG has no checksums, so not every wrong byte shows."""
    import simplejpeg  # brings numpy, and most downloads have hashes
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
            is_jpeg = picture.format == "JPEG"
        if strict and is_jpeg:
            simplejpeg.decode_jpeg(path.read_bytes())  # tells of what Pillow repairs
    except Image.DecompressionBombError:
        return None  # too large to be looked at
    except UnidentifiedImageError:
        return f"not a whole picture (of no known kind; it starts with {_start(path)})"
    except (ValueError, OSError, SyntaxError, struct.error) as error:  # the last two by Pillow
        if "DecompressHeader" not in str(error):  # simplejpeg's, of a sampling it has no name for
            return f"not a whole picture ({error}; it starts with {_start(path)})"
    return None


def _zip_flaw(path: Path) -> str | None:
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            # The end first: a lost member is not among those whose checksums are tested.
            if problem := _end_flaw(stream.fileno(), path.stat().st_size, archive):
                return problem
            member = archive.testzip()
    except (*ZIP_DAMAGE, OSError) as error:
        return f"not a whole zip ({error}; it starts with {_start(path)})"
    return f"the checksum of its member {member} is wrong" if member else None


def _end_flaw(file: int, size: int, archive: zipfile.ZipFile) -> str | None:
    """What zipfile passes over: bytes around the zip (a splice), and members it did not find."""
    members = archive.infolist()
    if start := min((info.header_offset for info in members), default=0):
        return f"{start:,} foreign bytes before the zip begins"
    at = size - _END.size - len(archive.comment)
    end = _END.unpack(os.pread(file, _END.size, at))
    if end[0] != b"PK\5\6":
        return "foreign bytes after the zip's end"
    count, limit = end[4], 1 << 16  # old packers count on from 0 behind 65,535
    locator = os.pread(file, _LOCATOR.size, max(at - _LOCATOR.size, 0))
    if locator.startswith(b"PK\6\7"):
        at64 = _LOCATOR.unpack(locator)[2]
        count, limit = _END64.unpack(os.pread(file, _END64.size, at64))[7], 1 << 64
    if len(members) % limit != count:
        return f"its directory lists {len(members):,} members, its end counts {count:,}"
    return None


def md5(path: Path) -> bytes:
    """Hash a file. MD5 as Google's storage and DVC use it: against accidents, not attacks."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.digest()


def _crc32c(path: Path) -> bytes:
    """CRC-32C, all that Google's storage has for a file that was put together of parts."""
    value = 0
    for chunk in _chunks(path):
        value = google_crc32c.extend(value, chunk)
    return value.to_bytes(4, "big")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _start(path: Path) -> str:
    with path.open("rb") as stream:
        return repr(stream.read(24))
