"""Several processes that train as one: what they share, and how they agree."""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn

from pipeline.support.errors import UserError


def is_first() -> bool:
    """Whether this is the only process, or the first of those that torchrun, SLURM or launch start.

    Known before Fabric's launch, from what they tell each process.
    """
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def sums(fabric: Fabric, mine: Sequence[float]) -> list[float]:
    """Each number summed over all processes; all of them must ask."""
    if fabric.world_size == 1:
        return [float(value) for value in mine]
    total = torch.tensor(mine, dtype=torch.float64, device=fabric.device)
    distributed.all_reduce(total)
    found: list[float] = total.tolist()
    return found


def in_any(fabric: Fabric, mine: bool) -> bool:
    """Whether it holds in one of the processes; all of them must ask."""
    return sums(fabric, [float(mine)])[0] > 0


def gathered(fabric: Fabric, mine: Any) -> list[Any]:
    """What each process has, in their order; all of them must ask."""
    found = [mine] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(found, mine)
    return found


def share(tensors: Iterable[Tensor], fabric: Fabric) -> None:
    """Give all processes the first one's numbers, in place; all of them must ask."""
    if fabric.world_size > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def share_batchnorm(network: nn.Module, fabric: Fabric) -> None:
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


def check_share(batch_size: int, fabric: Fabric) -> None:
    """Raise `UserError` unless all processes can take the same share of a batch."""
    if batch_size % fabric.world_size:
        raise UserError(
            f"train.batch_size: found batches of {batch_size} for {fabric.world_size} processes, "
            f"expected a multiple; change it, or runtime.devices"
        )


def mean_over(fabric: Fabric, values: Tensor) -> list[float]:
    """The mean over all processes of numbers on the device."""
    return [value / fabric.world_size for value in sums(fabric, values.tolist())]


def end_with_first() -> None:
    """End this process, unless it is the first, as soon as the one that started it has ended.

    It would wait for the other's numbers, and hold its GPU, for half an hour.
    """
    if not is_first():
        threading.Thread(target=_end_after, args=[os.getppid()], daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def end() -> None:
    """Part from the other processes, if there are any; torch warns if this is left out."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
