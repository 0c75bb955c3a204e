"""`pipeline predict-folder` with networks trained for a moment, against the submission."""

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, jpeg, run_verb, tiny_image, tiny_mask, write_tiny_archives, write_yaml
from lightning_fabric import Fabric
from PIL import Image
from training import small_recipe

from pipeline import predict_folder
from pipeline.__main__ import main
from pipeline.data import rows
from pipeline.data.images import decode_image
from pipeline.evaluation.decision import Decision
from pipeline.masks import clean_up, regions, rle
from pipeline.networks import model
from pipeline.networks.predictor import Predictor

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SIZES = {"bb0000000000": (64, 96), "bb0000000001": (51, 77)}  # of the cars


def pixels(name: str) -> np.ndarray:
    """A picture of one of the two cars, of its size."""
    seed = int(name[-1]) + 100
    whole = tiny_image(tiny_mask(seed), seed)
    return cv2.resize(whole, SIZES[name[:12]][::-1], interpolation=cv2.INTER_AREA)


NAMES = [f"{car}_{view:02d}" for car in SIZES for view in (1, 2)]


def stage(name: str, fold: int = 0) -> None:
    """Run a stage in the current folder with the arguments that dvc.yaml gives it."""
    command = STAGES[name]["cmd"].replace("${item.recipe}", "tiny")
    main(shlex.split(command.replace("${item.fold}", str(fold)))[3:])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run to its submission, and the photos that this is of.

    They are PNGs, whatever their names: every reader gives the same pixels of those.
    """
    folder = tmp_path_factory.mktemp("photos")
    recipe = small_recipe({"deterministic": False}, epochs=4)
    recipe["tune"] |= {"bootstrap": 5, "threshold": 0.4}
    write_yaml(folder / "recipes/tiny.yaml", recipe)
    write_yaml(folder / "params.yaml", {"recipes": ["tiny"], "folds": [0, 1]})
    write_tiny_archives(folder / "data/tiny/raw")
    (folder / "photos").mkdir()
    with zipfile.ZipFile(folder / "data/tiny/raw/test.zip", "w") as archive:
        for name in NAMES:
            data = cv2.imencode(".png", pixels(name)[..., ::-1])[1].tobytes()
            archive.writestr(f"test/{name}.jpg", data)
            (folder / f"photos/{name}.jpg").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [])
        stage("split")
        for fold in (0, 1):
            stage("train", fold)
            stage("validate", fold)
        stage("tune")
        stage("predict")
        stage("encode")
    return folder


Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the command needs, and no more: no archives, no samples.csv."""
    for name in ("recipes", "runs", "eval/tiny/metrics.json", "photos"):
        source, target = template / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(project: Path) -> Run:
    """The command in this process, for the recipe `tiny` into the folder `out`."""

    def run(*images: object, more: str = "--write cutouts", recipe: str = "tiny") -> Done:
        given = ["predict-folder", recipe, "--images", *map(str, images), "--out", "out"]
        return run_verb(*given, *more.split(), at=project)

    return run


def refused(done: Done, *said: str) -> None:
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: "), done.stderr
    for words in said:
        assert words in last
    assert done.stdout == "" and not Path("out").exists(), "nothing was begun"


def written(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The colors (H, W, 3) of a cutout, and its mask (H, W), made from alpha 255 and 0."""
    with Image.open(f"out/cutouts/{name}.png") as picture:
        assert picture.mode == "RGBA"
        found = np.asarray(picture)
    assert set(np.unique(found[..., 3])) <= {0, 255}
    return found[..., :3], found[..., 3] == 255


def mask_of(name: str) -> np.ndarray:
    with Image.open(f"out/masks/{name}.png") as picture:
        return np.asarray(picture)


def test_the_masks_are_those_of_the_submission(template: Path, run: Run) -> None:
    Path("photos/notes.txt").write_text("no picture")
    Path("photos/.DS_Store").write_bytes(b"made by macOS")
    Path("photos/of a day").mkdir()
    Path(f"photos/{NAMES[3]}.jpg").rename(f"photos/of a day/{NAMES[3]}.jpg")
    done = run("photos", more="--write masks cutouts overlays rle")
    assert done.returncode == 0, done.stderr
    expected = dict(rows.read_rows(template / "submissions/tiny/submit.csv.gz"))
    table = dict(rows.read_rows(Path("out/rle.csv")))
    first, *lines = done.stdout.splitlines()
    assert first == "photos: 1 files are left alone, which are no pictures by their names"
    said = dict(line.split(": ") for line in lines)
    for name in NAMES:
        at = f"of a day/{name}" if name == NAMES[3] else name
        colors, mask = written(at)
        np.testing.assert_array_equal(colors, pixels(name))
        np.testing.assert_array_equal(mask, rle.decode(expected[f"{name}.jpg"], *mask.shape))
        np.testing.assert_array_equal(mask_of(at), mask * np.uint8(255))
        assert table[f"{at}.jpg"] == expected[f"{name}.jpg"]
        assert 0.01 < mask.mean() < 0.99, "a mask that could be wrong"
        height, width = SIZES[name[:12]]
        assert said[f"photos/{at}.jpg"] == (
            f"{height}x{width} (height x width), {mask.mean():.1%} foreground"
        )
        with Image.open(f"out/overlays/{at}.jpg") as overlay:
            assert overlay.size == (width, height)
    assert len(table) == len(said) == len(NAMES)


def test_a_jpeg_differs_in_few_pixels(project: Path, run: Run) -> None:
    """The two decoders upsample colors differently; noise and a network of a moment show it."""
    data = jpeg(cv2.resize(pixels(NAMES[0]), (480, 320)))
    Path("car.jpg").write_bytes(data)
    assert run("car.jpg").returncode == 0
    models = model.load_alike(Path(f"runs/tiny/fold{fold}/model.pt") for fold in (0, 1))
    predictor = Predictor.of(models, "hflip", Fabric(accelerator="cpu", devices=1), 1, 0, False)
    judge = predict_folder.Judge(predictor, Decision.read(Path("eval/tiny/metrics.json")))
    as_predict = judge.classes(decode_image(data, (320, 480), "car.jpg"), "car.jpg") > 0
    assert 0.01 < as_predict.mean() < 0.99
    assert np.mean(written("car")[1] != as_predict) < 0.01


def test_a_photo_on_its_side_is_turned(project: Path, run: Run) -> None:
    upright = NAMES[2]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    Image.fromarray(np.rot90(pixels(upright))).save("turned.png", exif=exif)
    assert run("turned.png", f"photos/{upright}.jpg").returncode == 0
    for found, expected in zip(written("turned"), written(upright), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert written("turned")[1].shape == (51, 77)


def test_an_overlay_too_wide_for_a_jpeg_costs_that_photo_alone(project: Path, run: Run) -> None:
    Image.new("RGB", (66_000, 1)).save("thin.png")
    done = run("thin.png", f"photos/{NAMES[0]}.jpg", more="--write overlays rle")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "thin.png: found a side of 66000 pixels, expected at most 65500" in done.stderr
    assert len(Path("out/rle.csv").read_text().splitlines()) == 3
    assert Path(f"out/overlays/{NAMES[0]}.jpg").exists()


def test_names_that_no_table_can_hold_are_refused_before_any_work(project: Path, run: Run) -> None:
    Path("photos/a, b.jpg").write_bytes(Path(f"photos/{NAMES[0]}.jpg").read_bytes())
    refused(run("photos", more="--write rle"), "a, b.jpg: found ',' in its name", "leave rle out")
    with open(b"photos/ph\xe9.jpg", "wb"):
        pass
    refused(run("photos"), r"photos: found the name 'ph\udce9.jpg', expected UTF-8")
    assert not Path("out").exists()


def test_interrupted_it_says_what_is_there(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_folder, "write_mask", stop)
    with pytest.raises(SystemExit) as caught:
        main(["predict-folder", "tiny", "--images", "photos", "--out", "out"])
    assert caught.value.code == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "interrupted: whole results are in out; the command with --overwrite makes all of them anew"
    )


def test_folds_of_two_settings_are_not_averaged(project: Path, run: Run) -> None:
    path = Path("runs/tiny/fold1/model.pt")
    other = model.load(path)
    other.description = dataclasses.replace(other.description, mean=(0.1, 0.2, 0.3))
    model.save(path, other, other.state_dict())
    done = run("photos")
    assert done.returncode == 1
    assert "fold1/model.pt: its mean is (0.1, 0.2, 0.3), that of runs/tiny/fold0" in done.stderr


def test_what_cannot_be_read_is_named_and_the_others_are_done(project: Path, run: Run) -> None:
    whole = Path(f"photos/{NAMES[1]}.jpg").read_bytes()
    Path("photos/cut.jpg").write_bytes(whole[:-3000])
    paths = [
        f"photos/{NAMES[0]}.jpg",
        "photos/cut.jpg",
        "photos/none.jpg",
        f"photos/{NAMES[1]}.jpg",
    ]
    done = run(*paths)
    assert done.returncode == 1
    cut, missing, summary = done.stderr.splitlines()
    assert cut.startswith("photos/cut.jpg: no readable picture (")
    assert missing.startswith("photos/none.jpg: ") and "No such file" in missing
    assert summary.startswith("error: 2 of 4 photos could not be done")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [paths[0], paths[3]]
    names = {path.name for path in Path("out/cutouts").iterdir()}
    assert names == {f"{NAMES[0]}.png", f"{NAMES[1]}.png"}


def test_nothing_is_overwritten_that_is_not_meant(project: Path, run: Run) -> None:
    one, other = (f"photos/{name}.jpg" for name in NAMES[:2])
    Path("photos/b").mkdir()
    Path(f"photos/b/{NAMES[0]}.tif").touch()
    refused(run(one, other, f"photos/b/{NAMES[0]}.tif"), f"{NAMES[0]}.tif: found the name of {one}")
    refused(run(one, one), "found the name of", "rename one")
    Path("out/cutouts").mkdir(parents=True)
    result = Path(f"out/cutouts/{NAMES[0]}.png")
    result.write_bytes(b"of somebody else")
    done = run(one, other)
    assert done.returncode == 1 and "found it and 0 more of 2 results there" in done.stderr
    assert result.read_bytes() == b"of somebody else" and not done.stdout
    assert run(one, more="--write cutouts --overwrite").returncode == 0
    before = result.read_bytes()
    done = run(result, more="--write cutouts --overwrite")
    assert done.returncode == 1 and f"error: {result}: is one of the photos" in done.stderr
    assert result.read_bytes() == before and not done.stdout
    shutil.move("out", "photos/out")  # results among the photos are none of them
    done = run("photos", more="--out photos/out --write cutouts --overwrite")
    assert "photos/out" not in done.stdout


def test_results_may_lie_beside_the_photos(project: Path, run: Run) -> None:
    for _ in range(2):
        done = run("photos", more="--out . --write masks --overwrite")
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
            f"photos/{name}.jpg" for name in sorted(NAMES)
        ]
    assert sorted(path.stem for path in Path("masks").iterdir()) == sorted(NAMES)


def test_what_is_missing_is_named(project: Path, run: Run) -> None:
    photo = f"photos/{NAMES[0]}.jpg"
    refused(run(photo, recipe="mine"), "recipes/mine.yaml")
    Path("eval/tiny/metrics.json").unlink()
    refused(run(photo), "eval/tiny/metrics.json: no such file", "tune", "or give --threshold")
    for wrong in ("0", "1", "nan", "-0.5"):
        refused(run(photo, more=f"--threshold={wrong}"), f"--threshold: found {float(wrong)}")
    shutil.rmtree("runs/tiny/fold0")
    done = run(photo, more="--threshold 0.4")
    assert done.returncode == 0, "one network will do"
    shutil.rmtree("out")
    shutil.rmtree("runs")
    refused(run(photo), "runs/tiny: found no fold<k>/model.pt", "dvc repro tune@tiny")
    Path("runs/tiny/fold0").mkdir(parents=True)  # of a training that has not ended
    refused(run(photo), "runs/tiny: found no fold<k>/model.pt")


def test_the_folder_may_be_no_file(project: Path, run: Run) -> None:
    Path("out").write_text("a file")
    done = run(f"photos/{NAMES[0]}.jpg")
    assert done.returncode == 1
    assert "error: out: " in done.stderr and "a file stands where" in done.stderr


def test_a_threshold_given_counts_instead_of_the_tuned_one(project: Path, run: Run) -> None:
    photo = f"photos/{NAMES[0]}.jpg"
    masks = []
    for given in ("", f"--threshold {102.4 / 256}", "--threshold 0.05", "--threshold 0.7"):
        assert run(photo, more=f"--write cutouts --overwrite {given}").returncode == 0
        masks.append(written(NAMES[0])[1])
    np.testing.assert_array_equal(masks[0], masks[1])  # the nearest of 256
    assert np.all(masks[2] >= masks[0]) and np.all(masks[0] >= masks[3])
    assert masks[2].sum() > masks[0].sum() > masks[3].sum()


def test_the_largest_part_alone_where_tuning_says_so(project: Path, run: Run) -> None:
    twice = np.concatenate([pixels(NAMES[0]), pixels(NAMES[1])], axis=1)
    Image.fromarray(twice).save("two.png")
    metrics = Path("eval/tiny/metrics.json")
    tuned = json.loads(metrics.read_text())
    tuned["clean_up"] = dataclasses.asdict(clean_up.CleanUp())
    metrics.write_text(json.dumps(tuned))
    assert run("two.png").returncode == 0
    every = written("two")[1]
    assert regions.measure(regions.of_mask(every), every.shape[1]).count > 1
    tuned["clean_up"]["keep_largest"] = True
    metrics.write_text(json.dumps(tuned))
    assert run("two.png", more="--write cutouts --overwrite --threshold 0.4").returncode == 0
    np.testing.assert_array_equal(
        written("two")[1], clean_up.clean(every, clean_up.CleanUp(keep_largest=True))
    )


def test_an_empty_mask_is_told(project: Path, run: Run) -> None:
    Image.new("RGB", (33, 21), (180, 180, 180)).save("wall.png")
    done = run("wall.png", more="--write cutouts --threshold 0.996")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("wall.png: 21x33 (height x width), 0.0% foreground; nothing was found")
    assert not written("wall")[1].any() and (written("wall")[0] == 180).all()


def test_of_several_classes_all_but_background_is_kept(project: Path, run: Run) -> None:
    network = {"architecture": "cnn", "widths": [4, 4]}
    shutil.rmtree("runs")
    Path("eval/tiny/metrics.json").write_text('{"threshold": null}')
    networks = []
    for fold in (5, 6):  # seeds with which all classes occur
        torch.manual_seed(fold)
        description = model.Description(network, (51, 77), "area", (0.5,) * 3, (0.1,) * 3, 3, fold)
        networks.append(model.build(description, "none").eval())
        path = Path(f"runs/tiny/fold{fold}/model.pt")
        model.save(path, networks[-1], networks[-1].state_dict())
    assert run(f"photos/{NAMES[2]}.jpg", more="--write cutouts masks rle").returncode == 0

    images = torch.from_numpy(pixels(NAMES[2])[None])  # of the networks' size
    with torch.inference_mode():
        total = sum(
            one(images).softmax(1) + one(images.flip(2)).softmax(1).flip(3) for one in networks
        )
    levels = (total[0] / 4 * 256).numpy().astype(np.uint8)  # two networks, each twice
    expected = levels.argmax(0)
    found = written(NAMES[2])[1]
    assert 0.01 < (expected > 0).mean() < 0.99 and np.mean(found != (expected > 0)) < 1e-3
    indices = mask_of(NAMES[2])  # of the palette, as masks are read
    assert np.mean(indices != expected) < 1e-3 and set(np.unique(indices)) == {0, 1, 2}
    header, *lines = Path("out/rle.csv").read_text().splitlines()
    assert header == "img,class,rle_mask" and len(lines) == 2
    for line in lines:
        name, index, text = line.split(",")
        assert name == f"{NAMES[2]}.jpg"
        np.testing.assert_array_equal(rle.decode(text, 51, 77), indices == int(index))
    shutil.rmtree("out")
    refused(run(f"photos/{NAMES[2]}.jpg", more="--threshold 0.4"), "networks of 3 classes")


def pointwise(classes: int) -> predict_folder.Judge:
    """A judge whose network looks at each pixel alone, so that tiles change nothing."""
    description = model.Description({}, (32, 40), "area", (0.5,) * 3, (0.1,) * 3, classes, 0)
    torch.manual_seed(4)
    network = model.Segmenter(torch.nn.Conv2d(3, classes, 1), description)
    fabric = Fabric(accelerator="cpu", devices=1)
    predictor = Predictor.of({"one": network}, "none", fabric, 1, 0, False)
    return predict_folder.Judge(predictor, Decision(100) if classes == 1 else None)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (33, 70), (20, 96), (20, 30)])
def test_tiles_cover_a_photo_without_seams(classes: int, size: tuple[int, int]) -> None:
    judge = pointwise(classes)
    image = np.ascontiguousarray(pixels(NAMES[0])[: size[0], : size[1]])
    whole = Predictor.of_image(
        dataclasses.replace(judge.predictor, size=size), image, "whole"
    )  # fmt: skip
    wanted = (min(32, size[0]), min(40, size[1]))
    for overlap in (0.0, 0.25, 0.7):
        tiled = dataclasses.replace(
            judge,
            tiles=predict_folder.Tiles(wanted if wanted != (32, 40) else None, overlap),
            predictor=dataclasses.replace(judge.predictor, size=wanted),
        )
        np.testing.assert_array_equal(tiled._tiled(image, "tiled"), whole)


def test_tiles_are_blended_where_they_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tiles that say 0 and 200, what is between rises in small steps."""
    judge = dataclasses.replace(pointwise(1), tiles=predict_folder.Tiles((32, 64), 0.5))
    said = iter([0, 200])
    monkeypatch.setattr(
        Predictor, "of_image", lambda *_: np.full((32, 40), next(said), np.uint8)
    )  # fmt: skip
    row = judge._tiled(np.zeros((32, 96, 3), np.uint8), "two")[7].astype(int)
    assert (row[:32] == 0).all() and (row[64:] == 200).all()
    assert (np.diff(row) >= 0).all() and np.diff(row).max() <= 8


def test_tiles_see_a_large_photo_as_it_is(project: Path, run: Run) -> None:
    """Four cars in one photo, each in a tile of its own, are found as each alone is."""
    Path("eval/tiny/metrics.json").write_text(json.dumps(Decision(102).as_metrics()))  # no repairs
    one = pixels(NAMES[0])
    Image.fromarray(np.tile(one, (2, 2, 1))).save("four.png")
    assert run("four.png", more="--tile 64 96 --overlap 0").returncode == 0
    assert run(f"photos/{NAMES[0]}.jpg", more="").returncode == 0
    np.testing.assert_array_equal(mask_of("four"), np.tile(mask_of(NAMES[0]), (2, 2)))
    for wrong, words in (("--tile 2", "--tile: found (2, 2)"), ("--tile --overlap 1", "--overlap")):
        done = run("four.png", more=f"{wrong} --overwrite")
        assert done.returncode == 1 and words in done.stderr


def test_a_folder_without_pictures_is_said(project: Path, run: Run) -> None:
    Path("empty").mkdir()
    done = run("empty")
    assert done.returncode == 1 and "error: --images: found no picture in empty" in done.stderr
