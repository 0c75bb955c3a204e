"""The folder `$PIPELINE_DATA`, whose archives are on the machine already.

An archive's origin is its path in there: competitions/<slug>/<file> or
datasets/<owner>/<slug>/<slug>.zip.
"""

import os
import shlex
import zipfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.kaggle import receipts
from pipeline.support import files
from pipeline.support.errors import UserError

_VARIABLE = "PIPELINE_DATA"
_SHOWN = 6  # names of a bundle's members that an error lists


def named() -> Path | None:
    """The folder that `$PIPELINE_DATA` names, or None when it is unset or empty.

    Raises:
        UserError: it names no folder.
    """
    name = os.environ.get(_VARIABLE)
    if not name:
        return None
    if not Path(name).is_dir():
        raise UserError(f"{_VARIABLE}: found {name!r}, which is no folder; correct it or unset it")
    return Path(name)


def absent(origins: Iterable[str], local: Path) -> list[str]:
    """Those of `origins` that are not in the folder."""
    return [origin for origin in origins if not _search(local, origin)]


def take(origins: Iterable[str], local: Path, out: Path, folder: Path) -> None:
    """Link or copy files to `out`, with the checks of a download.

    Args:
        origins: what to take.
        local: the folder `$PIPELINE_DATA`.
        out: folder of the archives.
        folder: of their receipts, on the same file system.

    Raises:
        UserError: a file is not there, or is a zip that is not whole.
    """
    for origin in origins:
        source = _found(local, origin)
        part = folder / source.name
        part.unlink(missing_ok=True)
        how = files.link_or_copy(source, part)
        if source.suffix == ".zip" and (problem := receipts.zip_flaw(part)):
            part.unlink()
            raise UserError(f"{source}: {problem}; replace it by a whole copy")
        receipts.keep(folder, origin, part, out / source.name)
        print(f"{out / source.name}: {how} from {source}")


def _search(local: Path, origin: str) -> Path | None:
    """The file of an origin, which may have been zipped by Kaggle on its way."""
    paths = (local / origin, local / f"{origin}.zip")
    return next((path for path in paths if path.is_file()), None)


def _found(local: Path, origin: str) -> Path:
    """As `_search`, for a file that must be there."""
    if path := _search(local, origin):
        return path
    raise UserError(
        f"{local / origin}: no such file; {_VARIABLE} is set, so archives are taken from there: "
        f"{_advice(local, origin)}"
    )


def _advice(local: Path, origin: str) -> str:
    """What to do about a missing file, which a bundle ("Download All" on the site) may hold."""
    usual = f"put the file there, or unset {_VARIABLE} to download from Kaggle"
    bundle = _bundle(local, origin)
    if bundle is None:
        return usual
    try:
        with zipfile.ZipFile(bundle) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile as error:
        return f"{bundle} may hold it, but is no whole zip ({error}): fetch that again, or {usual}"
    place, name = (local / origin).parent, Path(origin).name
    if {name, f"{name}.zip"} & set(members):
        paths = shlex.join([str(bundle), str(place)])
        return f"{bundle} holds it: unpack that to {place} (python -m zipfile -e {paths})"
    listed = ", ".join(members[:_SHOWN]) + (", ..." if len(members) > _SHOWN else "")
    return f"{bundle} does not hold it (it has {listed or 'no files'}): {usual}"


def _bundle(local: Path, origin: str) -> Path | None:
    """Kaggle's bundle of all files of a competition, at any place where one would put it."""
    kind, slug, _ = origin.split("/", 2)
    if kind != "competitions":
        return None  # a data set is one archive, the one that is missing
    name = f"{slug}.zip"
    places = (local, local / kind, local / kind / slug)
    return next((place / name for place in places if (place / name).is_file()), None)
