"""Several processes of one command: what they share, how they agree, and who ends when.

Fabric starts them (or torchrun, or SLURM) and has their collectives. Here stands what it has
not: Python objects gathered, tensors copied in place, and what happens when one of them dies.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn

from pipeline.support.errors import UserError

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the only process, or the first of those that torchrun, SLURM or Fabric start.

    Known before Fabric's launch, from what they tell each process.
    """
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def end_with_first() -> None:
    """End this process, unless it is the first, as soon as the one that started it has ended.

    It would wait for the other's numbers, and hold its GPU, until the collective's time is out.
    """
    if not is_first():
        threading.Thread(target=_end_after, args=[os.getppid()], daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    print("error: the process that started this one has ended", file=sys.stderr, flush=True)
    os._exit(1)


def leave() -> None:
    """Part from the other processes, if there are any; torch warns if this is left out."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextlib.contextmanager
def explain_lost_process() -> Iterator[None]:
    """Say in one line that another process of this run has ended; torch says it in forty.

    Raises:
        UserError: instead of what gloo and NCCL raise when a peer is gone.
    """
    try:
        yield
    except RuntimeError as error:  # DistError is one; gloo's own are plain ones
        first = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, distributed.DistError) and "gloo" not in first.lower():
            raise
        raise UserError(
            f"another process of this run has ended ({first[:80]}); put right what it says "
            f"above, if it does, and run the command again"
        ) from None


def wait_for_all(fabric: Fabric) -> None:
    """Return when every process has come here.

    Raises:
        UserError: one has died on the way.
    """
    with explain_lost_process():
        fabric.barrier()


def decide_in_first(fabric: Fabric, decide: Callable[[], T]) -> T:
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


def total(fabric: Fabric, mine: Sequence[float]) -> list[float]:
    """Each number summed over all processes; all of them must ask."""
    numbers = torch.tensor(mine, dtype=torch.float64, device=fabric.device)
    found: list[float] = fabric.all_reduce(numbers, reduce_op="sum").tolist()  # type: ignore[union-attr]
    return found


def is_in_any(fabric: Fabric, mine: bool) -> bool:
    """Whether it holds in one of the processes; all of them must ask."""
    return total(fabric, [float(mine)])[0] > 0


def gather(fabric: Fabric, mine: Any) -> list[Any]:
    """What each process has, in their order; all of them must ask."""
    found = [mine] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(found, mine)
    return found


def copy_from_first(fabric: Fabric, tensors: Iterable[Tensor]) -> None:
    """Give all processes the first one's numbers, in place; all of them must ask."""
    if fabric.world_size > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def synchronize_batchnorm(fabric: Fabric, network: nn.Module) -> None:
    """Let BatchNorm take its statistics over the batches of all processes.

    Raises:
        UserError: the processes run on the CPU, where torch cannot.
    """
    if fabric.world_size == 1:
        return
    if fabric.device.type != "cuda":
        raise UserError(
            f"train.sync_batchnorm: found true with {fabric.world_size} processes on the CPU, "
            f"which torch can do on GPUs only; set it to false, or runtime.devices to 1"
        )
    for name, child in list(network.named_children()):
        setattr(network, name, convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
