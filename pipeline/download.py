"""Stage `download`: bring a recipe's archives to `data/<recipe>/raw/`, each proven whole.

    python -m pipeline.download recipes/<name>.yaml --out data/<name>/raw

Archives come from the built-in sample, from the folder `$PIPELINE_DATA` where it is set
(competitions/<slug>/<file>, datasets/<owner>/<slug>/<slug>.zip: linked, else copied), or from
Kaggle. They are never unpacked. What is here already and still is what its receipt says is
kept; receipts and unfinished files lie beside `--out`, in `.download-<its name>/`.

With `$PIPELINE_DATA` set, Kaggle is not asked: a file that is not there is an error. A run
that quietly filled the gap would mix two sources, and would reach for the network on a
machine set up to do without.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from pipeline import disk, kaggle_site, params, receipts, transfer
from pipeline.errors import UserError, command
from pipeline.files import only_process, write_text
from pipeline.patience import Patience
from pipeline.remote import Offer

_DATA = "PIPELINE_DATA"


def download(
    wanted: params.Synthetic | params.Competition | params.Dataset,
    out: Path,
    local: Path | None,
    workers: int,
    patience: Patience,
) -> list[Path]:
    """Make every wanted file be in `out`, right and whole, and return their paths.

    Args:
        wanted: the recipe's section.
        out: folder of the archives, made if missing.
        local: folder of archives that are already here (`$PIPELINE_DATA`), or None: Kaggle.
        workers: processes that draw the sample.
        patience: how long to wait for Kaggle, and how often to try.

    Raises:
        UserError: a file could not be had; what did arrive is kept for the next run.
    """
    folder = out.with_name(f".download-{out.name}")
    out.mkdir(parents=True, exist_ok=True)
    with only_process(folder):
        if isinstance(wanted, params.Synthetic):
            return _draw(wanted, out, folder, workers)
        origins, optional = _origins(wanted)
        missing = [origin for origin in origins if not _kept(origin, out, folder)]
        if missing:
            # Optional files come first: where all others are here, they have had their turn.
            extra = [origin for origin in optional if not _kept(origin, out, folder)]
            if local is not None:
                there = [origin for origin in extra if _search(local, origin)]
                _take([*there, *missing], local, out, folder)
            else:
                _fetch(missing, extra, out, folder, patience)
        had = [origin for origin in optional if receipts.find(folder, origin)]
        return [_stored(origin, out, folder) for origin in [*had, *origins]]


def _origins(wanted: params.Competition | params.Dataset) -> tuple[list[str], list[str]]:
    """Where needed and optional files come from, written as paths in `$PIPELINE_DATA`."""
    if isinstance(wanted, params.Dataset):
        return [f"datasets/{wanted.slug}/{wanted.slug.split('/')[1]}.zip"], []
    folder = f"competitions/{wanted.slug}"
    needed = [f"{folder}/{name}" for name in dict.fromkeys(wanted.files)]
    optional = [f"{folder}/{name}" for name in dict.fromkeys(wanted.optional_files)]
    return needed, optional


def _kept(origin: str, out: Path, folder: Path) -> bool:
    """Whether the file is in `out` and is what it was; says so when it no longer is."""
    receipt = receipts.find(folder, origin)
    if receipt is None:
        return False
    file = out / receipt.stored
    if receipts.holds(folder, receipt, file):
        return True
    if file.exists():
        print(f"{file}: changed since it was checked; fetching it again", file=sys.stderr)
    return False


def _stored(origin: str, out: Path, folder: Path) -> Path:
    receipt = receipts.find(folder, origin)
    assert receipt is not None, f"{origin} was put in place without a receipt in {folder}"
    return out / receipt.stored


def _keep(file: Path, target: Path, origin: str, folder: Path) -> None:
    """Write a checked file's receipt and put it in place.

    In this order: a file without receipt would be fetched again, a receipt without its file
    finds it complete in `folder`.
    """
    receipts.issue(folder, origin, file, target.name)
    receipts.place(file, target)


def _take(missing: Iterable[str], local: Path, out: Path, folder: Path) -> None:
    """Link or copy files of `$PIPELINE_DATA`, with the checks of a download."""
    for origin in missing:
        source = _found(local, origin)
        part = folder / source.name
        part.unlink(missing_ok=True)
        how = _link_or_copy(source, part)
        if source.suffix == ".zip" and (problem := receipts.zip_flaw(part)):
            part.unlink()
            raise UserError(f"{source}: {problem}; replace it by a whole copy")
        _keep(part, out / source.name, origin, folder)
        print(f"{out / source.name}: {how} from {source}")


def _search(local: Path, origin: str) -> Path | None:
    """The file of `$PIPELINE_DATA`, which may have been zipped by Kaggle on its way."""
    paths = (local / origin, local / f"{origin}.zip")
    return next((path for path in paths if path.is_file()), None)


def _found(local: Path, origin: str) -> Path:
    """As `_search`, for a file that must be there."""
    if path := _search(local, origin):
        return path
    raise UserError(
        f"{local / origin}: no such file; {_DATA} is set, so archives are taken from there: "
        f"put the file there, or unset {_DATA} to download from Kaggle"
    )


def _link_or_copy(source: Path, target: Path) -> str:
    with contextlib.suppress(OSError):  # another file system, or one without links
        os.link(source.resolve(), target)
        return "linked"
    disk.check_space(target.parent, source.stat().st_size, source.name)
    with disk.writing(target):
        shutil.copyfile(source, target)
    return "copied"


def _fetch(
    missing: list[str], optional: list[str], out: Path, folder: Path, patience: Patience
) -> None:
    """Download files from Kaggle, one after the other."""
    with kaggle_site.connect(patience) as account:
        offers = _offers(account, missing, optional)
        needed = sum(transfer.missing_bytes(offer, folder) for offer in offers)
        disk.check_space(folder, needed, "what is still missing")
        for offer in offers:
            part, name = transfer.fetch(offer, folder, patience)
            origin = f"{missing[0].rpartition('/')[0]}/{offer.name}"
            _keep(part, out / name, origin, folder)
            transfer.forget(part)


def _offers(account: kaggle_site.Account, missing: list[str], optional: list[str]) -> list[Offer]:
    """What Kaggle has: the optional files among it, then all that are missing."""
    kind, *slug, _ = missing[0].split("/")
    if kind == "datasets":
        return [account.dataset("/".join(slug))]
    needed, extra = ([origin.rsplit("/", 1)[1] for origin in part] for part in (missing, optional))
    return account.files("".join(slug), needed, extra)


def _draw(wanted: params.Synthetic, out: Path, folder: Path, workers: int) -> list[Path]:
    """Draw the sample unless it is here, drawn with these settings by this code."""
    from pipeline.sources import sample_cars  # cv2: a download of archives starts without

    settings = {**wanted.model_dump(), "code": _code_digest(sample_cars)}
    done = folder / "sample.json"
    origins = _drawn(done, settings)
    if origins and all(_kept(origin, out, folder) for origin in origins):
        return [_stored(origin, out, folder) for origin in origins]
    fresh = folder / "sample"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    sample_cars.write_archives(fresh, wanted.train_cars, wanted.test_cars, wanted.seed, workers)
    files = sorted(fresh.iterdir())
    for file in files:
        _keep(file, out / file.name, f"sample/{file.name}", folder)
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


def _code_digest(module: ModuleType) -> str:
    """Hash of a module's source and of every project module it uses: new code, new drawing."""
    found: dict[str, ModuleType] = {}
    waiting = [module]
    while waiting:
        module = waiting.pop()
        found[module.__name__] = module
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else _home(value)
            if name.startswith("pipeline.") and name not in found and name in sys.modules:
                waiting.append(sys.modules[name])
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(found):
        digest.update(Path(str(found[name].__file__)).read_bytes())
    return digest.hexdigest()


def _home(value: object) -> str:
    """Name of the module that defines a function or class; "" for other values."""
    return str(getattr(value, "__module__", None) or "")


def _local() -> Path | None:
    """The folder `$PIPELINE_DATA` names, or None when it is unset or empty."""
    name = os.environ.get(_DATA)
    if not name:
        return None
    if not Path(name).is_dir():
        raise UserError(f"{_DATA}: found {name!r}, which is no folder; correct it or unset it")
    return Path(name)


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
    workers = recipe.runtime.workers or os.cpu_count() or 1
    for path in download(recipe.download, arguments.out, _local(), workers, Patience()):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
