"""Optimizers by name."""

from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

FUSED: dict[str, Any] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


def make(
    parameters: Iterable[Parameter], fused: bool, name: str, learning_rate: float, **values: Any
) -> Optimizer:
    """Make an optimizer; what `values` leaves open is as torch has it.

    Args:
        fused: one kernel for all parameters, where torch has one (not RMSprop). Such a kernel
            undoes float16's loss scale by itself, too late for clipping the gradient.
        name: `adamw`, `adam`, `sgd` or `rmsprop`.
        values: `weight_decay`; `momentum` of sgd and rmsprop; `nesterov` of sgd;
            `smoothing` of rmsprop's squared gradients.
    """
    if name == "rmsprop":
        return RMSprop(parameters, learning_rate, alpha=values.pop("smoothing"), **values)
    made: Optimizer = FUSED[name](parameters, lr=learning_rate, fused=fused, **values)
    return made
