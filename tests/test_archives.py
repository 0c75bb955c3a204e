import pickle
import zipfile
from pathlib import Path

import pytest

from pipeline.data.archives import Archives, base_name
from pipeline.support.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a.jpg", b"picture a" * 100)
        archive.writestr("train/b.jpg", b"picture b")
        archive.writestr("__MACOSX/train/._a.jpg", b"fork")
        archive.writestr("train/._b.jpg", b"fork")
        archive.writestr("train/Thumbs.db", b"made by Windows")
        archive.writestr("train/.DS_Store", b"made by macOS")
        archive.writestr("train/.ipynb_checkpoints/a-checkpoint.jpg", b"made by a notebook")
        archive.writestr("./train/c.jpg", b"picture c")
        archive.mkdir("empty")
    (tmp_path / "loose.jpg").write_bytes(b"loose")
    return tmp_path


def test_members_are_files_without_what_systems_leave(folder: Path) -> None:
    assert Archives(folder).members("train.zip") == [
        "train.zip!train/a.jpg",
        "train.zip!train/b.jpg",
        "train.zip!./train/c.jpg",
    ]


def test_members_and_loose_files_are_read(folder: Path) -> None:
    archives = Archives(folder)
    assert archives.read("train.zip!train/b.jpg") == b"picture b"
    assert archives.read("loose.jpg") == b"loose"
    archives.close()
    assert archives.read("train.zip!train/b.jpg") == b"picture b", "it opens again"
    archives.close()


def test_a_copy_for_another_process_starts_closed(folder: Path) -> None:
    archives = Archives(folder)
    archives.read("train.zip!train/b.jpg")
    copy = pickle.loads(pickle.dumps(archives))
    assert not copy._open
    assert copy.read("train.zip!train/b.jpg") == b"picture b"
    archives.close()
    copy.close()


def test_a_forked_process_opens_its_own(folder: Path) -> None:
    """A shared file offset would mix up the reads of two processes."""
    archives = Archives(folder)
    archives.read("train.zip!train/b.jpg")
    inherited = archives._open["train.zip"]
    archives._process = 0  # what a forked child finds: another process's number
    archives.read("train.zip!train/b.jpg")
    assert archives._open["train.zip"] is not inherited
    inherited.close()
    archives.close()


def test_a_base_name_is_the_last_part() -> None:
    assert base_name("train.zip!train/a_01.jpg") == "a_01.jpg"
    assert base_name("a_01.jpg") == "a_01.jpg"
    assert base_name("tr!ain.zip!train/a!1.jpg") == "a!1.jpg"
    assert base_name("b/a!1.jpg") == "a!1.jpg" and base_name("A.ZIP!b/c.jpg") == "c.jpg"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("test.zip!a.jpg", "test.zip: missing; the folder holds loose.jpg, train.zip"),
        ("train.zip!a.jpg", "no member 'a.jpg'"),
        ("other.jpg", "other.jpg: No such file"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, reference: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Archives(folder).read(reference)


def test_a_truncated_archive_is_refused(folder: Path) -> None:
    whole = (folder / "train.zip").read_bytes()
    (folder / "train.zip").write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"train\.zip: \d+ bytes that are no whole zip.*delete it"):
        Archives(folder).members("train.zip")


def test_a_damaged_member_is_refused(folder: Path) -> None:
    data = bytearray((folder / "train.zip").read_bytes())
    data[45] ^= 0xFF  # inside the first member's compressed bytes
    (folder / "train.zip").write_bytes(data)
    archives = Archives(folder)
    with pytest.raises(UserError, match="member 'train/a.jpg' is damaged"):
        archives.read("train.zip!train/a.jpg")
    archives.close()


def test_a_glimpse_of_a_folder_is_short(folder: Path) -> None:
    with zipfile.ZipFile(folder / "many.zip", "w") as archive:
        for number in range(1000):
            archive.writestr(f"top/{number:03d}.png", b"")
    for number in range(20):
        (folder / f"other-{number:02d}.txt").touch()
    with zipfile.ZipFile(folder / "a.zip", "w"):
        pass
    said = Archives(folder).glimpse()
    assert "many.zip (top/000.png, top/001.png, top/002.png, ... 1000 files)" in said
    assert "a.zip (no files)" in said and said.endswith("18 more") and len(said) < 300
