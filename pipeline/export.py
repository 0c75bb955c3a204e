"""Command `export`: a recipe's networks as ONNX files, which run without torch and this project.

    pipeline export <recipe> [--fold K ...] [--average]

Each file takes pictures as they are decoded and gives probabilities at their size: resize,
normalization, flips and what follows the network are inside. It is published only after ONNX
Runtime has given the same masks with it as the network does, on pictures of the recipe's own data.
"""

import contextlib
import dataclasses
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_image
from pipeline.data.samples import Sample
from pipeline.evaluation.decision import Decision
from pipeline.levels import scale
from pipeline.levels.scale import LEVELS
from pipeline.networks import model
from pipeline.networks.model import Segmenter
from pipeline.networks.predictor import Predictor, levels_of, probability_of
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe, Resize
from pipeline.support import files, hardware
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError

INPUT, OUTPUT = "images", "probabilities"

_LEAST_DICE = 0.9999  # of the masks of both
_MOST_DIFFERENT = 1 / LEVELS  # the mean of all pixels: it tells where both masks are empty, too
_CHECKED = 6  # pictures, and parts of the first
_INSTALL = "pip install -c constraints.txt -e '.[export]'"


# --- the graph: what `Predictor` and `levels.scale` do, in operations that ONNX has


class Whole(nn.Module):
    """From pictures of any size to probabilities of that size, with one network or several.

    Resizing counts as OpenCV does, so that nothing but the networks' rounding differs.
    """

    def __init__(self, networks: Sequence[Segmenter], flip: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.description = networks[0].description
        self.flip = flip

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (B, H, W), or (B, C, H, W) of several classes, of images (B, H, W, 3).

        Images are uint8 RGB, probabilities float32: multiples of 1/256, as everywhere here.
        """
        height, width = images.shape[1:3]
        small = self._small(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # B, h, w, 3
        each = [self._probability(network, small) for network in self.networks]
        levels = levels_of(torch.stack(each).mean(0))
        return _linear(levels.int(), (height, width), "linear").float() / LEVELS

    def _probability(self, network: nn.Module, images: Tensor) -> Tensor:
        probability = probability_of(network(images))
        if self.flip:
            probability = (probability + probability_of(network(images.flip(2))).flip(-1)) / 2
        return probability

    def _small(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) at the networks' size: whole numbers, as floats."""
        size = self.description.size
        linear = _linear(pixels.int(), size, self.description.resize).float()
        if self.description.resize != "area":
            return linear
        # OpenCV averages areas only where no side grows.
        (rows, tall), (columns, wide) = map(_shares, pixels.shape[2:], size)
        area = rows @ pixels.float() @ columns.T
        halved = (tall == 2) & (wide == 2)  # which it rounds up where it rounds to even otherwise
        area = torch.where(halved, torch.floor(area + 0.5), torch.round(area))
        return torch.where((tall >= 1) & (wide >= 1), area, linear)


def _shares(found: int, wanted: int) -> tuple[Tensor, Tensor]:
    """How much of each of `found` pixels is in each of `wanted` ones (wanted, found); the ratio."""
    ratio = _float(found) / _float(wanted)
    start = torch.arange(wanted, dtype=torch.float64)[:, None] * ratio
    pixel = torch.arange(found, dtype=torch.float64)
    share = torch.minimum(start + ratio, pixel + 1) - torch.maximum(start, pixel)
    return (share.clamp(min=0) / ratio).float(), ratio


def _linear(pixels: Tensor, size: tuple[int, int], resize: Resize) -> Tensor:
    """Resize whole numbers 0..255 (..., H, W), int32, as OpenCV does pictures of bytes.

    Its weights are multiples of 1/2048. Sums along rows are exact; those down columns lose four
    bits before they are weighted and more after that, and the last step rounds to the nearest.
    Source: `VResizeLinear` in modules/imgproc/src/resize.cpp of OpenCV.
    """
    left, right, near, far = _taps(pixels.shape[-1], size[1], resize)
    rows = (pixels[..., left] * near + pixels[..., right] * far) // 16
    top, bottom, near, far = _taps(pixels.shape[-2], size[0], resize)
    above, below = rows[..., top, :] * near[:, None], rows[..., bottom, :] * far[:, None]
    return (above // 65536 + below // 65536 + 2) // 4


def _taps(found: int, wanted: int, resize: Resize) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two of `found` pixels that each of `wanted` ones lies between; their 2048ths, int32."""
    ratio = _float(found) / _float(wanted)
    number = torch.arange(wanted, dtype=torch.float64)
    if resize == "nearest":
        step = torch.floor(
            (_float(found) * 65536 + torch.floor(_float(wanted) / 2)) / _float(wanted)
        )
        start = torch.floor(step / 2) - _float(found) % 2
        first = torch.floor((step * number + start) / 65536)
        beyond = torch.zeros_like(first)
    elif resize == "area":  # of pictures that grow: OpenCV's own way, between linear and nearest
        first = torch.floor(number * ratio)
        beyond = (number + 1 - (first + 1) / ratio).clamp(min=0)
        beyond = beyond - torch.floor(beyond)
    else:
        place = ((number + 0.5) * ratio - 0.5).float()
        first = torch.floor(place)
        beyond = place - first
    far = torch.round(beyond.float() * 2048).int()
    left, last = first.long(), found - 1
    return left.clamp(0, last), (left + 1).clamp(0, last), 2048 - far, far


def _float(size: int) -> Tensor:
    """A size as a number of the graph, not one of the picture it was traced with."""
    return torch.scalar_tensor(size, dtype=torch.float64)


# --- the file


@dataclasses.dataclass(frozen=True)
class About:
    """What a file says of itself: its metadata, as text; lists and objects are JSON.

    `threshold` is what foreground reaches, "" of several classes, the most probable of which wins.
    `repairs` are those that tuning found to gain, which are not in the file.
    """

    recipe: str
    folds: str
    threshold: str
    classes: str
    repairs: str


def write(path: Path, networks: Sequence[Segmenter], flip: bool, about: About) -> None:
    """Write one file with the mean of the networks' probabilities.

    Raises:
        UserError: torch's exporter has no words for an operation of the network.
    """
    size = networks[0].description.size
    example = torch.zeros(2, size[0] + 3, size[1] + 5, 3, dtype=torch.uint8)
    dynamic = {0: "batch", 1: "height", 2: "width"}
    with warnings.catch_warnings():  # of the exporter, about itself
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                Whole(networks, flip).eval(), (example,), dynamo=True, verbose=False,
                input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=(dynamic,),
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise UserError(
                f"{networks[0].description.network['architecture']}: torch's exporter cannot write "
                f"this network as ONNX ({reason}); use pipeline predict-folder"
            ) from error
    assert program is not None
    program.model.metadata_props.update(dataclasses.asdict(about))
    program.save(path)


# --- the check


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How a file's output compares with the network's, over all pixels of some pictures.

    `dice` is of the two masks, of all classes but the background together; `mean` and `most` are
    of the differences of probabilities (0..1).
    """

    dice: float
    mean: float
    most: float
    seconds: float  # an image in ONNX Runtime


def check(
    path: Path, predictor: Predictor, level: int | None, pictures: Sequence[UInt8]
) -> Agreement:
    """Run a file in ONNX Runtime and compare it with the network.

    Args:
        level: that foreground reaches; None of several classes.
        pictures: uint8 RGB (H, W, 3).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    both = either = pixels = 0
    total = most = seconds = 0.0
    for picture in pictures:
        start = time.perf_counter()
        (said,) = session.run([OUTPUT], {INPUT: picture[None]})
        seconds += time.perf_counter() - start
        levels = predictor.of_image(picture, "a picture of the check")
        size = (picture.shape[0], picture.shape[1])
        maps = levels.reshape(-1, *levels.shape[-2:])
        full = np.stack([scale.full_resolution(one, size) for one in maps])
        expected = full if levels.ndim == 3 else full[0]
        difference = np.abs(said[0] - expected / np.float32(LEVELS))
        total, most = total + float(difference.sum()), max(most, float(difference.max()))
        pixels += difference.size
        if level is None:
            masks = [one.argmax(0) for one in (said[0], expected)]
        else:
            masks = [said[0] >= level / LEVELS, expected >= level]
        both += int(((masks[0] == masks[1]) & (masks[0] > 0)).sum())
        either += sum(int((mask > 0).sum()) for mask in masks)
    dice = 2 * both / either if either else 1.0
    return Agreement(dice, total / pixels, most, seconds / len(pictures))


def _pictures(rows: Sequence[Sample], archives: Archives, size: tuple[int, int]) -> list[UInt8]:
    """Some of the recipe's pictures; the first on its side, too, and a part smaller than `size`."""
    shown = [row for row in rows if row.foreground] or list(rows)
    chosen = shown[:: -(-len(shown) // _CHECKED)]
    found = [read_image(archives, row) for row in chosen]
    part = found[0][: size[0] * 2 // 3, : size[1] * 4 // 5]
    return [*found, np.rot90(found[0]).copy(), part.copy()]


# --- the command


def run(recipe: Recipe, paths: Paths, folds: Sequence[int], average: bool) -> None:
    """Write a file for each fold, or one of all, and check it.

    Raises:
        UserError: a package, a network, the threshold or the pictures are not there, or a file
            does not what the network does.
    """
    _needs_packages()
    models = dict(zip(folds, model.load_alike(map(paths.model, folds)).values(), strict=True))
    description = models[folds[0]].description
    decision = Decision.read(paths.metrics) if description.classes == 1 else None
    rows = samples.read(paths.samples)
    samples.check_classes(rows, description.classes, paths.samples)
    pictures = _pictures(rows, Archives(paths.raw), description.size)
    fabric = hardware.launch("cpu", "32-true", recipe.runtime.threads, 1, 1)
    for path, chosen in _targets(paths, folds, average):
        networks = {str(paths.model(fold)): models[fold] for fold in chosen}
        tta = recipe.validate_.tta
        predictor = Predictor.of(networks, tta, fabric, 1, 0, compiled=False)
        about = About(
            recipe=paths.recipe,
            folds=" ".join(map(str, chosen)),
            threshold="" if decision is None else str(decision.threshold),
            classes=json.dumps([label.name for label in rows[0].labels]),
            repairs=json.dumps({} if decision is None else dataclasses.asdict(decision.clean_up)),
        )
        path.unlink(missing_ok=True)  # of an older network, perhaps
        with files.written_whole(path) as temporary:
            write(temporary, list(networks.values()), tta == "hflip", about)
            level = None if decision is None else decision.level
            agreement = check(temporary, predictor, level, pictures)
            _refuse_other_masks(path, agreement)
        shape = "batch, height, width" if decision else "batch, classes, height, width"
        print(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB; {INPUT} (batch, height, width, 3) uint8 "
            f"RGB -> {OUTPUT} ({shape}) float32\n  checked on {len(pictures)} pictures: Dice of "
            f"its masks and the network's {agreement.dice:.6f}, largest difference of a "
            f"probability {agreement.most:.4f}, mean {agreement.mean:.6f}; "
            f"{agreement.seconds:.2f} s a picture",
            flush=True,
        )


def _targets(
    paths: Paths, folds: Sequence[int], average: bool
) -> Iterator[tuple[Path, Sequence[int]]]:
    """Each file, and the folds whose networks it holds."""
    if average:
        yield paths.exported / "average.onnx", folds
    else:
        yield from ((paths.exported / f"fold{fold}.onnx", [fold]) for fold in folds)


def _refuse_other_masks(path: Path, found: Agreement) -> None:
    if found.dice >= _LEAST_DICE and found.mean <= _MOST_DIFFERENT:
        return
    raise UserError(
        f"{path}: removed, it is not what the network is: found the Dice {found.dice:.6f} of their "
        f"masks, expected {_LEAST_DICE}, and probabilities {found.mean:.6f} apart in the mean, "
        f"{found.most:.4f} at most, expected a mean below {_MOST_DIFFERENT:.4f}; use "
        f"pipeline predict-folder, and report it with the recipe"
    )


def _needs_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with contextlib.suppress(ModuleNotFoundError):
            __import__(name)
            continue
        raise UserError(f"export needs the package {name}, which is not installed; run {_INSTALL}")
