"""Files that are either whole or not there, and folders one process works in at a time."""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.support.errors import UserError

TEMPORARY = ".tmp"  # the ending of unfinished files, which .dvcignore names


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it.

    If the block raises, the temporary file is removed and `path` stays as it was. A process
    killed outright leaves only a hidden `.<name>.<random>.tmp` file, never a short `path`, and
    the next call for `path` removes it.
    A write that fails because the disk is full becomes a `UserError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    handle, name = tempfile.mkstemp(suffix=TEMPORARY, prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        # Held until the end, it tells a file being written from one that a kill left behind.
        fcntl.flock(handle, fcntl.LOCK_EX)
        # mkstemp makes files private; what we publish follows the user's umask like any other.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of `path`."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), stale.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale.unlink()


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return UserError(f"{path}: {error.strerror}; free some space and run the command again")
    return error


def move(source: Path, target: Path) -> None:
    """Give a whole file, flushed to disk, its final name in one step, on any file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with written_whole(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name too is to survive a power cut
    finally:
        os.close(folder)


def remove_folders(parent: Path, prefix: str) -> None:
    """Remove all folders in `parent` whose names begin so, each in one step.

    They are renamed first: what a kill leaves of one is not taken for the whole, and goes
    with the next call.
    """
    for left in parent.glob(f".{glob.escape(prefix)}*{TEMPORARY}"):
        shutil.rmtree(left)
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        doomed = folder.with_name(f".{folder.name}{TEMPORARY}")
        os.replace(folder, doomed)
        shutil.rmtree(doomed)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` in one step; see `written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on `folder` (made if missing) while the block runs.

    The lock is the kernel's (`flock`), so it goes with the process, however that ends. Its file
    lies beside the folder, which the block may remove.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name.lstrip('.')}.lock")
    with _locked(path, folder) as stream:
        # Workers forked later outlive a kill for seconds; their copies would hold the lock.
        os.register_at_fork(after_in_child=stream.close)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, folder: Path) -> IO[str]:
    """The file at `path`, locked."""
    while True:
        stream = path.open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
        except FileNotFoundError:
            pass  # as where it is another file: what we have opened has just been removed
        except BlockingIOError:
            stream.close()
            raise UserError(
                f"{folder}: another process is working here; wait for it to end, or stop it"
            ) from None
        stream.close()
