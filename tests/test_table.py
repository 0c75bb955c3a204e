import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.support import table
from pipeline.support.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Car:
    name: str
    doors: int
    share: float
    kind: Literal["car", "bus"] = "car"
    sold: bool = False
    price: float | None = None
    size: tuple[int, ...] = dataclasses.field(
        default=(),
        metadata=table.cells(
            encode=lambda size: "x".join(map(str, size)),
            decode=lambda cell: tuple(map(int, cell.split("x"))),
        ),
    )
    rounded: float = dataclasses.field(default=0.0, metadata=table.cells(digits=3))


CARS = [
    Car("a, \"b\"\n'c'", 3, 0.1 + 0.2, "bus", True, 1e-9, (2, 3), 0.125),
    Car("é", -1, 1e300, price=None, size=(1,)),
]


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    table.write(tmp_path / "cars.csv", Car, CARS)
    assert table.read(tmp_path / "cars.csv", Car, "make it") == CARS


def test_an_empty_table_keeps_its_header(tmp_path: Path) -> None:
    table.write(tmp_path / "cars.csv", Car, [])
    assert table.read(tmp_path / "cars.csv", Car, "make it") == []
    header = (tmp_path / "cars.csv").read_text()
    assert header == "name,doors,share,kind,sold,price,size,rounded\n"


def test_what_excel_adds_is_accepted(tmp_path: Path) -> None:
    table.write(tmp_path / "cars.csv", Car, CARS[1:])
    text = (tmp_path / "cars.csv").read_bytes()
    (tmp_path / "cars.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert table.read(tmp_path / "cars.csv", Car, "make it") == CARS[1:]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"doors", b"doers", "line 1: found columns name, doers, .* expected name, doors, "),
        (b",3,", b",3.0,", "line 2: doors: found '3.0', expected a whole number; make it"),
        (b",3,", b",1_0,", "line 2: doors: found '1_0', expected a whole number; make it"),
        (b"bus", b"van", "line 2: kind: found 'van', expected car or bus"),
        (b"true", b"True", "line 2: sold: found 'True', expected true or false"),
        (b"1e-09", b"cheap", "line 2: price: found 'cheap', expected a number"),
        (b",3,", b",", "line 2: found 7 fields, expected 8"),
        (b",3,", b",3,3,", "line 2: found 9 fields, expected 8"),
        (b",3,", b',3,"', "line 3: unexpected end of data, expected 8 fields"),
        ("é".encode(), b"\xe9", "line 3: found the byte b'.xe9', expected text in UTF-8"),
        ("é".encode(), b"\0", "line 3: found a NUL character"),
        ("é".encode(), b"x" * 200_000, "line 3: field larger than field limit"),
        (b"0.000\n", b"0.0", "line 3: found no line end"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    path = tmp_path / "cars.csv"
    table.write(path, Car, [dataclasses.replace(CARS[0], name="a"), CARS[1]])
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(UserError, match=f"cars.csv: {said}") as raised:
        table.read(path, Car, "make it")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    assert str(raised.value).endswith("make it")


@given(data=st.binary(max_size=200), at=st.integers(0, 90))
def test_no_bytes_end_in_a_traceback(data: bytes, at: int) -> None:
    whole = ("\n".join([",".join(table.columns(Car)), *table.lines(Car, CARS)])).encode()
    try:
        table.parse(whole[:at] + data + whole[at:], Car, "cars.csv", "make it")
    except UserError as error:
        assert str(error).startswith("cars.csv: ")


def test_a_missing_or_unreadable_table_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cars.csv: no such file; run the split stage"):
        table.read(tmp_path / "cars.csv", Car, "run the split stage")
    with pytest.raises(UserError, match="Is a directory; run the split stage"):
        table.read(tmp_path, Car, "run the split stage")


def test_columns_are_as_wide_as_their_longest_word() -> None:
    rows = [("recipe", "dice"), ("a", "-"), ("carvana", "0.99")]
    assert table.aligned(rows) == "recipe   dice\na        -\ncarvana  0.99"
