"""The stage `download`: archives kept once an origin, linked into each recipe's folder.

They come from a Kaggle on 127.0.0.1, from a folder on this machine, or are drawn.
"""

import errno
import filecmp
import functools
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kaggle_server
import pytest
import yaml
from conftest import ROOT, copy_project, jpeg, tiny_image, tiny_mask, write_yaml
from downloads import (
    DATA,
    OTHER,
    REAL,
    SMALL,
    fetch,
    get,
    names,
    origin,
    wait_for,
    wanted,
)
from kaggle_server import COMPETITION, Blob, Fault, KaggleServer, zipped

from pipeline.__main__ import main
from pipeline.download import stage, store
from pipeline.recipe import read
from pipeline.recipe.schema import Competition, Dataset, Synthetic
from pipeline.support.errors import UserError

SET = Dataset(kind="dataset", slug="owner/some-set")
OPTIONAL = ("list.csv.zip", "not-offered.jpg")
PICTURE = jpeg(tiny_image(tiny_mask(0), 0))
SAMPLE = Synthetic(kind="synthetic", train_cars=1, test_cars=1, seed=1)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with kaggle_server.serving(tmp_path, monkeypatch) as server:
        server.competitions[COMPETITION] = {"train.zip": Blob(DATA), "list.csv.zip": Blob(SMALL)}
        yield server


def without_kaggle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no credentials."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("KAGGLE_API_TOKEN")


# --- files that are needed


def test_brings_the_files_and_keeps_them(server: KaggleServer, tmp_path: Path) -> None:
    server.page_size = 1  # the listing takes two pages
    paths = fetch(tmp_path, "train.zip", "list.csv.zip")
    assert [path.read_bytes() for path in paths] == [DATA, SMALL]
    assert names(tmp_path / "mine/raw") == ["list.csv.zip", "train.zip"]
    assert names(origin(tmp_path)) == ["list.csv.zip", "receipts.json", "train.zip"]
    assert server.count("POST ListDataFiles") == 2
    server.log.clear()
    started = time.monotonic()
    assert fetch(tmp_path, "train.zip", "list.csv.zip") == paths
    assert not server.log, "what is there needs no network"
    assert time.monotonic() - started < 0.5


def test_only_what_is_missing_is_fetched(server: KaggleServer, tmp_path: Path) -> None:
    fetch(tmp_path, "train.zip")
    server.log.clear()
    fetch(tmp_path, "train.zip", "list.csv.zip")
    assert not server.count("GET train.zip") and server.count("GET list.csv.zip") == 1


def test_a_whole_data_set(server: KaggleServer, tmp_path: Path) -> None:
    server.datasets["owner/some-set"] = Blob(DATA)
    (path,) = get(SET, tmp_path)
    assert path.name == "some-set.zip" and path.read_bytes() == DATA
    server.log.clear()
    assert get(SET, tmp_path, "other")[0].samefile(path) and not server.log


def test_names_as_the_server_gives_them(server: KaggleServer, tmp_path: Path) -> None:
    files = server.competitions[COMPETITION]
    files["a b.zip"] = Blob(SMALL)
    files["masks.csv"] = Blob(SMALL, served="masks.csv.zip")  # packed on the way
    files["plain.csv"] = Blob(b"a,b\n1,2\n", kind="text/csv", hashes=())
    paths = fetch(tmp_path, "a b.zip", "masks.csv", "plain.csv")
    assert [path.name for path in paths] == ["a b.zip", "masks.csv.zip", "plain.csv"]
    assert paths[2].read_bytes() == b"a,b\n1,2\n"


def test_a_zip_of_another_make_is_taken(server: KaggleServer, tmp_path: Path) -> None:
    """Deflated, with a comment, without a member, with a count of members in zip64's record."""
    for number, (members, comment) in enumerate(((["a"], b"by hand"), ([], b""), (["a"], b""))):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = comment
            for member in members:
                archive.writestr(member, "x" * 1000)
        server.competitions[COMPETITION]["z.zip"] = Blob(buffer.getvalue())
        (path,) = fetch(tmp_path / str(number), "z.zip")
        assert path.read_bytes() == buffer.getvalue()


# --- what is kept


def test_recipes_share_one_file(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (first,) = get(wanted("train.zip"), tmp_path, "first")
    server.log.clear()
    without_kaggle(monkeypatch)
    capsys.readouterr()
    (second,) = get(wanted("train.zip"), tmp_path, "second")
    assert second.samefile(first) and not server.log
    said = f"{second}: {len(DATA):,} bytes"
    assert capsys.readouterr().out == f"{said}, linked from {origin(tmp_path)}/train.zip\n"
    shutil.rmtree(tmp_path / "first")
    assert get(wanted("train.zip"), tmp_path, "second") == [second]
    assert capsys.readouterr().out == f"{said}\n"


def test_competitions_share_nothing(server: KaggleServer, tmp_path: Path) -> None:
    fetch(tmp_path)
    server.competitions["lakes"] = {"train.zip": Blob(OTHER)}
    (path,) = get(wanted("train.zip", slug="lakes"), tmp_path, "lakes")
    assert path.read_bytes() == OTHER


def test_a_changed_file_is_noticed(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut, or written over, under whichever of its names; touched, it still is what it was."""
    (path,) = fetch(tmp_path)
    os.utime(path)
    server.log.clear()
    fetch(tmp_path)
    assert not server.log
    for bytes_ in (DATA + b"S5", DATA[:-1], OTHER):
        path.write_bytes(bytes_)
        assert fetch(tmp_path)[0].read_bytes() == DATA
        assert "train.zip: changed since it was checked" in capsys.readouterr().err
    assert names(origin(tmp_path)) == ["receipts.json", "train.zip"]


def test_damage_that_does_not_show(server: KaggleServer, tmp_path: Path) -> None:
    """A disk's error changes no time. Who finds it deletes the link, and gets a whole file."""
    (path,) = fetch(tmp_path)
    before = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch(tmp_path)[0].read_bytes() == OTHER, "receipts spare reading gigabytes each time"
    path.unlink()
    assert fetch(tmp_path)[0].read_bytes() == DATA


def test_a_link_that_was_replaced_is_made_again(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = fetch(tmp_path)
    path.unlink()
    path.write_bytes(OTHER)
    server.log.clear()
    assert fetch(tmp_path)[0].samefile(origin(tmp_path) / "train.zip") and not server.log
    assert path.read_bytes() == DATA
    assert f"{path}: found another file there; replaced" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["mine/raw", f"archives/competitions/{COMPETITION}"])
def test_a_file_without_receipt(
    server: KaggleServer, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not trusted, but taken where Kaggle's hash shows that it is the file."""
    for number, data in enumerate((OTHER, DATA)):
        folder = tmp_path / str(number) / place
        folder.mkdir(parents=True)
        (folder / "train.zip").write_bytes(data)
        assert fetch(tmp_path / str(number))[0].read_bytes() == DATA
        was_read = "train.zip: from byte 0" in capsys.readouterr().err
        assert was_read == (data is OTHER)


@pytest.mark.parametrize("text", ["", "[", "{}", '{"files": []}', '{"files": {"train.zip": {}}}'])
def test_damaged_receipts_are_made_anew(server: KaggleServer, tmp_path: Path, text: str) -> None:
    fetch(tmp_path)
    receipts = origin(tmp_path) / "receipts.json"
    whole = receipts.read_text()
    receipts.write_text(text)
    assert fetch(tmp_path)[0].read_bytes() == DATA
    assert receipts.read_text() == whole


def test_archives_on_another_file_system(server: KaggleServer, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    folder = shared / f"archives-{os.getpid()}"
    try:
        here = local_archives(folder)
        (path,) = get(wanted("train.zip"), tmp_path, local=here)
        assert path.read_bytes() == DATA and path.samefile(origin(tmp_path) / "train.zip")
        (folder / "far").mkdir()
        (tmp_path / "far").symlink_to(folder / "far")
        (copy,) = get(wanted("train.zip"), tmp_path, "far")
        assert copy.read_bytes() == DATA and not copy.samefile(path) and not server.log
        before = copy.stat().st_ino
        assert get(wanted("train.zip"), tmp_path, "far")[0].stat().st_ino == before
        copy.write_bytes(OTHER)
        assert get(wanted("train.zip"), tmp_path, "far")[0].read_bytes() == DATA
    finally:
        shutil.rmtree(folder)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("local", [False, True])
def test_killed_at_any_moment(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    """Before each change of a name or of a file's end: what has its final name is whole."""
    name, data = ("train.zip", DATA) if local else ("list.csv.zip", SMALL)
    here = local_archives(tmp_path) if local else None
    for moment in itertools.count(1):
        folder, calls, killed = tmp_path / str(moment), itertools.count(1), False

        def refuse(real: Callable[..., object], *given: object, **named: object) -> object:
            if next(calls) >= moment:  # noqa: B023
                raise Killed  # from now on at every call: a killed process cleans nothing up
            return real(*given, **named)

        with monkeypatch.context() as patched:
            for call in ("link", "replace", "unlink", "truncate", "fsync", "mkdir"):
                patched.setattr(os, call, functools.partial(refuse, getattr(os, call)))
            try:
                get(wanted(name), folder, local=here)
            except Killed:
                killed = True
        for path in (folder / "mine/raw" / name, origin(folder) / name):
            assert not path.exists() or path.read_bytes() == data, (moment, path)
        assert get(wanted(name), folder, local=here)[0].read_bytes() == data
        assert names(folder / "mine/raw") == [name]
        note = f"{name}.part.json"  # of no file any more: the next download of that takes it
        left = {file for file in names(origin(folder)) if not file.startswith(".")} - {note}
        assert left == {name, "receipts.json"}
        if not killed:
            break
    assert moment > 10


# --- optional files


def test_optional_files_are_had_where_they_are_offered(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = wanted("train.zip", optional=OPTIONAL)
    paths = get(section, tmp_path)
    assert [path.name for path in paths] == ["list.csv.zip", "train.zip"]
    assert paths[0].read_bytes() == SMALL
    server.log.clear()
    without_kaggle(monkeypatch)
    assert get(section, tmp_path) == paths, "what was not offered is not asked for again"
    assert len(get(section, tmp_path, "other")) == 2 and not server.log


def test_optional_files_are_looked_after_like_the_others(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named later, changed or deleted, while every needed file is here."""
    fetch(tmp_path)
    section = wanted("train.zip", optional=OPTIONAL)
    paths = get(section, tmp_path)
    assert [path.name for path in paths] == ["list.csv.zip", "train.zip"]
    paths[0].write_bytes(SMALL[:-1])
    assert get(section, tmp_path) == paths and paths[0].read_bytes() == SMALL
    assert "list.csv.zip: changed since it was checked" in capsys.readouterr().err
    paths[0].unlink()
    assert get(section, tmp_path) == paths and paths[0].read_bytes() == SMALL
    assert server.count("GET train.zip") == 1


def test_an_optional_file_that_is_offered_later(server: KaggleServer, tmp_path: Path) -> None:
    """Noticed when Kaggle is asked for another reason; damaged receipts are another reason."""
    section = wanted("train.zip", optional=OPTIONAL)
    get(section, tmp_path)
    server.competitions[COMPETITION]["not-offered.jpg"] = Blob(b"jpeg", kind="image/jpeg")
    assert len(get(section, tmp_path)) == 2
    (origin(tmp_path) / "receipts.json").write_text("[")
    assert len(get(section, tmp_path)) == 3
    server.log.clear()
    assert len(get(section, tmp_path)) == 3 and not server.log


def test_an_optional_file_that_is_offered_no_more(server: KaggleServer, tmp_path: Path) -> None:
    """Deleted, it is done without; changed, it is not taken for what it was."""
    section = wanted("train.zip", optional=OPTIONAL)
    paths = get(section, tmp_path)
    del server.competitions[COMPETITION]["list.csv.zip"]
    paths[0].write_bytes(SMALL[:-1])
    for _ in range(2):
        with pytest.raises(UserError, match="list.csv.zip: changed .* not offered any more") as no:
            get(section, tmp_path)
    for path in str(no.value).partition("delete ")[2].split(" and "):
        Path(path).unlink()
    server.log.clear()
    assert get(section, tmp_path) == get(section, tmp_path) == paths[1:]
    assert not server.log


def test_an_optional_file_that_nobody_asked_for_yet(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle is asked; a run that did without because it is away would not be the same run."""
    fetch(tmp_path)
    section = wanted("train.zip", optional=OPTIONAL[1:])
    with monkeypatch.context() as away:
        without_kaggle(away)
        words = r"^not-offered.jpg: optional, all other files are here.*no Kaggle credentials.*or "
        with pytest.raises(UserError, match=words + "take it out of download.optional_files"):
            get(section, tmp_path)
        with pytest.raises(UserError, match="^found no Kaggle credentials"):
            get(section, tmp_path / "bare")
        assert len(fetch(tmp_path)) == 1
    server.log.clear()
    assert len(get(section, tmp_path)) == 1
    assert server.count("POST ListDataFiles") == 1 and not server.count("GET")


# --- a folder on this machine


def local_archives(folder: Path) -> Path:
    place = folder / "here/competitions" / COMPETITION
    place.mkdir(parents=True)
    (place / "train.zip").write_bytes(DATA)
    return folder / "here"


def test_archives_that_are_here_already(server: KaggleServer, tmp_path: Path) -> None:
    here = local_archives(tmp_path)
    (path,) = get(wanted("train.zip"), tmp_path, local=here)
    assert path.read_bytes() == DATA
    assert path.samefile(here / "competitions" / COMPETITION / "train.zip"), "linked, not copied"
    (origin(tmp_path) / "receipts.json").unlink()
    assert get(wanted("train.zip"), tmp_path, local=here) == [path]
    shutil.rmtree(here)
    here.mkdir()
    assert get(wanted("train.zip"), tmp_path, local=here) == [path], "once taken, it is kept"
    assert fetch(tmp_path) == [path] and not server.log


@pytest.mark.parametrize("links", [True, False])
def test_another_file_in_the_data_folder_is_taken(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not links:
        monkeypatch.setattr(os, "link", refused)
    here = local_archives(tmp_path)
    (path,) = get(wanted("train.zip"), tmp_path, local=here)
    first, stored = path.read_bytes(), path.stat().st_mtime_ns
    assert get(wanted("train.zip"), tmp_path, local=here) == [path]
    assert path.stat().st_mtime_ns == stored, "a copy is as good as a link: not taken again"
    place = here / "competitions" / COMPETITION / "train.zip"
    place.with_suffix(".new").write_bytes(OTHER)
    place.with_suffix(".new").replace(place)
    (path,) = get(wanted("train.zip"), tmp_path, local=here)
    assert path.read_bytes() == OTHER != first


def test_the_data_folder_comes_alone(server: KaggleServer, tmp_path: Path) -> None:
    """What Kaggle sent neither goes before its files nor fills its gaps."""
    fetch(tmp_path, "train.zip", "list.csv.zip")
    here = local_archives(tmp_path)
    (here / "competitions" / COMPETITION / "train.zip").write_bytes(OTHER)
    (path,) = get(wanted("train.zip"), tmp_path, local=here)
    assert path.read_bytes() == OTHER
    with pytest.raises(UserError, match=r"list.csv.zip: no such file; PIPELINE_DATA is set"):
        get(wanted("list.csv.zip"), tmp_path, local=here)
    with pytest.raises(UserError, match="list.csv.zip: .*from elsewhere, and not offered"):
        get(wanted("train.zip", optional=("list.csv.zip",)), tmp_path, local=here)
    assert get(wanted("train.zip", optional=("list.csv.zip",)), tmp_path, "bare", here)


def test_optional_files_that_are_here_already(server: KaggleServer, tmp_path: Path) -> None:
    """The folder is looked at each time; what Kaggle lacked says nothing about it."""
    here, section = local_archives(tmp_path), wanted("train.zip", optional=OPTIONAL)
    assert len(get(wanted("train.zip", optional=OPTIONAL[1:]), tmp_path)) == 1
    server.log.clear()
    assert [path.name for path in get(section, tmp_path, local=here)] == ["train.zip"]
    place = here / "competitions" / COMPETITION
    for name in OPTIONAL:
        (place / name).write_bytes(PICTURE if name.endswith(".jpg") else SMALL)
        assert name in [path.name for path in get(section, tmp_path, local=here)]
    (place / "list.csv.zip").unlink()
    (origin(tmp_path) / "list.csv.zip").write_bytes(b"")
    with pytest.raises(UserError, match="list.csv.zip: changed .* not offered any more"):
        get(section, tmp_path, local=here)
    assert not server.log


def test_what_had_arrived_is_cleared_away(server: KaggleServer, tmp_path: Path) -> None:
    server.blob_faults["train.zip"] = [Fault(cut_at=900_000)] + [Fault(status=400)] * 9
    with pytest.raises(UserError):
        fetch(tmp_path)
    assert (origin(tmp_path) / "train.zip.part").stat().st_size == 900_000
    get(wanted("train.zip"), tmp_path, local=local_archives(tmp_path))
    assert names(origin(tmp_path)) == ["receipts.json", "train.zip"]


def test_archives_that_are_here_but_damaged(tmp_path: Path) -> None:
    here = local_archives(tmp_path)
    source = here / "competitions" / COMPETITION / "train.zip"
    damaged = DATA[:1000] + bytes([DATA[1000] ^ 1]) + DATA[1001:]
    source.write_bytes(damaged)
    with pytest.raises(UserError, match=r"train.zip: the checksum of its member train/a.jpg"):
        get(wanted("train.zip"), tmp_path, local=here)
    assert names(tmp_path / "mine/raw") == [] and source.read_bytes() == damaged


def test_an_archive_that_is_not_here(server: KaggleServer, tmp_path: Path) -> None:
    here = local_archives(tmp_path)
    with pytest.raises(UserError, match=f"{COMPETITION}/list.csv.zip: no such file.*unset"):
        get(wanted("train.zip", "list.csv.zip"), tmp_path, local=here)
    assert not server.log, "the rest is not fetched from Kaggle in silence"


def bundled(place: Path, *members: str) -> Path:
    """Kaggle's bundle of a competition's files, whose archives are members."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{COMPETITION}.zip"
    path.write_bytes(zipped({name: SMALL for name in members}))
    return path


@pytest.mark.parametrize("place", ["", "competitions", f"competitions/{COMPETITION}"])
def test_a_bundle_that_is_not_unpacked(tmp_path: Path, place: str) -> None:
    """The error says what to run, and that works."""
    here = tmp_path / "all my data"
    bundle = bundled(here / place, "list.csv.zip", "train.zip")
    with pytest.raises(UserError) as caught:
        get(wanted("train.zip"), tmp_path, local=here)
    message, folder = str(caught.value), here / "competitions" / COMPETITION
    assert message.startswith(f"{folder / 'train.zip'}: no such file;") and "\n" not in message
    assert f"{bundle} holds it: unpack that to {folder}" in message
    advice = re.search(r"\((python -m zipfile .*)\)$", message)
    assert advice is not None
    subprocess.run([sys.executable, *shlex.split(advice[1])[1:]], check=True)
    assert get(wanted("train.zip"), tmp_path, local=here)[0].read_bytes() == SMALL


def test_a_bundle_that_does_not_help(tmp_path: Path) -> None:
    here = tmp_path / "here"
    bundle = bundled(here, *(f"{letter}.csv" for letter in "abcdefgh"))
    with pytest.raises(UserError, match=r"does not hold it \(it has a.csv, .*f.csv, ...\): put "):
        get(wanted("train.zip"), tmp_path, local=here)
    bundle.write_bytes(bundle.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"challenge.zip may hold it, but is no whole zip"):
        get(wanted("train.zip"), tmp_path, local=here)
    bundle.rename(bundle.with_name("some-set.zip"))
    with pytest.raises(UserError, match="some-set.zip: no such file.*put the file there, or unset"):
        get(SET, tmp_path, local=here)


def test_a_data_folder_that_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_DATA", "/no/such/folder")
    with pytest.raises(UserError, match="^PIPELINE_DATA: found '/no/such/folder'"):
        stage.data_folder()


# --- drawn


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let nothing but the seed be drawn, which is quick; the seeds that were."""
    seeds: list[int] = []

    def draw(section: Synthetic, out: Path) -> None:
        seeds.append(section.seed)
        for name in ("metadata.csv.zip", "train.zip"):
            (out / name).write_bytes(zipped({"seed": f"{section.seed} {len(seeds)}".encode()}))

    monkeypatch.setattr(stage, "_run_sample", draw)
    monkeypatch.chdir(ROOT)
    return seeds


def test_the_sample_is_drawn_once(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = get(SAMPLE, tmp_path)
    assert [path.name for path in paths] == ["metadata.csv.zip", "train.zip"]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert get(SAMPLE, tmp_path) == paths and len(get(SAMPLE, tmp_path, "other")) == 2
    assert {path: path.stat().st_mtime_ns for path in paths} == before and drawn == [1]
    assert get(SAMPLE.model_copy(update={"seed": 2}), tmp_path, "third") and drawn == [1, 2]
    monkeypatch.setattr(stage, "_sample_digest", lambda: "other code")
    assert get(SAMPLE, tmp_path) == paths and drawn == [1, 2, 1]
    (tmp_path / "archives/sample/1-1-1/train.zip").unlink()
    assert get(SAMPLE, tmp_path) == paths and drawn == [1, 2, 1, 1]


def test_a_sample_without_its_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no program sample/ here"):
        get(SAMPLE, tmp_path)


def test_a_stopped_redraw_leaves_no_mixture(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of its files: all are drawn again."""

    def move_one(file: Path, target: Path) -> None:
        if target.name == "train.zip":
            raise KeyboardInterrupt
        move(file, target)

    move = store.move
    for digest in ("code", "changed code"):
        monkeypatch.setattr(stage, "_sample_digest", lambda digest=digest: digest)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(store, "move", move_one)
            get(SAMPLE, tmp_path)
        contents = {zipfile.ZipFile(path).read("seed") for path in get(SAMPLE, tmp_path)}
        assert contents == {f"1 {len(drawn)}".encode()}
    assert drawn == [1] * 4


# --- the front door


def test_a_network_that_cannot_be_is_refused_before_anything_moves(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing has to be brought, torch is not loaded to look at it."""
    monkeypatch.chdir(tmp_path)
    content = recipe(Path("recipes/tiny.yaml"), ["train.zip"])
    wrong = content["train"] | {"model": content["train"]["model"] | {"encoder": "tu-nothing"}}
    write_yaml(Path("recipes/tiny.yaml"), content | {"train": wrong})
    with pytest.raises(SystemExit, match=r"^error: recipes/tiny.yaml: .*nothing"):
        main(["download", "tiny"])
    assert not server.log
    write_yaml(Path("recipes/tiny.yaml"), content)
    get(wanted("train.zip"), Path("data"), "tiny")
    code = (
        "import sys\nfrom pipeline.__main__ import main\nmain(['download', 'tiny'])\n"
        "heavy = {'torch', 'numpy', 'cv2', 'kagglesdk'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"data/tiny/raw/train.zip: {len(DATA):,} bytes\n"


# --- under DVC


def recipe(path: Path, files: list[str]) -> dict[str, Any]:
    """A whole recipe that downloads these files of the competition."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())
    content["download"] = {
        "kind": "competition", "slug": COMPETITION, "files": files, "optional_files": [],
    }  # fmt: skip
    write_yaml(path, content)
    return content


def test_dvc_has_nothing_against_a_link(server: KaggleServer, tmp_path: Path) -> None:
    """Two recipes, one of them new: one download, and both are up to date ever after."""
    clone = copy_project(tmp_path / "clone")
    for name in ("first", "second"):
        recipe(clone / f"recipes/{name}.yaml", ["train.zip"])

    def dvc(*arguments: str, recipes: str) -> str:
        (clone / "params.yaml").write_text(f"recipes: {recipes}\nblends: []\nfolds: [0]\n")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            [str(Path(sys.executable).with_name("dvc")), *arguments],
            cwd=clone, env=environment, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip

    first, second = (clone / f"data/{name}/raw/train.zip" for name in ("first", "second"))
    dvc("repro", "download", recipes="[first]")
    said = dvc("repro", "download", recipes="[first, second]")
    kept = f"data/archives/competitions/{COMPETITION}/train.zip"
    assert f"data/second/raw/train.zip: {len(DATA):,} bytes, linked from {kept}" in said
    assert second.samefile(first) and server.count("GET train.zip") == 1
    said = dvc("repro", "download", recipes="[second]")
    assert "Running stage" not in said and "up to date" in said
    assert "up to date" in dvc("status", "download", recipes="[first, second]")
    dvc("commit", "-f", "download", recipes="[first, second]")
    assert second.samefile(first) and os.access(first, os.W_OK), "not moved to DVC's cache"
    first.unlink()
    said = dvc("repro", "download", recipes="[first, second]")
    assert "Running stage 'download@first'" in said and "download@second'" in said
    assert "Running stage 'download@second'" not in said
    assert first.samefile(second) and server.count("GET train.zip") == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="PIPELINE_DATA names no folder with real archives")
def test_dvc_repro_killed_and_resumed(server: KaggleServer, tmp_path: Path) -> None:
    """`recipes: [carvana]` on the real archives, from Kaggle, killed half-way; then split runs."""
    section = read.load(ROOT / "recipes/carvana.yaml").download
    assert isinstance(section, Competition)
    server.competitions[COMPETITION] = {name: Blob(REAL / name) for name in section.files}
    clone = cloned(tmp_path)
    command = [str(Path(sys.executable).with_name("dvc")), "repro", "split"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    server.blob_faults["train.zip"] = [Fault(rate=20e6)]
    process = subprocess.Popen(command, cwd=clone, env=environment, start_new_session=True)
    part = origin(clone / "data") / "train.zip.part"
    half = (REAL / "train.zip").stat().st_size // 2
    wait_for(lambda: part.exists() and part.stat().st_size > half, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    had = part.stat().st_size
    assert not (clone / "data/carvana/raw/train.zip").exists()

    subprocess.run(command, cwd=clone, env=environment, check=True)
    assert f"GET train.zip bytes={had}-" in server.log and server.count("GET train.zip") == 2
    for name in section.files:
        assert filecmp.cmp(REAL / name, clone / "data/carvana/raw" / name, shallow=False)
        assert not (REAL / name).samefile(clone / "data/carvana/raw" / name)
    rows = (clone / "data/carvana/samples.csv").read_text().splitlines()
    assert rows[0].startswith("sample_id,split,") and len(rows) > 1


def cloned(folder: Path) -> Path:
    """A clone of the working tree with the competition switched on."""
    clone = copy_project(folder / "clone")
    settings = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(re.sub(r"recipes: \[.*?\]", "recipes: [carvana]", settings))
    return clone
