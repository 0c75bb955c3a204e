"""`pipeline preview` on the tiny archives: its page, and that masks stay on what they mask."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_recipe, write_tiny_archives, write_yaml
from pages import Opened
from PIL import Image
from playwright.sync_api import Browser

from pipeline.__main__ import main


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    recipe = tiny_recipe()
    recipe["train"]["phases"][0]["size"] = [64, 96]
    recipe["train"]["augment"] |= {"color": 0, "lighten": 0, "affine": 1, "rotate": 20}
    write_yaml(folder / "recipes/tiny.yaml", recipe)
    write_tiny_archives(folder / "data/tiny/raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["split", "tiny"])
        main(["preview", "tiny"])
    return folder / "eval/tiny/preview.html"


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).astype(int) for one in found]


def test_masks_stay_on_what_they_mask(page: Path) -> None:
    """The tiny cars are red on grey: no red goes untinted, and no grey is tinted."""
    found = pictures(page.read_text())
    assert len(found) == 6 * 9
    for picture in found:
        red, green, blue = picture.transpose(2, 0, 1)
        untinted = (red > 150) & (green < 70)
        tinted_grey = (red > 170) & (green > 170) & (blue > 120) & (blue < 155)
        assert untinted.mean() < 0.01 and tinted_grey.mean() < 0.06
        assert ((red - green > 80) & (green > 70)).mean() > 0.02, "a tinted car"
    assert len({picture.tobytes() for picture in found}) > 50, "each change is another one"


def test_the_page_says_what_there_is(page: Path) -> None:
    text = re.sub(r"<[^>]+>|\s+|&nbsp;", " ", page.read_text())
    text = re.sub(r"\s+", " ", text)
    assert "12 training images of 6 groups in 2 folds" in text
    assert "12 of 64×96" in text and "64×96" in text and "no empty masks" in text
    assert re.search(r"background 8\d\.\d\d % foreground 1\d\.\d\d %", text)
    assert "rotate 20" in text and "lighten" not in text, "only what is done"


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_whole_and_asks_for_nothing(browser: Browser, page: Path, width: int) -> None:
    opened = Opened(browser, page, width, "dark")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.printed_over() == [] and opened.cut_off() == []
    assert page.stat().st_size < 5e6
    opened.context.close()
    assert opened.problems == []


def test_it_needs_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(tmp_path / "recipes/tiny.yaml", tiny_recipe())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"samples\.csv: .*run the split stage"):
        main(["preview", "tiny"])
