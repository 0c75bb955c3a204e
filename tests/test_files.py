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
