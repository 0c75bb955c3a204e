"""Pictures of masks: what is painted, shrunk and kept, and the zip that holds it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import decode_image
from pipeline.support import pictures
from pipeline.support.errors import UserError
from pipeline.support.pictures import COLORS, FALSE_POSITIVE, HIT, MISSED, OPACITY


def drawn(name: str = "car_01") -> pictures.Picture:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (600, 1200, 3)).astype(np.uint8)
    truth, prediction = np.zeros((2, 600, 1200), bool)
    truth[150:450, 300:900], prediction[150:450, 360:900] = True, True
    return pictures.picture(name, "worst", image, prediction, truth)


def layer(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


def test_each_kind_of_pixel_has_its_color() -> None:
    image = np.full((1, 4, 3), 100, np.uint8)
    prediction = np.array([[True, False, True, False]])
    truth = np.array([[True, True, False, False]])
    painted = pictures.overlay(image, prediction, truth)
    for column, kind in enumerate((HIT, MISSED, FALSE_POSITIVE)):
        expected = np.round((1 - OPACITY) * 100 + OPACITY * np.array(COLORS[kind]))
        np.testing.assert_array_equal(painted[0, column], expected)
    np.testing.assert_array_equal(painted[0, 3], [100, 100, 100])


def test_a_jpeg_comes_back_in_rgb() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 0] = 200
    decoded = decode_image(pictures.encode_jpeg(image), (16, 16), "overlay")
    assert decoded[..., 0].mean() > 190 and decoded[..., 2].mean() < 10


def test_shrinking_keeps_thin_mistakes() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[:, :20] = HIT
    classes[:, 20:22] = FALSE_POSITIVE  # half of a column of 4-pixel blocks
    small, found = pictures.shrink(np.zeros((40, 40, 3), np.uint8), classes, 10)
    assert small.shape == (10, 10, 3) and found.shape == (10, 10)
    assert found[0].tolist() == [1, 1, 1, 1, 1, 3, 0, 0, 0, 0]
    same, kept = pictures.shrink(np.zeros((40, 40, 3), np.uint8), classes, 50)
    assert same.shape == (40, 40, 3) and kept is classes


def test_the_worst_window_holds_the_most_mistakes() -> None:
    classes = np.full((100, 120), HIT, np.uint8)
    classes[5:8, 100:118] = MISSED  # 54 pixels at the upper right
    classes[60:70, 20:30] = FALSE_POSITIVE  # 100 pixels
    rows, columns = pictures.worst_window(classes, (20, 30))
    assert (classes[rows, columns] == FALSE_POSITIVE).sum() == 100
    assert classes[rows, columns].shape == (20, 30)
    classes[90:, 100:] = FALSE_POSITIVE  # at the edge
    rows, columns = pictures.worst_window(classes, (20, 30))
    assert (classes[rows, columns] == FALSE_POSITIVE).sum() == 200
    assert classes[pictures.worst_window(classes, (300, 30))].shape == (100, 30)


def test_layers_are_transparent_outside_their_pixels() -> None:
    picture = drawn()
    whole = layer(picture.whole.difference)
    assert whole.shape == (480, 960, 4)
    assert tuple(whole[240, 266]) == (*COLORS[MISSED], 255)
    assert tuple(whole[240, 500, :3]) == COLORS[HIT] and 0 < whole[240, 500, 3] < 255
    assert whole[10, 10, 3] == 0
    assert tuple(layer(picture.whole.truth)[240, 266]) == (*pictures.TRUTH, 255)
    assert layer(picture.whole.prediction)[240, 266, 3] == 0
    window = layer(picture.window.difference)
    assert window.shape == (288, 384, 4)
    missed = (window[..., :3] == COLORS[MISSED]).all(axis=2) & (window[..., 3] > 0)
    assert missed.sum() == 288 * 60, "all that is missed, at full size"
    with Image.open(io.BytesIO(picture.whole.photograph)) as image:
        assert (image.format, image.size) == ("WEBP", (960, 480))


def test_pictures_come_back_and_make_equal_bytes(tmp_path: Path) -> None:
    some = [drawn(), drawn("other/../name")]
    pictures.write(tmp_path / "a.zip", some)
    pictures.write(tmp_path / "b.zip", some)
    assert pictures.read(tmp_path / "a.zip") == some
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    pictures.write(tmp_path / "a.zip", [])
    assert pictures.read(tmp_path / "a.zip") == []


def test_damage_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fold0-gallery.zip"
    with pytest.raises(UserError, match=r"fold0-gallery\.zip: .*run the validate stage"):
        pictures.read(path)
    for index in ('[{"sample_id": "a", "kind": "worst"}]', '["a"]', "{", "3"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("index.json", index)
        with pytest.raises(UserError, match=r"fold0-gallery\.zip: .*run the validate stage"):
            pictures.read(path)


def test_flipped_bytes_are_one_line_or_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "fold0-gallery.zip"
    pictures.write(path, [drawn()])
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in generator.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            pictures.read(path)
        except UserError as error:
            assert "fold0-gallery.zip" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 250
