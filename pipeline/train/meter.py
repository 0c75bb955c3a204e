"""What an epoch measures while it runs: losses, and time not spent computing."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pipeline.support import distributed, hardware
from pipeline.support.errors import UserError
from pipeline.support.progress import Stopwatch
from pipeline.train.loss import Terms

WINDOW = 20  # batches between two looks at a GPU: each makes the host wait for it


class Losses:
    """The loss terms of an epoch's batches, summed on the device.

    Reading a number off a GPU waits for all its work, so that is done once every `WINDOW`
    batches; on a CPU it costs nothing and is done for each.
    """

    def __init__(self, device: torch.device, ids: Sequence[str]) -> None:
        self._sums = torch.zeros(len(Terms._fields), dtype=torch.float64, device=device)
        self._batches = 0
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._window = WINDOW if device.type == "cuda" else 1
        self._ids = ids

    def add(self, terms: Terms, rows: Tensor) -> bool:
        """Take in a batch's terms and the positions of its rows; True when a look is due."""
        found = torch.stack([term.detach() for term in terms])
        self._sums += found
        self._batches += 1
        self._recent.append((found, rows))
        return len(self._recent) >= self._window

    def look(self) -> float:
        """The mean loss of the batches since the last look.

        Raises:
            UserError: one of them is not finite; the message holds its terms and sample ids.
        """
        recent, self._recent = self._recent, []
        if not recent:
            return self.means()[0].item()
        values = torch.stack([found for found, _ in recent]).cpu()
        for found, (_, rows) in zip(values, recent, strict=True):
            if not torch.isfinite(found).all():
                raise UserError(self._explained(found.tolist(), rows))
        return values[:, 0].mean().item()

    def means(self) -> Tensor:
        """The means of loss, BCE and Dice term over the epoch so far, on the device."""
        return self._sums / max(1, self._batches)

    def clear(self) -> None:
        """Begin the next epoch."""
        self._sums.zero_()
        self._batches, self._recent = 0, []

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on."""
        return {"sums": self._sums.cpu(), "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._sums.copy_(state["sums"])
        self._batches = state["batches"]

    def _explained(self, found: Sequence[float], rows: Tensor) -> str:
        total, bce, dice = found
        names = ", ".join(self._ids[row] for row in rows.tolist())
        return (
            f"the loss is {total} (BCE {bce}, Dice {dice}) on {names}, expected a finite number; "
            f"lower train.optimizer.learning_rate, set train.gradient.clip, or set "
            f"runtime.precision to 32-true"
        )


def measured(losses: Losses, clock: Stopwatch, images: int, fabric: Fabric) -> dict[str, Any]:
    """An epoch's figures by name, after `images` images; all processes must ask.

    `waiting` is a share, of the first process; the rest is over all processes.
    """
    total, bce, dice = (
        v / fabric.world_size for v in distributed.total(fabric, losses.means().tolist())
    )
    return {
        "loss": total,
        "bce": bce,
        "dice_loss": dice,
        "images_per_second": images / clock.seconds if images else math.nan,
        "waiting": clock.waiting,
        "gpu_memory_gb": hardware.peak_gpu_memory(fabric),
    }
