"""Command `new`: look at one's own images and masks, and write a recipe for them.

Everything it decides it says, with the reason, and writes into the recipe as a comment: a
start that trains without an edit, as nnU-Net's planner makes one (Isensee et al., 2021), and not
the last word.
"""

import dataclasses
import hashlib
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.data import images as pictures_of
from pipeline.data.archives import SEPARATOR, Archives, is_litter, member_name
from pipeline.data.samples import COLOR, shown
from pipeline.kaggle import integrity
from pipeline.paths import recipe_file
from pipeline.recipe import read
from pipeline.sources import folders
from pipeline.support import files
from pipeline.support.arrays import Size
from pipeline.support.errors import UserError

BASE = "sample"  # the recipe whose values stand where nothing was decided

_LOOKED_AT = 500  # masks whose values are counted, spread over all
_MEASURED = 60  # images whose colors are averaged
_MOST_CLASSES = 40  # more values than that are no classes
_MULTIPLE = 32  # of what an encoder of five halvings takes
_SHARE = 0.6  # of the free memory that a training step may take


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder of pictures, or a zip of them."""

    path: Path
    names: list[str]  # of its pictures, in its order
    archives: Archives

    @classmethod
    def of(cls, path: Path, kind: str) -> "Place":
        """Look into a folder or zip for its `kind`, images or masks.

        Raises:
            UserError: it is not there, no zip, or holds no picture.
        """
        if path.is_dir():
            names = [file.relative_to(path).as_posix() for file in files.walk(path)]
            archives = Archives(path)
        elif path.suffix == ".zip" and path.is_file():
            if problem := integrity.flaw(path, path.name, integrity.Expected()):
                raise UserError(f"--{kind}: {path}: {problem}; replace it by a whole copy")
            archives = Archives(path.parent)
            names = [member_name(one) for one in archives.members(path.name)]
        else:
            what = "a file of another kind" if path.exists() else "nothing"
            raise UserError(f"--{kind}: found {what} at {path}, expected a folder or a .zip")
        if chosen := folders.pictures([name for name in names if not is_litter(name)], kind):
            return cls(path, chosen, archives)
        some = ", ".join(names[:3]) or "nothing"
        raise UserError(f"--{kind}: found no picture in {path}, which holds {some}")

    def read(self, name: str) -> bytes:
        """A picture's bytes."""
        if not self.path.is_dir():
            return self.archives.read(f"{self.path.name}{SEPARATOR}{name}")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name}: {error.strerror}; put that right") from None

    def shown(self, name: str) -> str:
        """Which picture, for an error: images and masks may have the same names."""
        return f"{self.path}{'/' if self.path.is_dir() else SEPARATOR}{name}"


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was seen of the data: sizes in pixels, of every image; pixels by value in masks."""

    stems: list[str]
    names: list[str]  # of the images, with the folders they are in
    mask_ending: str
    sizes: list[Size]
    copies: list[str]  # images that hold what an image before them holds
    values: Counter[int]
    masks_looked_at: int
    mean: list[float]
    std: list[float]

    @property
    def size(self) -> Size:
        """The median height and width."""
        height, width = np.median(np.array(self.sizes), axis=0)
        return int(height), int(width)


def look(images: Path, masks: Path) -> Findings:
    """Pair images with masks and measure both.

    Raises:
        UserError: what is needed is not there, names do not pair, or masks are none.
    """
    pictures, truths = Place.of(images, "images"), Place.of(masks, "masks")
    together = images.samefile(masks) and pictures.names == truths.names
    ending = _mask_ending(pictures.names, truths.names, together)
    of_image, of_mask = folders.pair(pictures.names, truths.names, ending)
    if odd := of_image.keys() ^ of_mask.keys():
        raise UserError(
            f"{images}: {len(odd)} of {len(of_image | of_mask)} names have no mask or no image, "
            f"the first is {min(odd)!r}; expected for each image a mask called as it is"
            + (f" and {ending!r}" if ending else "")
        )
    stems = sorted(of_image)
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(lambda s: _size_and_digest(pictures, of_image[s]), stems))
        sizes = [size for size, _ in seen]
        copies = _copies([of_image[stem] for stem in stems], [digest for _, digest in seen])
        wrong = pool.map(lambda s, size: _other_size(truths, of_mask[s], size), stems, sizes)
        if told := [one for one in wrong if one]:
            raise UserError(
                f"{masks}: {len(told)} of {len(stems)} masks have another size than their image, "
                f"the first is {told[0]}; expected the same: correct them, or take them away"
            )
        some = _spread(stems, _LOOKED_AT)
        colored = _are_colors(truths, [of_mask[stem] for stem in some[:20]])
        counted = pool.map(lambda s: _values(truths, of_mask[s], colored), some)
        values = sum(counted, Counter[int]())
        size_of = dict(zip(stems, sizes, strict=True))
        measured = pool.map(
            lambda s: _colors(pictures, of_image[s], size_of[s]), _spread(stems, _MEASURED)
        )
        moments = np.mean(list(measured), axis=0)  # 2, 3
    if len(values) == 1:
        raise UserError(
            f"{masks}: found the value {shown(*values)} alone in {len(some)} masks, expected two "
            f"at least, the background's and another; are these the masks?"
        )
    if len(values) > _MOST_CLASSES:
        found = ", ".join(map(shown, sorted(values)[:8]))
        raise UserError(
            f"{masks}: found {len(values)} values in {len(some)} masks ({found}, ...), expected "
            f"2 to {_MOST_CLASSES}, one a class; JPEG and soft edges leave others: save masks as "
            f"PNG of flat values, without smoothing"
        )
    std = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))
    return Findings(
        stems, [of_image[stem] for stem in stems], ending, sizes, copies, values, len(some),
        [round(float(value), 3) for value in moments[0]],
        [round(max(float(value), 0.001), 3) for value in std],
    )  # fmt: skip


def _size_and_digest(place: Place, name: str) -> tuple[Size, bytes]:
    data = place.read(name)
    return pictures_of.read_size(data, place.shown(name)), hashlib.sha256(data).digest()


def _copies(names: Sequence[str], digests: Sequence[bytes]) -> list[str]:
    """The files that hold what one before them holds.

    Raises:
        UserError: some have the same name too: a folder is there twice, and its images would be
            trained on and held out at once.
    """
    first: dict[bytes, str] = {}
    pairs = [
        (first.setdefault(digest, name), name) for name, digest in zip(names, digests, strict=True)
    ]
    copies = [(one, other) for one, other in pairs if one != other]
    if same := [pair for pair in copies if len({PurePosixPath(name).name for name in pair}) == 1]:
        raise UserError(
            f"{same[0][0]} and {same[0][1]}: found {len(same)} images twice, under the same name "
            f"in two folders; give one of the folders alone, or each would be trained on and "
            f"held out at once"
        )
    return [other for _, other in copies]


def _other_size(place: Place, name: str, size: Size) -> str:
    """What is wrong with a mask whose image has this size, or ""."""
    found = pictures_of.read_size(place.read(name), place.shown(name))
    if found == size:
        return ""
    said = f"{name}, {found[0]}x{found[1]} pixels (height x width) instead of {size[0]}x{size[1]}"
    if found == size[::-1]:
        said += " (pictures that a camera's note turns are taken as they lie in the file)"
    return said


def _spread(names: Sequence[str], count: int) -> list[str]:
    """At most so many of the names, evenly spread."""
    return list(names[:: max(1, math.ceil(len(names) / count))])


def _mask_ending(images: Sequence[str], masks: Sequence[str], together: bool) -> str:
    """What most masks' names have after their image's; together in one folder they must."""
    stems = {PurePosixPath(name).stem for name in images}
    endings: Counter[str] = Counter()
    for name in masks:
        mask = PurePosixPath(name).stem
        endings.update(
            mask[length:]
            for length in range(1, len(mask) + 1)
            if mask[:length] in stems and not (together and length == len(mask))
        )
    if together and not endings:
        raise UserError(
            f"found the images and their masks in one folder, {images[0]} for one, and nothing in "
            f"their names that tells them apart; expected masks called as their image and an "
            f"ending, as car_1.jpg and car_1_mask.png, or a folder for each"
        )
    if not endings:
        raise UserError(
            f"found the image {images[0]} and the mask {masks[0]}, whose names have nothing in "
            f"common; expected names of masks that begin as their images' do, as car_1.jpg and "
            f"car_1.png or car_1_mask.png"
        )
    most = max(endings.values())
    return min((ending for ending in endings if endings[ending] == most), key=len)


def _are_colors(place: Place, names: Sequence[str]) -> bool:
    return any(
        pictures_of.mask_values(place.read(name), place.shown(name), colored=False) is None
        for name in names
    )


def _values(place: Place, name: str, colored: bool) -> Counter[int]:
    pixels = pictures_of.mask_values(place.read(name), place.shown(name), colored)
    if pixels is None:
        raise UserError(
            f"{place.shown(name)}: found several channels, but other masks have one; make them "
            f"alike"
        )
    values, counts = np.unique(pixels, return_counts=True)
    if not colored and not 0 <= values[0] <= values[-1] < 2**16:
        raise UserError(
            f"{place.shown(name)}: found the values {values[0]} to {values[-1]}, expected whole "
            f"numbers from 0 to 65535; save the masks with such values"
        )
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _colors(place: Place, name: str, size: Size) -> NDArray[np.float64]:
    """The mean of each channel, and of its square, scaled to 0..1: (2, 3)."""
    pixels = pictures_of.decode_image(place.read(name), size, place.shown(name)) / 255
    return np.stack([pixels.mean(axis=(0, 1)), (pixels**2).mean(axis=(0, 1))])


@dataclasses.dataclass(frozen=True)
class Machine:
    """What trains: a GPU or not, with so much free memory, in bytes, and so many cores."""

    gpu: bool
    memory: int
    ram: int
    disk: int
    cores: int

    @classmethod
    def here(cls) -> "Machine":
        """This one, as it is now."""
        import torch

        from pipeline.support import hardware

        ram = hardware.free_memory()
        gpu = torch.cuda.is_available()
        memory = torch.cuda.mem_get_info()[0] if gpu else ram
        return cls(gpu, memory, ram, shutil.disk_usage(".").free, os.cpu_count() or 1)


Decision = tuple[str, Any, str]  # key, value, why


def plan(found: Findings, machine: Machine) -> list[Decision]:
    """Decide what a recipe for these data on this machine says."""
    background, labels = _classes(found)
    group, groups, why_group = _groups(found)
    folds = min(5, groups)
    if folds < 2:
        raise UserError("found one image, expected two at least: one to train on, one to judge by")
    classes = 1 if len(labels) == 2 else len(labels)
    training = len(found.stems) * (folds - 1) // folds
    size, why_size = _size(found.size, machine)
    encoder, channels = ("resnet34", [256, 128, 64, 32, 16]) if machine.gpu else (
        "tu-resnet10t", [64, 48, 32, 16, 8]
    )  # fmt: skip
    size, batch, each = _fit(size, training, machine, encoder, channels, classes)
    steps = max(1, training // batch)  # the last, smaller batch is left out
    epochs = min(200, max(10, round((8000 if machine.gpu else 800) / steps)))
    shrinks = found.size[0] * found.size[1] / (size[0] * size[1])
    cached = len(found.stems) * size[0] * size[1] * (3 + classes)
    cache = "ram" if cached < machine.ram / 4 else "disk" if cached < machine.disk / 2 else "none"
    seen = f"{found.masks_looked_at} of {len(found.stems)} masks"
    where = "the GPU" if machine.gpu else "the CPU"
    return [
        ("split.source.mask_ending", found.mask_ending, "what their masks' names add to images'"),
        ("split.source.group", group, why_group),
        ("split.source.classes", labels, f"found in {seen}; {background}"),
        ("split.folds", folds, f"of {groups} groups"),
        ("train.model.encoder", encoder, f"what {where} trains in a reasonable time"),
        ("train.model.decoder_channels", channels, "to go with it"),
        ("train.classes", classes, "foreground or not" if classes == 1 else "one of these"),
        ("train.phases.0.size", list(size), why_size),
        ("train.resize", "area" if shrinks > 2 else "linear",
         f"images shrink {math.sqrt(max(shrinks, 1)):.1f} times a side"),
        ("train.normalization.mean", found.mean, f"of {min(_MEASURED, len(found.stems))} images"),
        ("train.normalization.std", found.std, "as above"),
        ("train.phases.0.epochs", epochs, f"of {steps} steps: {epochs * steps} in all"),
        ("train.phases.0.batch_size", batch,
         f"{each / 1e6:.0f} MB an image, of {machine.memory / 1e9:.1f} GB free on {where}"),
        ("runtime.workers", min(8, machine.cores - 1) if machine.gpu else 0,
         f"of {machine.cores} cores"),
        ("runtime.cache", cache, f"decoded images take {cached / 1e9:.2f} GB"),
        ("runtime.batch_size", 2 * batch, "no gradients in validation and prediction"),
    ]  # fmt: skip


def _classes(found: Findings) -> tuple[str, dict[str, int | str]]:
    """Names for the values: the background is 0 or black, else what most pixels are."""
    values = sorted(found.values)
    background = next((v for v in (0, COLOR) if v in found.values), None)
    why = "0 is the background"
    if background is None:
        background = max(values, key=lambda value: found.values[value])
        share = found.values[background] / found.values.total()
        why = f"the background is what most pixels are ({share:.0%})"
    others = [value for value in values if value != background]
    names = ["foreground"] if len(others) == 1 else [f"class_{shown(v).strip('#')}" for v in others]
    pairs = zip(["background", *names], [background, *others], strict=True)
    return why, {name: shown(value) if value >= COLOR else value for name, value in pairs}


def _groups(found: Findings) -> tuple[str, int, str]:
    """The expression for groups, how many there are, and why.

    Names that end in numbers after a common start, or else folders, are taken for pictures of one
    thing (a car, a patient): to hold out whole groups never flatters a score, to tear them apart
    does. Fewer than five are not: they may be sides of a camera, or what somebody called a split.
    """
    paths = [str(PurePosixPath(name).with_suffix("")) for name in found.names]
    few = ""
    for pattern, texts, what in (
        (r"^(.+)[_-][0-9]+$", found.stems, "starts of names"),
        (r"^(.+)/[^/]+$", paths, "folders"),
    ):
        matches = [re.search(pattern, text) for text in texts]
        starts = Counter(match[1] for match in matches if match)
        if all(matches) and 5 <= len(starts) < len(texts):
            return pattern, len(starts), (
                f"{len(starts)} {what} have {len(texts)} images: each is one group, which is held "
                "out whole; write none if they are not alike"
            )  # fmt: skip
        if all(matches) and 2 <= len(starts) < len(texts) and not few:
            few = f"{len(starts)} {what} are few for groups: write {pattern} if those of one belong"
    return "none", len(found.stems), (
        f"{few} together" if few else
        "names show no groups: write a pattern if images belong together"
    )  # fmt: skip


def _size(median: Size, machine: Machine) -> tuple[Size, str]:
    """The network's size: the median image, or less where that is more than one machine takes."""
    budget = 1024 * 1024 if machine.gpu else 192 * 192
    scale = min(1.0, math.sqrt(budget / (median[0] * median[1])))
    height, width = (max(_MULTIPLE, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in median)
    why = f"the median image has {median[0]}x{median[1]}"
    if scale < 1:
        why += f"; {'a GPU' if machine.gpu else 'a CPU'} would train on more for too long"
    return (height, width), why


def _fit(
    size: Size, training: int, machine: Machine, encoder: str, channels: list[int], classes: int
) -> tuple[Size, int, int]:
    """The size that fits, smaller if need be; the batch; and the bytes of an image in training."""
    while True:
        fixed, each = _bytes(size, machine, encoder, channels, classes)
        fits = int((_SHARE * machine.memory - fixed) // each)
        most = min(fits, 16 if machine.gpu else 8, max(2, training // 4))
        if most >= 2:
            return size, 1 << (most.bit_length() - 1), each
        if max(size) == _MULTIPLE:
            raise UserError(
                f"found {machine.memory / 1e9:.1f} GB of free memory, expected more than "
                f"{(fixed + 2 * each) / _SHARE / 1e9:.1f}: free some, or take a larger machine"
            )
        size = (
            max(_MULTIPLE, size[0] * 3 // 4 // _MULTIPLE * _MULTIPLE),
            max(_MULTIPLE, size[1] * 3 // 4 // _MULTIPLE * _MULTIPLE),
        )


def _bytes(
    size: Size, machine: Machine, encoder: str, channels: list[int], classes: int
) -> tuple[int, int]:
    """What a training step takes: once, and for each image; counted, not measured.

    Once: weights, gradients, and two moments. For each image: what layers put out, kept for the
    backward pass and half as much again for gradients, of 2 bytes on a GPU and 4 on a CPU.
    """
    import segmentation_models_pytorch as smp
    import torch

    kept: list[int] = []

    def count(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            kept.append(output.numel())

    with torch.device("meta"):
        network = smp.Unet(
            encoder, encoder_weights=None, decoder_channels=channels, classes=classes
        )
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(count)
        network(torch.empty(2, 3, *size))
    width = 2 if machine.gpu else 4
    weights = sum(parameter.numel() for parameter in network.parameters())
    return 16 * weights, sum(kept) // 2 * width * 3 // 2


def write(name: str, images: Path, masks: Path, decisions: Sequence[Decision]) -> Path:
    """Write the recipe: the base's, but for what was decided, with the reasons as comments."""
    yaml = YAML()
    yaml.width = 1000  # no line is broken
    recipe = yaml.load(recipe_file(BASE).read_text(encoding="utf-8"))
    recipe["download"] = CommentedMap(kind="folders", images=str(images), masks=str(masks))
    source = CommentedMap(name="folders", mask_ending="", group="none", classes=CommentedMap())
    recipe["split"] = CommentedMap(recipe["split"] | {"source": source})
    recipe["train"]["model"] = CommentedMap(recipe["train"]["model"])
    for key, value, why in decisions:
        *places, last = key.split(".")
        section = recipe
        for place in places:
            section = section[int(place) if place.isdecimal() else place]
        if isinstance(value, list):
            value = CommentedSeq(value)
            value.fa.set_flow_style()
        elif isinstance(value, dict):
            value = CommentedMap(value)
            value.fa.set_flow_style()
        section[last] = value
        section.ca.items.pop(last, None)
        section.yaml_add_eol_comment(why, last, column=0)
    for section in ("split", "train"):  # those before them are new and have no empty line
        recipe.yaml_set_comment_before_after_key(section, before="\n")
    recipe.yaml_set_start_comment(
        f"{name}: written by `pipeline new` from what it saw of the images and masks; what it\n"
        f"does not say comes from recipes/{BASE}.yaml."
    )
    path = recipe_file(name)
    with files.written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yaml.dump(recipe, stream)
    return path


def run(name: str, images: Path, masks: Path, say: Callable[[str], None] = print) -> None:
    """Look, decide, write, and tell."""
    path = recipe_file(name)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):  # it names folders, stages and other recipes
        raise UserError(f"found the name {name!r}, expected letters, digits, _ and - alone")
    if not (base := recipe_file(BASE)).is_file():
        raise UserError(
            f"{base}: no such file, whose settings a new recipe has; run this in the "
            f"project's folder, or bring it back (git checkout {base})"
        )
    if path.exists():
        raise UserError(f"{path}: there is such a recipe; take another name, or delete it first")
    found = look(images, masks)
    low, high = min(found.sizes), max(found.sizes)
    sizes = f"{low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if low != high else "")
    say(f"{len(found.stems)} images with masks, {sizes} pixels (height x width)")
    if found.copies:
        say(
            f"{len(found.copies)} images are copies of others, as {found.copies[0]}: take them "
            f"away, or write a group that holds copies together, or scores will be flattered"
        )
    decisions = plan(found, Machine.here())
    for key, value, why in decisions:
        say(f"  {key}: {value}  # {why}")
    write(name, images, masks, decisions)
    try:
        read.load(path)
    except UserError:
        path.unlink()
        raise
    say(f"{path}: written; to train it, write recipes: [{name}] into params.yaml and run dvc repro")
