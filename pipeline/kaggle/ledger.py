"""`submissions/ledger.csv`: what was submitted, from which commit, and what it scored.

A row is written before Kaggle is asked to take the submission, so that no crash can make it
forgotten, and completed when the answer and the score are there.
"""

import contextlib
import csv
import dataclasses
import datetime
import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.support.errors import UserError
from pipeline.support.files import written_whole

UNCONFIRMED = "UNCONFIRMED"  # asked for; no answer has said that Kaggle has it
PENDING, COMPLETE, ERROR = "PENDING", "COMPLETE", "ERROR"  # Kaggle's own words


@dataclasses.dataclass(frozen=True)
class Row:
    """One submission. `dice` is the out-of-fold score, `public` and `private` are Kaggle's.

    Scores stay text as they were given; empty: not known. `time` is when it was asked for, UTC,
    ISO 8601; `commit` ends in `-dirty` when the working tree had changes; `ref` is Kaggle's
    number.
    """

    time: str
    recipe: str
    sha256: str
    commit: str
    threshold: str
    dice: str
    ref: str
    status: str
    public: str
    private: str
    message: str

    @property
    def tag(self) -> str:
        """What the submission's description at Kaggle begins with: it names the bytes."""
        return tag(self.sha256)


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def sha256(file: Path) -> str:
    """The hash that names a file's bytes, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tag(sha256: str) -> str:
    """The mark of a file in descriptions; 64 bits of its hash."""
    return f"sha256:{sha256[:16]}"


def moment(row: Row) -> datetime.datetime:
    """When the submission was asked for.

    Raises:
        UserError: `time` is none, or does not say that it is UTC.
    """
    with contextlib.suppress(ValueError):
        when = datetime.datetime.fromisoformat(row.time)
        if when.tzinfo:
            return when.astimezone(datetime.UTC)
    raise UserError(
        f"the ledger's row of {row.recipe}, sha256 {row.sha256[:16]}: found the time {row.time!r}, "
        "expected one like 2017-07-24T12:00:00+00:00; correct it"
    )


def read(path: Path) -> list[Row]:
    """Read the ledger; a missing one is empty.

    Raises:
        UserError: it has other columns, or a row of another length.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(
            f"{path}: found the header {','.join(lines[0]) if lines else ''!r}, expected "
            f"{','.join(COLUMNS)}; restore it from git"
        )
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(COLUMNS):
            raise UserError(
                f"{path}: row {number} has {len(line)} fields, expected {len(COLUMNS)}; correct it"
            )
    return [Row(*line) for line in lines[1:]]


def put(path: Path, row: Row) -> None:
    """Add a row, or replace the one about the same bytes."""
    _change(path, lambda rows: _replaced(rows, row))


def remove(path: Path, row: Row) -> None:
    """Take out the row about these bytes: Kaggle did not accept them."""
    _change(path, lambda rows: [other for other in rows if other.sha256 != row.sha256])


def _replaced(rows: Sequence[Row], row: Row) -> list[Row]:
    if all(other.sha256 != row.sha256 for other in rows):
        return [*rows, row]
    return [row if other.sha256 == row.sha256 else other for other in rows]


def _change(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    with _locked(path):
        rows = change(read(path))
        with written_whole(path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(dataclasses.astuple(row) for row in rows)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the ledger: a change takes milliseconds, and none may be lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def table(rows: Sequence[Row]) -> str:
    """The ledger as aligned text, oldest first, with the gap private minus out-of-fold."""
    heads = "time", "recipe", "threshold", "out-of-fold", "public", "private", "gap", "status"
    lines = [(*heads, "ref", "commit", "message")]
    lines += [
        (
            row.time[:16], row.recipe, row.threshold, shown(row.dice), shown(row.public),
            shown(row.private), gap(row.private, row.dice), row.status, row.ref or "-",
            row.commit[:7] or "-", row.message,
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def shown(score: str) -> str:
    """A score with five digits, as Kaggle shows it; "-" while there is none."""
    with contextlib.suppress(ValueError):
        return f"{float(score):.5f}"
    return score or "-"


def gap(score: str, dice: str) -> str:
    """How much better Kaggle's score is than the out-of-fold one; "-" if either is missing."""
    with contextlib.suppress(ValueError):
        return f"{float(score) - float(dice):+.5f}"
    return "-"
