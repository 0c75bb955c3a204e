"""One's own folders of pictures, packed into archives like any others.

What is packed is not compressed, for pictures are already; names, sizes and times of change
tell whether it has to be packed again.
"""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from pipeline.download.store import Origin
from pipeline.kaggle import integrity
from pipeline.recipe.schema import Folders
from pipeline.support import files
from pipeline.support.errors import UserError

NAMES = ("images.zip", "masks.zip")  # what the source `folders` reads

_TIME = (1980, 1, 1, 0, 0, 0)  # a member's: the same files make the same archive


def place(wanted: Folders) -> str:
    """The origin's folder below `data/archives`."""
    paths = "\n".join(
        str(Path(one).expanduser().absolute()) for one in (wanted.images, wanted.masks)
    )
    return f"folders/{hashlib.sha256(paths.encode()).hexdigest()[:12]}"


def bring(wanted: Folders, origin: Origin, check: Callable[[], object]) -> list[str]:
    """Make the two archives be in the origin's folder, as the folders are now.

    Args:
        check: called before anything is packed.

    Returns:
        Their names.

    Raises:
        UserError: a folder is missing or empty, a zip is not whole, or the disk is full.
    """
    for name, text, key in zip(
        NAMES, (wanted.images, wanted.masks), ("images", "masks"), strict=True
    ):
        path = Path(text).expanduser()
        if not path.exists():
            raise UserError(f"{path}: no such folder or zip; correct download.{key} in the recipe")
        source = f"{path.absolute()} ({_state(path)})"
        if not origin.missing([name], source):
            continue
        check()
        fresh = origin.folder / f".{name}{files.TEMPORARY}"
        fresh.unlink(missing_ok=True)
        if path.is_dir():
            _pack(path, fresh)
        else:
            files.link_or_copy(path, fresh)
        if problem := integrity.flaw(fresh, name, integrity.Expected()):
            fresh.unlink()
            raise UserError(f"{path}: {problem}; replace it by a whole copy")
        origin.keep(source, [(name, fresh, name)])
    return list(NAMES)


def _pack(folder: Path, target: Path) -> None:
    found = files.walk(folder)
    if not found:
        raise UserError(f"{folder}: found no file, expected pictures")
    size = sum(path.stat().st_size for path in found)
    files.check_space(target.parent, size, f"the archive of {folder}")
    print(f"packing {len(found)} files of {folder}")
    with files.explained(target), zipfile.ZipFile(target, "w") as archive:
        for path in found:
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _TIME)
            archive.writestr(member, path.read_bytes())


def _state(path: Path) -> str:
    """What tells a folder, or a zip, from what it was before: names, sizes, times of change."""
    digest = hashlib.sha256()
    for file in files.walk(path) if path.is_dir() else [path]:
        stat = file.stat()
        digest.update(f"{file.name if file == path else file.relative_to(path)}\n".encode())
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
