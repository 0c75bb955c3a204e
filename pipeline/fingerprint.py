"""Names for folders of unfinished work, which change with whatever that work depends on."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError


def key(settings: str, files: Iterable[Path], archives: Path) -> str:
    """A name that changes with whatever a result depends on.

    Args:
        settings: all that was set, as text.
        files: read whole, like `samples.csv`.
        archives: a folder whose files count by name, size and time of change.

    The sources of all loaded modules of this project count too.
    """
    digest = hashlib.sha256(settings.encode())
    for path in [*files, *_loaded_sources()]:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(state_of(archives).encode())
    return digest.hexdigest()[:12]


def state_of(archives: Path) -> str:
    """What tells a folder of archives from another unread: names, sizes, times of change."""
    try:
        found = [(path.name, path.stat()) for path in sorted(archives.iterdir())]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; run the download stage first") from None
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in found)


def _loaded_sources() -> list[Path]:
    """Files of this package's modules in memory, the running command's among them."""
    package = Path(__file__).parent
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(path for path in map(Path, filter(None, names)) if path.is_relative_to(package))
