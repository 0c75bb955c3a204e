"""One's own folders of pictures: `pipeline new` writes a recipe that trains without an edit."""

import dataclasses
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, classes_of, run_verb, tiny_image, tiny_mask, write_yaml
from PIL import Image

from pipeline import new
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.samples import COLOR
from pipeline.new import Findings, Machine
from pipeline.recipe import read
from pipeline.recipe.schema import FolderSource
from pipeline.sources import folders
from pipeline.support import files
from pipeline.support.errors import UserError

CPU = Machine(gpu=False, memory=8 << 30, ram=8 << 30, disk=100 << 30, cores=4)
GPU = Machine(gpu=True, memory=79 << 30, ram=128 << 30, disk=100 << 30, cores=16)
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def grey(number: int) -> bytes:
    return png(tiny_mask(number) * 255)


def deep(number: int) -> bytes:
    return png(tiny_mask(number).astype(np.uint16) * 1000)


def colored(number: int) -> bytes:
    return png(COLORS[classes_of(number)][:, :, ::-1])


def write_pictures(
    folder: Path, mask: Callable[[int], bytes], ending: str = "", masks: str = "masks"
) -> None:
    """Six patients of two slices."""
    for name in ("images", masks):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(12):
        stem = f"{'abcdef'[number // 2]}_{number}"
        image = tiny_image(tiny_mask(number), number)[:, :, ::-1]
        (folder / f"images/{stem}.png").write_bytes(png(image))
        (folder / f"{masks}/{stem}{ending}.png").write_bytes(mask(number))
    (folder / "images/Thumbs.db").write_bytes(b"made by Windows")
    (folder / "images/.DS_Store").write_bytes(b"made by macOS")
    (folder / "images/.trash").mkdir(exist_ok=True)
    (folder / "images/.trash/old_1.png").write_bytes(b"thrown away")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project beside the pictures."""
    base = (ROOT / "recipes/sample.yaml").read_text()
    (tmp_path / "project/recipes").mkdir(parents=True)
    (tmp_path / "project/recipes/sample.yaml").write_text(base)
    params = {"recipes": ["mine"], "blends": [], "folds": [0]}
    write_yaml(tmp_path / "project/params.yaml", params)
    return tmp_path / "project"


def make(project: Path, masks: str = "masks") -> str:
    done = run_verb(
        "new", "mine", "--images", "../images", "--masks", f"../{masks}", at=project
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("mask", "ending", "masks", "classes"),
    [
        (grey, "_mask", "images", {"background": 0, "foreground": 255}),
        (deep, "", "the masks", {"background": 0, "foreground": 1000}),
        (
            colored,
            "",
            "masks",
            {"background": "#000000", "class_0000ff": "#0000ff", "class_ff0000": "#ff0000"},
        ),
    ],
)
def test_a_new_recipe_trains_without_an_edit(
    project: Path, mask: Callable[[int], bytes], ending: str, masks: str, classes: dict
) -> None:
    write_pictures(project.parent, mask, ending, masks)
    said = make(project, masks)
    assert "12 images with masks, 64x96 pixels" in said and "recipes/mine.yaml: written" in said
    recipe = read.load(project / "recipes/mine.yaml")
    source = recipe.split.source
    assert isinstance(source, FolderSource)
    assert source.classes == classes and source.mask_ending == ending
    (phase,) = recipe.train.phases
    assert phase.size == (64, 96) and phase.batch_size == 2 and phase.epochs == 200
    assert recipe.train.classes == (1 if len(classes) == 2 else 3)
    assert recipe.split.folds == 5
    # As written, but for the time a test has.
    text = (project / "recipes/mine.yaml").read_text()
    assert "epochs: 200" in text and "tensorboard: true" in text
    text = text.replace("epochs: 200", "epochs: 1").replace(
        "tensorboard: true", "tensorboard: false"
    )
    (project / "recipes/mine.yaml").write_text(text.replace("threads: 0", "threads: 1"))
    for verb in ("check", "download", "split"):
        done = run_verb(verb, "mine", at=project)
        assert done.returncode == 0, done.stderr
    assert "12 training images of 6 groups in folds of [4, 2, 2, 2, 2]" in done.stdout
    for verb in ("train", "validate", "tune", "predict", "encode"):
        fold = () if verb == "encode" else ("--fold", "0")
        done = run_verb(verb, "mine", *fold, at=project)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((project / "eval/mine/metrics.json").read_text())
    assert metrics["images"] == 4 and 0 <= metrics["dice"] <= 1


def test_archives_do_as_well_as_folders(project: Path, tmp_path: Path) -> None:
    """Also one that holds both folders, below another."""
    write_pictures(tmp_path, grey)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(tmp_path.glob("*/*.*")):
            if path.parent.name in ("images", "masks"):
                archive.write(path, f"top/{path.parent.name}/{path.name}")
    done = run_verb("new", "mine", "--images", "../all.zip", "--masks", "../all.zip", at=project)
    assert done.returncode == 0, done.stderr
    for verb in ("download", "split"):
        done = run_verb(verb, "mine", at=project)
        assert done.returncode == 0, done.stderr
    rows = samples.read(project / "data/mine/samples.csv")
    assert len(rows) == 12 and rows[0].image == "images.zip!top/images/a_0.png"
    assert rows[0].mask == "masks.zip!top/masks/a_0.png"
    assert rows[0].foreground == pytest.approx(tiny_mask(0).mean(), abs=1e-6)


def test_folders_are_packed_again_when_they_have_changed(project: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path, grey)
    make(project)
    packed = project / "data/mine/raw/images.zip"
    assert "packing 12 files" in run_verb("download", "mine", at=project).stdout
    before = packed.read_bytes()
    assert "packing" not in run_verb("download", "mine", at=project).stdout
    (tmp_path / "images/a_0.png").touch()
    assert "packing" in run_verb("download", "mine", at=project).stdout
    assert packed.read_bytes() == before, "the same pictures make the same archive"
    (tmp_path / "images/g_0.png").write_bytes((tmp_path / "images/a_0.png").read_bytes())
    run_verb("download", "mine", at=project)
    done = run_verb("split", "mine", at=project)
    assert done.returncode == 1 and "'g_0' has no mask" in done.stderr
    (tmp_path / "images").rename(tmp_path / "pictures")
    done = run_verb("download", "mine", at=project)
    assert done.returncode == 1 and "no such folder or zip; correct download.images" in done.stderr
    done = run_verb("check", "mine", at=project)
    assert done.returncode == 1 and "download.images: ../images: no such folder" in done.stderr


def each_mask(folder: Path) -> list[Path]:
    return sorted((folder / "masks").iterdir())


def leave_one_out(folder: Path) -> None:
    each_mask(folder)[0].unlink()


def leave_all_out(folder: Path) -> None:
    for path in each_mask(folder):
        path.unlink()


def call_them_otherwise(folder: Path) -> None:
    for path in each_mask(folder):
        path.rename(path.with_name(f"x{path.name}"))


def smooth(folder: Path) -> None:
    for path in each_mask(folder):
        path.write_bytes(png(np.arange(64 * 96).astype(np.uint8).reshape(64, 96) % 99))


def leave_empty(folder: Path) -> None:
    for path in each_mask(folder):
        path.write_bytes(png(tiny_mask(0) * 0))


def turn_one(folder: Path) -> None:
    path = each_mask(folder)[1]
    path.write_bytes(png(np.rot90(tiny_mask(0))))


def copy_a_folder(folder: Path) -> None:
    for kind in ("images", "masks"):
        shutil.copytree(folder / kind, folder / f"{kind}/again")


def no_picture(folder: Path) -> None:
    (folder / "images/a_0.png").write_bytes(b"text")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (leave_one_out, "1 of 12 names have no mask or no image, the first is 'a_0'"),
        (leave_all_out, "--masks: found no picture in"),
        (call_them_otherwise, "nothing in common"),
        (smooth, "found 99 values in 12 masks .* expected 2 to 40, one a class; JPEG and soft"),
        (leave_empty, "found the value 0 alone in 12 masks, expected two at least"),
        (turn_one, r"1 of 12 masks .* a_1.png, 96x64 .* instead of 64x96 \(pictures that a camera"),
        (copy_a_folder, "again/a_0.png: found 12 images twice, under the same name in two fold"),
        (no_picture, "a_0.png: 4 bytes that are no readable"),
    ],
)
def test_what_cannot_be_planned_is_said(
    project: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    write_pictures(tmp_path, grey)
    spoil(tmp_path)
    with pytest.raises(UserError, match=said):
        new.look(tmp_path / "images", tmp_path / "masks")


@pytest.mark.parametrize(
    ("name", "images", "said"),
    [
        ("mine", "nowhere", "--images: found nothing at nowhere, expected a folder or a .zip"),
        ("mine", "typo.zip", "--images: found nothing at typo.zip, expected a folder or a .zip"),
        ("mine", "cut.zip", "replace it by a whole copy"),
        ("mine", "project", "--images: found no picture in project, which holds nothing"),
        ("my scans", "images", "found the name 'my scans', expected letters, digits, _ and -"),
    ],
)
def test_wrong_places_and_names_are_said(tmp_path: Path, name: str, images: str, said: str) -> None:
    write_pictures(tmp_path, grey)
    (tmp_path / "project").mkdir()
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "recipes/sample.yaml", tmp_path / "recipes")
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4 and no more")
    done = run_verb("new", name, "--images", images, "--masks", "masks", at=tmp_path)
    assert done.returncode == 1 and said in done.stderr


def test_copies_under_other_names_are_said(project: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path, grey)
    for kind in ("images", "masks"):
        shutil.copy(tmp_path / kind / "a_0.png", tmp_path / kind / "z_0.png")
    assert "1 images are copies of others, as z_0.png: take them away" in make(project)


def test_a_recipe_that_is_there_is_not_written_over(project: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path, grey)
    make(project)
    before = (project / "recipes/mine.yaml").read_bytes()
    done = run_verb("new", "mine", "--images", "../images", "--masks", "../masks", at=project)
    assert done.returncode == 1 and "there is such a recipe" in done.stderr
    assert (project / "recipes/mine.yaml").read_bytes() == before


STEMS = [f"{car:03d}_{view:02d}" for car in range(300) for view in range(16)]
FOUND = Findings(
    STEMS, [f"{stem}.jpg" for stem in STEMS],
    "_mask", [(1280, 1918)] * 4800, [], Counter({0: 80, 1: 20}), 500, [0.5] * 3, [0.2] * 3,
)  # fmt: skip


def decided(found: Findings, machine: Machine) -> dict:
    return {key: value for key, value, _ in new.plan(found, machine)}


def test_a_gpu_gets_a_larger_network_than_a_cpu() -> None:
    gpu, cpu = decided(FOUND, GPU), decided(FOUND, CPU)
    assert gpu["train.phases.0.size"] == [832, 1248] and cpu["train.phases.0.size"] == [160, 224]
    assert gpu["train.phases.0.batch_size"] == 16 and cpu["train.phases.0.batch_size"] == 8
    assert gpu["train.model.encoder"] == "resnet34"
    assert gpu["runtime.cache"] == "ram" and gpu["runtime.workers"] == 8


def test_the_batch_and_then_the_size_shrink_to_the_memory() -> None:
    small = decided(FOUND, dataclasses.replace(GPU, memory=8 << 30))
    assert (
        small["train.phases.0.size"] == [832, 1248] and 2 <= small["train.phases.0.batch_size"] <= 4
    )
    tiny = decided(FOUND, dataclasses.replace(GPU, memory=2 << 30))
    assert tiny["train.phases.0.batch_size"] == 2 and tiny["train.phases.0.size"][0] < 832
    with pytest.raises(UserError, match="of free memory, expected more than"):
        decided(FOUND, dataclasses.replace(GPU, memory=1 << 20))


def test_classes_are_the_values_and_the_background_is_0_or_what_most_pixels_are() -> None:
    pets = dataclasses.replace(FOUND, values=Counter({1: 30, 2: 60, 3: 10}))
    assert decided(pets, CPU)["split.source.classes"] == {
        "background": 2,
        "class_1": 1,
        "class_3": 3,
    }
    two = dataclasses.replace(FOUND, values=Counter({COLOR: 1, COLOR + 0xFFFFFF: 99}))
    classes = decided(two, CPU)["split.source.classes"]
    assert classes == {"background": "#000000", "foreground": "#ffffff"}


def test_groups_are_starts_of_names_where_several_images_have_one() -> None:
    assert decided(FOUND, CPU)["split.source.group"] == "^(.+)[_-][0-9]+$"
    for stems in (["a", "b", "c"], [f"img_{number}" for number in range(99)]):
        alone = decided(dataclasses.replace(FOUND, stems=stems), CPU)
        assert alone["split.source.group"] == "none"
        assert alone["split.folds"] == min(5, len(stems))


def why_group(stems: list[str], names: list[str]) -> tuple[object, str]:
    plan = new.plan(dataclasses.replace(FOUND, stems=stems, names=names), CPU)
    return next((value, why) for key, value, why in plan if key == "split.source.group")


def test_groups_are_folders_where_names_show_none() -> None:
    stems = [f"{number:04}" for number in range(18)]
    names = [f"patient{number // 3}/{number:04}.png" for number in range(18)]
    assert why_group(stems, names)[0] == "^(.+)/[^/]+$"
    assert why_group(stems, [f"images/{stem}.png" for stem in stems])[0] == "none"


def test_few_starts_or_folders_are_no_groups_but_are_said() -> None:
    stems = [f"{number:04}" for number in range(18)]
    names = [f"{'lr'[number // 9]}/{number:04}.png" for number in range(18)]
    assert why_group(stems, names) == (
        "none",
        "2 folders are few for groups: write ^(.+)/[^/]+$ if those of one belong together",
    )
    stems = [f"patient{number // 5}_{number:04}" for number in range(20)]
    value, why = why_group(stems, [f"{stem}.png" for stem in stems])
    assert value == "none" and why.startswith("4 starts of names are few for groups: write ^(.+)[")


def source(**values: object) -> FolderSource:
    usual = {"name": "folders", "mask_ending": "", "group": "none", "classes": {"a": 0, "b": 1}}
    return FolderSource(**usual | values)  # type: ignore[arg-type]


def write_members(folder: Path, images: list[str], masks: list[str]) -> Archives:
    for archive, names in (("images.zip", images), ("masks.zip", masks)):
        with zipfile.ZipFile(folder / archive, "w") as file:
            for name in names:
                file.writestr(name, b"")
    return Archives(folder)


def test_names_pair_by_stem_and_by_path_where_stems_repeat(tmp_path: Path) -> None:
    archives = write_members(tmp_path, ["b.jpg", "x/a.JPG", "notes.txt"], ["a.png", "b.png"])
    entries = folders.read_entries(archives, source(group="^(.)"))
    assert [(one.sample_id, one.image, one.mask, one.group) for one in entries] == [
        ("a", "images.zip!x/a.JPG", "masks.zip!a.png", "a"),
        ("b", "images.zip!b.jpg", "masks.zip!b.png", "b"),
    ]
    names = ["x/a.jpg", "x/b.jpg", "y/z/c.jpg"]  # with a slash folders are looked at, too
    archives = write_members(tmp_path, names, ["a.png", "b.png", "c.png"])
    entries = folders.read_entries(archives, source(group="^(.+)/[^/]+$"))
    assert [(one.sample_id, one.group) for one in entries] == [("a", "x"), ("b", "x"), ("c", "y/z")]
    archives = write_members(tmp_path, ["x/1.jpg", "y/1.jpg"], ["y/1.png", "x/1.png"])
    entries = folders.read_entries(archives, source())
    assert [(one.sample_id, one.mask) for one in entries] == [
        ("x_1", "masks.zip!x/1.png"), ("y_1", "masks.zip!y/1.png"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("images", "masks", "settings", "said"),
    [
        (["a.jpg"], ["b.png"], {}, "2 of 2 names stand alone, the first: 'a' has no mask"),
        (["a.jpg"], ["a.png", "b.png"], {}, "1 of 2 names stand alone, .* 'b' has no image"),
        (["a.jpg", "a.png"], ["a.png"], {}, "a.jpg, a.png: found 2 files whose name is 'a'"),
        (["a.jpg"], ["a.png"], {"group": "^(x)"}, "split.source.group: found the image 'a'"),
        (["a.jpg"], ["a.png"], {"group": "^(x)?a"}, "split.source.group: found the image 'a'"),
        (["a.txt"], ["a.png"], {}, "images.zip: found no picture; it holds images.zip .a.txt"),
        ([], ["a.png"], {}, "images.zip: found no picture"),
    ],
)  # fmt: skip
def test_what_does_not_pair_is_named(
    tmp_path: Path, images: list[str], masks: list[str], settings: dict, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        folders.read_entries(write_members(tmp_path, images, masks), source(**settings))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"group": "("}, "expected none or a regular expression"),
        ({"group": "a+"}, "with one group in round brackets"),
        ({"classes": {"a": 0}}, "expected 2 to 256, the background first"),
        ({"classes": {"a": 0, "b": 0}}, "two have the same value"),
        ({"classes": {"a": 0, "b": "#ff0000"}}, "numbers or colors, not both"),
        ({"classes": {"a": 0, "b": 1 << 16}}, "less than 65536"),
        ({"classes": {"a": "#000000", "b": "red"}}, "should match pattern"),
        ({"classes": {"a": 0, "b c": 1}}, "should match pattern"),
        ({"mask_ending": "/x"}, "should match pattern"),
    ],
)
def test_a_source_that_means_nothing_is_refused(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source(**values)


def test_masks_of_a_palette_are_indices_or_colors(tmp_path: Path) -> None:
    from pipeline.data.images import decode_mask

    picture = Image.fromarray(classes_of(0), "P")
    picture.putpalette(COLORS.ravel().tolist())
    picture.save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    size = classes_of(0).shape
    np.testing.assert_array_equal(decode_mask(data, size, "m", (0, 1, 2)), classes_of(0))
    values = (COLOR, COLOR + 0xFF0000, COLOR + 0xFF)
    np.testing.assert_array_equal(decode_mask(data, size, "m", values), classes_of(0))
    with pytest.raises(UserError, match="found pixels of #0000ff, expected colors of #000000 and"):
        decode_mask(data, size, "m", values[:2])


def test_a_name_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "w"):
        pass
    with pytest.raises(UserError, match=r"found the name 'caf\\udce9.png', expected UTF-8"):
        files.walk(tmp_path)


def test_folders_are_followed_and_nothing_is_left_out_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "else/p1").mkdir(parents=True)
    (tmp_path / "all").mkdir()
    for name in ("else/p1/b.png", "all/a.png", "all/.hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "all/linked").symlink_to(tmp_path / "else/p1")
    (tmp_path / "else/p1/round").symlink_to(tmp_path / "else/p1")
    (tmp_path / "all/up").symlink_to(tmp_path / "all")
    found = [path.relative_to(tmp_path / "all").as_posix() for path in files.walk(tmp_path / "all")]
    assert found == ["a.png", "linked/b.png"]
    (tmp_path / "all/lost+found").mkdir()
    (tmp_path / "all/lost+found/a.png").touch()
    assert len(files.walk(tmp_path / "all")) == 2
    (tmp_path / "all/circle.png").symlink_to("circle.png")
    with pytest.raises(UserError, match=r"all/circle\.png: (cannot be read|found a link)"):
        files.walk(tmp_path / "all")
    (tmp_path / "all/circle.png").unlink()
    (tmp_path / "all/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"all/gone\.png: found a link that leads nowhere"):
        files.walk(tmp_path / "all")
    with pytest.raises(UserError, match="else/none: cannot be read \\(No such file"):
        files.walk(tmp_path / "else/none")


def test_what_is_said_names_the_folder(tmp_path: Path, project: Path) -> None:
    """Images and masks may have the same names."""
    write_pictures(tmp_path, grey)
    whole = (tmp_path / "masks/a_0.png").read_bytes()
    (tmp_path / "masks/a_0.png").write_bytes(whole[:40])
    with pytest.raises(UserError, match=r"masks/a_0\.png: 40 bytes that are no readable picture"):
        new.look(tmp_path / "images", tmp_path / "masks")
    signed = Image.fromarray(tiny_mask(0).astype(np.int32) * -1)
    signed.save(tmp_path / "masks/a_0.tif")
    (tmp_path / "masks/a_0.png").unlink()
    with pytest.raises(
        UserError, match=r"masks/a_0\.tif: found the values -1 to 0, expected whole"
    ):
        new.look(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "masks/a_0.png").write_bytes(whole)
    with pytest.raises(UserError, match=r"a_0\.png, a_0\.tif: found 2 files whose name is 'a_0'"):
        new.look(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(UserError, match="in one folder, a_0.png for one, and nothing in their na"):
        new.look(tmp_path / "images", tmp_path / "images")


def test_outside_a_project_nothing_is_looked_at(tmp_path: Path) -> None:
    write_pictures(tmp_path, grey)
    done = run_verb("new", "mine", "--images", "images", "--masks", "masks", at=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert "recipes/sample.yaml: no such file" in done.stderr
    for verb in (["status"], ["check", "mine"], ["split", "mine"]):
        done = run_verb(*verb, at=tmp_path)
        assert done.returncode == 1 and "run this in the project's folder" in done.stderr
