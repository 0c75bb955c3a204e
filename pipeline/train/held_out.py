"""The held-out Dice of a network in training, over all processes."""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from pipeline.data.archives import Archives
from pipeline.data.images import decode_image, decode_mask
from pipeline.data.samples import Sample
from pipeline.levels import scale
from pipeline.metrics import classes
from pipeline.metrics.dice import dice
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.support import concurrency, distributed
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.support.pictures import overlay

SHOWN = 4  # pictures, the same after every epoch
SHOWN_WIDTH = 640  # pixels


class Score(NamedTuple):
    """`dice` is the mean over images; `pictures` are overlays by name, of all but background."""

    dice: float
    pictures: dict[str, UInt8]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out images, and how to predict them; each process takes its share.

    The predictor's networks are put in when they are scored.
    """

    rows: Sequence[Sample]
    archives: Archives
    predictor: Predictor
    pictures: bool

    @property
    def fabric(self) -> Fabric:
        """The processes that share the images."""
        return self.predictor.fabric

    def score(self, network: nn.Module, stop: Stop) -> Score | None:
        """The competition's score at threshold 0.5 and full resolution.

        Of several classes, an image's score is the mean of the Dice of each class.

        Returns:
            None when a signal asked to stop meanwhile.

        Raises:
            UserError: an image or a mask does not decode.
        """
        network.eval()
        distributed.copy_from_first(self.fabric, network.buffers())  # BatchNorm's statistics
        mine = self.rows[self.fabric.global_rank :: self.fabric.world_size]
        scores, pictures = [], {}
        shown = set(mine[:: max(1, len(mine) // SHOWN)][:SHOWN] if self.pictures else [])
        gpus = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):  # the training's random numbers stay as they are
            judge = functools.partial(self._judge, shown=shown)
            predictions = self._predict(network, mine)
            threads = max(1, self.predictor.workers)
            with contextlib.closing(concurrency.ordered(judge, predictions, threads)) as judged:
                for row, score, picture in judged:
                    scores.append(score)
                    if picture is not None:
                        pictures[row.sample_id] = picture
                    if stop.signal:
                        break
        mine_of_all = [sum(scores), float(len(scores)), float(stop.signal != 0)]
        total, images, stopped = distributed.total(self.fabric, mine_of_all)
        return None if stopped else Score(total / images, pictures)

    def _predict(self, network: nn.Module, rows: Sequence[Sample]) -> "tqdm[Prediction]":
        predictor = self.predictor.with_network("the network in training", network)
        predictions = predictor.predict(rows, self.archives)
        quiet = not self.fabric.is_global_zero
        return tqdm(
            predictions, total=len(rows), desc="validate", unit="img", leave=False, disable=quiet
        )

    def _judge(
        self, prediction: Prediction, shown: Collection[Sample]
    ) -> tuple[Sample, float, UInt8 | None]:
        """An image's score, and its picture if it is one of those shown."""
        row, (found, truth) = prediction.row, self._classes(prediction)
        mask, true_mask = found > 0, truth > 0
        if row.classes == 1:
            score = dice(mask, true_mask)
        else:
            score = classes.mean_dice(found, truth, row.classes)
        return row, score, self._picture(row, mask, true_mask) if row in shown else None

    def _classes(self, prediction: Prediction) -> tuple[UInt8, UInt8]:
        """Predicted and true class indices at full resolution."""
        if prediction.error:
            raise UserError(prediction.error)
        row = prediction.row
        truth = decode_mask(self.archives.read(row.mask), row.size, row.mask, row.values)
        return scale.decide(prediction.levels, row.size), truth

    def _picture(
        self, row: Sample, mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]
    ) -> UInt8:
        image = decode_image(self.archives.read(row.image), row.size, row.image)
        height = max(1, round(row.height * SHOWN_WIDTH / row.width))
        painted = overlay(image, mask, truth)
        small = cv2.resize(painted, (SHOWN_WIDTH, height), interpolation=cv2.INTER_AREA)
        return small.astype(np.uint8, copy=False)
