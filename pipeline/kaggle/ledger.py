"""`submissions/ledger.csv`: what was submitted, from which commit, and what it scored.

A row is written before Kaggle is asked to take the submission, so that no crash can make it
forgotten, and completed when the answer and the score are there. A ledger that was edited into
something else is refused by its line and left as it is.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pipeline.support import files
from pipeline.support import table as tables
from pipeline.support.errors import UserError
from pipeline.support.table import cells

# UNCONFIRMED: asked for; no answer has said that Kaggle has it. The others are Kaggle's words.
Status = Literal["UNCONFIRMED", "PENDING", "COMPLETE", "ERROR"]

_ADVICE = "correct it, or restore it from git"


def _moment(cell: str) -> datetime.datetime:
    with contextlib.suppress(ValueError):
        when = datetime.datetime.fromisoformat(cell)
        if when.tzinfo:
            return when.astimezone(datetime.UTC)
    raise ValueError("a time like 2017-07-24T12:00:00+00:00")


def _hash(cell: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", cell):
        raise ValueError("a SHA-256 of 64 hexadecimal digits")
    return cell


@dataclasses.dataclass(frozen=True)
class Row:
    """One submission. `dice` is the out-of-fold score, `public` and `private` are Kaggle's.

    Kaggle's scores stay text as they were given; empty: not known. `time` is when it was asked
    for, UTC; `commit` ends in `-dirty` when the working tree had changes; `ref` is Kaggle's
    number, None while it has given none.
    """

    time: datetime.datetime = dataclasses.field(
        metadata=cells(encode=datetime.datetime.isoformat, decode=_moment)
    )
    recipe: str
    sha256: str = dataclasses.field(metadata=cells(decode=_hash))
    commit: str
    threshold: str
    dice: float
    ref: int | None
    status: Status
    public: str
    private: str
    message: str

    @property
    def tag(self) -> str:
        """What the submission's description at Kaggle begins with: 64 bits of the bytes' hash."""
        return f"sha256:{self.sha256[:16]}"


def sha256(file: Path) -> str:
    """The hash that names a file's bytes, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(path: Path) -> list[Row]:
    """Read the ledger; a missing one is empty.

    Raises:
        UserError: it has other columns, a cell that is none, or the same bytes twice.
    """
    if not path.exists():
        return []
    rows = tables.read(path, Row, _ADVICE)
    seen: set[str] = set()
    for row in rows:
        if row.sha256 in seen:
            raise UserError(
                f"{path}: found two rows of the bytes {row.sha256[:16]}, expected one; {_ADVICE}"
            )
        seen.add(row.sha256)
    return rows


def put(path: Path, row: Row) -> None:
    """Add a row, or replace the one about the same bytes."""

    def change(rows: list[Row]) -> list[Row]:
        if all(other.sha256 != row.sha256 for other in rows):
            return [*rows, row]
        return [row if other.sha256 == row.sha256 else other for other in rows]

    _change(path, change)


def remove(path: Path, row: Row) -> None:
    """Take out the row about these bytes: Kaggle did not accept them."""
    _change(path, lambda rows: [other for other in rows if other.sha256 != row.sha256])


def _change(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Change the ledger in one step; nobody else does meanwhile."""
    with files.locked(path, waiting=f"{path}: another process writes it; waiting"):
        tables.write(path, Row, change(read(path)))


def show(rows: Sequence[Row]) -> str:
    """The ledger as aligned text, oldest first, with the gap private minus out-of-fold."""
    heads = "time", "recipe", "threshold", "out-of-fold", "public", "private", "gap", "status"
    lines = [(*heads, "ref", "commit", "message")]
    lines += [
        (
            f"{row.time:%Y-%m-%dT%H:%M}", row.recipe, row.threshold, digits(row.dice),
            digits(row.public), digits(row.private), gap(row.private, row.dice), row.status,
            str(row.ref or "-"), row.commit[:7] or "-", row.message,
        )
        for row in rows
    ]  # fmt: skip
    return tables.aligned(lines)


def digits(score: str | float) -> str:
    """A score with five digits, as Kaggle shows it; "-" while there is none."""
    with contextlib.suppress(ValueError):
        return f"{float(score):.5f}"
    return str(score) or "-"


def gap(score: str, dice: float) -> str:
    """How much better Kaggle's score is than the out-of-fold one; "-" while there is none."""
    with contextlib.suppress(ValueError):
        return f"{float(score) - dice:+.5f}"
    return "-"
