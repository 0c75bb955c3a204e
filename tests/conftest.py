"""A tiny Carvana that every test can afford: six cars of two views, in Kaggle's layout."""

import contextlib
import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from pipeline.__main__ import main
from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.recipe.schema import ByGroup
from pipeline.sources import brain_mri, carvana, oxford_pets
from pipeline.split import split

# Before torch is loaded, here and in every process that a test starts: tests run side by side,
# and threads of two processes that wait for each other on the same cores are five times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ROOT = Path(__file__).parent.parent
SLUG = "carvana-image-masking-challenge"
HEIGHT, WIDTH = 64, 96
TRAIN_CARS = [f"aa{number:010x}" for number in range(6)]
TEST_CARS = [f"bb{number:010x}" for number in range(2)]
VIEWS = ("01", "02")
PATIENTS = ["TCGA_CS_4941_19960909", "TCGA_DU_6408_19860521"]
SLICES = (1, 2, 10)
PETS = ["Bengal_1", "Bengal_10", "american_bulldog_2"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def tiny_mask(seed: int) -> npt.NDArray[np.uint8]:
    """A car-sized ellipse, 0/1."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    centre = (int(generator.integers(40, 56)), int(generator.integers(26, 38)))
    axes = (int(generator.integers(18, 30)), int(generator.integers(10, 18)))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    return mask


def tiny_image(mask: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Red where the mask is, grey elsewhere, with noise."""
    generator = np.random.default_rng(seed)
    image = np.full((*mask.shape, 3), 180, np.int16)
    image[mask > 0] = (200, 40, 30)
    return np.clip(image + generator.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)


def jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()


def gif(mask: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    picture = Image.new("P", mask.shape[::-1])
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.frombytes(mask.tobytes())
    picture.save(stream, "GIF")
    return stream.getvalue()


def write_tiny_archives(folder: Path) -> None:
    """The four archives the pipeline needs, as Kaggle names them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(folder / "train.zip", "w") as train,
        zipfile.ZipFile(folder / "train_masks.zip", "w") as masks,
        zipfile.ZipFile(folder / "test.zip", "w") as test,
        zipfile.ZipFile(folder / "sample_submission.csv.zip", "w") as sample,
    ):
        rows = ["img,rle_mask"]
        for number, stem in enumerate(f"{car}_{view}" for car in TRAIN_CARS for view in VIEWS):
            mask = tiny_mask(number)
            train.writestr(f"train/{stem}.jpg", jpeg(tiny_image(mask, number)))
            masks.writestr(f"train_masks/{stem}_mask.gif", gif(mask))
        for number, stem in enumerate(f"{car}_{view}" for car in TEST_CARS for view in VIEWS):
            mask = tiny_mask(100 + number)
            test.writestr(f"test/{stem}.jpg", jpeg(tiny_image(mask, number)))
            rows.append(f"{stem}.jpg,1 1")
        sample.writestr("sample_submission.csv", "\n".join(rows) + "\n")


def tiff(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".tif", pixels)[1].tobytes()


def write_tiny_brains(folder: Path, leave_out: str = "") -> Path:
    """Two patients of three slices, the second patient once more in a deeper folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / brain_mri.ARCHIVE, "w") as archive:
        archive.writestr("kaggle_3m/data.csv", "Patient,death01\n")
        for top, patients in (("", PATIENTS), ("lgg-mri-segmentation/", PATIENTS[1:])):
            for patient in patients:
                for number in SLICES:
                    mask = tiny_mask(number) * (number > 1)
                    stem = f"{top}kaggle_3m/{patient}/{patient}_{number}"
                    for name, pixels in (
                        (f"{stem}.tif", tiny_image(mask, number)[:, :, ::-1]),
                        (f"{stem}_mask.tif", mask * 255),
                    ):
                        if not (leave_out and name.endswith(leave_out)):
                            archive.writestr(name, tiff(pixels))
    return folder


def classes_of(number: int) -> np.ndarray:
    """Pet, with a border around it and background further out, as class indices."""
    pet = tiny_mask(number)
    return pet + 2 * (cv2.dilate(pet, np.ones((5, 5), np.uint8)) - pet)


def write_tiny_pets(folder: Path, leave_out: str = "") -> Path:
    """Three pets, with what else lies in the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    trimaps = "annotations/annotations/trimaps"
    with zipfile.ZipFile(folder / oxford_pets.ARCHIVE, "w") as archive:
        archive.writestr(f"{trimaps}/._{PETS[0]}.png", b"Mac")
        archive.writestr("annotations/annotations/list.txt", "#Image CLASS-ID\n")
        archive.writestr(f"annotations/annotations/xmls/{PETS[0]}.xml", "<annotation/>")
        archive.writestr(f"images/images/{PETS[0]}.mat", b"MATLAB")
        for number, stem in enumerate(PETS):
            trimap = np.array([2, 1, 3], np.uint8)[classes_of(number)]
            for name, data in (
                (f"images/images/{stem}.jpg", jpeg(tiny_image(tiny_mask(number), number))),
                (f"{trimaps}/{stem}.png", cv2.imencode(".png", trimap)[1].tobytes()),
            ):
                if name != leave_out:
                    archive.writestr(name, data)
    return folder


def run_verb(*arguments: str, at: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `pipeline <verb> ...` in this process and the folder `at`: no second torch is loaded.

    What a user's shell would see: exit code, standard output, standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    with (
        contextlib.chdir(at),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    if isinstance(code, str):  # what `sys.exit` prints of it
        err.write(f"{code}\n")
        code = 1
    return subprocess.CompletedProcess(arguments, code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of tiny archives."""
    write_tiny_archives(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def archives(raw: Path) -> Iterator[Archives]:
    """The tiny archives, open."""
    archives = Archives(raw)
    yield archives
    archives.close()


@pytest.fixture
def rows(archives: Archives) -> list[Sample]:
    """The tiny images that have a mask, in two folds of whole cars."""
    return split(carvana.read_entries(archives), archives, by_group(2))


def tiny_recipe(name: str = "sample") -> dict:
    """The sample's recipe for the tiny archives: two folds, one epoch, 32x64."""
    recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())
    files = ["train.zip", "train_masks.zip", "test.zip", "sample_submission.csv.zip"]
    recipe["download"] = {"kind": "competition", "slug": SLUG, "files": files, "optional_files": []}
    recipe["split"]["folds"] = 2
    one_phase(recipe, size=[32, 64], epochs=1, batch_size=4)
    recipe["train"]["validation"]["every"] = 1
    recipe["validate"] |= {"worst": 4, "random": 2}
    recipe["tune"]["bootstrap"] = 50
    recipe["runtime"] |= {
        "accelerator": "cpu",
        "precision": "32-true",
        "threads": 1,
        "checkpoint_seconds": 30,
        "tensorboard": False,
    }
    return recipe


def one_phase(recipe: dict, **changes: object) -> dict:
    """Train in the last phase alone, changed."""
    recipe["train"]["phases"] = [recipe["train"]["phases"][-1] | changes]
    return recipe


def by_group(folds: int, seed: int = 0) -> ByGroup:
    """Folds of whole cars."""
    return ByGroup(
        source="carvana", by="group", folds=folds, fraction=1, validation="none", seed=seed
    )


def write_yaml(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def copy_project(folder: Path) -> Path:
    """What a fresh clone of the working tree holds."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and os.environ.get("CI") == "true":
        pytest.fail("no chromium on this machine; install it (apt-get install chromium)")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine to open the report with")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
