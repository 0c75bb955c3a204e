"""The ledger: every row that was written is there, and what was edited into nonsense is refused."""

import dataclasses
import datetime
import threading
from pathlib import Path

import pytest

from pipeline.kaggle import ledger
from pipeline.paths import LEDGER
from pipeline.support import table
from pipeline.support.errors import UserError

ROOT = Path(__file__).parent.parent
THEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
ROW = ledger.Row(
    THEN, "tiny", "1" * 64, "", "0.5", 0.9965, None, "PENDING", "", "", 'a, "b"\nc é'
)  # fmt: skip


def test_it_keeps_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    other = dataclasses.replace(ROW, sha256="2" * 64)
    for row in (ROW, other, dataclasses.replace(ROW, ref=5)):
        ledger.put(path, row)
    assert ledger.read(path) == [dataclasses.replace(ROW, ref=5), other]
    assert "2026-01-02T03:04:05+00:00,tiny,1111" in path.read_text()
    ledger.remove(path, other)
    assert [row.ref for row in ledger.read(path)] == [5]


def test_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    rows = [dataclasses.replace(ROW, sha256=f"{number:064}") for number in range(20)]
    threads = [threading.Thread(target=ledger.put, args=(path, row)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ledger.read(path), key=lambda row: row.sha256) == rows


def edited(text: str, instead: str) -> bytes:
    """The ledger of two rows, with a change in one line."""
    rows = [
        dataclasses.replace(ROW, message="two\nlines"),
        dataclasses.replace(ROW, sha256="2" * 64, ref=1000, message="x"),
    ]
    lines = ",".join(table.columns(ledger.Row)) + "\n" + "".join(table.lines(ledger.Row, rows))
    before, after = lines.rsplit(text, 1)
    return f"{before}{instead}{after}".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: found columns"),
        (b"time,recipe\n", "line 1: found columns time, recipe, expected time, recipe, sha256"),
        (edited(",x\n", ",\xe9\n"), "line 4: found the byte b'\\xe9', expected text in UTF-8"),
        (edited(",x\n", f",{'x' * 200_000}\n"), "line 4: field larger than field limit"),
        (edited("1000", "1000.0"), "line 4: ref: found '1000.0', expected a whole number"),
        (edited(",x\n", ',"x\n'), "line 4: unexpected end of data"),
        (edited(",x\n", ",x,y\n"), "line 4: found 12 fields, expected 11"),
        (edited(",x\n", ",x"), "line 4: found no line end"),
        (edited("PENDING", "DONE"), "line 4: status: found 'DONE', expected UNCONFIRMED or"),
        (edited("2" * 64, "2" * 63), "line 4: sha256: found '222"),
        (edited("2" * 64, "1" * 64), "found two rows of the bytes 1111111111111111"),
        (edited("+00:00", ""), "line 4: time: found '2026-01-02T03:04:05', expected a time like"),
        (edited("0.9965", "good"), "line 4: dice: found 'good', expected a number"),
    ],
)
def test_a_ledger_that_was_edited(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "ledger.csv"
    path.write_bytes(content)
    for act in (ledger.read, lambda path: ledger.put(path, ROW)):
        with pytest.raises(UserError) as caught:
            act(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: {words}") and text.endswith("restore it from git")
        assert "\n" not in text and len(text) < 700
    assert path.read_bytes() == content


def test_the_one_in_the_repository() -> None:
    ledger.read(ROOT / LEDGER)


def test_it_is_shown_in_columns() -> None:
    done = dataclasses.replace(
        ROW, ref=7, status="COMPLETE", public="0.99621", private="0.99588", commit="a" * 40,
        message="first",
    )  # fmt: skip
    lines = ledger.show([ROW, done]).splitlines()
    assert lines[0].split()[:3] == ["time", "recipe", "threshold"]
    assert lines[-1].split() == [
        "2026-01-02T03:04", "tiny", "0.5", "0.99650", "0.99621", "0.99588", "-0.00062",
        "COMPLETE", "7", "aaaaaaa", "first",
    ]  # fmt: skip
