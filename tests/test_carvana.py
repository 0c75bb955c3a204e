import zipfile
from pathlib import Path

import pytest
from conftest import TEST_CARS, TRAIN_CARS, VIEWS, gif, jpeg, tiny_image, tiny_mask

from pipeline.data.archives import Archives
from pipeline.sources import carvana
from pipeline.support.errors import UserError


def rewrite(path: Path, rename) -> None:
    """Write an archive again with other member names; a name of None leaves one out."""
    with zipfile.ZipFile(path) as old:
        members = [(rename(name), old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members:
            if name:
                new.writestr(name, data)


def test_images_masks_and_cars_pair_up(raw: Path) -> None:
    entries = carvana.read_entries(Archives(raw))
    train = [entry for entry in entries if entry.split == "train"]
    assert [entry.sample_id for entry in train] == [f"{c}_{v}" for c in TRAIN_CARS for v in VIEWS]
    first = train[0]
    assert first.group == TRAIN_CARS[0]
    assert first.image == f"train.zip!train/{first.sample_id}.jpg"
    assert first.mask == f"train_masks.zip!train_masks/{first.sample_id}_mask.gif"


def test_test_images_come_in_the_sample_submissions_order(raw: Path) -> None:
    names = [f"{car}_{view}" for car in TEST_CARS for view in VIEWS][::-1]
    with zipfile.ZipFile(raw / "sample_submission.csv.zip", "w") as sample:
        sample.writestr("s.csv", "img,rle_mask\n" + "".join(f"{name}.jpg,1 1\n" for name in names))
    entries = carvana.read_entries(Archives(raw))
    assert [entry.sample_id for entry in entries if entry.split == "test"] == names


def test_the_folder_inside_an_archive_does_not_matter(raw: Path) -> None:
    rewrite(raw / "test.zip", lambda name: name.replace("test/", "another/deeper/"))
    rewrite(raw / "train.zip", lambda name: name.replace("train/", ""))
    assert len(carvana.read_entries(Archives(raw))) == 16


@pytest.mark.parametrize("zipped", [False, True])
def test_a_loose_replacement_wins(raw: Path, zipped: bool) -> None:
    """Kaggle offers a whole copy of the one test image that is corrupt in test.zip."""
    name = f"{TEST_CARS[0]}_01.jpg"
    data = jpeg(tiny_image(tiny_mask(5), 5))
    if zipped:
        with zipfile.ZipFile(raw / f"{name}.zip", "w") as archive:
            archive.writestr(name, data)
    else:
        (raw / name).write_bytes(data)
    archives = Archives(raw)
    entry = next(e for e in carvana.read_entries(archives) if e.sample_id == name[:-4])
    assert entry.image == (f"{name}.zip!{name}" if zipped else name)
    assert archives.read(entry.image) == data
    archives.close()


def test_an_image_without_mask_is_refused(raw: Path) -> None:
    gone = f"{TRAIN_CARS[2]}_02"
    rewrite(raw / "train_masks.zip", lambda name: None if gone in name else name)
    with pytest.raises(UserError, match=f"no mask for 1 of 12 samples, the first is '{gone}'"):
        carvana.read_entries(Archives(raw))


def test_a_mask_without_image_is_refused(raw: Path) -> None:
    with zipfile.ZipFile(raw / "train_masks.zip", "a") as masks:
        masks.writestr("train_masks/cc_01_mask.gif", gif(tiny_mask(1)))
    with pytest.raises(UserError, match="no image for 1 of 12 samples, the first is 'cc_01'"):
        carvana.read_entries(Archives(raw))


def test_a_listed_test_image_must_be_there(raw: Path) -> None:
    rewrite(raw / "test.zip", lambda name: None if f"{TEST_CARS[1]}_01" in name else name)
    with pytest.raises(UserError, match=f"no image '{TEST_CARS[1]}_01.jpg', which sample_sub"):
        carvana.read_entries(Archives(raw))


def test_without_test_archive_and_sample_submission_there_are_no_test_images(raw: Path) -> None:
    """`download.files` decides; one without the other is an error."""
    (raw / "test.zip").unlink()
    with pytest.raises(UserError, match="found none of test.zip"):
        carvana.read_entries(Archives(raw))
    (raw / "sample_submission.csv.zip").unlink()
    entries = carvana.read_entries(Archives(raw))
    assert {entry.split for entry in entries} == {"train"} and len(entries) == 12


@pytest.mark.parametrize("name", ["train.zip", "train_masks.zip", "test.zip"])
def test_a_missing_archive_is_named(raw: Path, name: str) -> None:
    (raw / name).unlink()
    with pytest.raises(UserError, match=f"found none of {name}.*download.files"):
        carvana.read_entries(Archives(raw))


def test_two_releases_at_once_are_refused(raw: Path) -> None:
    (raw / "train_hq.zip").write_bytes((raw / "train.zip").read_bytes())
    with pytest.raises(UserError, match="found train.zip and train_hq.zip of .*expected one"):
        carvana.read_entries(Archives(raw))
