"""The held-out images of a fold: a network in training is judged on them, over all processes."""

import contextlib
import dataclasses
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
from pipeline.networks.predictor import Tta, levels_of, probability_of
from pipeline.recipe.schema import Loss
from pipeline.support import concurrency, distributed
from pipeline.support.arrays import UInt8
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


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out images, and how to predict them; each process takes its share.

    Masks at full resolution are decoded once and kept, as bits of one class (300 MB for a fold
    of all 318 cars), where `keep` asks for it.
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

        def judge(predicted: tuple[Sample, UInt8]) -> Judged:
            return self._judge(*predicted, predicted[0] in shown)

        with contextlib.ExitStack() as stack:
            # The training's random numbers stay as they are.
            stack.enter_context(torch.random.fork_rng(gpus))
            bar = tqdm(
                total=len(mine), desc="validate", unit="img", leave=False,
                disable=not self.fabric.is_global_zero,
            )  # fmt: skip
            stack.enter_context(bar)
            predicted = stack.enter_context(
                contextlib.closing(self._predict(network, mine, images, terms))
            )
            threads = max(1, self.workers)
            judged = concurrency.ordered(judge, predicted, threads)
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
        self, network: nn.Module, rows: Sequence[Sample], images: Images, terms: Tensor
    ) -> Generator[tuple[Sample, UInt8], None, None]:
        """Each row with its levels at network size; the loss terms are added to `terms`.

        On a GPU a batch is handed over before the one before it is waited for.
        """
        places = positions(rows, images)

        def load(start: int) -> tuple[int, Tensor, Tensor]:
            pairs = [images[place] for place in places[start : start + self.batch_size]]
            stacked = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
            return start, *((part.pin_memory() if pinned else part) for part in stacked)  # type: ignore[return-value]

        pinned = self.fabric.device.type == "cuda"
        starts = range(0, len(rows), self.batch_size)
        waiting: tuple[int, Tensor, torch.cuda.Event | None] | None = None
        with contextlib.closing(concurrency.ordered(load, starts, self.workers)) as loaded:
            for start, pixels, targets in loaded:
                following = start, *self._launch(network, pixels, targets, terms)
                if waiting:
                    yield from _finish(rows, *waiting)
                waiting = following
        if waiting:
            yield from _finish(rows, *waiting)

    @torch.inference_mode()
    def _launch(
        self, network: nn.Module, images: Tensor, targets: Tensor, terms: Tensor
    ) -> tuple[Tensor, torch.cuda.Event | None]:
        """The levels of a batch (B, h, w, 3), on the host once the event has happened."""
        device = self.fabric.device
        images = images.to(device, non_blocking=True)
        truth = shares(targets.to(device, non_blocking=True), self.hard)
        logits = self._logits(network, images)
        terms += len(images) * torch.stack(entropy_dice(logits, truth, self.loss)).double()
        probability = probability_of(logits)
        if self.tta == "hflip":
            flipped = probability_of(self._logits(network, images.flip(2))).flip(-1)
            probability = (probability + flipped) / 2
        levels = levels_of(probability).to("cpu", non_blocking=True)
        if device.type != "cuda":
            return levels, None
        finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
        finished.record()
        return levels, finished

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        with self.fabric.autocast():
            logits: Tensor = network(images)
        return logits.float()

    def _judge(self, row: Sample, levels: UInt8, show: bool) -> Judged:
        found, truth = scale.decide(levels, row.size), self._truth(row)
        if row.classes == 1:
            score = dice(found > 0, truth > 0)
        else:
            score = classes.mean_dice(found, truth, row.classes)
        accuracy = float(np.count_nonzero(found == truth) / truth.size)
        return Judged(row, score, accuracy, self._picture(row, found, truth) if show else None)

    def _truth(self, row: Sample) -> UInt8:
        """True class indices (H, W) at full resolution, 0 or 1 of one class."""
        kept = self._masks.get(row.sample_id)
        if kept is None:
            mask = read_mask(self.archives, row)
            truth = (mask > 0).astype(np.uint8) if row.classes == 1 else mask
            if self.keep:
                self._masks[row.sample_id] = np.packbits(truth) if row.classes == 1 else truth
            return truth
        if row.classes > 1:
            return kept
        return np.unpackbits(kept, count=row.height * row.width).reshape(row.size)

    def _picture(self, row: Sample, found: UInt8, truth: UInt8) -> UInt8:
        image = read_image(self.archives, row)
        if row.classes == 1:
            painted = overlay(image, found > 0, truth > 0)
        else:
            painted = side_by_side(image, found, truth)
        height = max(1, round(painted.shape[0] * SHOWN_WIDTH / painted.shape[1]))
        small = cv2.resize(painted, (SHOWN_WIDTH, height), interpolation=cv2.INTER_AREA)
        return small.astype(np.uint8, copy=False)


def _finish(
    rows: Sequence[Sample], start: int, levels: Tensor, finished: torch.cuda.Event | None
) -> list[tuple[Sample, UInt8]]:
    if finished is not None:
        finished.synchronize()
    return list(zip(rows[start:], levels.numpy(), strict=False))
