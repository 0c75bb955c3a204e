import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from training import Place, small_recipe

from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.support import hardware
from pipeline.support.errors import UserError
from pipeline.train import data
from pipeline.train.data import Cache, Decoder

SIZE = (32, 64)


class Counted(Decoder):
    """Counts what it decodes."""

    def __getitem__(self, position: int):
        self.decoded = getattr(self, "decoded", 0) + 1
        return super().__getitem__(position)


@pytest.fixture
def rows(rows: list[Sample]) -> list[Sample]:
    return rows[:8]


@pytest.fixture
def decoder(rows: list[Sample], archives: Archives) -> Counted:
    return Counted(rows, archives, SIZE, "area")


@pytest.mark.parametrize("kind", ["ram", "disk", "none"])
def test_every_pixel_is_that_of_no_cache(kind, rows, archives, tmp_path: Path) -> None:
    for size, resize in ((SIZE, "area"), ((64, 32), "linear")):
        decoder = Decoder(rows, archives, size, resize)
        pictures = Cache(kind, tmp_path, rows, archives, resize, [size]).at(size)
        assert list(pictures.rows) == rows
        for position in range(len(rows)):
            for part, plain in zip(pictures[position], decoder[position], strict=True):
                np.testing.assert_array_equal(part, plain)
                assert part.dtype == np.uint8 and part.flags.writeable


def test_what_is_on_disk_is_not_decoded_again(decoder: Counted, tmp_path: Path) -> None:
    first = data.on_disk(tmp_path, decoder)
    second = data.on_disk(tmp_path, decoder)
    assert decoder.decoded == len(decoder)
    np.testing.assert_array_equal(first[3][0], second[3][0])


def test_changing_a_picture_leaves_the_cache_alone(decoder: Counted, tmp_path: Path) -> None:
    for pictures in (data.in_ram(decoder), data.on_disk(tmp_path, decoder)):
        image, _ = pictures[0]
        before = image.copy()
        image[:] = 0
        np.testing.assert_array_equal(pictures[0][0], before)


def test_more_than_the_memory_is_refused(decoder: Counted, monkeypatch) -> None:
    needed = len(decoder) * SIZE[0] * SIZE[1] * 4
    monkeypatch.setattr(hardware, "free_memory", lambda: needed)
    assert len(data.in_ram(decoder).rows) == len(decoder)
    monkeypatch.setattr(hardware, "free_memory", lambda: needed - 1)
    with pytest.raises(UserError, match="cache: found ram, which takes .* for 8 images.* none"):
        data.in_ram(decoder)


def test_two_at_once_make_one(decoder: Counted, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(data.on_disk, tmp_path, decoder) for _ in range(2)]
        one, other = (future.result() for future in both)
    assert decoder.decoded == len(decoder)
    np.testing.assert_array_equal(one[7][1], other[7][1])


def test_the_key_is_all_that_the_pixels_depend_on(rows, archives, raw: Path) -> None:
    def key(rows=rows, size=SIZE, resize="area", target="area") -> str:
        return data.key(Decoder(rows, archives, size, resize, target))

    first = key()
    others = {key(rows[:-1]), key(size=(64, 32)), key(resize="linear"), key(target="linear")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.fingerprint, "sources", lambda places: [])
        others.add(key())
    os.utime(raw / "train.zip", ns=(1, 1))
    assert len(others | {key(), first}) == 7


def test_targets_are_resized_as_asked(rows, archives, tmp_path: Path) -> None:
    size = (16, 24)
    expected = Decoder(rows, archives, size, "area", "nearest")[0][1]
    assert (expected != Decoder(rows, archives, size, "area")[0][1]).any()
    for kind in ("none", "ram", "disk"):
        found = Cache(kind, tmp_path, rows, archives, "area", [size], "nearest").at(size)[0][1]
        np.testing.assert_array_equal(found, expected)


def test_a_damaged_target_is_decoded_again(decoder: Counted, tmp_path: Path) -> None:
    data.on_disk(tmp_path, decoder)
    path = next(tmp_path.glob("cache-*")) / "targets.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    found = data.on_disk(tmp_path, decoder)[7][1]
    np.testing.assert_array_equal(found, Decoder.__getitem__(decoder, 7)[1])


def test_a_damaged_cache_is_made_again(decoder: Counted, tmp_path: Path) -> None:
    data.on_disk(tmp_path, decoder)
    path = next(tmp_path.glob("cache-*")) / "targets.npy"
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "unfinished-cache-abc").mkdir()
    pictures = data.on_disk(tmp_path, decoder)
    np.testing.assert_array_equal(pictures[7][1], decoder[7][1])
    assert [p.name for p in tmp_path.glob("*cache-*")] == [f"cache-{data.key(decoder)}"]


def test_a_new_cache_replaces_the_old_one(rows, archives, tmp_path: Path) -> None:
    for size in (SIZE, (64, 64)):
        decoder = Decoder(rows, archives, size, "area")
        data.on_disk(tmp_path, decoder)
    assert [p.name for p in tmp_path.glob("cache-*")] == [f"cache-{data.key(decoder)}"]


def test_the_sizes_of_all_phases_stay(rows, archives, tmp_path: Path) -> None:
    """Of the next fold, which begins with the first of them."""
    sizes = [SIZE, (64, 64)]
    cache = Cache("disk", tmp_path, rows, archives, "area", sizes)
    for size in sizes:
        cache.at(size)
    keys = {f"cache-{data.key(Decoder(rows, archives, size, 'area'))}" for size in sizes}
    assert {p.name for p in tmp_path.glob("cache-*")} == keys


def test_a_damaged_picture_is_said_and_decoded_again(
    decoder: Counted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quarter of the bytes zeroed, as a disk can leave them."""
    data.on_disk(tmp_path, decoder)
    path = next(tmp_path.glob("cache-*")) / "images.npy"
    content = path.read_bytes()
    path.write_bytes(content[: 3 * len(content) // 4] + bytes(len(content) // 4))
    pictures, before = data.on_disk(tmp_path, decoder), decoder.decoded
    for position in range(len(decoder.rows)):
        np.testing.assert_array_equal(
            pictures[position][0], Decoder.__getitem__(decoder, position)[0]
        )
    assert decoder.decoded - before == 3, "two of eight and a bit"
    assert capsys.readouterr().out.count("its decoded copy in the cache is damaged") == 3


def test_a_disk_without_room_is_told_before_any_work(rows, archives, tmp_path: Path) -> None:
    decoder = Counted(rows, archives, (2**20, 2**20), "area")
    with pytest.raises(UserError, match=r"runtime.cache: disk needs .* GB, the disk has .* GB"):
        data.on_disk(tmp_path, decoder)
    assert not hasattr(decoder, "decoded")


def test_an_image_that_does_not_decode_leaves_no_cache(rows, archives, tmp_path: Path) -> None:
    rows[0] = Sample("x", "train", "x", "missing.jpg", "missing.gif", 0, 4, 4, 0.5)
    with pytest.raises(UserError, match=r"missing\.jpg"):
        data.on_disk(tmp_path, Decoder(rows, archives, SIZE, "area"))
    assert not list(tmp_path.glob("cache-*"))


def test_all_folds_share_what_is_on_disk(raw: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "project", raw, small_recipe({"cache": "disk"}, epochs=1))
    place.run(0)
    before = {path: path.stat().st_mtime_ns for path in place.work.glob("cache-*")}
    place.run(1)
    assert {path: path.stat().st_mtime_ns for path in place.work.glob("cache-*")} == before != {}
