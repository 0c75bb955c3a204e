"""The built-in sample: Kaggle's names and formats, exact masks, the same bytes every time."""

import csv
import hashlib
import io
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.masks import rle
from sample import archives
from sample.design import design

ARCHIVES = [
    "metadata.csv.zip",
    "sample_submission.csv.zip",
    "test.zip",
    "train.zip",
    "train_masks.csv.zip",
    "train_masks.zip",
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    archives.write_archives(folder, train_cars=1, test_cars=1, seed=3, threads=2)
    return folder


def members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def member(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def table(folder: Path, name: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(member(folder / f"{name}.zip", name).decode())))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def car_of(path: Path) -> str:
    match = re.fullmatch(r"\w+/([0-9a-f]{12})_01.*", members(path)[0])
    assert match, members(path)[0]
    return match[1]


def image_of(folder: Path, name: str) -> NDArray[np.uint8]:
    data = np.frombuffer(member(folder / "train.zip", name), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    return np.asarray(image, np.uint8)


def mask_of(folder: Path, name: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(member(folder / "train_masks.zip", name))) as image:
        assert image.mode == "P"
        assert image.getpalette()[:6] == [0, 0, 0, 255, 255, 255]  # type: ignore[index]
        return np.array(image)


def test_archives_and_names_are_kaggles(sample: Path) -> None:
    assert sorted(path.name for path in sample.iterdir()) == ARCHIVES
    train, test = car_of(sample / "train.zip"), car_of(sample / "test.zip")
    assert [train, test] == [design(3, index).car_id for index in (0, 1)]
    views = [f"{view:02d}" for view in range(1, 17)]
    assert members(sample / "train.zip") == [f"train/{train}_{v}.jpg" for v in views]
    assert members(sample / "test.zip") == [f"test/{test}_{v}.jpg" for v in views]
    masks = [f"train_masks/{train}_{v}_mask.gif" for v in views]
    assert members(sample / "train_masks.zip") == masks
    for name in ("metadata.csv", "sample_submission.csv", "train_masks.csv"):
        assert members(sample / f"{name}.zip") == [name]


def test_every_member_has_kaggles_date(sample: Path) -> None:
    for name in ARCHIVES:
        with zipfile.ZipFile(sample / name) as archive:
            assert {entry.date_time for entry in archive.infolist()} == {(2017, 7, 25, 0, 0, 0)}


def test_tables(sample: Path) -> None:
    train, test = car_of(sample / "train.zip"), car_of(sample / "test.zip")
    submission = table(sample, "sample_submission.csv")
    rows = [[f"{test}_{view:02d}.jpg", "1 1"] for view in range(1, 17)]
    assert submission == [["img", "rle_mask"], *rows]
    metadata = table(sample, "metadata.csv")
    assert metadata[0] == ["id", "year", "make", "model", "trim1", "trim2"]
    assert [row[0] for row in metadata[1:]] == sorted([train, test])
    text = member(sample / "metadata.csv.zip", "metadata.csv").decode()
    assert all(re.fullmatch(r'"[^"]*"(,"[^"]*"){5}', line) for line in text.splitlines())


def test_images_decode_and_weigh_what_real_ones_do(sample: Path) -> None:
    for name in members(sample / "train.zip"):
        data = member(sample / "train.zip", name)
        assert 75_000 < len(data) < 160_000, (name, len(data))
        assert image_of(sample, name).shape == (1280, 1918, 3)


def test_run_lengths_are_the_masks(sample: Path) -> None:
    header, *rows = table(sample, "train_masks.csv")
    assert header == ["img", "rle_mask"]
    assert [name for name, _ in rows] == [n[6:] for n in members(sample / "train.zip")]
    for name, text in rows:
        mask = mask_of(sample, f"train_masks/{name[:-4]}_mask.gif")
        assert mask.shape == (1280, 1918) and set(np.unique(mask)) == {0, 1}
        np.testing.assert_array_equal(rle.decode(text, 1280, 1918), mask == 1)


def test_the_car_is_inside_the_mask(sample: Path) -> None:
    """Views of one studio differ where a car is, or its shadow, and nowhere else."""
    car = car_of(sample / "train.zip")
    front, side = (image_of(sample, f"train/{car}_{v}.jpg").astype(int) for v in ("01", "05"))
    masks = [mask_of(sample, f"train_masks/{car}_{v}_mask.gif") == 1 for v in ("01", "05")]
    difference = np.abs(front - side).mean(axis=2)
    only_one, none = masks[0] ^ masks[1], ~(masks[0] | masks[1])
    wall = none & (np.arange(1280) < 400)[:, None]
    assert difference[only_one].mean() > 15
    assert difference[wall].mean() < 4


def test_bytes_do_not_depend_on_the_threads(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training car alone: the test car's archives hold no more than it."""
    archives.write_archives(tmp_path, train_cars=1, test_cars=0, seed=3, threads=1)
    bar = capsys.readouterr().err
    assert "draw the sample" in bar and "16/16" in bar
    ours, theirs = digests(tmp_path), digests(sample)
    for name in ("train.zip", "train_masks.zip", "train_masks.csv.zip"):
        assert ours[name] == theirs[name]
    assert members(tmp_path / "test.zip") == []
