"""Archives that another recipe's download has brought already.

Each recipe has a folder of archives, `data/<recipe>/raw`, with receipts beside it. A file of the
same origin is hard-linked from one to the other: gigabytes are fetched and stored once.

Another process may be at work in the other folder. What is there has its final name, so it is
whole; it can still be replaced at any moment. So the link is made first, under a name of our
own, and what it leads to is held against the receipt: it cannot be exchanged any more. Nothing
in this project writes into an archive under its final name, so linked ones cannot change each
other; when something else does, both receipts show it.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.kaggle import receipts
from pipeline.support import files


def beside(out: Path) -> list[Path]:
    """Other recipes' folders of archives, for `data/<recipe>/raw`: `data/*/raw` with receipts."""
    data = Path(os.path.normpath(out / ".." / ".."))  # by name: `out` may be a link elsewhere
    found = [folder / out.name for folder in sorted(data.glob("*/"))]
    own = receipts.folder_of(out)
    return [one for one in found if _has_receipts(receipts.folder_of(one), own)]


def _has_receipts(folder: Path, own: Path) -> bool:
    """Whether `folder` is there, can be read, and is another than our own."""
    return os.access(folder, os.R_OK | os.X_OK) and not folder.samefile(own)


def take(origins: Iterable[str], out: Path, folder: Path) -> list[str]:
    """Link or copy to `out` what another recipe has, each with a receipt of its own.

    Args:
        origins: what to take.
        out: folder of the archives.
        folder: of their receipts.

    Returns:
        The origins that no other recipe has as they were when they were checked.
    """
    others = beside(out)
    return [
        origin for origin in origins if not any(_taken(origin, one, out, folder) for one in others)
    ]


def _taken(origin: str, other: Path, out: Path, folder: Path) -> bool:
    """Take one file from one other recipe, if it has it."""
    receipt = receipts.find(receipts.folder_of(other), origin)
    if receipt is None:
        return False
    source, part = other / receipt.stored, folder / receipt.stored
    part.unlink(missing_ok=True)
    try:
        how = files.link_or_copy(source, part)
    except (FileNotFoundError, PermissionError):  # deleted, or another user's
        return False
    now = receipts.renewed(receipt, part)
    if now is None:
        part.unlink()
        print(f"{source}: changed since it was checked; not taken", file=sys.stderr)
        return False
    receipts.write(folder, now)
    receipts.place(part, out / now.stored)
    print(f"{out / now.stored}: {how} from {source}")
    return True
