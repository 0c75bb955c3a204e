"""True masks from wherever they lie: a folder or zip of mask files, or a run-length table.

They are found by name: `<name>_mask.gif`, `<name>_mask.png` or `<name>.png` (or another of
`ENDINGS`) is the mask of image `<name>`, whatever the image's ending and the folder; where two
have one name, with the folders they are in.
"""

import os
import zipfile
from collections.abc import Callable, Container
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.data.archives import Archives, base_name, is_litter, member_name
from pipeline.data.images import BadImageError, opened
from pipeline.data.rows import read_rows
from pipeline.masks import regions, rle
from pipeline.masks.regions import Runs
from pipeline.support import files
from pipeline.support.arrays import Size
from pipeline.support.errors import UserError

ENDINGS = frozenset({".gif", ".png", ".bmp", ".tif", ".tiff"})  # of files without loss

# Gives the runs and the size of a mask; threads may call it.
Mask = Callable[[], tuple[Runs, Size]]


def read(path: Path, size: Size | None) -> dict[str, Mask]:
    """Find the masks in `path`, by name of image without its ending; none is decoded yet.

    Args:
        path: a folder or a zip of mask files, or a `.csv`, `.csv.gz` or zip of one CSV with
            the columns `img,rle_mask`.
        size: the (height, width) of all masks of a table, which does not say it. Mask files
            have sizes of their own.

    Raises:
        UserError: there are no masks, two have one name, or `size` is missing or superfluous.
            A mask that does not decode raises BadImageError (or UserError) when it is called.
    """
    table = path.suffix in (".csv", ".gz") or (path.suffix == ".zip" and _holds_csv(path))
    if table != (size is not None):
        what, do = ("a table", "add") if table else ("mask files", "remove")
        raise UserError(f"{path}: {what}; {do} --size HEIGHT WIDTH")
    found = _table(path, size) if size else _files(path)
    if not found:
        raise UserError(f"{path}: found no mask, expected {', '.join(sorted(ENDINGS))} or a table")
    return found


def stem(name: str) -> str:
    """The name by which image and mask meet: no ending, no `_mask`."""
    bare = name.rpartition(".")[0] or name
    return bare.removesuffix("_mask")


def key_of(name: str, masks: Container[str]) -> str:
    """The key in `masks` that an image of this name would have, with its folders or without."""
    return whole if (whole := stem(name)) in masks else stem(base_name(name))


def _holds_csv(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not is_litter(name)]
            return any(name.endswith(".csv") for name in names)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {error}; expected a zip of masks or of one CSV") from None


def _files(path: Path) -> dict[str, Mask]:
    if path.is_dir():
        archives = Archives(path)
        names = sorted(file.name for file in path.iterdir() if file.is_file())
        if not any(map(_is_mask, names)):  # in folders within, then
            names = [file.relative_to(path).as_posix() for file in files.walk(path)]
    elif path.is_file() and path.suffix == ".zip":
        archives = Archives(path.parent)
        names = archives.members(path.name)
    else:
        what = "a file of another kind" if path.exists() else "nothing"
        raise UserError(f"{path}: found {what}, expected a folder or a .zip of masks, or a table")
    names = [name for name in names if _is_mask(name)]
    keys = [stem(base_name(name)) for name in names]
    if len(set(keys)) < len(keys):  # by their folders, too, but for what is common to all
        paths = [PurePosixPath(member_name(name)) for name in names]
        above = os.path.commonpath([one.parent for one in paths])
        keys = [stem(str(one.relative_to(above))) for one in paths]
    found: dict[str, Mask] = {}
    for key, name in zip(keys, names, strict=True):
        if key in found:
            raise UserError(f"{path}: found two masks of {key!r}, the second is {name}; remove one")
        found[key] = _file(archives, name)
    return found


def _is_mask(name: str) -> bool:
    return Path(name).suffix.lower() in ENDINGS and not is_litter(member_name(name))


def _file(archives: Archives, name: str) -> Mask:
    def decode() -> tuple[Runs, Size]:
        with opened(archives.read(name), name) as image:
            # Colors, not indices: a writer may give a mask that is all white index 0.
            mask = np.asarray(image.convert("L") if image.mode == "P" else image)
        if mask.dtype not in (np.bool_, np.uint8):
            raise BadImageError(f"{name}: found pixels of type {mask.dtype}, expected 8 bits")
        values = (
            np.unique(mask) if mask.dtype == np.bool_ else np.flatnonzero(np.bincount(mask.flat))
        )
        if mask.ndim != 2 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise BadImageError(
                f"{name}: found shape {mask.shape} with {len(values)} values, expected one "
                f"channel of 0 and one other value; is it a mask?"
            )
        return regions.of_mask(mask.astype(np.bool_)), (mask.shape[0], mask.shape[1])

    return decode


def _table(path: Path, size: Size) -> dict[str, Mask]:
    found: dict[str, Mask] = {}
    for number, (name, text) in enumerate(read_rows(path), start=1):
        key = stem(name)
        if key in found:
            raise UserError(f"{path}: row {number}: {name!r} for the second time; remove one row")
        found[key] = _row(f"{path}: row {number}, {name}", text, size)
    return found


def _row(where: str, text: str, size: Size) -> Mask:
    def parse() -> tuple[Runs, Size]:
        try:
            return rle.read(text, *size), size
        except rle.RleError as error:
            raise UserError(f"{where}: {error}; correct the row, or --size") from None

    return parse
