"""Samples as torch data sets: decoded, at network size, still uint8.

Pixels stay (H, W, 3) uint8 until they are on the device that computes: a quarter of the bytes
to move, and normalizing there costs nothing beside the network.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.data.archives import Archives
from pipeline.data.images import decode_image, decode_mask, resize_image, soft_target
from pipeline.data.samples import Sample
from pipeline.support.arrays import Size, UInt8
from pipeline.train.augment import Augmentation

Resize = Literal["linear", "area"]
Draw = tuple[int, int]  # index of a row, seed of its augmentation


class Pictures(Protocol):
    """Images (H, W, 3) and soft targets at network size, uint8, by position.

    Targets are as `pipeline.data.images.soft_target` makes them: (H, W), or (H, W, C) of C classes.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]: ...


class Decoder:
    """Rows of images and masks, decoded each time they are asked for."""

    def __init__(
        self, rows: Sequence[Sample], archives: Archives, size: Size, resize: Resize
    ) -> None:
        self.rows = rows
        self.archives = archives
        self.size = size
        self.resize: Resize = resize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]:
        """Image (H, W, 3) and soft target (H, W) or (H, W, C), uint8, of one row."""
        row = self.rows[position]
        image = decode_image(self.archives.read(row.image), row.size, row.image)
        mask = decode_mask(self.archives.read(row.mask), row.size, row.mask, row.values)
        target = soft_target(mask, self.size, row.classes)
        return resize_image(image, self.size, self.resize), target


class TrainingSet(Dataset[tuple[UInt8, UInt8, int]]):
    """Augmented images and soft targets, drawn by (index, seed)."""

    def __init__(
        self,
        rows: Sequence[Sample],
        pictured: Sequence[Sample],
        pictures: Pictures,
        augment: Augmentation,
    ) -> None:
        """Draw from `rows`, which are some of those `pictured`, each at its position."""
        position = {row.sample_id: number for number, row in enumerate(pictured)}
        self.rows = rows
        self._positions = [position[row.sample_id] for row in rows]
        self._pictures = pictures
        self._augment = augment

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, draw: Draw) -> tuple[UInt8, UInt8, int]:
        """Image (H, W, 3) and target, uint8 0..255, at network size, and the index."""
        index, seed = draw
        image, target = self._pictures[self._positions[index]]
        return *self._augment(image, target, seed), index


class Shuffle(Sampler[list[Draw]]):
    """One epoch's batches of draws: rows and seeds that follow from (seed, epoch).

    Without `chances` the rows are a permutation; with them, each draw has the chances given,
    and a row can come up several times or not at all.

    An epoch is whole steps of `accumulate` batches: incomplete ones are left out (their rows
    come up in other epochs), unless there is no other. Each process gets its share of every
    batch, so what is learned does not depend on their number.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        accumulate: int,
        process: int,
        processes: int,
        chances: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Shuffle `rows` rows for `process` of `processes` that share each batch equally."""
        self.epoch = 0
        self.first = 0  # batches left out, being done already
        self.batch_size = min(batch_size, rows)
        self.accumulate = min(accumulate, rows // self.batch_size)
        self.steps = rows // (self.batch_size * self.accumulate)
        self._rows = rows
        self._chances = chances
        self._seed = seed
        self._process = process
        self._processes = processes

    def __len__(self) -> int:
        return self.steps * self.accumulate - self.first

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = np.random.default_rng([self._seed, self.epoch])
        if self._chances is None:
            order = generator.permutation(self._rows)
        else:
            order = generator.choice(self._rows, size=self._rows, p=self._chances)
        seeds = generator.integers(2**32, size=self._rows)
        draws = list(zip(order.tolist(), seeds.tolist(), strict=True))
        for batch in range(self.first, self.steps * self.accumulate):
            whole = draws[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self._process :: self._processes]


def prefer_foreground(rows: Sequence[Sample], uniform: float) -> npt.NDArray[np.float64]:
    """Chances to draw each row (N,): `uniform` of them equal, the rest by foreground share.

    Without foreground in any row, all are equal.
    """
    equal = np.full(len(rows), 1 / len(rows))
    foreground = np.array([row.foreground for row in rows])
    if not foreground.any():
        return equal
    return np.asarray(uniform * equal + (1 - uniform) * foreground / foreground.sum())


def load_batches(
    dataset: TrainingSet, batches: Shuffle, workers: int, pin: bool
) -> DataLoader[tuple[UInt8, UInt8, int]]:
    """Batches of images (B, H, W, 3) and targets (B, H, W[, C]), uint8, and indices (B,).

    Args:
        workers: processes that decode and augment; they stay from epoch to epoch.
        pin: into memory that a GPU can read by itself.
    """
    # There is a process a core. Said here and not in the workers, because this also ends the
    # threads OpenCV has: a forked process would wait for them forever as soon as it says so.
    cv2.setNumThreads(1)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        # Forked, they share the decoded pictures; later Pythons would send them a copy each.
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_outlive_sigterm,
        generator=torch.Generator(),  # else each epoch takes a number from the network's
    )


def _outlive_sigterm(worker: int) -> None:
    """Heed SIGTERM from the main process alone.

    SLURM and others send it to all processes; the main one then saves, for which it needs this
    one. torch's own handler, which ends a worker at once, never sees a blocked signal.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, args=[os.getppid()], daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
