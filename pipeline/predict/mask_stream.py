"""Masks of a stream of images: decode, compute, resize, threshold, pack; bounded at every step."""

import dataclasses
import itertools
from collections.abc import Generator, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.archives import Archives
from pipeline.data.decoding import Batch, Resize, decoded
from pipeline.data.samples import Sample
from pipeline.networks.predictor import Tta, forward
from pipeline.predict import mask_bits
from pipeline.support.arrays import Size
from pipeline.support.progress import Timers

Words = NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Masks:
    """A batch's masks at the images' own sizes.

    `words` holds, for each run of images of one size, their bits as in `mask_bits`. `disagreement`
    is float32 (B,), see `inference.Probabilities`. `errors` says why an image could not be
    read, else it is empty; its bits and its disagreement mean nothing then.
    """

    rows: Sequence[Sample]
    words: list[Words]
    disagreement: NDArray[np.float32]
    errors: list[str]


def masks(
    rows: Sequence[Sample],
    archives: Archives,
    models: Sequence[nn.Module],
    size: Size,
    resize: Resize,
    tta: Tta,
    threshold: float,
    fabric: Fabric,
    batch_size: int,
    workers: int,
    waits: Timers,
) -> Generator[Masks, None, None]:
    """Yield the masks of `rows` in order, batch by batch; see `inference.stream`.

    A pixel is foreground if its probability at full resolution is at least `threshold`. On a
    GPU, a batch is handed to it before the one before it is waited for. `waits` learns how
    long images and whoever takes the masks were waited for, and how long decoding took.
    """
    pinned = fabric.device.type == "cuda"
    if pinned:
        torch.cuda.set_device(fabric.device)  # each thread has a current device of its own
    launched: _Launched | None = None
    batches = decoded(rows, archives, size, resize, batch_size, workers, pinned)
    for batch in waits.each("images", batches):
        waits.add("decoding", batch.seconds)
        following = _launch(batch, models, tta, threshold, fabric)
        if launched is not None:
            done = launched.finish()
            with waits.during("writer"):
                yield done
        launched = following
    if launched is not None:
        yield launched.finish()


@dataclasses.dataclass(frozen=True)
class _Launched:
    """A batch whose results a GPU may still be computing."""

    batch: Batch
    words: list[Tensor]  # on the host, uint8 (B, bytes) a run of one size
    disagreement: Tensor
    finished: torch.cuda.Event | None

    def finish(self) -> Masks:
        if self.finished is not None:
            self.finished.synchronize()
        words = [tensor.numpy().view(np.uint64) for tensor in self.words]
        return Masks(self.batch.rows, words, self.disagreement.numpy(), self.batch.errors)


def _launch(
    batch: Batch, models: Sequence[nn.Module], tta: Tta, threshold: float, fabric: Fabric
) -> _Launched:
    found = forward(batch.images, models, tta, fabric, threshold)
    on_gpu = found.probability.device.type == "cuda"
    words, start = [], 0
    for size, run in itertools.groupby(row.size for row in batch.rows):
        some = found.probability[start : (start := start + len(list(run)))]
        if on_gpu:
            bits = mask_bits.on_device(some, size, threshold)
            words.append(bits.to("cpu", non_blocking=True))  # into pinned memory
        else:
            packed = mask_bits.on_cpu(some.numpy(), size, threshold)
            words.append(torch.from_numpy(packed.view(np.uint8)))
    disagreement = found.disagreement.to("cpu", non_blocking=True)
    finished = None
    if on_gpu:
        finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
        finished.record(torch.cuda.current_stream(fabric.device))
    return _Launched(batch, words, disagreement, finished)
