"""What a long run shows of itself: a bar, curves for TensorBoard, and where its time goes."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from pipeline.support import hardware
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError

T = TypeVar("T")


class Bar:
    """An epoch's progress on the terminal: images a second, time left, loss, GPU memory.

    Left by an exception it ends its line, so that what is printed next has one of its own.
    """

    def __init__(
        self, title: str, batch: int, batches: int, batch_size: int, fabric: Fabric
    ) -> None:
        """Begin after `batch` of `batches` batches."""
        self._size = batch_size
        self._fabric = fabric
        self._bar = tqdm(
            total=batches * self._size,
            initial=batch * self._size,
            desc=title,
            unit="img",
            disable=not fabric.is_global_zero,
        )

    def update(self) -> None:
        """One more batch is done."""
        self._bar.update(self._size)

    def show(self, loss: float) -> None:
        """Show the loss of the latest batches."""
        memory = hardware.peak_gpu_memory(self._fabric)
        gpu = f", {memory:.1f} GB" if memory else ""
        self._bar.set_postfix_str(f"loss {loss:.4f}{gpu}", refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.close()


class TensorBoard:
    """Curves and pictures for TensorBoard, or nothing at all."""

    def __init__(self, folder: Path | None) -> None:
        """Write into `folder`; None to write nothing.

        Raises:
            UserError: the package tensorboard is missing.
        """
        self._folder = folder
        self._writer: Any = None
        if folder is not None:
            self._make = _summary_writer()

    def write_epoch(
        self, epoch: int, values: Mapping[str, float | None], pictures: Mapping[str, UInt8]
    ) -> None:
        """Add points to the curves, and pictures (H, W, 3) RGB; None is no point.

        What an earlier run has written of this epoch and later ones is no longer shown. Where
        writing fails, the training goes on without the rest of its curves.
        """
        if self._folder is None:
            return
        try:
            self._write(self._folder, epoch, values, pictures)
        except OSError as error:
            tqdm.write(f"{self._folder}: {error.strerror}; nothing more is written for TensorBoard")
            self._folder = self._writer = None  # not closed, which would only fail again

    def _write(
        self,
        folder: Path,
        epoch: int,
        values: Mapping[str, float | None],
        pictures: Mapping[str, UInt8],
    ) -> None:
        if self._writer is None:
            self._writer = self._make(folder, purge_step=epoch)
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch)
        for name, picture in pictures.items():
            self._writer.add_image(f"held out/{name}", picture, epoch, dataformats="HWC")
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _summary_writer() -> Any:
    """TensorBoard's writer; imported only where it is asked for."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"runtime.tensorboard: found true, but a package is missing ({error}); "
            f"pip install tensorboard, or set it to false"
        ) from None
    return SummaryWriter


class Timers:
    """Where the time of a pipeline goes: how long each of its parts waited for another.

    Seconds by name. One thread adds to a name; others may read it.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, adding the time until each comes."""
        source = iter(items)
        end = object()
        while True:
            with self.during(name):
                item = next(source, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def add(self, name: str, seconds: float) -> None:
        """Add what was measured elsewhere."""
        self.seconds[name] += seconds  # type: ignore[assignment]

    def fraction(self, name: str) -> float:
        """Seconds of a name over those since the start."""
        return self.seconds[name] / max(self.elapsed(), 1e-9)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start


class Stopwatch:
    """How long the device computed, of all the time since `restart`.

    On a GPU the times are those of its own clock, read when the epoch is over: the host runs
    ahead of it, so the host's waiting says little.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.restart()

    def restart(self) -> None:
        """Begin to measure."""
        self._began = time.perf_counter()
        self._marks: list[Any] = []

    def mark(self) -> None:
        """A step's work begins, or ends: called twice a step."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def stop(self) -> None:
        """Set `seconds` since `restart`, and `waiting`, the share of them between steps.

        Without a step (a run that was stopped while it validated) there is no share: None.
        """
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._began
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        busy = sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in pairs)
        self.waiting = max(0.0, 1 - busy / self.seconds) if self._marks else None
