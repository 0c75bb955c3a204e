"""What proves a file whole, and what wrong bytes it finds: no damage may end in a traceback."""

import contextlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import gif, jpeg, tiny_image, tiny_mask
from kaggle_server import zipped
from PIL import Image

from pipeline.data.archives import Archives
from pipeline.data.rows import read_rows
from pipeline.kaggle.integrity import Expected, flaw
from pipeline.support.errors import UserError

NOTHING = Expected()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def flips(path: Path, whole: bytes) -> Iterator[int]:
    """Each bit in turn, inverted in the file at `path`; it is opened once, which is slow."""
    path.write_bytes(whole)
    with path.open("r+b", buffering=0) as stream:
        for bit in range(8 * len(whole)):
            os.pwrite(stream.fileno(), bytes([whole[bit // 8] ^ 1 << bit % 8]), bit // 8)
            yield bit
            os.pwrite(stream.fileno(), whole[bit // 8 :][:1], bit // 8)


def contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def of_480_bytes() -> bytes:
    """Three members, one of them deflated, and a comment that fills it up."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("train/a.jpg"), b"picture")
        archive.writestr(zipfile.ZipInfo("list.csv"), "a,b\n" * 9, zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo("train/ü.jpg"), b"another")
    length = len(buffer.getvalue())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"." * (480 - length)
    return buffer.getvalue()


def test_every_bit_of_a_zip(tmp_path: Path) -> None:
    """3,840 flips: each is noticed, or leaves every member as it was; none is a traceback."""
    whole = of_480_bytes()
    assert len(whole) == 480 and flaw(write(tmp_path / "a.zip", whole), "a.zip", NOTHING) is None
    noticed, path = 0, tmp_path / "a.zip"
    for bit in flips(path, whole):
        problem = flaw(path, "a.zip", NOTHING)
        assert problem is None or "\n" not in problem
        assert problem or contents(path.read_bytes()) == contents(whole), bit
        noticed += problem is not None
    assert noticed > 1000, "the rest are dates, comments and the like"


@pytest.mark.parametrize("kind", ["archive", "submission"])
def test_every_bit_of_a_zip_that_is_read(tmp_path: Path, kind: str) -> None:
    """Damage done after the download, or to a file of the user's."""
    table = b"img,rle_mask\na.jpg,1 1\n"
    whole = of_480_bytes() if kind == "archive" else zipped({"submit.csv": table})
    path = tmp_path / "submit.csv.zip"
    for _ in flips(path, whole):
        archives = Archives(tmp_path)
        with contextlib.suppress(UserError):
            if kind == "archive":
                assert all(map(archives.read, archives.members(path.name)))
            else:
                assert list(read_rows(path)) == [("a.jpg", "1 1")]
        archives.close()


def test_a_directory_that_lost_members(tmp_path: Path) -> None:
    """A longer comment of the first entry swallows the second; readers do not notice."""
    data = bytearray(zipped({"a": b"1", "b": b"22", "c": b"333"}))
    first, second = (data.find(b"PK\1\2", at) for at in (0, data.find(b"PK\1\2") + 1))
    struct.pack_into("<H", data, first + 32, second - first)
    assert list(contents(bytes(data))) == ["a", "c"]
    problem = flaw(write(tmp_path / "a.zip", bytes(data)), "a.zip", NOTHING)
    assert problem == "its directory lists 2 members, its end counts 3"


@pytest.mark.parametrize("count", [3, 65_540])
def test_a_count_of_zip64(tmp_path: Path, count: int) -> None:
    """As Carvana's 100,064 members have it; old packers count on from 0 behind 65,535."""
    whole = zipped({"a": b""})
    entry, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    body, size = whole[:entry] + whole[entry:end] * count, (end - entry) * count

    def ended(members: int, zip64: bool) -> Path:
        long = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, members, members, size, entry)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body), 1)
        few = 0xFFFF if zip64 else members % (1 << 16)
        short = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, size, entry, 0)
        return write(tmp_path / "a.zip", body + (long + locator) * zip64 + short)

    for zip64 in (True, False):
        assert flaw(ended(count - 1, zip64), "a.zip", NOTHING)
        if not zip64 or count == 3:  # reading so many takes seconds
            assert flaw(ended(count, zip64), "a.zip", NOTHING) is None


@pytest.mark.parametrize("ending", [".jpg", ".png", ".gif", ".JPG"])
def test_a_picture_that_comes_without_a_hash(tmp_path: Path, ending: str) -> None:
    mask = tiny_mask(0)
    image = tiny_image(mask, 0)
    whole = {".png": cv2.imencode(".png", image)[1].tobytes(), ".gif": gif(mask)}.get(
        ending, jpeg(image)
    )
    path, name = tmp_path / "picture", f"picture{ending}"
    assert flaw(write(path, whole), name, NOTHING) is None
    for data in (whole[: len(whole) // 2], whole[:-30], b"", b"<html>", b'{"code": 404}'):
        assert flaw(write(path, data), name, NOTHING), data[:20]
    other = np.full((*mask.shape, 3), 9, np.uint8)
    other_whole = {".png": cv2.imencode(".png", other)[1].tobytes(), ".gif": gif(mask * 0)}.get(
        ending, jpeg(other)
    )
    half = len(whole) // 2
    splice = whole[:half] + (other_whole * 99)[half : len(whole)]
    assert flaw(write(path, splice), name, NOTHING, arrived=True)


def test_a_picture_too_large_to_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "picture", cv2.imencode(".png", np.zeros((40, 40)))[1].tobytes())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert flaw(path, "picture.png", NOTHING) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("sampling", [0, 2])
def test_a_whole_jpeg_of_any_kind(tmp_path: Path, mode: str, sampling: int) -> None:
    """One that decoders get over is refused from a network, and left to its owner at home."""
    path = tmp_path / "picture"
    picture = Image.fromarray(tiny_image(tiny_mask(0), 0)).convert(mode)
    picture.save(path, "JPEG", subsampling=sampling)
    assert flaw(path, "a.jpg", NOTHING, arrived=True) is None
    if mode == "RGB":
        whole, got_over = path.read_bytes(), 0
        for at in range(len(whole) // 2, len(whole) - 2, 9):
            write(path, whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            if not flaw(path, "a.jpg", NOTHING):
                got_over += flaw(path, "a.jpg", NOTHING, arrived=True) is not None
        assert got_over
