"""Submission files: what is written is read back, and what Kaggle would misread is refused."""

import gzip
import itertools
import os
import tracemalloc
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import rows as mask_rows
from pipeline.masks import submission
from pipeline.masks.submission import Note
from pipeline.support import table
from pipeline.support.errors import UserError

ROWS = [("a_01.jpg", "1 3 10 2"), ("a_02.jpg", ""), ("b_01.jpg", "6 1"), ("b_02.jpg", "1 12")]
SIZES = {name: (3, 4) for name, _ in ROWS}


def write(path, rows=ROWS, level=2):
    masks = ((Note(name, 0, 0.0, ""), text) for name, text in rows)
    submission.write(path, path.with_name("masks.csv"), masks, level)
    return path


def csv_text(rows=ROWS):
    return "img,rle_mask\n" + "".join(f"{name},{text}\n" for name, text in rows)


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample_submission.csv.zip"
    text = csv_text([(name, "1 1") for name, _ in ROWS])
    return zipped(path, {"sample_submission.csv": text})


def refused(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_round_trip(tmp_path, level):
    path = write(tmp_path / "new" / "submit.csv.gz", level=level)
    assert list(mask_rows.read_rows(path)) == ROWS
    assert gzip.decompress(path.read_bytes()).decode() == csv_text()
    assert sorted(os.listdir(path.parent)) == ["masks.csv", path.name]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters=',"\r\n'), min_size=1),
            st.lists(st.integers(1, 99)).map(lambda numbers: " ".join(map(str, numbers))),
        )
    )
)
def test_any_rows_come_back(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("rows") / "submit.csv.gz", rows)
    assert list(mask_rows.read_rows(path)) == rows


def test_the_table_of_masks_is_written_beside(tmp_path):
    notes = [Note("a.jpg", 12, 0.25, ""), Note("b.jpg", 0, 0.0, "cut short, so empty")]
    path = tmp_path / "masks.csv"
    submission.write(tmp_path / "submit.csv.gz", path, zip(notes, ["1 12", ""], strict=True), 2)
    assert table.read(path, Note, "") == notes


def test_what_is_not_all_written_is_not_there(tmp_path):
    def masks():
        yield Note("a.jpg", 1, 0.0, ""), "1 1"
        raise UserError("the second")

    with pytest.raises(UserError, match="the second"):
        submission.write(tmp_path / "submit.csv.gz", tmp_path / "masks.csv", masks(), 2)
    assert os.listdir(tmp_path) == []


def test_one_gzip_member(tmp_path):
    path = write(tmp_path / "submit.csv.gz")
    assert path.read_bytes() == write(tmp_path / "again" / "submit.csv.gz").read_bytes()
    stream = zlib.decompressobj(wbits=31)
    assert stream.decompress(path.read_bytes()).decode() == csv_text()
    assert stream.eof and not stream.unused_data


@pytest.mark.parametrize("name", ["", "a,b.jpg", 'a".jpg', "a\n.jpg"])
def test_names_that_no_csv_holds_plainly(name):
    with pytest.raises(UserError, match="image name"):
        submission.check_name(name)


def test_find_sample(tmp_path, sample):
    assert mask_rows.find_sample(tmp_path) == sample
    (tmp_path / "other").mkdir()
    refused(lambda: mask_rows.find_sample(tmp_path / "other"), "sample_submission.csv.zip")


def test_every_form_of_a_sample(tmp_path):
    text = csv_text()
    plain = tmp_path / "sample.csv"
    plain.write_text(text)
    windows = tmp_path / "windows.csv"
    windows.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    unended = tmp_path / "unended.csv"
    unended.write_text(text.rstrip("\n"))
    gzipped = tmp_path / "sample.csv.gz"
    gzipped.write_bytes(gzip.compress(text.encode()))
    macos = {
        "__MACOSX/._sample.csv": b"\0\5\x16\7", "._sample.csv": b"\0", "sample.csv": text,
        "read.me": "",
    }  # fmt: skip
    archive = zipped(tmp_path / "sample.csv.zip", macos)
    folder = zipped(tmp_path / "folder.zip", {"sample/": "", "sample/sample.csv": text})
    for path in (plain, windows, unended, gzipped, archive, folder):
        assert list(mask_rows.read_rows(path)) == ROWS, path


def first_rows(path):
    return lambda: list(mask_rows.read_rows(path))


@pytest.mark.parametrize("rows", [1, 10_000, 300_000])
@pytest.mark.parametrize("text", ["", "1 1 " * 30 + "500 1"])
def test_rows_that_shrink_a_lot(tmp_path, rows, text):
    path = tmp_path / "submit.csv.gz"
    rows = rows // 20 if text else rows
    write(path, itertools.repeat(("a.jpg", text), rows), level=3)
    assert sum(row == ("a.jpg", text) for row in mask_rows.read_rows(path)) == rows
    path.write_bytes(path.read_bytes()[:-1])
    refused(first_rows(path), path, "cut short")


def test_damaged_gzip_is_refused(tmp_path):
    content = gzip.compress(csv_text(ROWS * 5000).encode(), 1)
    path = tmp_path / "submit.csv.gz"
    wrong_sum = content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]
    flipped = content[: len(content) // 2] + b"\xff" * 9 + content[len(content) // 2 + 9 :]
    cuts = [content[:n] for n in (0, 5, 12, len(content) // 2, len(content) - 8, len(content) - 1)]
    for damaged in [*cuts, wrong_sum, flipped, b"<!DOCTYPE html>"]:
        path.write_bytes(damaged)
        refused(first_rows(path), path, "line")
    path.write_bytes(content)
    assert len(list(mask_rows.read_rows(path))) == 20000


def test_more_than_one_member_is_refused(tmp_path, sample):
    path = tmp_path / "submit.csv.gz"
    head, tail = csv_text()[:30].encode(), csv_text()[30:].encode()
    path.write_bytes(gzip.compress(head) + gzip.compress(tail))
    assert gzip.decompress(path.read_bytes()).decode() == csv_text()
    refused(first_rows(path), path, "one member")
    path.write_bytes(gzip.compress(csv_text().encode()) + b"\0")
    refused(lambda: submission.check(path, sample, SIZES), path, "one member")


def test_damaged_zip_is_refused(tmp_path):
    path = tmp_path / "sample.csv.zip"
    content = zipped(path, {"sample.csv": csv_text(ROWS * 3000)}).read_bytes()
    flipped = content[:200] + b"\xff" * 9 + content[209:]
    for damaged in (b"", b"<html>", content[:100], content[:-30], flipped):
        path.write_bytes(damaged)
        refused(first_rows(path), path, "line")
    zipped(path, {"read.me": ""})
    refused(first_rows(path), path, "found 0 CSV files")
    zipped(path, {"a.csv": csv_text(), "b.csv": csv_text()})
    refused(first_rows(path), path, "found 2 CSV files", "a.csv")


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"", 1, "empty file"),
        (b"\n", 1, "''"),
        (b"image,rle\na,\n", 1, "'image,rle'"),
        (b"a.jpg,1 1\n", 1, "'a.jpg,1 1'"),
        (b"img,rle_mask\na.jpg,1 1\nb.jpg\n", 3, "'b.jpg' (1 columns)"),
        (b"img,rle_mask\na.jpg,1 1,2\n", 2, "(3 columns)"),
        (b"img,rle_mask\na.jpg,1 1\n\n", 3, "'' (1 columns)"),
        (b"img,rle_mask\n<html>" + b"x" * 9999, 2, "'<html>x"),
    ],
)
def test_lines_that_are_refused(tmp_path, content, line, found):
    path = tmp_path / "sample.csv"
    path.write_bytes(content)
    refused(first_rows(path), f"{path}: line {line}:", found, "expected")


def test_paths_that_are_refused(tmp_path):
    refused(first_rows(tmp_path / "none.csv"), tmp_path / "none.csv", "no such file")
    (tmp_path / "submit.7z").touch()
    refused(first_rows(tmp_path / "submit.7z"), "submit.7z", ".csv.gz")


def test_check_summarises(tmp_path, sample):
    summary = submission.check(write(tmp_path / "submit.csv.gz"), sample, SIZES)
    assert summary == submission.Summary(4, 1, (5 + 0 + 1 + 12) / 48, 0.0, 1.0)


def test_check_takes_no_windows_submission(tmp_path, sample):
    path = tmp_path / "submit.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + csv_text().encode()))
    refused(lambda: submission.check(path, sample, SIZES), f"{path}: line 1", "byte order mark")
    path.write_bytes(gzip.compress(csv_text().replace("2\n", "2\r\n").encode()))
    refused(lambda: submission.check(path, sample, SIZES), f"{path}: line 2", "LF")


def changed(index, row):
    return [*ROWS[:index], *([row] if row else []), *ROWS[index + 1 :]]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (ROWS[:3], ["row 4: found the end of the file, expected 'b_02.jpg'"]),
        ([], ["row 1: found the end of the file, expected 'a_01.jpg'"]),
        ([*ROWS, ("c.jpg", "")], ["row 5: found 'c.jpg', expected the end of the file"]),
        (changed(1, None), ["row 2: found 'b_01.jpg', expected 'a_02.jpg'"]),
        ([ROWS[0], ROWS[2], ROWS[1], ROWS[3]], ["row 2: found 'b_01.jpg'"]),
        (changed(2, ("b_01.jpg", "6 1 7")), ["row 3, b_01.jpg: token 3 of 3 is '7'"]),
        (changed(2, ("b_01.jpg", "12 2")), ["row 3, b_01.jpg: token 2 of 2 is '2'", "3x4 = 12"]),
        (changed(3, ("b_02.jpg", "5 2 1 2")), ["row 4, b_02.jpg: token 3 of 4 is '1'"]),
        (changed(0, ("a_01.jpg", "1 1 ")), ["row 1, a_01.jpg: token 3 of 3 is ''"]),
    ],
)
def test_check_refuses_rows(tmp_path, sample, rows, parts):
    path = write(tmp_path / "submit.csv.gz", rows)
    refused(lambda: submission.check(path, sample, SIZES), f"{path}: {parts[0]}", *parts[1:])


def test_check_needs_sizes_and_a_sample(tmp_path, sample):
    path = write(tmp_path / "submit.csv.gz")
    sizes = {name: size for name, size in SIZES.items() if name != "a_02.jpg"}
    refused(lambda: submission.check(path, sample, sizes), "row 2, a_02.jpg", "size")
    empty = tmp_path / "empty.csv"
    empty.write_text("img,rle_mask\n")
    refused(
        lambda: submission.check(write(path, []), empty, SIZES), empty, "no row under the header"
    )


def test_memory_does_not_grow_with_the_rows(tmp_path):
    text = " ".join(f"{1 + 20 * i} 7" for i in range(900))  # as long as a real row

    def peak(count):
        names = [f"{i}.jpg" for i in range(count)]
        (tmp_path / "sample.csv").write_text(csv_text([(name, "1 1") for name in names]))
        sizes = dict.fromkeys(names, (1280, 1918))
        tracemalloc.start()
        path = write(tmp_path / "submit.csv.gz", ((name, text) for name in names))
        submission.check(path, tmp_path / "sample.csv", sizes)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # compiles the checker
    few = peak(300)
    assert peak(1500) < few + (2 << 20)
