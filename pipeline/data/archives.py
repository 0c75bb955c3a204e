"""Members of zip archives, read where they lie: nothing is ever unpacked.

A reference names one file: `train.zip!train/car_01.jpg` is a member of an archive,
`29bb3ece3180_11.jpg` a loose file beside the archives.
"""

import os
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

from pipeline.support.errors import UserError
from pipeline.support.files import ZIP_DAMAGE

SEPARATOR = "!"
# A separator follows an archive's ending; elsewhere it is part of a name.
_MEMBER = re.compile(rf"(.*?\.zip){SEPARATOR}(.*)", re.IGNORECASE | re.DOTALL)

_WINDOWS = {"Thumbs.db", "desktop.ini"}
_ARCHIVES_SHOWN, _MEMBERS_SHOWN = 6, 3  # in an error


class DamagedMemberError(UserError):
    """A member whose bytes are not those that were packed."""


class MissingMemberError(UserError):
    """A reference to a member that its archive does not have."""


class Archives:
    """Read access to one folder of archives, and of files beside them.

    Archives are opened at their first use and stay open: listing the 100,064 members of
    Carvana's test set takes half a second. Every process opens its own, whether it got this
    object pickled or by a fork, because a shared file offset would mix up their reads.
    Threads may read at once: one opens an archive for all, and zipfile locks each read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, zipfile.ZipFile] = {}
        self._process = os.getpid()
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def members(self, archive: str) -> list[str]:
        """References of all files in one archive, in its order, without `is_litter`.

        Raises:
            UserError: the archive is missing or is no whole zip file.
        """
        return [
            f"{archive}{SEPARATOR}{info.filename}"
            for info in self._zip(archive).infolist()
            if not info.is_dir() and not is_litter(info.filename)
        ]

    def glimpse(self) -> str:
        """What the folder holds, in a few words for an error: archives, and some of each one's."""
        names = sorted(path.name for path in self.folder.glob("*") if not is_litter(path.name))
        said = []
        for name in names[:_ARCHIVES_SHOWN]:
            if not name.endswith(".zip"):
                said.append(name)
                continue
            members = [member_name(reference) for reference in self.members(name)]
            some = ", ".join(members[:_MEMBERS_SHOWN]) or "no files"
            more = f", ... {len(members)} files" if len(members) > _MEMBERS_SHOWN else ""
            said.append(f"{name} ({some}{more})")
        if len(names) > len(said):
            said.append(f"{len(names) - len(said)} more")
        return ", ".join(said) or "nothing"

    def read(self, reference: str) -> bytes:
        """The bytes of one file, its checksum verified if it is an archive's member.

        Raises:
            DamagedMemberError: the file's bytes are damaged.
            MissingMemberError: the archive has no such member.
            UserError: the archive or the file is missing.
        """
        archive, member = _split(reference)
        if not archive:
            return self._loose(member)
        try:
            return self._zip(archive).read(member)
        except KeyError:
            raise MissingMemberError(
                f"{self.folder / archive}: no member {member!r}; expected the archive that "
                f"samples.csv was made from, so run the split stage again"
            ) from None
        except OSError as error:  # the disk's or the network's: the member may be whole
            raise UserError(
                f"{self.folder / archive}: not readable ({error}); put that right and run the "
                f"command again"
            ) from None
        except ZIP_DAMAGE as error:
            raise DamagedMemberError(
                f"{self.folder / archive}: member {member!r} is damaged ({error}); "
                f"delete the archive and run the download stage again"
            ) from None

    def close(self) -> None:
        """Close every open archive."""
        while self._open:
            self._open.popitem()[1].close()

    def _loose(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.folder / name}: {error.strerror}; run the download stage again"
            ) from None

    def _zip(self, archive: str) -> zipfile.ZipFile:
        if self._process != os.getpid():
            self.__init__(self.folder)  # type: ignore[misc]
        with self._opening:
            if archive not in self._open:
                self._open[archive] = _open_zip(self.folder / archive)
            return self._open[archive]


def member_name(reference: str) -> str:
    """What follows the archive in a reference: `train/car_01.jpg`."""
    return _split(reference)[1]


def base_name(reference: str) -> str:
    """The file name at the end of a reference: `car_01.jpg`."""
    return member_name(reference).rpartition("/")[2]


def _split(reference: str) -> tuple[str, str]:
    """The archive, or "" of a loose file, and the member in it, or that file."""
    found = _MEMBER.fullmatch(reference)
    return (found[1], found[2]) if found else ("", reference)


def is_litter(member: str) -> bool:
    """Whether a file is what systems leave beside a user's files, and nobody means to pack.

    macOS's `__MACOSX/...` and `._name`, hidden files and all in hidden folders (a notebook's
    checkpoints, a file manager's trash), Windows' `Thumbs.db` and `desktop.ini`.
    """
    parts = member.split("/")
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return hidden or parts[0] == "__MACOSX" or parts[-1] in _WINDOWS


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        there = ", ".join(sorted(p.name for p in path.parent.glob("*") if p.is_file())) or "nothing"
        raise UserError(
            f"{path}: missing; the folder holds {there}; run the download stage, or add the "
            f"file to the recipe's download.files"
        ) from None
    except ZIP_DAMAGE as error:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes that are no whole zip file ({error}); "
            f"delete it and run the download stage again"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: not readable ({error.strerror}); put that right, or delete it and run "
            f"the download stage again"
        ) from None
