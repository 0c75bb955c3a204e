import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.support import gallery
from pipeline.support.errors import UserError


def drawn(name: str = "car_01") -> gallery.Picture:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (600, 1200, 3)).astype(np.uint8)
    truth, prediction = np.zeros((2, 600, 1200), bool)
    truth[150:450, 300:900], prediction[150:450, 360:900] = True, True
    return gallery.picture(name, "worst", image, prediction, truth)


def layer(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


def test_layers_are_transparent_outside_their_pixels() -> None:
    picture = drawn()
    whole = layer(picture.whole.difference)
    assert whole.shape == (480, 960, 4)
    assert tuple(whole[240, 266]) == (*gallery.MISSED, 255)
    assert tuple(whole[240, 500, :3]) == gallery.HIT and 0 < whole[240, 500, 3] < 255
    assert whole[10, 10, 3] == 0
    assert tuple(layer(picture.whole.truth)[240, 266]) == (*gallery.TRUTH, 255)
    assert layer(picture.whole.prediction)[240, 266, 3] == 0
    window = layer(picture.window.difference)
    assert window.shape == (288, 384, 4)
    missed = (window[..., :3] == gallery.MISSED).all(axis=2) & (window[..., 3] > 0)
    assert missed.sum() == 288 * 60, "all that is missed, at full size"
    with Image.open(io.BytesIO(picture.whole.photograph)) as image:
        assert (image.format, image.size) == ("WEBP", (960, 480))


def test_pictures_come_back_and_make_equal_bytes(tmp_path: Path) -> None:
    pictures = [drawn(), drawn("other/../name")]
    gallery.write(tmp_path / "a.zip", pictures)
    gallery.write(tmp_path / "b.zip", pictures)
    assert gallery.read(tmp_path / "a.zip") == pictures
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    gallery.write(tmp_path / "a.zip", [])
    assert gallery.read(tmp_path / "a.zip") == []


def test_damage_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fold0-gallery.zip"
    with pytest.raises(UserError, match=r"fold0-gallery\.zip: .*run the validate stage"):
        gallery.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("index.json", '[{"sample_id": "a", "kind": "worst"}]')
    with pytest.raises(UserError, match=r"fold0-gallery\.zip: .*run the validate stage"):
        gallery.read(path)
