"""Command `predict-folder`: masks of any photographs, with a recipe's trained networks.

    pipeline predict-folder <recipe> --images FOLDER --out FOLDER [--write masks cutouts ...]

It is no stage, and needs nothing but the networks in `runs/<recipe>/` (all folds there are,
averaged) and the threshold in `eval/<recipe>/metrics.json`, or another with `--threshold`.

Photographs are read as people have them: of any format and size, turned as the camera says. Those
much larger than what the network sees can go through it in overlapping tiles.
"""

import contextlib
import csv
import dataclasses
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.archives import is_litter
from pipeline.data.images import BadImageError
from pipeline.evaluation.decision import Decision
from pipeline.levels import scale
from pipeline.masks import rle
from pipeline.masks.clean_up import CleanUp
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.sources.folders import ENDINGS
from pipeline.support import files, hardware, pictures
from pipeline.support.arrays import Size, UInt8
from pipeline.support.concurrency import ordered
from pipeline.support.errors import UserError

_COMPRESSION = 3  # zlib's level
_QUALITY = 90  # of an overlay's JPEG
_JPEG_SIDE = 65_500  # pixels, libjpeg's limit
_EMPTY = "nothing was found: a network finds what it was trained on"
# Of pictures that Pillow may not read: better named than passed by.
_CAMERAS = {".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".nef"}


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
            # Not by its path: Pillow maps files into memory, and then turns some TIFFs wrongly.
            Image.open(io.BytesIO(path.read_bytes())) as picture,
        ):
            ImageOps.exif_transpose(picture, in_place=True)
            return Photo(_rgb(picture), _profile(picture))
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BadImageError(
            f"{path}: found more than {most:,} pixels, which is what Pillow opens at most; cut the "
            f"picture into smaller ones"
        ) from None
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise BadImageError(
            f"{path}: no readable picture ({_reason(error)}); save it as JPEG or PNG"
        ) from error


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


# --- what the networks say


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Windows of a picture that go through the networks one by one.

    `size` is theirs in the picture's pixels (the networks' own, if it is None), `overlap` the
    share of a side (0..1) that two neighbours have in common at least.
    """

    size: Size | None
    overlap: float

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f"--overlap: found {self.overlap}, expected 0 to 0.9")
        if self.size and min(self.size) < 8:
            raise UserError(f"--tile: found {self.size}, expected sides of 8 pixels and more")


@dataclasses.dataclass(frozen=True)
class Judge:
    """Networks and how to decide with them, as the test images' masks are decided.

    Of several classes the most probable one wins, and the first of them is background; there
    is no `decision` then. Without `tiles` a picture goes through the networks as a whole.
    """

    predictor: Predictor
    decision: Decision | None
    tiles: Tiles | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, paths: Paths, threshold: float | None, tiles: Tiles | None
    ) -> "Judge":
        """All folds that are trained, with the tuned threshold or another.

        Raises:
            UserError: there is no network, or no threshold.
        """
        models = model.load_alike(map(paths.model, paths.trained()))
        classes = next(iter(models.values())).description.classes
        decision = _decide(threshold, paths.metrics, classes)
        runtime = recipe.runtime
        # One photo after another keeps one device busy, whatever runtime.devices says.
        fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
        if runtime.deterministic:
            hardware.make_deterministic()
        workers = hardware.workers(runtime.workers, fabric)
        # Few photos: compiling would take longer than all of them.
        predictor = Predictor.of(models, recipe.validate_.tta, fabric, 1, workers, compiled=False)
        return cls(predictor, decision, tiles)

    def classes(self, image: UInt8, name: str) -> UInt8:
        """The class of each pixel of an image (H, W, 3), uint8 RGB: uint8 (H, W), 0 background.

        Raises:
            UserError: a network's output for it is NaN or infinite; `name` says which image.
        """
        size = (image.shape[0], image.shape[1])
        levels = self._tiled(image, name) if self.tiles else self.predictor.of_image(image, name)
        if self.decision is None:
            return scale.decide(levels, size)
        return self.decision.mask(levels, size).view(np.uint8)

    def _tiled(self, image: UInt8, name: str) -> UInt8:
        """Levels at the image's size, uint8 (H, W) or (C, H, W).

        Where tiles overlap each counts the more the nearer its own middle is: what lies at a
        tile's edge is seen by half.
        """
        assert self.tiles is not None
        whole = (image.shape[0], image.shape[1])
        wanted = self.tiles.size or self.predictor.size
        height, width = size = (min(wanted[0], whole[0]), min(wanted[1], whole[1]))
        weight = np.outer(_tent(height), _tent(width))
        weights = np.zeros(whole, np.float32)
        total: npt.NDArray[np.float32] | float = 0.0
        for top in _starts(whole[0], height, self.tiles.overlap):
            for left in _starts(whole[1], width, self.tiles.overlap):
                place = (..., slice(top, top + height), slice(left, left + width))
                part = np.ascontiguousarray(image[place[1:]])
                levels = self.predictor.of_image(part, name)
                if isinstance(total, float):
                    total = np.zeros((*levels.shape[:-2], *whole), np.float32)
                maps = levels.reshape(-1, *levels.shape[-2:])
                full = np.stack([scale.full_resolution(one, size) for one in maps])
                total[place] += weight * (full if levels.ndim == 3 else full[0])
                weights[place[1:]] += weight
        found: UInt8 = np.rint(total / weights).astype(np.uint8)
        return found


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin that cover a side, evenly spread; the last ends where the side does."""
    step = max(1.0, tile * (1 - overlap))
    count = int(np.ceil((side - tile) / step)) + 1
    return [round(start) for start in np.linspace(0, side - tile, count)]


def _tent(side: int) -> npt.NDArray[np.float32]:
    """A tile's weights along one side: highest in the middle, above 0 at both ends."""
    places = np.arange(side, dtype=np.float32)
    return (np.minimum(places + 1, side - places) / side).astype(np.float32)


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
            if metrics.exists():  # damaged: its clean-up is wanted in any case
                raise
            raise UserError(f"{error}, or give --threshold") from None
    if not 1 / 256 <= asked < 1:
        raise UserError(f"--threshold: found {asked}, expected at least 1/256 and less than 1")
    clean_up = Decision.read(metrics).clean_up if metrics.exists() else CleanUp()
    return Decision(scale.nearest(asked), clean_up)


# --- what is written of a photo


def write_mask(path: Path, photo: Photo, classes: UInt8) -> None:
    """A PNG of the (H, W) foreground: 255, and 0 elsewhere."""
    _save(path, Image.fromarray(classes * np.uint8(255)))


def write_indices(path: Path, photo: Photo, classes: UInt8) -> None:
    """A PNG of (H, W) class indices, with a palette that shows each in a color."""
    picture = Image.fromarray(classes)
    colors = [
        (0, 0, 0),
        *(pictures.CLASS_COLORS[i % len(pictures.CLASS_COLORS)] for i in range(255)),
    ]
    picture.putpalette([part for color in colors for part in color])
    _save(path, picture)


def write_overlay(path: Path, photo: Photo, classes: UInt8) -> None:
    """A JPEG of the photo with its (H, W) classes tinted and outlined."""
    if max(classes.shape) > _JPEG_SIDE:
        raise BadImageError(
            f"found a side of {max(classes.shape)} pixels, expected at most {_JPEG_SIDE} for an "
            f"overlay; leave overlays out of --write, or cut the picture into smaller ones"
        )
    drawn = pictures.tint(photo.pixels, classes, pictures.CLASS_COLORS)
    with files.written_whole(path) as temporary:
        temporary.write_bytes(pictures.encode_jpeg(drawn, _QUALITY))


def write_cutout(path: Path, photo: Photo, classes: UInt8) -> None:
    """A PNG of the photo's pixels that is transparent where its (H, W) classes are background.

    What else the photo's file tells (place, time, camera) is left out.
    """
    assert classes.shape == photo.pixels.shape[:2], f"{classes.shape} of {photo.pixels.shape}"
    alpha = (classes > 0).astype(np.uint8) * np.uint8(255)
    _save(path, Image.fromarray(np.dstack([photo.pixels, alpha])), photo.profile)


def _save(path: Path, picture: Image.Image, profile: bytes | None = None) -> None:
    with files.written_whole(path) as temporary:
        picture.save(temporary, "PNG", icc_profile=profile, compress_level=_COMPRESSION)


ENDING_OF = {"masks": ".png", "overlays": ".jpg", "cutouts": ".png"}  # of what is asked for
TABLE = "rle"  # is asked for, too: all run lengths in one file


# --- the command


@dataclasses.dataclass(frozen=True)
class Output:
    """Where results go: `folder/<kind>/<name of the photo>` and `folder/rle.csv`."""

    folder: Path
    kinds: Sequence[str]
    overwrite: bool

    @property
    def table(self) -> Path:
        """Run lengths of all photos."""
        return self.folder / f"{TABLE}.csv"

    def target(self, kind: str, name: str) -> Path:
        """The file of one kind of a photo."""
        return self.folder / kind / PurePosixPath(name).with_suffix(ENDING_OF[kind])

    def check(self, photos: Sequence[tuple[str, Path]]) -> None:
        """Refuse to write a file twice, over a photo, or over anything unless that is wanted.

        Raises:
            UserError: one of these, or nothing may be written there.
        """
        stems: dict[str, Path] = {}
        for name, path in photos:
            if TABLE in self.kinds and (odd := set(name) & {",", '"', "\n", "\r"}):
                raise UserError(
                    f"{path}: found {min(odd)!r} in its name, which no table of run lengths can "
                    f"hold; rename it, or leave rle out of --write"
                )
            stem = str(PurePosixPath(name).with_suffix(""))
            if stem in stems:
                raise UserError(
                    f"{path}: found the name of {stems[stem]} again, expected names that differ "
                    f"before the ending; give them to two commands with two folders, or rename one"
                )
            stems[stem] = path
        kinds = [kind for kind in self.kinds if kind != TABLE]
        targets = [self.target(kind, name) for kind in kinds for name, _ in photos]
        targets += [self.table] if TABLE in self.kinds else []
        given = {path.resolve() for _, path in photos}
        if same := [path for path in targets if path.resolve() in given]:
            raise UserError(f"{same[0]}: is one of the photos; give another folder with --out")
        there = [path for path in targets if path.exists()]
        if there and not self.overwrite:
            raise UserError(
                f"{there[0]}: found it and {len(there) - 1} more of {len(targets)} results there; "
                f"give another folder with --out, or --overwrite"
            )
        files.check_writable(self.folder)


def run(
    recipe: Recipe,
    paths: Paths,
    images: Sequence[Path],
    output: Output,
    threshold: float | None,
    tiles: Tiles | None,
) -> None:
    """Make what is asked for of each photo, a line each; those that cannot be read are named."""
    photos = _photos(images, output.folder)
    judge = Judge.of(recipe, paths, threshold, tiles)
    output.check(photos)
    several = judge.decision is None
    writer_of = {
        "masks": write_indices if several else write_mask,
        "overlays": write_overlay,
        "cutouts": write_cutout,
    }
    kinds = [kind for kind in output.kinds if kind != TABLE]
    bad = 0

    def rows() -> Iterator[Sequence[object]]:
        nonlocal bad
        yield ("img", "class", "rle_mask") if several else ("img", "rle_mask")
        read = ordered(lambda photo: _try(photo[1]), photos, judge.predictor.workers)
        for (name, path), photo in zip(photos, read, strict=True):
            if isinstance(photo, BadImageError):
                print(photo, file=sys.stderr, flush=True)
                bad += 1
                continue
            classes = judge.classes(photo.pixels, str(path))
            for kind in kinds:
                try:
                    writer_of[kind](output.target(kind, name), photo, classes)
                except BadImageError as error:
                    print(f"{path}: {error}", file=sys.stderr, flush=True)
                    bad += 1
            print(_told(path, classes), flush=True)
            if TABLE not in output.kinds:
                continue
            for index in np.unique(classes[classes > 0]) if several else [1]:
                text = rle.encode(classes == index)
                yield (name, index, text) if several else (name, text)

    with hardware.explain_failures(), _told_when_interrupted(output):
        if TABLE in output.kinds:
            with files.written_whole(output.table) as temporary:
                with temporary.open("w", newline="", encoding="utf-8") as stream:
                    csv.writer(stream, lineterminator="\n").writerows(rows())
        else:
            for _ in rows():
                pass
    if bad:
        raise UserError(
            f"{bad} of {len(photos)} photos could not be done (see above); the results of "
            f"the others are in {output.folder}"
        )


@contextlib.contextmanager
def _told_when_interrupted(output: Output) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: whole results are in {output.folder}; the command with --overwrite "
            f"makes all of them anew"
        ) from None


def _photos(images: Sequence[Path], out: Path) -> list[tuple[str, Path]]:
    """The photos, each with its name: its path in the folder that was given.

    Raises:
        UserError: there is none.
    """
    found = [(path.name, path) for path in images if not path.is_dir()]
    for path in images:
        files.check_name(path)
    for folder in (path for path in images if path.is_dir()):
        there = files.walk(folder)
        names = {path: path.relative_to(folder).as_posix() for path in there}
        there = [path for path in there if not is_litter(names[path])]
        results = [out.resolve() / kind for kind in ENDING_OF]  # of an earlier run
        there = [path for path in there if not {*results} & {*path.resolve().parents}]
        chosen = [path for path in there if path.suffix.lower() in ENDINGS | _CAMERAS]
        found += [(names[path], path) for path in chosen]
        if others := len(there) - len(chosen):
            print(f"{folder}: {others} files are left alone, which are no pictures by their names")
    if not found:
        raise UserError(
            f"--images: found no picture in {', '.join(map(str, images))}; expected files that "
            f"end in {', '.join(sorted(ENDINGS))}"
        )
    return found


def _try(path: Path) -> Photo | BadImageError:
    try:
        return read_photo(path)
    except BadImageError as error:
        return error


def _told(path: Path, classes: UInt8) -> str:
    height, width = classes.shape
    share = float((classes > 0).mean())
    return f"{path}: {height}x{width} (height x width), {share:.1%} foreground" + (
        "" if share else f"; {_EMPTY}"
    )
