"""Several processes of one command, started by Fabric: who decides, and who ends when."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from lightning_fabric import Fabric

from pipeline.support.errors import UserError

T = TypeVar("T")


def agreed(fabric: Fabric, decide: Callable[[], T]) -> T:
    """What the first process decides, in all of them; where it cannot, all end.

    Raises:
        In the first process, whatever `decide` raised; the others end without a word.
    """
    if fabric.is_global_zero:
        try:
            decision = decide()
        except BaseException:
            fabric.broadcast(None)
            raise
        return fabric.broadcast(decision)
    decision_or_none: T | None = fabric.broadcast(None)
    if decision_or_none is None:
        sys.exit(1)
    return decision_or_none


def while_parent_lives(items: Iterator[T]) -> Iterator[T]:
    """Yield `items`, but end the process when the one that started it has died.

    Nobody would put together what a process makes whose leader is gone.
    """
    parent = os.getppid()
    for item in items:
        if os.getppid() != parent:
            sys.exit("error: the process that started this one has ended; run the command again")
        yield item


def wait_for_all(fabric: Fabric) -> None:
    """Return when every process has come here.

    Raises:
        UserError: one has died on the way.
    """
    try:
        fabric.barrier()
    except RuntimeError as error:  # what torch's backends raise when a peer is gone
        raise UserError(
            f"another process of this run has ended ({str(error).splitlines()[0][:80]}); put "
            f"right what it says above, if it does, and run the command again"
        ) from None
