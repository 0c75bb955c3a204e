import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.support import files
from pipeline.support.errors import UserError


def test_a_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with files.written_whole(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.written_whole(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_published_file_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        files.write_text(tmp_path / "file.txt", "text")
    finally:
        os.umask(previous)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_a_user_error(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(UserError, match=r"file\.txt: No space left .* free some space"),
        files.written_whole(tmp_path / "file.txt"),
    ):
        raise full
    assert os.listdir(tmp_path) == []


def test_what_a_kill_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    code = f"""
import os, pathlib, signal
from pipeline.support.files import written_whole
with written_whole(pathlib.Path({str(path)!r})) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1 and not path.exists()
    with files.written_whole(path) as outer:
        outer.write_text("all of it")
        with files.written_whole(path) as inner:  # one being written is left alone
            inner.write_text("other")
        assert outer.exists()
    assert os.listdir(tmp_path) == ["file.txt"]
    assert path.read_text() == "all of it"


def test_only_one_process_works_in_a_folder(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from pipeline.support.files import only_process\nwith only_process(Path({str(tmp_path)!r})): pass"  # noqa: E501
    with files.only_process(tmp_path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is working here" in second.stderr
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert third.returncode == 0, third.stderr


def test_a_file_moves_within_and_between_file_systems(tmp_path: Path) -> None:
    places = [tmp_path]
    if Path("/dev/shm").is_dir():
        places.append(Path(tempfile.mkdtemp(dir="/dev/shm")))
    for place in places:
        source = place / "source"
        source.write_text("whole")
        files.move(source, tmp_path / "new/target")
        assert (tmp_path / "new/target").read_text() == "whole" and not source.exists()
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["target"]
    for place in places[1:]:
        place.rmdir()


def test_what_a_kill_leaves_of_a_folder_goes_with_the_next(tmp_path: Path) -> None:
    for name in ("predict", "predict-a1", ".predict-a1.tmp", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    files.remove_folders(tmp_path, "predict")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_a_worker_that_outlives_a_kill_does_not_hold_the_lock(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal, time
from pipeline.support.files import only_process
with only_process(pathlib.Path({str(tmp_path)!r})):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.wait()
        try:
            with files.only_process(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_what_was_sealed_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new/state.bin"
    assert files.read_checked(path) is None
    for content in (b"", b"x" * 3_000_000):
        files.write_checked(path, content)
        assert files.read_checked(path) == content and files.verify(path) == len(content)
        assert path.read_bytes().startswith(content)
    files.write_checked(path, lambda stream: stream.write(b"by a function"))
    assert files.read_checked(path) == b"by a function"


@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "longer", "digest", "unsealed"])
def test_damaged_scratch_is_said_and_removed(tmp_path: Path, capsys, damage: str) -> None:
    path = tmp_path / "state.bin"
    content = bytes(range(256)) * 9
    files.write_checked(path, content)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "byte": whole[:700] + b"\0" + whole[701:],
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "longer": whole + b"\0",
            "digest": whole[:-1] + bytes([whole[-1] ^ 1]),
            "unsealed": content,
        }[damage]
    )
    assert files.read_checked(path) is None
    assert f"{path}: damaged" in capsys.readouterr().err
    assert not path.exists()
    assert files.read_checked(path) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.EACCES, errno.ENAMETOOLONG])
def test_what_a_file_system_refuses_is_one_line(tmp_path: Path, number: int) -> None:
    said = f"^{tmp_path}/file.txt: {os.strerror(number)}; all is kept; "
    with (
        pytest.raises(UserError, match=said),
        files.explained(tmp_path / "file.txt", "all is kept"),
    ):
        raise OSError(number, os.strerror(number))


def test_a_disk_without_inodes_is_told_from_a_full_one(tmp_path: Path, monkeypatch) -> None:
    found = os.statvfs(tmp_path)
    none_left = type("Found", (), {"f_files": 9, "f_favail": 0, "f_bavail": found.f_bavail or 1})
    monkeypatch.setattr(os, "statvfs", lambda path: none_left)
    with (
        pytest.raises(UserError, match="no inodes are left.; remove some files"),
        files.explained(tmp_path / "file.txt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for place in (tmp_path / "out/table.csv", tmp_path / "out/deep/table.csv"):
        with pytest.raises(UserError, match="out.*a file stands where a folder is needed"):
            files.write_text(place, "text")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        files.check_writable(tmp_path / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken.*a folder stands where a file is needed"):
        files.write_text(tmp_path / "taken", "text")
    files.check_writable(tmp_path / "taken")
    assert sorted(os.listdir(tmp_path)) == ["out", "taken"] and not os.listdir(tmp_path / "taken")


def test_a_lock_is_waited_for_and_that_is_said_once(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from pipeline.support.files import locked
with locked(Path({str(tmp_path / "ledger.csv")!r}), "waiting for another submission"):
    print("in")
"""
    with files.locked(tmp_path / "ledger.csv"):
        second = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert second.stderr.readline() == "waiting for another submission\n"
        assert second.poll() is None
    out, err = second.communicate(timeout=60)
    assert (out, err, second.returncode) == ("in\n", "", 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(UserError, match="this file system has no locks"), files.explained(tmp_path):
        with files.written_whole(tmp_path / "file"):
            pass
    with pytest.raises(UserError, match="this file system has no locks"), files.explained(tmp_path):
        with files.locked(tmp_path / "file"):
            pass


def test_a_shared_file_is_the_source_s_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("one")
    assert files.share(source, target) == "linked" and target.read_text() == "one"
    assert files.share(source, target) == "as before"
    source.unlink()
    source.write_text("other")

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", no_link)
    assert files.share(source, target) == "copied" and target.read_text() == "other"
    assert files.share(source, target) == "as before"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    source.write_text("third")
    monkeypatch.setattr(files, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        files.share(source, target)
    assert target.read_text() == "other"
