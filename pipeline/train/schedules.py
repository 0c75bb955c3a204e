"""How the learning rate moves: by the step, or by the held-out Dice of an epoch."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from pipeline.support.errors import UserError


class Schedule:
    """A torch schedule told of every step and every epoch; it knows which of them count."""

    def __init__(self, schedule: LRScheduler) -> None:
        self._schedule = schedule
        self.rate = 0.0  # of the latest step

    def after_step(self) -> None:
        """One step of the optimizer is done."""
        self.rate = float(self._schedule.optimizer.param_groups[0]["lr"])
        if not isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step()

    def after_epoch(self, dice: float) -> None:
        """One epoch is done and scored."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(dice)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on."""
        return {"schedule": self._schedule.state_dict(), "rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._schedule.load_state_dict(state["schedule"])
        self.rate = state["rate"]


def make(optimizer: Optimizer, steps: int, name: str, **values: Any) -> Schedule:
    """Make a schedule whose peak is the optimizer's learning rate.

    Args:
        steps: of the optimizer, over the whole training.
        name: `one-cycle` (with `warm_up`), `cosine` (`warm_up`, `end`), `plateau` (`factor`,
            `patience`, `gain`) or `constant`.

    Raises:
        UserError: a one-cycle's warm-up is a single step, which torch cannot do.
    """
    if name == "one-cycle":
        return Schedule(_one_cycle(optimizer, steps, values["warm_up"]))
    if name == "plateau":
        plateau = ReduceLROnPlateau(
            optimizer,
            mode="max",
            factor=values["factor"],
            patience=values["patience"],
            threshold=values["gain"],
            threshold_mode="abs",
        )
        return Schedule(plateau)
    if name == "constant":
        return Schedule(LambdaLR(optimizer, lambda step: 1.0))
    assert name == "cosine", f"no schedule {name!r}"
    return Schedule(
        LambdaLR(optimizer, lambda step: cosine(step, steps, values["warm_up"], values["end"]))
    )


def cosine(step: int, steps: int, warm_up: float, end: float) -> float:
    """The share of the peak at `step` (0 .. steps): a line up, then half a cosine to `end`."""
    rising = round(steps * warm_up)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


def _one_cycle(optimizer: Optimizer, steps: int, warm_up: float) -> OneCycleLR:
    if steps * warm_up == 1:  # torch's schedule divides by the steps after the first
        raise UserError(
            f"train.schedule.warm_up: found {warm_up}, which is just one of {steps} steps, "
            f"expected more or less; raise it a little"
        )
    peak = optimizer.param_groups[0]["lr"]
    # A momentum that stands in the recipe stays as it stands.
    return OneCycleLR(
        optimizer, peak, steps, pct_start=warm_up, cycle_momentum="betas" in optimizer.defaults
    )
