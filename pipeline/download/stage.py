"""Stage `download`: bring a recipe's archives to `data/<recipe>/raw/`, each proven whole.

Archives come from the built-in sample, from the folder `$PIPELINE_DATA` where it is set
(competitions/<slug>/<file>, datasets/<owner>/<slug>/<slug>.zip), or else from Kaggle, unless
another recipe has them already: what lies in `data/*/raw/` and still is what its receipt says is
taken from there, and what Kaggle told another recipe it does not offer is not asked for again.
Where that leaves nothing to fetch, Kaggle is not asked, and no account is needed. Archives on
this machine are linked, else copied, and never unpacked. What is here already and still is what
its receipt says is kept; receipts and unfinished files lie beside it, in
`.download-raw/`.

With `$PIPELINE_DATA` set, archives come from there alone: a file that is not there is an error.
A run that quietly filled the gap, from Kaggle or from another recipe's folder, would mix two
sources, and would reach for the network on a machine set up to do without.
"""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.download import data_folder, other_recipes
from pipeline.kaggle import receipts, transfer
from pipeline.kaggle.account import Account, connect
from pipeline.kaggle.remote import Offer
from pipeline.kaggle.retry import RetryPolicy
from pipeline.paths import Paths
from pipeline.recipe.schema import Competition, Dataset, Recipe, Synthetic
from pipeline.support import files
from pipeline.support.errors import UserError
from pipeline.support.files import only_process, write_text

SAMPLE = Path("sample")  # a program of its own, in the project's folder
_NOTE = "not-offered.json"  # in the folder of receipts


def download(
    wanted: Synthetic | Competition | Dataset,
    out: Path,
    local: Path | None,
    policy: RetryPolicy,
) -> list[Path]:
    """Make every wanted file be in `out`, right and whole, and return their paths.

    Args:
        wanted: the recipe's section.
        out: folder of the archives, made if missing.
        local: folder of archives that are already here (`$PIPELINE_DATA`), or None: other
            recipes' folders, then Kaggle.
        policy: how long to wait for Kaggle, and how often to try.

    Raises:
        UserError: a file could not be had; what did arrive is kept for the next run.
    """
    folder = receipts.folder_of(out)
    out.mkdir(parents=True, exist_ok=True)
    with only_process(folder):
        if isinstance(wanted, Synthetic):
            return _draw(wanted, out, folder)
        needed, optional = _origins(wanted)
        missing = [origin for origin in needed if not receipts.kept(folder, origin, out)]
        extra = [origin for origin in optional if not receipts.kept(folder, origin, out)]
        if local is not None:
            absent = _take(missing, extra, local, out, folder)
        else:
            missing, extra = (_share(part, out, folder) for part in (missing, extra))
            absent = _fetch(missing, extra, out, folder, policy)
        had = [origin for origin in optional if origin not in absent]
        return [_stored(origin, out, folder) for origin in [*had, *needed]]


def _origins(wanted: Competition | Dataset) -> tuple[list[str], list[str]]:
    """Where needed and optional files come from, written as paths in `$PIPELINE_DATA`."""
    if isinstance(wanted, Dataset):
        return [f"datasets/{wanted.slug}/{wanted.slug.split('/')[1]}.zip"], []
    folder = f"competitions/{wanted.slug}"
    needed = [f"{folder}/{name}" for name in dict.fromkeys(wanted.files)]
    optional = [f"{folder}/{name}" for name in dict.fromkeys(wanted.optional_files)]
    return needed, [origin for origin in optional if origin not in needed]


def _stored(origin: str, out: Path, folder: Path) -> Path:
    receipt = receipts.find(folder, origin)
    assert receipt is not None, f"{origin} was put in place without a receipt in {folder}"
    return out / receipt.stored


def _refuse_changed(absent: list[str], out: Path, folder: Path) -> None:
    """Refuse an optional file that has changed since its download and is no longer offered."""
    for origin in absent:
        receipt = receipts.find(folder, origin)
        if receipt and (out / receipt.stored).exists():
            raise UserError(
                f"{out / receipt.stored}: changed since it was checked, and not offered any more; "
                "delete it to do without it"
            )


def _take(
    missing: list[str], optional: list[str], local: Path, out: Path, folder: Path
) -> list[str]:
    """Take files from `$PIPELINE_DATA`; return the optional ones that are not there."""
    absent = data_folder.absent(optional, local)
    _refuse_changed(absent, out, folder)
    present = [origin for origin in optional if origin not in absent]
    data_folder.take([*present, *missing], local, out, folder)
    return absent


def _share(wanted: list[str], out: Path, folder: Path) -> list[str]:
    """Take what other recipes have; return what they do not."""
    left = other_recipes.take(wanted, out, folder)
    for origin in set(wanted) - set(left):
        transfer.abandon(folder, Path(origin).name)
    return left


def _fetch(
    missing: list[str], optional: list[str], out: Path, folder: Path, policy: RetryPolicy
) -> list[str]:
    """Download files from Kaggle, one after the other.

    Optional files that are not offered are noted: where all others are here, the next run
    need not ask for them again.

    Returns:
        The optional ones that Kaggle does not offer.
    """
    if not missing and set(optional) <= _not_offered(out):
        if not set(optional) <= set(_noted(folder)):  # another recipe's note, which may go
            write_text(folder / _NOTE, json.dumps(optional))
        _refuse_changed(optional, out, folder)
        return optional
    place = [*missing, *optional][0].rpartition("/")[0]
    with contextlib.ExitStack() as stack:
        with _told_what_is_optional(missing, optional):
            account = stack.enter_context(connect(policy))
            offers = _offers(account, place, missing, optional)
        offered = {f"{place}/{offer.name}" for offer in offers}
        absent = [origin for origin in optional if origin not in offered]
        if absent != _noted(folder):
            write_text(folder / _NOTE, json.dumps(absent))
        _refuse_changed(absent, out, folder)
        size = sum(transfer.missing_bytes(offer, folder) for offer in offers)
        files.check_space(folder, size, "what is still missing")
        for offer in offers:
            part, name = transfer.fetch(offer, folder, policy)
            receipts.keep(folder, f"{place}/{offer.name}", part, out / name)
            transfer.forget(part)
    return absent


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
        names = ", ".join(Path(origin).name for origin in optional)
        raise UserError(
            f"{names}: optional, all other files are here, and whether Kaggle offers it is not "
            f"known: {error}; or take it out of download.optional_files in the recipe"
        ) from None


def _not_offered(out: Path) -> set[str]:
    """Origins that Kaggle was asked for and did not offer, for this recipe or another."""
    folders = map(receipts.folder_of, [out, *other_recipes.beside(out)])
    return {origin for folder in folders for origin in _noted(folder)}


def _noted(folder: Path) -> list[str]:
    """Those of one recipe, by its folder of receipts."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return [str(origin) for origin in json.loads((folder / _NOTE).read_text(encoding="utf-8"))]
    return []


def _offers(account: Account, place: str, missing: list[str], optional: list[str]) -> list[Offer]:
    """What Kaggle has at `place`: the optional files among it, then all that are missing."""
    kind, _, slug = place.partition("/")
    if kind == "datasets":
        return [account.dataset(slug)]
    needed, extra = ([Path(origin).name for origin in part] for part in (missing, optional))
    return account.files(slug, needed, extra)


def _draw(wanted: Synthetic, out: Path, folder: Path) -> list[Path]:
    """Draw the sample unless it is here, drawn with these settings by this code."""
    settings = {**wanted.model_dump(), "code": _sample_digest()}
    done = folder / "sample.json"
    origins = _drawn(done, settings)
    if origins and all(receipts.kept(folder, origin, out) for origin in origins):
        return [_stored(origin, out, folder) for origin in origins]
    fresh = folder / "sample"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    _run_sample(wanted, fresh)
    files = sorted(fresh.iterdir())
    done.unlink(missing_ok=True)  # from now on it is neither the old sample nor the new one
    for file in files:
        receipts.keep(folder, f"sample/{file.name}", file, out / file.name)
    content = {"settings": settings, "origins": [f"sample/{file.name}" for file in files]}
    write_text(done, json.dumps(content))
    return [out / file.name for file in files]


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


def _drawn(done: Path, settings: dict[str, object]) -> list[str]:
    """The origins recorded when the sample was last drawn, if it was with these settings."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        content = json.loads(done.read_text(encoding="utf-8"))
        if content["settings"] == settings:
            return [str(origin) for origin in content["origins"]]
    return []


def run(recipe: Recipe, paths: Paths) -> None:
    """Run the stage."""
    for path in download(recipe.download, paths.raw, data_folder.named(), RetryPolicy()):
        print(f"{path}: {path.stat().st_size:,} bytes")
