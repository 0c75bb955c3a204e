"""Stage `download`: make a recipe's archives be in `data/<recipe>/raw/`, each proven whole.

They are drawn (the built-in sample), taken from the folder `$PIPELINE_DATA` where it is set, or
else downloaded from Kaggle; kept once for all recipes in `data/archives/`, never unpacked, and
linked from there. Where nothing is missing, Kaggle is not asked, and no account is needed.

With `$PIPELINE_DATA` set, archives come from there alone: a file that is not there is an error.
A run that quietly filled the gap from Kaggle would mix two sources, and would reach for the
network on a machine set up to do without.
"""

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.download import folders
from pipeline.download.store import Origin
from pipeline.kaggle.account import connect
from pipeline.kaggle.retry import RetryPolicy
from pipeline.paths import Paths
from pipeline.recipe.schema import Competition, Dataset, Folders, Recipe, Synthetic
from pipeline.support import files
from pipeline.support.errors import UserError, say

Wanted = Synthetic | Competition | Dataset | Folders

SAMPLE = Path("sample")  # a program of its own, in the project's folder
_VARIABLE = "PIPELINE_DATA"
_SHOWN = 6  # names of a bundle's members that an error lists


def download(
    wanted: Wanted,
    places: tuple[Path, Path],
    local: Path | None,
    policy: RetryPolicy,
    check: Callable[[], object],
) -> list[Path]:
    """Make every wanted file be in the recipe's folder, right and whole.

    Args:
        wanted: the recipe's section.
        places: folder of all archives, and the recipe's own; made if missing.
        local: folder of archives that are on this machine (`$PIPELINE_DATA`), or None: Kaggle.
        policy: how long to wait for Kaggle, and how often to try.
        check: called before anything is brought, and only then, to refuse what could not use it.

    Returns:
        The paths in the recipe's folder: optional files, then the needed ones.

    Raises:
        UserError: a file could not be had; what did arrive is kept for the next run.
    """
    (archives, raw), place = places, _place(wanted)
    with files.explained(archives / place), Origin.opened(archives / place, raw) as origin:
        if isinstance(wanted, Synthetic):
            had = _draw(wanted, origin, check)
        elif isinstance(wanted, Folders):
            had = folders.bring(wanted, origin, check)
        elif local is not None:
            had = _take(wanted, origin, local / place, check)
        else:
            had = _fetch(wanted, origin, policy, check)
        for name in set(getattr(wanted, "optional_files", ())) - set(had):
            origin.refuse_remains(name)
        return [origin.link(name) for name in had]


def _place(wanted: Wanted) -> str:
    """The origin's folder, in `data/archives` as in `$PIPELINE_DATA`."""
    if isinstance(wanted, Synthetic):
        return f"sample/{wanted.train_cars}-{wanted.test_cars}-{wanted.seed}"
    if isinstance(wanted, Folders):
        return folders.place(wanted)
    return f"{'datasets' if isinstance(wanted, Dataset) else 'competitions'}/{wanted.slug}"


def _names(wanted: Competition | Dataset) -> tuple[list[str], list[str]]:
    """The files that are needed, and those that would be welcome."""
    optional = list(wanted.optional_files) if isinstance(wanted, Competition) else []
    return [origin.rpartition("/")[2] for origin in wanted.origins], optional


# --- from Kaggle


def _fetch(
    wanted: Competition | Dataset,
    origin: Origin,
    policy: RetryPolicy,
    check: Callable[[], object],
) -> list[str]:
    """Download what is missing; return the names of all files that are here then.

    The optional ones that Kaggle does not offer are noted: where all others are here, they are
    not asked for again.
    """
    needed, optional = _names(wanted)
    missing, extra = origin.missing(needed), origin.missing(optional)
    if missing or not origin.not_offered.issuperset(extra):
        check()
        with contextlib.ExitStack() as stack:
            with _told_what_is_optional(missing, extra):
                account = stack.enter_context(connect(policy))
                if isinstance(wanted, Dataset):
                    offers = [account.dataset(wanted.slug)]
                else:
                    offers = account.files(wanted.slug, missing, extra)
            origin.note_offers(extra, offers)
            origin.fetch(offers, policy)
    absent = origin.not_offered.intersection(extra)
    return [name for name in [*optional, *needed] if name not in absent]


@contextlib.contextmanager
def _told_what_is_optional(missing: list[str], optional: list[str]) -> Iterator[None]:
    """Add to an error, where nothing else is missing, that one could do without.

    It stays an error: whether a run has the file must not depend on whether Kaggle was within
    reach that day, and DVC would never ask again.
    """
    try:
        yield
    except UserError as error:
        if missing:
            raise
        raise UserError(
            f"{', '.join(optional)}: optional, all other files are here, and whether Kaggle offers "
            f"it is not known: {error}; or take it out of download.optional_files in the recipe"
        ) from None


# --- from a folder on this machine


def data_folder() -> Path | None:
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


def _take(
    wanted: Competition | Dataset, origin: Origin, place: Path, check: Callable[[], object]
) -> list[str]:
    """Take what is missing from the folder `place`; return the names of all files here then."""
    needed, optional = _names(wanted)
    source = str(place.absolute())
    missing = set(origin.missing([*optional, *needed], source))
    found = {}
    for name in [*optional, *needed]:
        # Kaggle may have zipped a file on its way there.
        file = next(filter(Path.is_file, (place / name, place / f"{name}.zip")), None)
        if file and name not in missing and not origin.is_of(name, file):
            say(f"{file}: another file than the one that was taken; taking this one")
            missing.add(name)
        if name in missing:
            found[name] = file
    if absent := [name for name in needed if found.get(name, place) is None]:
        raise UserError(
            f"{place / absent[0]}: no such file; {_VARIABLE} is set, so archives are taken from "
            f"there: {_advice(place, absent[0])}"
        )
    if any(found.values()):
        check()
    for name, file in found.items():
        if file:
            origin.take(name, file, source)
    return [name for name in [*optional, *needed] if found.get(name, place)]


def _advice(place: Path, name: str) -> str:
    """What to do about a missing file, which a bundle ("Download All" on the site) may hold."""
    usual = f"put the file there, or unset {_VARIABLE} to download from Kaggle"
    beside = (folder / f"{place.name}.zip" for folder in (place, *place.parents[:2]))
    bundle = next((path for path in beside if path.is_file()), None)
    if bundle is None or place.parent.name != "competitions":
        return usual  # a data set is one archive, the one that is missing
    try:
        with zipfile.ZipFile(bundle) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile as error:
        return f"{bundle} may hold it, but is no whole zip ({error}): fetch that again, or {usual}"
    if {name, f"{name}.zip"} & set(members):
        paths = shlex.join([str(bundle), str(place)])
        return f"{bundle} holds it: unpack that to {place} (python -m zipfile -e {paths})"
    listed = ", ".join(members[:_SHOWN]) + (", ..." if len(members) > _SHOWN else "")
    return f"{bundle} does not hold it (it has {listed or 'no files'}): {usual}"


# --- drawn


def _draw(wanted: Synthetic, origin: Origin, check: Callable[[], object]) -> list[str]:
    """Draw the sample unless it is here, drawn by this code; return its files' names."""
    source = f"drawn by {SAMPLE}/ ({_sample_digest()})"
    if not origin.names() or origin.missing(origin.names(), source):
        check()
        fresh = origin.folder / "drawing"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        _run_sample(wanted, fresh)
        origin.forget()
        origin.keep(source, [(file.name, file, file.name) for file in sorted(fresh.iterdir())])
        fresh.rmdir()
    return origin.names()


def _run_sample(wanted: Synthetic, out: Path) -> None:
    """Let the program `sample` draw; it is no part of this package."""
    command = [sys.executable, "-m", SAMPLE.name, str(out)]
    for name in ("train_cars", "test_cars", "seed"):
        command += [f"--{name.replace('_', '-')}", str(getattr(wanted, name))]
    if subprocess.run(command).returncode:
        raise UserError(
            "download.kind: synthetic: the program that draws the sample failed, see above; put "
            "that right and run the command again"
        )


def _sample_digest() -> str:
    """Changes with the code that draws the sample."""
    if not (SAMPLE / "__main__.py").is_file():
        raise UserError(
            f"download.kind: found synthetic, but there is no program {SAMPLE}/ here to draw the "
            f"sample; run the command in the project's folder"
        )
    digest = hashlib.sha256()
    for path in sorted(SAMPLE.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run(recipe: Recipe, paths: Paths, check: Callable[[], object]) -> None:
    """Run the stage; `check` as in `download`."""
    places = (paths.archives, paths.raw)
    download(recipe.download, places, data_folder(), RetryPolicy(), check)
