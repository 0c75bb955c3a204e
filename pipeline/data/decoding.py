"""Images decoded ahead of the device that computes with them.

Threads do it, into a ring of buffers used again and again: OpenCV and zlib let go of the GIL,
and no image is pickled, copied between processes or given fresh memory.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.data.archives import Archives, DamagedMemberError
from pipeline.data.images import BadImageError, decode_image, resize_image
from pipeline.data.samples import Sample
from pipeline.support.arrays import Size, UInt8

Resize = Literal["linear", "area"]

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


def decoded(
    rows: Sequence[Sample],
    archives: Archives,
    size: Size,
    resize: Resize,
    batch_size: int,
    workers: int,
    pinned: bool,
) -> Iterator[Batch]:
    """Yield `rows` in order, `batch_size` at a time, decoded by `workers` threads.

    The threads stay at most a few batches ahead; without workers, nothing is decoded before it
    is asked for. Whatever a thread raises is raised here.
    """
    cv2.setNumThreads(1)  # the images are what runs side by side
    # Enough that every thread has work while a batch is computed.
    ahead = max(2, -(-2 * workers // batch_size)) if workers else 0
    shape = (min(batch_size, len(rows)), *size, 3)
    ring = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(HELD)]
    ring += [torch.empty_like(ring[0], pin_memory=pinned) for _ in range(ahead + 1)]
    waiting: deque[_Task] = deque()
    pool = ThreadPoolExecutor(max(1, workers), "decode")
    try:
        for number, start in enumerate(range(0, len(rows), batch_size)):
            some, buffer = rows[start : start + batch_size], ring[number % len(ring)]
            waiting.append(_start(pool, some, buffer[: len(some)], archives, resize))
            if len(waiting) > ahead:
                yield _finish(waiting.popleft())
        while waiting:
            yield _finish(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class _Task:
    rows: Sequence[Sample]
    images: Tensor
    results: list[Future[tuple[str, float]]]


def _start(
    pool: ThreadPoolExecutor,
    rows: Sequence[Sample],
    images: Tensor,
    archives: Archives,
    resize: Resize,
) -> _Task:
    into = zip(rows, images.numpy(), strict=True)
    return _Task(
        rows, images, [pool.submit(_decode, row, archives, out, resize) for row, out in into]
    )


def _finish(task: _Task) -> Batch:
    errors, seconds = zip(*(result.result() for result in task.results), strict=True)
    return Batch(task.rows, task.images, list(errors), sum(seconds))


def _decode(row: Sample, archives: Archives, out: UInt8, resize: Resize) -> tuple[str, float]:
    """Decode one image into `out`; return what is wrong with it and the seconds it took."""
    start = time.perf_counter()
    try:
        image = decode_image(archives.read(row.image), row.size, row.image)
    except (BadImageError, DamagedMemberError) as error:
        out[:] = 0
        return str(error), time.perf_counter() - start
    resized = resize_image(image, (out.shape[0], out.shape[1]), resize, out)
    assert resized is out or np.shares_memory(resized, out), "OpenCV took memory of its own"
    return "", time.perf_counter() - start
