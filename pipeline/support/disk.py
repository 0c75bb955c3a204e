"""Room on a disk: looked at before, told of when it ends, and spared by links."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.support.errors import UserError

_SPARE = 64 << 20  # bytes left free on the disk, for receipts and everybody else


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise `UserError` unless the disk of `folder` has room for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _SPARE:
        raise UserError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
            "free some space, or move the project to another disk"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk's refusal to take more into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise UserError(
            f"{path}: {error.strerror}; what arrived is kept: make room, run the command again"
        ) from error


def link_or_copy(source: Path, target: Path) -> str:
    """Make `target` a hard link to `source`, else a copy; return which, in words."""
    with contextlib.suppress(OSError):  # another file system, or one without links
        os.link(source.resolve(), target)
        return "linked"
    check_space(target.parent, source.stat().st_size, source.name)
    with writing(target):
        shutil.copyfile(source, target)
    return "copied"
