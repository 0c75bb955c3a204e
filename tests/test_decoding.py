import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.decoding import HELD, decode_batches
from pipeline.data.images import decode_image, resize_image
from pipeline.data.samples import odd_sizes
from pipeline.support.concurrency import ordered, read_ahead

SIZE = (32, 64)


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (3, 1), (4, 2), (99, 2), (2, 9)])
def test_batches_hold_every_image_once_and_stay_valid(rows, archives, batch, workers) -> None:
    held = []
    for found in decode_batches(rows, archives, SIZE, "area", batch, workers, False):
        held.append(found)
        for some in held[-HELD:]:  # what a device may still be reading
            for row, image in zip(some.rows, some.images.numpy(), strict=True):
                whole = decode_image(archives.read(row.image), row.size, row.image)
                np.testing.assert_array_equal(image, resize_image(whole, SIZE, "area"))
    assert [row for found in held for row in found.rows] == rows


def test_no_rows_are_no_batches(archives) -> None:
    assert list(decode_batches([], archives, SIZE, "area", 4, 2, False)) == []


def test_an_unreadable_image_is_reported_not_raised(rows, archives, raw: Path) -> None:
    (raw / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    bad = [rows[0], dataclasses.replace(rows[1], image="bad.jpg")]
    (batch,) = decode_batches(bad, archives, SIZE, "area", 2, 1, False)
    assert batch.errors[0] == "" and batch.errors[1].startswith("bad.jpg: ")
    assert batch.images[1].max() == 0 and batch.images[0].max() > 0


def test_what_a_thread_raises_is_raised_and_no_thread_stays(rows, archives) -> None:
    before = threading.active_count()
    broken = [*rows[:3], dataclasses.replace(rows[3], image="test.zip!none.jpg")]
    with pytest.raises(Exception, match="no member 'none.jpg'"):
        list(decode_batches(broken, archives, SIZE, "area", 2, 2, False))
    assert threading.active_count() == before


def test_reading_ahead_keeps_order_and_a_bound() -> None:
    made = []

    def numbers():
        for number in range(100):
            made.append(number)
            yield number

    items = read_ahead(numbers(), 3)
    for number in range(50):
        assert next(items) == number
        assert len(made) <= number + 1 + 3 + 1
    items.close()
    assert len(made) < 60


def test_reading_ahead_raises_what_the_items_raise() -> None:
    def failing():
        yield 1
        raise RuntimeError("of the items")

    items = read_ahead(failing(), 2)
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="of the items"):
        next(items)


def test_odd_sizes_are_those_that_few_of_a_group_have(rows) -> None:
    one = dataclasses.replace(rows[0], group="a", sample_id="x")
    car = [dataclasses.replace(one, sample_id=f"{i}") for i in range(16)]
    odd = dataclasses.replace(one, height=63, sample_id="odd")
    assert list(odd_sizes([*car, odd])) == ["odd"]
    assert "found 63x96" in odd_sizes([*car, odd])["odd"]
    assert odd_sizes(car) == {}
    assert odd_sizes([one, odd]) == {}, "of two, none is the odd one"
    others = [dataclasses.replace(odd, sample_id=name) for name in ("y", "z")]
    assert odd_sizes([*car[:5], *others]) == {}, "two sizes, and neither is the rule"


def test_threads_keep_the_order_and_stay_near() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = ordered(lambda number: number * number, items(), 3)
    assert next(results) == 0 and len(taken) <= 2 * 3 + 1
    assert list(results) == [number * number for number in range(1, 50)]


def test_what_a_thread_raises_ends_the_work() -> None:
    def fail(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    found = []
    with pytest.raises(ValueError, match="five"):
        for number in ordered(fail, range(100), 2):
            found.append(number)
    assert found == [0, 1, 2, 3, 4]
    assert not [t for t in threading.enumerate() if t.name.startswith("ordered")]
