"""What a training shows while it runs: a bar, and TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lightning_fabric import Fabric
from tqdm import tqdm

from pipeline.support import hardware
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError


class Bar:
    """An epoch's progress on the terminal: images a second, time left, loss, GPU memory."""

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
        memory = hardware.peak_memory(self._fabric)
        gpu = f", {memory:.1f} GB" if memory else ""
        self._bar.set_postfix_str(f"loss {loss:.4f}{gpu}", refresh=False)

    def close(self) -> None:
        """The epoch is done."""
        self._bar.close()


class Journal:
    """Curves and pictures for TensorBoard, or nothing at all."""

    def __init__(self, folder: Path | None) -> None:
        """Write into `folder`; None for no journal.

        Raises:
            UserError: the package tensorboard is missing.
        """
        self._folder = folder
        self._writer: Any = None
        if folder is not None:
            self._make = _summary_writer()

    def write_epoch(
        self, epoch: int, values: Mapping[str, float], pictures: Mapping[str, UInt8]
    ) -> None:
        """Add points to the curves, and pictures (H, W, 3) RGB.

        What an earlier run has written of this epoch and later ones is no longer shown. Where
        writing fails, the training goes on without the rest of its journal.
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
        values: Mapping[str, float],
        pictures: Mapping[str, UInt8],
    ) -> None:
        if self._writer is None:
            self._writer = self._make(folder, purge_step=epoch)
        for name, value in values.items():
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
