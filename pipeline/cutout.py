"""Command: cut the object out of any photograph, with a recipe's trained networks.

    pipeline cutout <recipe> PHOTO [PHOTO ...] --out FOLDER

Each photo becomes `FOLDER/<its name>.png`, of its own size and pixels, transparent outside the
object. It is no stage, and needs nothing but the networks in `runs/<recipe>/` (all folds there
are, averaged) and the threshold in `eval/<recipe>/metrics.json`, or another with `--threshold`.

Photographs are read as people have them: of any format and size, turned as the camera says.
"""

import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.images import BadImageError
from pipeline.evaluation.decision import Decision
from pipeline.levels import scale
from pipeline.masks.clean_up import CleanUp
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import files, hardware
from pipeline.support.arrays import Mask, UInt8
from pipeline.support.errors import UserError

_COMPRESSION = 3  # zlib's level
_EMPTY = "nothing was found: a network finds what it was trained on"


# --- photographs


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture as a viewer shows it.

    `pixels` is uint8 (H, W, 3), RGB, upright. `profile` is the ICC profile that says which red,
    green and blue are meant (phones use others than screens), None where the file has none.
    """

    pixels: UInt8
    profile: bytes | None


def read_photo(path: Path) -> Photo:
    """Read a picture of any format that Pillow knows, the first of several in one file.

    Its EXIF rotation is applied. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB, the
    alpha of others is dropped. A JPEG's colors are upsampled smoothly, as viewers do;
    `pipeline.data.images.decode_image` does not, which moves a value by 0.08 of 255 on average, and
    on Carvana's photographs decides 1 to 2 pixels of 10,000 otherwise (a network of 256x256).

    Raises:
        BadImageError: it cannot be read, is cut short, or holds no 8 or 16 bits a channel.
    """
    try:
        # Pillow warns of more than 89 megapixels, which phones have, and refuses twice as many.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            ImageOps.exif_transpose(picture, in_place=True)
            return Photo(_rgb(picture), _profile(picture))
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise BadImageError(
            f"{path}: no readable picture ({_reason(error)}); save it as JPEG or PNG"
        ) from error


def write_cutout(path: Path, photo: Photo, mask: Mask) -> None:
    """Write a PNG of the photo's pixels that is opaque inside the (H, W) mask, else transparent.

    What else the photo's file tells (place, time, camera) is left out.
    """
    assert mask.shape == photo.pixels.shape[:2], f"mask {mask.shape} of {photo.pixels.shape}"
    alpha = mask.astype(np.uint8) * np.uint8(255)
    picture = Image.fromarray(np.dstack([photo.pixels, alpha]))
    with files.written_whole(path) as temporary:
        picture.save(temporary, "PNG", icc_profile=photo.profile, compress_level=_COMPRESSION)


def _rgb(picture: Image.Image) -> UInt8:
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _eight_bits(np.asarray(picture))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "P":  # the way round RGBA drops transparency without a warning
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


def _eight_bits(values: npt.NDArray[np.generic]) -> UInt8:
    """The high bytes of 16-bit grey, which Pillow may hold in wider integers."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0 or high > 0xFFFF:
        raise ValueError(f"found {values.dtype} from {low} to {high}, expected 8 or 16 bits")
    return (values.astype(np.uint16) >> 8).astype(np.uint8)


def _profile(picture: Image.Image) -> bytes | None:
    """The ICC profile, if it is one of RGB: those of CMYK and grey mean nothing for RGB pixels."""
    profile: bytes = picture.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "a format that Pillow does not know"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- masks


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Networks and how to decide with them, as the test images' masks are decided.

    Of several classes the most probable one wins, and the first of them is background; there
    is no `decision` then.
    """

    predictor: Predictor
    decision: Decision | None

    @classmethod
    def of(cls, recipe: Recipe, paths: Paths, threshold: float | None) -> "Cutter":
        """All folds that are trained, with the tuned threshold or another.

        Raises:
            UserError: there is no network, or no threshold.
        """
        models = model.load_alike(paths.model(fold) for fold in _folds(paths.runs))
        classes = next(iter(models.values())).description.classes
        decision = _decide(threshold, paths.metrics, classes)
        runtime = recipe.runtime
        # One photo after another keeps one device busy, whatever runtime.devices says.
        fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
        if runtime.deterministic:
            hardware.make_deterministic()
        # Few photos: compiling would take longer than all of them.
        predictor = Predictor.of(models, recipe.validate_.tta, fabric, 1, 0, compiled=False)
        return cls(predictor, decision)

    def cut(self, image: UInt8, name: str) -> Mask:
        """What the networks take for foreground in an image (H, W, 3), uint8 RGB: bool (H, W).

        Raises:
            UserError: a network's output for it is NaN or infinite; `name` says which image.
        """
        levels, size = self.predictor.of_image(image, name), (image.shape[0], image.shape[1])
        if self.decision is None:
            return scale.decide(levels, size) > 0
        return self.decision.mask(levels, size)


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


def _decide(asked: float | None, metrics: Path, classes: int) -> Decision | None:
    """What was tuned, with the threshold `asked` for in its place; None for several classes."""
    if classes > 1:
        if asked is not None:
            raise UserError(
                f"--threshold: found {asked} for networks of {classes} classes, whose most "
                f"probable one wins; leave it out"
            )
        return None
    if asked is None:
        try:
            return Decision.read(metrics)
        except UserError as error:
            raise UserError(f"{error}, or give --threshold") from None
    if not 1 / 256 <= asked < 1:
        raise UserError(f"--threshold: found {asked}, expected at least 1/256 and less than 1")
    clean_up = Decision.read(metrics).clean_up if metrics.exists() else CleanUp()
    return Decision(scale.nearest(asked), clean_up)


# --- the command


def run(
    recipe: Recipe, paths: Paths, photos: Sequence[Path], out: Path, threshold: float | None
) -> None:
    """Cut out the photos: a file and a line each; those that cannot be read are named."""
    targets = _targets(photos, out)
    cutter = Cutter.of(recipe, paths, threshold)
    _make_folder(out)
    bad = 0
    with hardware.explain_failures():
        for path, target in targets.items():
            try:
                photo = read_photo(path)
            except BadImageError as error:
                print(error, file=sys.stderr, flush=True)
                bad += 1
                continue
            mask = cutter.cut(photo.pixels, str(path))
            write_cutout(target, photo, mask)
            kept = f"{mask.mean():.1%} kept" + ("" if mask.any() else f"; {_EMPTY}")
            height, width = mask.shape
            print(f"{path}: {height}x{width} (height x width), {kept}", flush=True)
    if bad:
        raise UserError(
            f"{bad} of {len(targets)} photos could not be read (see above); the cutouts of "
            f"the others are in {out}"
        )


def _targets(photos: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file to write for each photo; none is written twice, and none is one of the photos."""
    given = {path.resolve() for path in photos}
    found: dict[Path, Path] = {}
    for path in photos:
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


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made ({error.strerror}); give another") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: this folder may not be written to; give another with --out")
