"""Files that are either whole or not there, what a full disk means, and locks.

Whatever is published is written beside its place and renamed (`written_whole`). Scratch that a
later run trusts carries a checksum of its bytes (`write_checked`). One process works in a place
at a time (`locked`).
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import lzma
import os
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from pipeline.support.errors import UserError

TEMPORARY = ".tmp"  # the ending of unfinished files, which .dvcignore names

_SPARE = 64 << 20  # bytes left free on the disk, for receipts and everybody else
_MARK = b"\nsha256\n"  # before the digest that ends a checked file
_FOOTER = len(_MARK) + hashlib.sha256().digest_size

# What a zip with wrong bytes raises, by where they lie: names that are no text, a method or a
# version that does not exist, a flag that says encrypted (zipfile, zlib, bz2 and lzma). Beside
# these OSError, for places outside the file.
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError,
    RuntimeError, UnicodeDecodeError, OverflowError,
)  # fmt: skip

_ADVICE = {
    errno.ENOSPC: "free some space and run the command again",
    errno.EDQUOT: "free some space of your quota and run the command again",
    errno.EFBIG: "the disk or a limit (ulimit -f) takes no larger file; raise it, run again",
    errno.EROFS: "give a place that can be written to",
    errno.EACCES: "give yourself the right to it, or another place",
    errno.EPERM: "give yourself the right to it, or another place",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away, or give another place",
    errno.EEXIST: "a file stands where a folder is needed; move it away, or give another place",
    errno.EISDIR: "a folder stands where a file is needed; move it away, or give another place",
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP),
        "this file system has no locks (flock); mount it with them, or move the project to another",
    ),
    errno.EIO: "the disk fails; look at it before anything else",
}


@contextlib.contextmanager
def explained(path: Path, kept: str = "") -> Iterator[None]:
    """Turn what a file system refuses while the block runs into one line.

    Args:
        path: what is said to be refused, where the error itself names nothing.
        kept: what is not lost by it, said in the line.

    Raises:
        UserError: the disk is full or read-only, a file stands where a folder should, ...;
            other errors pass as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise UserError(_refusal(error, path, kept)) from error


def _refusal(error: OSError, path: Path, kept: str) -> str:
    assert error.errno is not None
    named = error.filename if isinstance(error.filename, str) else ""
    # Of a temporary file only its folder tells the user anything.
    place = Path(named) if named and not named.endswith(TEMPORARY) else path
    said, advice = os.strerror(error.errno), _ADVICE[error.errno]
    if error.errno == errno.ENOSPC and _has_no_inodes(place):
        said, advice = f"{said} for another file (no inodes are left)", "remove some files"
    return "; ".join(filter(None, (f"{place}: {said}", kept, advice)))


def _has_no_inodes(path: Path) -> bool:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    found = os.statvfs(there)
    return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it.

    Raises:
        UserError: the file system refuses, see `explained`.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Make `folder` and a nameless file in it: refuse before the work, not after it.

    Raises:
        UserError: the file system refuses, see `explained`.
    """
    make_folder(folder)
    with explained(folder), tempfile.TemporaryFile(dir=folder):  # a kill leaves nothing
        pass


def check_output(path: Path, option: str, start: str) -> None:
    """Refuse to write a file that a user names over one that the command cannot have written.

    Args:
        path: of the file, which need not be there.
        option: that named it, for the error.
        start: what the command's own files begin with: `<` in HTML, else they are tables.

    Raises:
        UserError: another ending, a folder, or a file that begins otherwise.
    """
    ending = ".html" if start.startswith("<") else ".csv"
    if path.suffix.lower() != ending:
        raise UserError(f"{option}: found {path}, expected a name that ends in {ending}")
    if path.is_dir():
        raise UserError(f"{option}: {path}: found a folder, expected the name of a file in it")
    if not path.exists():
        return
    with explained(path), path.open("rb") as stream:
        found = stream.read(len(start))
    if found and found.lower() != start.lower().encode():
        raise UserError(
            f"{option}: {path}: found a file that this command has not written; give another "
            f"name, or delete it first"
        )


def walk(folder: Path) -> list[Path]:
    """All files in a folder and in those within, sorted; nothing hidden; links are followed.

    Raises:
        UserError: a folder cannot be read, a link leads nowhere, or a name is not UTF-8: to leave
            such a thing out would be to work on less than was given.
    """
    found: list[Path] = []

    def look(place: Path, above: frozenset[str]) -> None:
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{place}: cannot be read ({error.strerror}); put that right") from None
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith(".") or entry.name == "lost+found":  # a disk's own
                continue
            check_name(path)
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:  # a link in circles, or to where one may not look
                raise UserError(
                    f"{path}: cannot be read ({error.strerror}); put that right, or take it away"
                ) from None
            if is_folder:
                real = os.path.realpath(path)
                if real not in above:  # a link to what it is in
                    look(path, above | {real})
            elif is_file:
                found.append(path)
            elif entry.is_symlink():
                raise UserError(f"{path}: found a link that leads nowhere; remove it, or mend it")

    look(folder, frozenset({os.path.realpath(folder)}))
    return sorted(found)


def check_name(path: Path) -> None:
    """Raise `UserError` for a name that no table and no terminal can hold."""
    for part in (*reversed(path.parents), path):  # so that what stands before it can be shown
        try:
            part.name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{part.parent}: found the name {part.name!a}, expected UTF-8; rename it"
            ) from None


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse work for which the disk of `folder` has no room.

    Raises:
        UserError: fewer than `needed` bytes, and some to spare, are free.
    """
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _SPARE:
        raise UserError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
            "free some space, or move the project to another disk"
        )


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it.

    If the block raises, the temporary file is removed and `path` stays as it was. A process
    killed outright leaves only a hidden `.<name>.<random>.tmp` file, never a short `path`, and
    the next call for `path` removes it.

    Raises:
        UserError: the file system refuses, see `explained`.
    """
    make_folder(path.parent)
    _sweep(path)
    with explained(path):
        handle, name = tempfile.mkstemp(suffix=TEMPORARY, prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with explained(path):
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
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of `path`."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        with contextlib.suppress(OSError), stale.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` in one step; see `written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_checked(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write `content` and a checksum of it to `path` in one step; see `written_whole`.

    Args:
        content: bytes, or a function that writes them to the stream it is given.
    """
    with written_whole(path) as temporary:
        with temporary.open("wb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
        seal(temporary)


def seal(path: Path) -> None:
    """Add to a file that is written but not published the checksum `verify` looks for."""
    with path.open("rb+") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
        stream.write(_MARK + digest)


def verify(path: Path) -> int | None:
    """The bytes of content in scratch whose checksum is right; else None.

    Returns:
        None where there is no such file, or where `intact` finds it damaged. Damage is said on
        stderr, and the file is removed, so that it is made again.
    """
    try:
        length = intact(path)
    except FileNotFoundError:
        return None
    if length is None:
        print(f"{path}: damaged, its checksum is not right; it is removed and made again",
              file=sys.stderr, flush=True)  # fmt: skip
        path.unlink(missing_ok=True)
    return length


def intact(path: Path) -> int | None:
    """The bytes of content in a checked file, whose checksum is right; else None.

    It reads the file once and holds a block of it at a time. The content starts at the file's
    first byte, so that `numpy.memmap` and others can read it where it lies.

    Returns:
        None where it is damaged: cut short, changed by a byte, never sealed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as stream:
        length = path.stat().st_size - _FOOTER
        digest, left = hashlib.sha256(), length
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        whole = length >= 0 and stream.read() == _MARK + digest.digest()
    return length if whole else None


def read_checked(path: Path) -> bytes | None:
    """The content that `write_checked` wrote, or None as by `verify`."""
    length = verify(path)
    return None if length is None else path.read_bytes()[:length]


def move(source: Path, target: Path) -> None:
    """Give a whole file, flushed to disk, its final name in one step, on any file system."""
    make_folder(target.parent)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            with explained(target):
                raise
        with written_whole(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name too is to survive a power cut
    finally:
        os.close(folder)


def link_or_copy(source: Path, target: Path) -> str:
    """Make `target` a hard link to `source`, else a copy; return which, in words.

    Raises:
        UserError: there is no room for a copy, or the file system refuses.
    """
    with contextlib.suppress(OSError):  # another file system, or one without links
        os.link(source.resolve(), target)
        return "linked"
    check_space(target.parent, source.stat().st_size, source.name)
    with explained(target):
        shutil.copyfile(source, target)
    return "copied"


def share(source: Path, target: Path) -> str:
    """Let `target` be what `source` is, whole or not at all; return how, in words.

    A copy gets the source's time; so a target of the same size and time is left as it is.
    """
    wanted = source.stat()
    if target.is_file():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return "as before"
    fresh = target.with_name(f".{target.name}{TEMPORARY}")
    fresh.unlink(missing_ok=True)
    if (how := link_or_copy(source, fresh)) == "copied":
        shutil.copystat(source, fresh)
    move(fresh, target)
    return how


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


@contextlib.contextmanager
def locked(place: Path, waiting: str = "") -> Iterator[None]:
    """Be the only process at `place`, a file or a folder, while the block runs.

    The lock is the kernel's (`flock`), so it goes with the process, however that ends. Its file
    lies beside `place`, which the block may make, replace and remove.

    Args:
        waiting: said once, where another process holds it; then it is waited for. Without it
            another process is an error.

    Raises:
        UserError: another process holds it, or the file system refuses.
    """
    make_folder(place.parent)
    path = place.with_name(f".{place.name.lstrip('.')}.lock")
    with explained(path):
        held = _lock(path, place, waiting)
    with held as stream:
        # Workers forked later outlive a kill for seconds; their copies would hold the lock.
        os.register_at_fork(after_in_child=stream.close)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path: Path, place: Path, waiting: str) -> IO[str]:
    """The file at `path`, locked."""
    said = False
    while True:
        stream = path.open("w")
        try:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    raise
                if not said:
                    print(waiting, file=sys.stderr, flush=True)
                said = True
                fcntl.flock(stream, fcntl.LOCK_EX)
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
        except FileNotFoundError:
            pass  # as where it is another file: what we have opened has just been removed
        except BlockingIOError:
            stream.close()
            raise UserError(
                f"{place}: another process is working here; wait for it to end, or stop it"
            ) from None
        except OSError:  # it has no locks
            stream.close()
            raise
        stream.close()


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Make `folder` and be the only process in it while the block runs; see `locked`."""
    make_folder(folder)
    with locked(folder):
        yield
