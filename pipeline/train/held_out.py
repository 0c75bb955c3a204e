"""The held-out images of a fold: a network in training is judged on them, over all processes."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.data.archives import Archives
from pipeline.data.images import read_image, read_mask
from pipeline.data.samples import Sample
from pipeline.levels import scale
from pipeline.metrics import classes
from pipeline.metrics.dice import dice
from pipeline.networks.predictor import Tta, forward, levels_of
from pipeline.recipe.schema import Loss
from pipeline.support import concurrency, distributed, hardware
from pipeline.support.arrays import Size, UInt8
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.support.pictures import overlay, side_by_side
from pipeline.train.data import Images, positions
from pipeline.train.loss import entropy_dice, shares

SHOWN = 4  # pictures, the same after every epoch
SHOWN_WIDTH = 640  # pixels


class Score(NamedTuple):
    """Means over the held-out images, and overlays of some by name.

    `dice` (threshold 0.5) and `pixel_accuracy` (the share of pixels that are right) are at full
    resolution, `dice` of several classes the mean over them. `loss` and its terms are the
    training's, at network size and without flips. Of several classes, pictures show what was
    found beside what is there.
    """

    dice: float
    pixel_accuracy: float
    loss: float
    bce: float
    dice_loss: float
    pictures: dict[str, UInt8]


class Judged(NamedTuple):
    """What one image adds to the score."""

    row: Sample
    dice: float
    pixel_accuracy: float
    picture: UInt8 | None


class Predicted(NamedTuple):
    """What is known of one image once its batch is done: its levels, or its counted pixels."""

    row: Sample
    levels: UInt8 | None  # at network size
    counts: list[int] | None  # see `count_pixels`


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out images, and how to predict them; each process takes its share.

    Masks at full resolution are decoded once and kept where `keep` asks for it, as bits of one
    class (300 MB for a fold of all 318 cars). A GPU compares masks of one class itself: bits go
    there, four numbers come back. Elsewhere threads do it. The network runs as it is in training:
    to fold and compile it after each epoch would take longer than it saves.
    """

    rows: Sequence[Sample]
    archives: Archives
    loss: Loss
    tta: Tta
    fabric: Fabric
    batch_size: int
    workers: int  # threads that read images, and as many that compare masks
    pictures: bool
    keep: bool
    hard: bool = False  # targets, as the training's
    _masks: dict[str, UInt8] = dataclasses.field(default_factory=dict)

    def score(self, network: nn.Module, images: Images, stop: Stop) -> Score | None:
        """Judge the network, as it is, by its input `images` and the masks at full resolution.

        Returns:
            None when a signal asked to stop meanwhile.

        Raises:
            UserError: an image or a mask does not decode, or an output is not finite.
        """
        network.eval()
        distributed.copy_from_first(self.fabric, network.buffers())  # BatchNorm's statistics
        mine = self.rows[self.fabric.global_rank :: self.fabric.world_size]
        shown = set(mine[:: max(1, len(mine) // SHOWN)][:SHOWN] if self.pictures else [])
        gpus = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        terms = torch.zeros(4, dtype=torch.float64, device=self.fabric.device)
        sums, pictures = np.zeros(3), {}  # of Dice and accuracy, and the images

        with contextlib.ExitStack() as stack:
            # The training's random numbers stay as they are.
            stack.enter_context(torch.random.fork_rng(gpus))
            bar = tqdm(
                total=len(mine), desc="validate", unit="img", leave=False,
                disable=not self.fabric.is_global_zero,
            )  # fmt: skip
            stack.enter_context(bar)
            predicted = stack.enter_context(
                contextlib.closing(self._predict(network, mine, images, terms, shown))
            )
            judged = concurrency.ordered(
                lambda one: self._judge(one, one.row in shown), predicted, max(1, self.workers)
            )
            for one in stack.enter_context(contextlib.closing(judged)):
                sums += one.dice, one.pixel_accuracy, 1
                if one.picture is not None:
                    pictures[one.row.sample_id] = one.picture
                bar.update()
                if stop.signal:
                    break
        totals = distributed.total(
            self.fabric, [*sums.tolist(), *terms.tolist(), float(stop.signal != 0)]
        )
        *measured, stopped = totals
        if stopped:
            return None
        found, accuracy, count, loss, bce, missed, _ = measured
        if not math.isfinite(loss):
            raise UserError(
                f"the loss on the held-out images is {loss / count}, expected a finite number; "
                f"lower the phase's learning_rate, or set runtime.precision to 32-true"
            )
        return Score(
            found / count, accuracy / count, loss / count, bce / count, missed / count, pictures
        )

    def _predict(
        self,
        network: nn.Module,
        rows: Sequence[Sample],
        images: Images,
        terms: Tensor,
        shown: set[Sample],
    ) -> Generator[Predicted, None, None]:
        """Each row with its levels, or its counts; the loss terms are added to `terms`.

        On a GPU a batch is handed over before the one before it is waited for.
        """
        places = positions(rows, images)
        counts = self._counts() and all(row.classes == 1 for row in rows)

        def load(start: int) -> _Loaded:
            some = rows[start : start + self.batch_size]
            pairs = [images[place] for place in places[start : start + self.batch_size]]
            pixels, targets = (torch.from_numpy(np.stack(p)) for p in zip(*pairs, strict=True))
            bits = [torch.from_numpy(self._bits(row)) for row in some] if counts else []
            if self.fabric.device.type == "cuda":
                pixels, targets = pixels.pin_memory(), targets.pin_memory()
                bits = [one.pin_memory() for one in bits]
            return _Loaded(some, pixels, targets, bits)

        starts = range(0, len(rows), self.batch_size)
        waiting: _Launched | None = None
        with contextlib.closing(concurrency.ordered(load, starts, self.workers)) as loaded:
            for batch in loaded:
                following = self._launch(network, batch, terms, shown)
                if waiting:
                    yield from waiting.finish()
                waiting = following
        if waiting:
            yield from waiting.finish()

    @torch.inference_mode()
    def _launch(
        self, network: nn.Module, batch: "_Loaded", terms: Tensor, shown: set[Sample]
    ) -> "_Launched":
        """Queue a batch: levels, or counts with the levels of the rows to be shown, to the host."""
        upload = self._upload
        images, truth = upload(batch.images), shares(upload(batch.targets), self.hard)
        logits, probability, _ = forward(network, images, self.tta, self.fabric)
        terms += len(images) * torch.stack(entropy_dice(logits, truth, self.loss)).double()
        levels, counts = levels_of(probability), None
        wanted = list(range(len(batch.rows)))
        if batch.bits:
            each = zip(levels, batch.bits, batch.rows, strict=True)
            counted = torch.stack(
                [count_pixels(one, upload(bits), row.size) for one, bits, row in each]
            )
            counts = counted.to("cpu", non_blocking=True)
            wanted = [place for place, row in enumerate(batch.rows) if row in shown]
        maps = {place: levels[place].to("cpu", non_blocking=True) for place in wanted}
        finished = None
        if self.fabric.device.type == "cuda":
            finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
            finished.record()
        return _Launched(batch, maps, counts, finished)

    def _counts(self) -> bool:
        """Whether the device compares masks itself: on a CPU OpenCV is faster at it."""
        return self.fabric.device.type == "cuda"

    @functools.cached_property
    def _upload(self) -> hardware.Upload:
        return hardware.Upload(self.fabric.device)

    def _judge(self, one: Predicted, show: bool) -> Judged:
        row = one.row
        if one.levels is None:
            assert one.counts is not None, f"{row.sample_id} has neither levels nor counts"
            overlap, found_pixels, true_pixels, right = one.counts
            total = found_pixels + true_pixels
            score = 2 * overlap / total if total else 1.0
            return Judged(row, score, right / (row.height * row.width), None)
        found, truth = scale.decide(one.levels, row.size), self._truth(row)
        if row.classes == 1:
            score = dice(found > 0, truth > 0)
        else:
            score = classes.mean_dice(found, truth, row.classes)
        accuracy = float(np.count_nonzero(found == truth) / truth.size)
        return Judged(row, score, accuracy, self._picture(row, found, truth) if show else None)

    def _truth(self, row: Sample) -> UInt8:
        """True class indices (H, W) at full resolution, 0 or 1 of one class."""
        if row.classes == 1:
            bits = self._bits(row)
            return np.unpackbits(bits, count=row.height * row.width).reshape(row.size)
        if (kept := self._masks.get(row.sample_id)) is not None:
            return kept
        return self._keep(row, read_mask(self.archives, row))

    def _bits(self, row: Sample) -> UInt8:
        """The true mask of one class, a bit a pixel, row after row, the first the highest."""
        if (kept := self._masks.get(row.sample_id)) is not None:
            return kept
        return self._keep(row, np.packbits(read_mask(self.archives, row) > 0))

    def _keep(self, row: Sample, mask: UInt8) -> UInt8:
        if self.keep:
            self._masks[row.sample_id] = mask
        return mask

    def _picture(self, row: Sample, found: UInt8, truth: UInt8) -> UInt8:
        image = read_image(self.archives, row)
        if row.classes == 1:
            painted = overlay(image, found > 0, truth > 0)
        else:
            painted = side_by_side(image, found, truth)
        height = max(1, round(painted.shape[0] * SHOWN_WIDTH / painted.shape[1]))
        small = cv2.resize(painted, (SHOWN_WIDTH, height), interpolation=cv2.INTER_AREA)
        return small.astype(np.uint8, copy=False)


class _Loaded(NamedTuple):
    """A batch on the host: images (B, h, w, 3), soft targets, and bits of the true masks."""

    rows: Sequence[Sample]
    images: Tensor
    targets: Tensor
    bits: list[Tensor]  # only if the device is to count


class _Launched(NamedTuple):
    """A batch that a GPU may still be computing, until `finished`."""

    batch: _Loaded
    levels: dict[int, Tensor]  # by place in the batch
    counts: Tensor | None  # (B, 4)
    finished: torch.cuda.Event | None

    def finish(self) -> Generator[Predicted, None, None]:
        """Wait for the batch; each of its rows with its levels, or else its counts."""
        if self.finished is not None:
            self.finished.synchronize()
        for place, row in enumerate(self.batch.rows):
            if (levels := self.levels.get(place)) is not None:
                yield Predicted(row, levels.numpy(), None)
            else:
                assert self.counts is not None, f"{row.sample_id} has neither levels nor counts"
                yield Predicted(row, None, self.counts[place].tolist())


# --- The competition's comparison of one image, on the device that computes.


def count_pixels(levels: Tensor, bits: Tensor, size: Size) -> Tensor:
    """Compare the levels (h, w) of one image with its true mask at full resolution.

    Args:
        levels: uint8, decided at 0.5 as `pipeline.levels.scale.decide` does.
        bits: uint8, the true mask packed by `numpy.packbits`.
        size: the image's (height, width).

    Returns:
        (4,) int64: pixels found and true, found, true, and decided rightly.
    """
    found = full_resolution(levels, size) >= scale.HALF
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    pixels = (bits[:, None] >> shifts) & 1
    true = pixels.flatten()[: size[0] * size[1]].reshape(size).bool()
    return torch.stack([(found & true).sum(), found.sum(), true.sum(), (found == true).sum()])


def full_resolution(levels: Tensor, size: Size) -> Tensor:
    """`pipeline.levels.scale.full_resolution` on any device, to the last bit: OpenCV's integers.

    Source: resize.cpp of OpenCV, bilinear of bytes: weights of 11 bits, first along rows.
    """
    height, width = levels.shape
    first, low, high = _between(width, size[1], levels.device)
    edge = (first < 0) | (first >= width - 1)  # beyond the outer pixels' centres
    low, high = low.masked_fill(edge, _WHOLE), high.masked_fill(edge, 0)
    wide, first = levels.int(), first.clamp(0, width - 1)
    along = wide[:, first] * low + wide[:, (first + 1).clamp(max=width - 1)] * high  # h, W
    first, low, high = _between(height, size[0], levels.device)
    upper = (along >> 4)[first.clamp(0, height - 1)] * low[:, None]
    lower = (along >> 4)[(first + 1).clamp(0, height - 1)] * high[:, None]
    return ((upper >> 16) + (lower >> 16) + 2) >> 2  # H, W


_WHOLE = 2048  # the two weights of a pixel add up to it


@functools.lru_cache(maxsize=16)
def _between(length: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of `new` pixels the place of the old one before it, and both neighbors' weights."""
    places = torch.arange(new, dtype=torch.float64, device=device) + 0.5
    exact = (places * (length / new) - 0.5).float()
    before = exact.floor()
    share = exact - before
    low, high = (torch.round(part * _WHOLE).int() for part in (1 - share, share))
    return before.long(), low, high
