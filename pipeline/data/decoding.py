"""Images decoded ahead of the device that computes with them.

Threads do it, into a ring of buffers used again and again: OpenCV and zlib let go of the GIL,
and no image is pickled, copied between processes or given fresh memory.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Generator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.data.archives import Archives, DamagedMemberError
from pipeline.data.images import BadImageError, read_image, resize_image
from pipeline.data.samples import Sample
from pipeline.recipe.schema import Resize
from pipeline.support.arrays import Size, UInt8
from pipeline.support.concurrency import ordered

HELD = 2  # batches whose pixels stay as they are while the next one is asked for


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images at network size.

    `images` is uint8 RGB (B, H, W, 3), pinned if that was asked for, and valid until the
    `HELD`-th next batch is asked for. `errors` says why an image could not be read (it is black
    then), else it is empty. `seconds` is what decoding took, over all threads.
    """

    rows: Sequence[Sample]
    images: Tensor
    errors: list[str]
    seconds: float


def decode_batches(
    rows: Sequence[Sample],
    archives: Archives,
    size: Size,
    resize: Resize,
    batch_size: int,
    workers: int,
    pinned: bool,
) -> Generator[Batch, None, None]:
    """Yield `rows` in order, `batch_size` at a time, decoded by `workers` threads.

    The threads stay at most a few batches ahead; without workers, nothing is decoded before it
    is asked for. Whatever a thread raises is raised here.
    """
    cv2.setNumThreads(1)  # the images are what runs side by side
    # Enough that every thread has work while a batch is computed.
    ahead = max(2, -(-2 * workers // batch_size)) if workers else 0
    shape = (min(batch_size, len(rows)), *size, 3)
    ring = [
        torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(HELD + ahead + 1)
    ]
    batches = [
        (rows[start : start + batch_size], ring[start // batch_size % len(ring)])
        for start in range(0, len(rows), batch_size)
    ]
    each = (task for some, images in batches for task in zip(some, images.numpy(), strict=False))
    decoded = ordered(
        lambda task: _decode(task[0], archives, task[1], resize), each, workers, ahead * batch_size
    )
    with contextlib.closing(decoded):
        for some, buffer in batches:
            results = list(itertools.islice(decoded, len(some)))
            errors, seconds = zip(*results, strict=True)
            yield Batch(some, buffer[: len(some)], list(errors), sum(seconds))


def _decode(row: Sample, archives: Archives, out: UInt8, resize: Resize) -> tuple[str, float]:
    """Decode one image into `out`; return what is wrong with it and the seconds it took."""
    start = time.perf_counter()
    try:
        image = read_image(archives, row)
    except (BadImageError, DamagedMemberError) as error:
        out[:] = 0
        return str(error), time.perf_counter() - start
    resized = resize_image(image, (out.shape[0], out.shape[1]), resize, out)
    assert resized is out or np.shares_memory(resized, out), "OpenCV took memory of its own"
    return "", time.perf_counter() - start
