"""Command: cut the object out of any photograph, with a recipe's trained networks.

    pipeline cutout <recipe> PHOTO [PHOTO ...] --out FOLDER

Each photo becomes `FOLDER/<its name>.png`, of its own size and pixels, transparent outside the
object. It is no stage, and needs nothing but the networks in `runs/<recipe>/` (all folds there
are, averaged) and the threshold in `eval/<recipe>/metrics.json`, or another with `--threshold`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

from pipeline.data import photos
from pipeline.data.images import BadImageError, resize_image
from pipeline.evaluation import threshold as thresholds
from pipeline.masks import parts
from pipeline.networks import model
from pipeline.networks.model import Segmenter
from pipeline.networks.predictor import Tta, decided, forward, full_resolution
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import hardware
from pipeline.support.arrays import Mask, UInt8
from pipeline.support.errors import UserError

_EMPTY = "nothing was found: a network finds what it was trained on"


def cutout(
    image: UInt8,
    models: Sequence[Segmenter],
    tta: Tta,
    level: int,
    largest: bool,
    fabric: Fabric,
) -> Mask:
    """Return what the models take for foreground, as the predict stage decides it.

    Args:
        image: uint8 (H, W, 3), RGB, of any size.
        models: on the device of `fabric`, all of one input size.
        level: foreground is what reaches the probability `level`/256 at full resolution. Of
            several classes it means nothing: the most probable one wins there, and the first
            of them is background.
        largest: keep the mask's largest part alone (one class).

    Returns:
        bool (H, W).
    """
    size, description = (image.shape[0], image.shape[1]), models[0].description
    small = torch.from_numpy(resize_image(image, description.size, description.resize))
    found = forward(small[None], models, tta, fabric, level / 256).probability[0].cpu().numpy()
    if description.classes > 1:
        return decided(found, size) > 0
    mask = full_resolution(found, size) >= level / 256
    return parts.largest(mask) if largest else mask


def _cut_all(targets: dict[Path, Path], cut: Callable[[UInt8], Mask]) -> list[Path]:
    """Write each photo's cutout and a line about it; return the photos that cannot be read."""
    bad = []
    for path, target in targets.items():
        try:
            photo = photos.read(path)
        except BadImageError as error:
            print(error, file=sys.stderr, flush=True)
            bad.append(path)
            continue
        mask = cut(photo.pixels)
        photos.write_cutout(target, photo, mask)
        height, width = mask.shape
        print(f"{path}: {height}x{width} (height x width), {_kept(mask)}", flush=True)
    return bad


def _kept(mask: Mask) -> str:
    return f"{mask.mean():.1%} kept" + ("" if mask.any() else f"; {_EMPTY}")


def _targets(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file to write for each photo; none is written twice, and none is one of the photos."""
    given = {path.resolve() for path in paths}
    found: dict[Path, Path] = {}
    for path in paths:
        target = out / f"{path.stem}.png"
        for other, same in found.items():
            if same == target:
                raise UserError(
                    f"{path}: found the name of {other} again, expected names that differ before "
                    f"the ending: both would become {target}; give them to two commands with two "
                    f"folders, or rename one"
                )
        if target.resolve() in given:
            raise UserError(f"{target}: is one of the photos; give another folder with --out")
        found[path] = target
    return found


def _folds(runs: Path) -> list[int]:
    """The folds that have a trained network, in order."""
    names = [path.parent.name.removeprefix("fold") for path in runs.glob("fold*/model.pt")]
    folds = sorted(int(name) for name in names if name.isdecimal())
    if not folds:
        raise UserError(
            f"{runs}: found no fold<k>/model.pt, expected one trained network or more; run "
            f"dvc repro tune@{runs.name}, or copy the folder from the machine that trained"
        )
    return folds


def _level(asked: float | None, metrics: Path, classes: int) -> int:
    """The level to cut at: that of `asked`, else of the tuned threshold; for one class alone."""
    if classes > 1:
        if asked is not None:
            raise UserError(
                f"--threshold: found {asked} for networks of {classes} classes, whose most "
                f"probable one wins; leave it out"
            )
        return thresholds.nearest_level(0.5)
    if asked is None:
        try:
            return thresholds.nearest_level(thresholds.read(metrics))
        except UserError as error:
            raise UserError(f"{error}, or give --threshold") from None
    if not 1 / 256 <= asked < 1:
        raise UserError(f"--threshold: found {asked}, expected at least 1/256 and less than 1")
    return thresholds.nearest_level(asked)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made ({error.strerror}); give another") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: this folder may not be written to; give another with --out")


def run(
    recipe: Recipe, paths: Paths, given: Sequence[Path], out: Path, threshold: float | None
) -> None:
    """Cut out the photos given."""
    targets = _targets(given, out)
    models = model.load_folds(paths.runs, _folds(paths.runs))
    level = _level(threshold, paths.metrics, models[0].description.classes)
    _make_folder(out)
    runtime = recipe.runtime
    # One photo after another keeps one device busy, whatever runtime.devices says.
    fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
    if runtime.deterministic:
        hardware.make_deterministic()
    models = [network.to(fabric.device) for network in models]
    tta, largest = recipe.validate_.tta, recipe.predict.keep == "largest"
    with hardware.memory_explained():
        bad = _cut_all(targets, lambda image: cutout(image, models, tta, level, largest, fabric))
    if bad:
        raise UserError(
            f"{len(bad)} of {len(targets)} photos could not be read (see above); the cutouts of "
            f"the others are in {out}"
        )
