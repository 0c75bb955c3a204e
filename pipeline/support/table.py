"""Tables of typed rows: frozen dataclasses to CSV and back.

A table's columns are the fields of its row's type. What a cell may hold follows from the
field's type: `str`, `int`, `float`, `bool` (`true`, `false`), a `Literal` of strings, one of
these or None (an empty cell); anything else by a converter of its own (`cells`). A table that
was edited, cut or damaged is refused by file, line and column, never half read.
"""

import csv
import dataclasses
import functools
import io
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.support.errors import UserError
from pipeline.support.files import written_whole

Row = TypeVar("Row")

_SHOWN = 60  # characters of a bad cell in a message
_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}
_TRUTH = {"true": True, "false": False}


def cells(
    digits: int | None = None,
    *,
    encode: Callable[[Any], str] | None = None,
    decode: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """The `metadata` of a field whose cells are not what its type alone says.

    Args:
        digits: after the point, of a float; without it as many as give the same number back.
        encode: gives a value's cell.
        decode: gives a cell's value; a `ValueError` says what was expected.
    """
    if digits is not None:
        encode = f"{{:.{digits}f}}".format
    return {"encode": encode, "decode": decode}


def columns(kind: type[Any]) -> tuple[str, ...]:
    """The table's header."""
    return tuple(field.name for field in dataclasses.fields(kind))


def write(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write rows of one type as CSV (UTF-8, LF), in one step.

    Raises:
        UserError: the file system refuses.
    """
    with written_whole(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            stream.write(_line(columns(kind)))
            stream.writelines(lines(kind, rows))


def lines(kind: type[Row], rows: Iterable[Row]) -> Iterable[str]:
    """The lines of the rows, each ended by LF, without the header."""
    encoders = [(field.name, _encoder(field)) for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for row in rows:
        yield _line([encode(getattr(row, name)) for name, encode in encoders])


def read(path: Path, kind: type[Row], advice: str) -> list[Row]:
    """Read a table as `write` wrote it; a byte order mark and CRLF, as Excel adds, are accepted.

    Args:
        advice: what to do about a table that cannot be read: "run the split stage".

    Raises:
        UserError: it is missing, cut short, not UTF-8, has other columns, or a cell that its
            column does not take; the line, the column and what was expected are named.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {advice}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {advice}") from None
    return parse(data, kind, str(path), advice)


def parse(data: bytes, kind: type[Row], where: str, advice: str) -> list[Row]:
    """The rows of a table's bytes, see `read`; `where` names them in errors."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        raise UserError(
            f"{where}: line {line}: found the byte {byte!r}, expected text in UTF-8; {advice}"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{where}: line {line}: found a NUL character, expected text; {advice}")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names = columns(kind)
    try:
        header = next(reader, [])
        if tuple(header) != names:
            found = ", ".join(header)[: 4 * _SHOWN] or "an empty file"
            raise UserError(
                f"{where}: line 1: found columns {found}, expected {', '.join(names)}; {advice}"
            )
        if not text.endswith("\n"):
            line = text.count("\n") + 1
            raise UserError(
                f"{where}: line {line}: found no line end, expected one: it is cut short; {advice}"
            )
        decoders = _decoders(kind)  # type: ignore[arg-type]
        return [
            _row(kind, decoders, cells, f"{where}: line {reader.line_num}", advice)
            for cells in reader
        ]
    except csv.Error as error:
        raise UserError(
            f"{where}: line {reader.line_num}: {error}, expected {len(names)} fields; {advice}"
        ) from None


def _row(
    kind: type[Row],
    decoders: Sequence[tuple[str, Callable[[str], Any]]],
    cells: Sequence[str],
    where: str,
    advice: str,
) -> Row:
    if len(cells) != len(decoders):
        raise UserError(f"{where}: found {len(cells)} fields, expected {len(decoders)}; {advice}")
    values = {}
    for (name, decode), cell in zip(decoders, cells, strict=True):
        try:
            values[name] = decode(cell)
        except ValueError as error:
            shown = f"{cell[:_SHOWN]}..." if len(cell) > _SHOWN else cell
            raise UserError(
                f"{where}: {name}: found {shown!r}, expected {error}; {advice}"
            ) from None
    return kind(**values)


def _line(cells: Sequence[str]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()


def _encoder(field: dataclasses.Field[Any]) -> Callable[[Any], str]:
    encode: Callable[[Any], str] = field.metadata.get("encode") or _text
    return lambda value: "" if value is None else encode(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def _decoders(kind: type[Any]) -> tuple[tuple[str, Callable[[str], Any]], ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, field.metadata.get("decode") or _decoder(hints[field.name]))
        for field in dataclasses.fields(kind)
    )


def _decoder(hint: Any) -> Callable[[str], Any]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        decode = _decoder(inner)
        return lambda cell: decode(cell) if cell else None
    if typing.get_origin(hint) is Literal:
        return functools.partial(_choice, {word: word for word in typing.get_args(hint)})
    if hint is bool:
        return functools.partial(_choice, _TRUTH)
    if hint is str:
        return str
    assert hint in (int, float), f"{hint}: no cell holds one; give its column a converter"
    return functools.partial(_number, hint)


def _choice(choices: dict[str, Any], cell: str) -> Any:
    try:
        return choices[cell]
    except KeyError:
        raise ValueError(" or ".join(choices)) from None


def _number(kind: type[int] | type[float], cell: str) -> Any:
    try:
        if not cell.isascii() or "_" in cell or cell != cell.strip():
            raise ValueError
        return kind(cell)
    except ValueError:
        raise ValueError(_WORDS[kind]) from None


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of words in columns as wide as their longest, two spaces apart, for a terminal."""
    rows = list(rows)
    widths = [max(map(len, words)) for words in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
