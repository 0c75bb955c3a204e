"""Rows of a submission in chunks: files that are whole or not there, for a run to go on from."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.rows import HEADER
from pipeline.data.samples import Sample
from pipeline.predict.gzip_member import Member, PieceFile
from pipeline.support import files

TABLE_HEADER = "img,area,disagreement,error"


class Told(NamedTuple):
    """One image's row in `masks.csv`.

    `area` counts foreground pixels at full resolution; `disagreement` is the share of pixels at
    network size on which the models differ; `error` says why the row is empty, if it had to be.
    """

    img: str
    area: int
    disagreement: str
    error: str


class Chunk:
    """A chunk being written."""

    def __init__(self, piece: PieceFile, table: Any) -> None:
        self._piece, self._table = piece, table

    def add(self, rows: bytes, told: Sequence[Told]) -> None:
        """Add a batch: its rows as CSV, and what is told of its images."""
        self._piece.add(rows)
        self._table.writerows(told)


class Chunks:
    """The rows of `samples`, in order, `size` a chunk.

    A chunk is two files, the table of its images and its compressed rows; it is complete when
    the rows have their name, which they get last.
    """

    def __init__(self, folder: Path, samples: Sequence[Sample], size: int) -> None:
        self._folder, self._samples, self._size = folder, samples, size

    def __len__(self) -> int:
        return -(-len(self._samples) // self._size)

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not complete."""
        return [number for number in range(len(self)) if not self._rows_file(number).exists()]

    def samples(self, numbers: Sequence[int]) -> list[Sample]:
        """The samples of these chunks."""
        starts = [number * self._size for number in numbers]
        return [row for start in starts for row in self._samples[start : start + self._size]]

    @contextlib.contextmanager
    def written(self, number: int, level: int) -> Iterator[Chunk]:
        """Yield a chunk to fill; it is complete when the block ends well."""
        table = io.StringIO()
        with files.written_whole(self._rows_file(number)) as temporary:
            with PieceFile(temporary, level) as piece:
                yield Chunk(piece, csv.writer(table, lineterminator="\n"))
            files.write_text(self._table_file(number), table.getvalue())

    def write_submission(self, path: Path, level: int) -> None:
        """Join all chunks to one gzipped CSV."""
        with files.written_whole(path) as temporary, temporary.open("wb") as file:
            member = Member(file)
            member.add(f"{HEADER}\n".encode(), level)
            for number in range(len(self)):
                member.add_file(self._rows_file(number))
            member.end()

    def write_table(self, path: Path) -> list[str]:
        """Join the tables of all chunks; return the errors in them."""
        errors = []
        with files.written_whole(path) as temporary, temporary.open("w") as file:
            file.write(f"{TABLE_HEADER}\n")
            for number in range(len(self)):
                text = self._table_file(number).read_text(encoding="utf-8")
                file.write(text)
                errors += [row[-1] for row in csv.reader(io.StringIO(text)) if row[-1]]
        return errors

    def _rows_file(self, number: int) -> Path:
        return self._folder / f"chunk-{number:05d}.rows"

    def _table_file(self, number: int) -> Path:
        return self._folder / f"chunk-{number:05d}.csv"
