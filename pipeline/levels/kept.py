"""Levels kept on disk: what networks said of images, so that deciding again needs no network.

A set of images is a folder of chunks, each a file that is whole or not there:

    pipeline levels 1\\n           what it is
    <the images' levels>     one zlib stream an image, as isal makes it; none if unreadable
    <table>                  JSON: key, number of this chunk and of all, a list an image
    <length of the table>    8 bytes, and then the checksum that `files.verify` looks for

Nearly all pixels of a trained network are level 0 or 255, so deflate does well; isal's lowest
level that finds repetitions was measured beside zstd, lz4 and others (`benchmarks/RESULTS.md`).
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from isal import isal_zlib

from pipeline.support import files
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError

T = TypeVar("T")

CHUNK = 512  # images: a killed prediction loses at most so many, of some tens of kB each

_MAGIC = b"pipeline levels 1\n"
_LENGTH = struct.Struct("<Q")
_COMPRESSION = 1  # isal's


@dataclasses.dataclass(frozen=True)
class Image:
    """What is kept of one image, compressed.

    `shape` is that of its levels, (h, w) or (C, h, w) of several classes. `disagreement` is
    the share of pixels (0..1) on which the networks differ at 0.5. `error` says why the image
    could not be read, else it is empty; an unreadable image has no levels.
    """

    sample_id: str
    shape: tuple[int, ...]
    packed: bytes
    disagreement: float
    error: str

    @classmethod
    def of(cls, sample_id: str, levels: UInt8, disagreement: float, error: str) -> Self:
        """Compress levels, uint8."""
        data = b"" if error else np.ascontiguousarray(levels).data
        packed = isal_zlib.compress(data, _COMPRESSION) if data else b""
        return cls(sample_id, levels.shape, packed, disagreement, error)

    def levels(self) -> UInt8:
        """Decompress them, which threads do side by side; zeros where there are none."""
        if self.error:
            return np.zeros(self.shape, np.uint8)
        data = isal_zlib.decompress(self.packed, bufsize=math.prod(self.shape))
        return np.frombuffer(data, np.uint8).reshape(self.shape)


@contextlib.contextmanager
def write_chunk(
    folder: Path, key: str, number: int, chunks: int
) -> Iterator[Callable[[Image], None]]:
    """Yield a function that adds the next image; the chunk is there when the block ends well.

    Args:
        key: says what the levels depend on.
        number, chunks: of this chunk from 0, and of all in the folder.
    """
    images: list[Any] = []
    with files.written_whole(path_of(folder, number)) as temporary:
        with temporary.open("wb") as stream:
            stream.write(_MAGIC)

            def add(image: Image) -> None:
                stream.write(image.packed)
                size = len(image.packed)
                images.append([image.sample_id, image.shape, size, image.disagreement, image.error])

            yield add
            table = {"key": key, "number": number, "chunks": chunks, "images": images}
            text = json.dumps(table, ensure_ascii=False).encode()
            stream.write(text + _LENGTH.pack(len(text)))
        files.seal(temporary)


def chunk_size(batch_size: int) -> int:
    """About `CHUNK` images, so many that no batch is in two chunks.

    What a network says of an image may depend on its batch, by rounding: a chunk made again
    is to have the same bytes.
    """
    return max(1, CHUNK // batch_size) * batch_size


class Chunks(Generic[T]):
    """The chunks that `rows` are kept in, as a run makes them in its scratch folder."""

    def __init__(self, folder: Path, key: str, rows: Sequence[T], size: int) -> None:
        self.folder, self._key, self._rows, self._size = folder, key, rows, size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    def missing(self) -> list[int]:
        """Numbers of the chunks that are still to be made; a damaged one is said and removed."""
        return [number for number in range(len(self)) if not self._is_whole(number)]

    def rows(self, numbers: Sequence[int]) -> list[T]:
        """The rows of these chunks."""
        starts = [number * self._size for number in numbers]
        return [row for start in starts for row in self._rows[start : start + self._size]]

    def write(
        self, numbers: Sequence[int], images: Iterator[Image], tell: Callable[[Image], object]
    ) -> None:
        """Write these chunks as their images come, in order; `tell` hears of each image."""
        for number in numbers:
            with write_chunk(self.folder, self._key, number, len(self)) as add:
                for _ in self.rows([number]):
                    image = next(images)
                    add(image)
                    tell(image)

    def _is_whole(self, number: int) -> bool:
        chunk = Chunk.open(path_of(self.folder, number))
        return chunk is not None and (chunk.key, chunk.chunks) == (self._key, len(self))


def write(folder: Path, key: str, images: Iterator[Image], total: int) -> None:
    """Write a whole set at once; the folder, if there is one, is replaced when it is complete."""
    chunks = -(-total // CHUNK)
    scratch = folder.with_name(f".{folder.name}{files.TEMPORARY}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for number in range(chunks):
        with write_chunk(scratch, key, number, chunks) as add:
            for image in itertools.islice(images, CHUNK):
                add(image)
    replace(scratch, folder)


def replace(source: Path, folder: Path) -> None:
    """Give a complete set its place, in one step where both lie on one file system."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    doomed = folder.with_name(f".{folder.name}.old{files.TEMPORARY}")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder, doomed)
    try:
        os.replace(source, folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = folder.with_name(f".{folder.name}.new{files.TEMPORARY}")
        shutil.rmtree(near, ignore_errors=True)
        shutil.copytree(source, near)
        os.replace(near, folder)
        shutil.rmtree(source)
    shutil.rmtree(doomed, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A chunk whose checksum was found to be right; its images lie in the file one by one."""

    path: Path
    key: str
    number: int
    chunks: int
    table: Sequence[Any]

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Read and check one; None where there is none, or where it is damaged.

        Damage is said, and the file is removed, so that it is made again.
        """
        content = files.verify(path)
        if content is None:
            return None
        with path.open("rb") as stream:
            stream.seek(content - _LENGTH.size)
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            stream.seek(content - _LENGTH.size - length)
            table = json.loads(stream.read(length))
        return cls(path, table["key"], table["number"], table["chunks"], table["images"])

    def images(self) -> Iterator[Image]:
        """All images, in order, compressed."""
        with self.path.open("rb") as stream:
            stream.seek(len(_MAGIC))
            for sample_id, shape, length, disagreement, error in self.table:
                yield Image(sample_id, tuple(shape), stream.read(length), disagreement, error)


@dataclasses.dataclass(frozen=True)
class Kept:
    """A complete set of kept levels, every byte of which was checked."""

    folder: Path
    chunks: Sequence[Chunk]

    @classmethod
    def open(cls, folder: Path, sample_ids: Sequence[str], remedy: str) -> Self:
        """Open the levels of these images, in this order.

        Args:
            remedy: what to do if they are not there, as `run the predict stage`.

        Raises:
            UserError: they are missing, damaged, of several runs, or of other images.
        """
        found: list[Chunk] = []
        while sample_ids and (not found or len(found) < found[0].chunks):
            if (chunk := Chunk.open(path_of(folder, len(found)))) is None:
                raise UserError(f"{path_of(folder, len(found))}: no such file; {remedy}")
            found.append(chunk)
        ids = [one[0] for chunk in found for one in chunk.table]
        told = {(chunk.key, chunk.chunks) for chunk in found}
        if len(told) > 1 or [chunk.number for chunk in found] != list(range(len(found))):
            raise UserError(f"{folder}: found chunks of several runs; {remedy}")
        if ids != list(sample_ids):
            raise UserError(
                f"{folder}: found {len(ids)} images that are not the {len(sample_ids)} expected; "
                f"{remedy}"
            )
        return cls(folder, found)

    def errors(self) -> dict[str, str]:
        """What is wrong with each image that could not be read, by sample."""
        return {one[0]: one[4] for chunk in self.chunks for one in chunk.table if one[4]}

    def images(self) -> Iterator[Image]:
        """All images, in order, compressed; nothing grows with their number."""
        for chunk in self.chunks:
            yield from chunk.images()

    def some(self, sample_ids: Iterable[str]) -> Iterator[Image]:
        """These images, in this order."""
        for wanted in sample_ids:
            chunk, start, (sample_id, shape, length, disagreement, error) = self._places[wanted]
            with chunk.path.open("rb") as stream:
                stream.seek(start)
                packed = stream.read(length)
            yield Image(sample_id, tuple(shape), packed, disagreement, error)

    @functools.cached_property
    def _places(self) -> dict[str, tuple[Chunk, int, Any]]:
        """Of each image its chunk, where its bytes begin there, and its row in the table."""
        places = {}
        for chunk in self.chunks:
            start = len(_MAGIC)
            for one in chunk.table:
                places[one[0]] = chunk, start, one
                start += one[2]
        return places


def path_of(folder: Path, number: int) -> Path:
    """The file of a chunk."""
    return folder / f"chunk-{number:05d}.levels"
