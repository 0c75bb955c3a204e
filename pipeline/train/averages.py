"""Averages of weights: over the steps of a training, and over its best epochs."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class Ema:
    """An exponential moving average of a network's weights and BatchNorm statistics.

    `network` holds it, ready to be judged. The decay starts low and rises to the one asked
    for as (1 + steps) / (10 + steps), so that the random start is soon forgotten: TensorFlow's
    `ExponentialMovingAverage` with `num_updates`. Without a decay, `network` is the network
    itself.
    """

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        self.network = network if decay is None else copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        self._steps = 0
        # Listed once: the tensors stay the same while their values change.
        self._ours, self._our_counts = _tensors(self.network)
        self._theirs, self._their_counts = _tensors(network)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's weights after one more step."""
        if self._decay is None:
            return
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)
        if self._our_counts:
            torch._foreach_copy_(self._our_counts, self._their_counts)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on."""
        if self._decay is None:
            return {}
        return {"steps": self._steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        if self._decay is not None:
            self._steps = state["steps"]
            self.network.load_state_dict(state["network"])


def mean(states: Sequence[State]) -> State:
    """The mean of several states of one network, BatchNorm statistics included.

    What is no real number (counts) is the first one's. Averaging the best epochs of a run:
    Izmailov et al., Averaging Weights Leads to Wider Optima (2018).
    """
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def on_cpu(network: nn.Module) -> State:
    """A copy of a network's state."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """A network's state: weights and statistics, and counts of batches."""
    values = list(network.state_dict().values())
    real = [value for value in values if value.is_floating_point()]
    return real, [value for value in values if not value.is_floating_point()]
