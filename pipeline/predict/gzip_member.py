"""One gzip member put together of pieces that were compressed apart from each other.

Pieces are deflate blocks that end on a byte and look at nothing before them, so they can be
made by any process in any order, kept in files, and joined without compressing again. One member
and not several, because some readers stop at the first.
"""

import io
import struct
import types
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from isal import isal_zlib

# RFC 1952: gzip's mark, deflate, no flags, no time, no extra flags, unknown system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_END = b"\x03\x00"  # RFC 1951: a last block that holds nothing
_RAW_WBITS = -15  # zlib's number for deflate without a wrapper and with the largest window
_CHECKS = struct.Struct("<IQ")  # CRC-32 and length of what a piece holds
_COPIED = 1 << 20  # bytes at once


class Checks(NamedTuple):
    """CRC-32 and length in bytes of what was compressed."""

    crc: int = 0
    length: int = 0

    def before(self, other: "Checks") -> "Checks":
        """The checks of two pieces in a row."""
        crc = isal_zlib.crc32_combine(self.crc, other.crc, other.length)
        return Checks(crc, self.length + other.length)


class Piece:
    """Compress data as it comes, into blocks on `file` whose last byte they fill.

    Equal data cut in the same way make equal bytes.
    """

    def __init__(self, file: BinaryIO, level: int) -> None:
        self._stream = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _RAW_WBITS)
        self._file = file
        self._checks = Checks()

    def add(self, data: bytes) -> None:
        """Compress some more."""
        self._file.write(self._stream.compress(data))
        self._checks = self._checks.before(Checks(isal_zlib.crc32(data), len(data)))

    def end(self) -> Checks:
        """Complete the last block."""
        self._file.write(self._stream.flush(isal_zlib.Z_SYNC_FLUSH))
        return self._checks


class PieceFile(Piece):
    """A piece with its checks as a file: `with PieceFile(path, level) as piece: piece.add(...)`."""

    def __init__(self, path: Path, level: int) -> None:
        super().__init__(io.BytesIO(), level)
        self._path = path

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._file.write(_CHECKS.pack(*self.end()))


class Member:
    """Write the member on `file`: its header now, pieces as they are added, then its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._checks = Checks()
        file.write(_HEADER)

    def add(self, data: bytes, level: int) -> None:
        """Compress `data` as a piece of its own."""
        piece = Piece(self._file, level)
        piece.add(data)
        self._checks = self._checks.before(piece.end())

    def add_file(self, path: Path) -> None:
        """Copy what `PieceFile` wrote."""
        for block in _blocks(path):
            self._file.write(block)
        with path.open("rb") as file:
            file.seek(-_CHECKS.size, 2)
            self._checks = self._checks.before(Checks(*_CHECKS.unpack(file.read())))

    def end(self) -> None:
        """Close the member; the file stays open."""
        crc, length = self._checks
        self._file.write(_END + struct.pack("<II", crc, length % (1 << 32)))


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a piece's file, without its checks."""
    rest = path.stat().st_size - _CHECKS.size
    with path.open("rb") as file:
        while rest > 0:
            block = file.read(min(rest, _COPIED))
            assert block, f"{path}: {rest} bytes short of what it had"
            rest -= len(block)
            yield block
