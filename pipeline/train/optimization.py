"""How weights move: optimizers, the learning rate's schedule, and the moving average of weights."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from pipeline.recipe.schema import Phase
from pipeline.support.errors import UserError

_FUSED: dict[str, Any] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


def make_optimizer(
    parameters: Iterable[Parameter], fused: bool, name: str, **values: Any
) -> Optimizer:
    """Make an optimizer; what `values` leaves open is as torch has it. A schedule sets its rate.

    Args:
        fused: one kernel for all parameters, where torch has one (not RMSprop). Such a kernel
            undoes float16's loss scale by itself, too late for clipping the gradient.
        name: `adamw`, `adam`, `sgd` or `rmsprop`.
        values: `weight_decay`; `momentum` of sgd and rmsprop; `nesterov` of sgd;
            `smoothing` of rmsprop's squared gradients.
    """
    if name == "rmsprop":
        return RMSprop(parameters, alpha=values.pop("smoothing"), **values)
    made: Optimizer = _FUSED[name](parameters, fused=fused, **values)
    return made


class Schedule:
    """The learning rate over all phases, each of which has a schedule of torch's of its own.

    By the step, or by the held-out Dice of an epoch: it is told of both, and knows which count.
    """

    def __init__(self, optimizer: Optimizer, phases: Sequence[Phase], steps: Sequence[int]) -> None:
        """Begin with the first of the phases, whose epochs have so many `steps`."""
        self._optimizer = optimizer
        self._phases = phases
        self._steps = steps
        self.rate = 0.0  # of the latest step
        self._phase = 0
        self._schedule = self._make(0)

    def enter(self, phase: int) -> None:
        """Be in this phase: a new one begins, the present one goes on."""
        if phase != self._phase:
            self._phase, self._schedule = phase, self._make(phase)

    def after_step(self) -> None:
        """One step of the optimizer is done."""
        self.rate = float(self._optimizer.param_groups[0]["lr"])
        if not isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step()

    def after_score(self, dice: float) -> None:
        """An epoch is done and scored."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(dice)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on, besides the optimizer's own state."""
        return {"schedule": self._schedule.state_dict(), "phase": self._phase, "rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; the optimizer's state must be loaded after this.

        For entering a phase sets the optimizer's rate and momentum.
        """
        self.enter(state["phase"])
        self._schedule.load_state_dict(state["schedule"])
        self.rate = state["rate"]

    def _make(self, number: int) -> LRScheduler:
        phase = self._phases[number]
        for group in self._optimizer.param_groups:
            group["lr"] = phase.learning_rate
            group.pop("initial_lr", None)  # the last phase's peak, which torch would go on from
            if "betas" in group:  # a one-cycle ends with another first one
                group["betas"] = self._optimizer.defaults["betas"]
        steps = phase.epochs * self._steps[number]
        return _make_schedule(self._optimizer, steps, **phase.schedule.model_dump())


def _make_schedule(optimizer: Optimizer, steps: int, name: str, **values: Any) -> LRScheduler:
    """Make a schedule whose peak is the optimizer's learning rate.

    Args:
        steps: of the optimizer, over the whole phase.
        name: `one-cycle` (with `warm_up`), `cosine` (`warm_up`, `end`), `plateau` (`factor`,
            `patience`, `gain`) or `constant`.

    Raises:
        UserError: a one-cycle's warm-up is a single step, which torch cannot do.
    """
    if name == "one-cycle":
        return _one_cycle(optimizer, steps, values["warm_up"])
    if name == "plateau":
        return ReduceLROnPlateau(
            optimizer,
            mode="max",
            factor=values["factor"],
            patience=values["patience"],
            threshold=values["gain"],
            threshold_mode="abs",
        )
    if name == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    assert name == "cosine", f"no schedule {name!r}"
    return LambdaLR(optimizer, lambda step: cosine(step, steps, values["warm_up"], values["end"]))


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
            f"train.phases: found a schedule with warm_up {warm_up}, which is just one of {steps} "
            f"steps, expected more or less; raise it a little"
        )
    peak = optimizer.param_groups[0]["lr"]
    # A momentum that stands in the recipe stays as it stands.
    return OneCycleLR(
        optimizer, peak, steps, pct_start=warm_up, cycle_momentum="betas" in optimizer.defaults
    )


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights and BatchNorm statistics.

    The decay starts low and rises to the one asked for as (1 + n) / (10 + n) after n steps, so
    that the random start is soon forgotten: TensorFlow's `ExponentialMovingAverage` with
    `num_updates`. Counts of batches are the network's own.

    torch's `AveragedModel` does the same, but brings its count to the GPU at each update: there the
    host waits until all is done that was queued, and then the GPU waits for the host. Nothing is
    waited for here.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Average the network, whose parameters and buffers must stay the same tensors."""
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_averaged", torch.tensor(0))  # on the CPU, wherever the network is
        self._decay = decay
        self._weights, self._counts = (
            (_tensors(self.module, floating), _tensors(network, floating))
            for floating in (True, False)
        )

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now: after each of its steps."""
        steps = int(self.n_averaged)
        if steps:
            weight = 1 - min(self._decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(*self._weights, weight)
        else:
            torch._foreach_copy_(*self._weights)
        for mine, own in zip(*self._counts, strict=True):
            mine.copy_(own)
        self.n_averaged += 1


def _tensors(network: nn.Module, floating: bool) -> list[Tensor]:
    """Weights and statistics, or else the counts."""
    each = (*network.parameters(), *network.buffers())
    return [one.detach() for one in each if one.is_floating_point() == floating]
