"""Archives, kept once whatever the number of recipes: a folder an origin, links in each recipe's.

An origin is a competition, a data set, or a drawing of the sample; its folder is laid out as in
`$PIPELINE_DATA`: competitions/<slug>/<file>, datasets/<owner>/<slug>/<slug>.zip. A file gets its
name there when it has been checked, in one step, and nothing in this project writes into it
afterwards. Beside it, `receipts.json` says what it was then. What has not arrived whole is
`<file>.part`.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import pydantic

from pipeline.kaggle import integrity, transfer
from pipeline.kaggle.retry import RetryPolicy
from pipeline.kaggle.transfer import Offer
from pipeline.support import files
from pipeline.support.errors import UserError, say
from pipeline.support.files import TEMPORARY, locked, move, write_text

KAGGLE = "Kaggle"


class Receipt(pydantic.BaseModel):
    """What a file was when it was checked.

    `source` says where it is from: Kaggle, the folder `$PIPELINE_DATA` named, or the code that
    drew it. `stored` is the name under which it lies, `md5` is hexadecimal, `mtime_ns`
    nanoseconds since 1970.
    """

    source: str
    stored: str
    size: int
    mtime_ns: int
    md5: str
    taken_mtime_ns: int | None = None  # of the file in $PIPELINE_DATA; a copy may have another


class Receipts(pydantic.BaseModel):
    """What is known of an origin's files, by the names under which they were asked for."""

    files: dict[str, Receipt] = {}
    not_offered: set[str] = set()  # Kaggle was asked for them and has none of these names


class Origin:
    """The archives of one origin, open to one process at a time; see `Origin.opened`."""

    def __init__(self, folder: Path, raw: Path) -> None:
        self.folder = folder
        self._raw = raw
        self._path = folder / "receipts.json"
        self._receipts = Receipts()
        # One that cannot be read counts as none: the files are checked against Kaggle's hashes.
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._receipts = Receipts.model_validate_json(self._path.read_bytes())

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, raw: Path) -> Iterator[Self]:
        """An origin once no other process has it open.

        Args:
            folder: where its archives are kept.
            raw: a recipe's folder, for links to those that this recipe uses.
        """
        with locked(folder, f"{folder}: another download is at work here; waiting for its end"):
            files.make_folder(folder)
            files.make_folder(raw)
            yield cls(folder, raw)

    @property
    def not_offered(self) -> frozenset[str]:
        """The names that Kaggle was asked for and did not have."""
        return frozenset(self._receipts.not_offered)

    def names(self) -> list[str]:
        """All names of which there is a receipt."""
        return list(self._receipts.files)

    def forget(self) -> None:
        """Count every file as missing from now on."""
        self._receipts.files.clear()

    def missing(self, names: Iterable[str], source: str | None = None) -> list[str]:
        """Those of `names` that are not here as they were when they were checked.

        Args:
            names: of files.
            source: the only one that counts; None: any.
        """
        return [name for name in names if not self._holds(name, source)]

    def _holds(self, name: str, source: str | None) -> bool:
        """Linked, and of the same size and time of change, it counts as the same.

        Else it is hashed: who deletes a link because of damage must not get the damage again.
        The receipt of a file that is gone or changed goes.
        """
        receipt = self._receipts.files.get(name)
        if receipt is None or source not in {None, receipt.source}:
            return False
        file = self.folder / receipt.stored
        if file.is_file():
            mtime_ns = file.stat().st_mtime_ns  # before the bytes are read: a later change shows
            if _is_as_checked(file, receipt) and _is_as_checked(self._raw / file.name, receipt):
                return True
            if integrity.md5(file).hex() == receipt.md5:
                receipt.mtime_ns = mtime_ns
                self._save()
                return True
            say(f"{file}: changed since it was checked; looking for it again")
        del self._receipts.files[name]
        return False

    def note_offers(self, asked: Iterable[str], offers: Iterable[Offer]) -> None:
        """Remember which of the names that Kaggle was asked for it does not have."""
        asked, offered = set(asked), {offer.name for offer in offers}
        self._receipts.not_offered = (self._receipts.not_offered | asked) - offered
        self._save()

    def fetch(self, offers: list[Offer], policy: RetryPolicy) -> None:
        """Download files from Kaggle, one after the other, those that are here by hash alone.

        Raises:
            UserError: one could not be had; what did arrive is kept for the next run.
        """
        for offer in offers:
            self._adopt(offer.name)
        size = sum(transfer.missing_bytes(offer, self._part(offer.name)) for offer in offers)
        files.check_space(self.folder, size, "what is still missing")
        for offer in offers:
            part = self._part(offer.name)
            stored = transfer.fetch(offer, part, policy)
            self.keep(KAGGLE, [(offer.name, part, stored)])

    def _adopt(self, name: str) -> None:
        """Let a file without receipt be held against Kaggle's hash instead of fetched anew."""
        part = self._part(name)
        for file in (self.folder / name, self._raw / name):
            if file.is_file() and not part.exists() and name not in self._receipts.files:
                transfer.clear(part)
                with contextlib.suppress(OSError):  # no links here: it is fetched
                    os.link(file.resolve(), part)

    def is_of(self, name: str, file: Path) -> bool:
        """Whether `file`, by size and time of change, is the one that was taken as `name`.

        Of what was taken before that was noted, nothing else is known.
        """
        receipt, status = self._receipts.files[name], file.stat()
        if receipt.taken_mtime_ns is None:
            return True
        return (receipt.size, receipt.taken_mtime_ns) == (status.st_size, status.st_mtime_ns)

    def take(self, name: str, file: Path, source: str) -> None:
        """Link or copy a file that is on this machine, with the checks of a download.

        Raises:
            UserError: it is not whole.
        """
        fresh = self.folder / f".{name}{TEMPORARY}"
        fresh.unlink(missing_ok=True)
        taken_mtime_ns = file.stat().st_mtime_ns  # before the bytes are read: a later change shows
        files.link_or_copy(file, fresh)
        if problem := integrity.flaw(fresh, file.name, integrity.Expected()):
            fresh.unlink()
            raise UserError(f"{file}: {problem}; replace it by a whole copy")
        self.keep(source, [(name, fresh, file.name)], taken_mtime_ns)

    def keep(
        self,
        source: str,
        checked: list[tuple[str, Path, str]],
        taken_mtime_ns: int | None = None,
    ) -> None:
        """Give checked files, which lie in this folder, their names; receipts go first.

        Killed between the two, a receipt without its file finds it unfinished, and all files of
        one call count as missing until the last is in its place.

        Args:
            source: where they are from.
            checked: what was asked for, where it lies, under which name it is to be stored.
            taken_mtime_ns: the time of change of what was copied or linked from elsewhere.
        """
        for name, file, stored in checked:
            status, md5 = file.stat(), integrity.md5(file).hex()
            self._receipts.files[name] = Receipt(
                source=source, stored=stored, size=status.st_size, mtime_ns=status.st_mtime_ns,
                md5=md5, taken_mtime_ns=taken_mtime_ns,
            )  # fmt: skip
        self._save()
        for name, file, stored in checked:
            _flush(file)
            move(file, self.folder / stored)
            file.unlink(missing_ok=True)  # rename leaves both names when they are links to one file
            transfer.clear(self._part(name))

    def link(self, name: str) -> Path:
        """Make a file be in the recipe's folder, by a hard link or else a copy; return its path."""
        receipt = self._receipts.files[name]
        source, target = self.folder / receipt.stored, self._raw / receipt.stored
        if _is_as_checked(target, receipt):
            print(f"{target}: {receipt.size:,} bytes")
            return target
        if target.exists():
            say(f"{target}: found another file there; replaced")
        how = files.share(source, target)  # a copy has the time on the receipt, too
        print(f"{target}: {receipt.size:,} bytes, {how} from {source}")
        return target

    def refuse_remains(self, name: str) -> None:
        """Refuse a file of which nothing shows what it is, as it is not to be had any more.

        Raises:
            UserError: it lies here or in the recipe's folder.
        """
        folders = [self._raw, *([] if name in self._receipts.files else [self.folder])]
        places = [folder / stored for folder in folders for stored in (name, f"{name}.zip")]
        if remains := [str(place) for place in places if place.exists()]:
            raise UserError(
                f"{remains[0]}: changed since it was checked, or from elsewhere, and not offered "
                f"any more; to do without it, delete {' and '.join(remains)}"
            )

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def _save(self) -> None:
        write_text(self._path, self._receipts.model_dump_json(indent=1) + "\n")


def _is_as_checked(file: Path, receipt: Receipt) -> bool:
    if not file.is_file():
        return False
    status = file.stat()
    return (status.st_size, status.st_mtime_ns) == (receipt.size, receipt.mtime_ns)


def _flush(file: Path) -> None:
    """fsync a file, before it gets a name that stands for whole."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
