"""Stage `download`: bring a recipe's archives to `data/<recipe>/raw/`, each proven whole.

    python -m pipeline.download recipes/<name>.yaml --out data/<name>/raw

Archives come from the built-in sample, from the folder `$PIPELINE_DATA` where it is set
(competitions/<slug>/<file>, datasets/<owner>/<slug>/<slug>.zip), or else from Kaggle, unless
another recipe has them already: what lies in `data/*/raw/` and still is what its receipt says is
taken from there, and what Kaggle told another recipe it does not offer is not asked for again.
Where that leaves nothing to fetch, Kaggle is not asked, and no account is needed. Archives on
this machine are linked, else copied, and never unpacked. What is here already and still is what
its receipt says is kept; receipts and unfinished files lie beside `--out`, in
`.download-<its name>/`.

With `$PIPELINE_DATA` set, archives come from there alone: a file that is not there is an error.
A run that quietly filled the gap, from Kaggle or from another recipe's folder, would mix two
sources, and would reach for the network on a machine set up to do without.
"""

import argparse
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline import data_folder, disk, other_recipes, params
from pipeline.errors import UserError, command
from pipeline.files import only_process, write_text
from pipeline.settings.data import Competition, Dataset, Synthetic
from pipeline.web import kaggle_site, receipts, transfer
from pipeline.web.patience import Patience
from pipeline.web.remote import Offer

_NOTE = "not-offered.json"  # in the folder of receipts


def download(
    wanted: Synthetic | Competition | Dataset,
    out: Path,
    local: Path | None,
    patience: Patience,
) -> list[Path]:
    """Make every wanted file be in `out`, right and whole, and return their paths.

    Args:
        wanted: the recipe's section.
        out: folder of the archives, made if missing.
        local: folder of archives that are already here (`$PIPELINE_DATA`), or None: other
            recipes' folders, then Kaggle.
        patience: how long to wait for Kaggle, and how often to try.

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
            absent = _fetch(missing, extra, out, folder, patience)
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
    missing: list[str], optional: list[str], out: Path, folder: Path, patience: Patience
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
            account = stack.enter_context(kaggle_site.connect(patience))
            offers = _offers(account, place, missing, optional)
        offered = {f"{place}/{offer.name}" for offer in offers}
        absent = [origin for origin in optional if origin not in offered]
        if absent != _noted(folder):
            write_text(folder / _NOTE, json.dumps(absent))
        _refuse_changed(absent, out, folder)
        size = sum(transfer.missing_bytes(offer, folder) for offer in offers)
        disk.check_space(folder, size, "what is still missing")
        for offer in offers:
            part, name = transfer.fetch(offer, folder, patience)
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


def _offers(
    account: kaggle_site.Account, place: str, missing: list[str], optional: list[str]
) -> list[Offer]:
    """What Kaggle has at `place`: the optional files among it, then all that are missing."""
    kind, _, slug = place.partition("/")
    if kind == "datasets":
        return [account.dataset(slug)]
    needed, extra = ([Path(origin).name for origin in part] for part in (missing, optional))
    return account.files(slug, needed, extra)


def _draw(wanted: Synthetic, out: Path, folder: Path) -> list[Path]:
    """Draw the sample unless it is here, drawn with these settings by this code."""
    from pipeline.sources import sample_cars  # cv2: a download of archives starts without

    settings = {**wanted.model_dump(), "code": receipts.code_digest(sample_cars)}
    done = folder / "sample.json"
    origins = _drawn(done, settings)
    if origins and all(receipts.kept(folder, origin, out) for origin in origins):
        return [_stored(origin, out, folder) for origin in origins]
    fresh = folder / "sample"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    cores = len(os.sched_getaffinity(0))  # the bytes do not depend on how many processes draw
    sample_cars.write_archives(fresh, wanted.train_cars, wanted.test_cars, wanted.seed, cores)
    files = sorted(fresh.iterdir())
    done.unlink(missing_ok=True)  # from now on it is neither the old sample nor the new one
    for file in files:
        receipts.keep(folder, f"sample/{file.name}", file, out / file.name)
    content = {"settings": settings, "origins": [f"sample/{file.name}" for file in files]}
    write_text(done, json.dumps(content))
    return [out / file.name for file in files]


def _drawn(done: Path, settings: dict[str, object]) -> list[str]:
    """The origins recorded when the sample was last drawn, if it was with these settings."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        content = json.loads(done.read_text(encoding="utf-8"))
        if content["settings"] == settings:
            return [str(origin) for origin in content["origins"]]
    return []


@command
def main() -> None:
    """Run the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="recipes/<name>.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the archives")
    arguments = parser.parse_args()
    recipe = params.load(arguments.recipe)
    for path in download(recipe.download, arguments.out, data_folder.named(), Patience()):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
