"""Which device computes, and in which precision."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric

from pipeline.support.errors import UserError

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

# Variables by which torchrun and SLURM, or Fabric in its own processes, tell who is who.
_STARTERS = {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK"}


def launch(
    accelerator: str, precision: Precision, threads: int, devices: int, nodes: int
) -> Fabric:
    """Make a Fabric, and with several devices its other processes too.

    With several devices the command starts itself again for each of the others, so this comes
    before anything that only one process may do.

    Args:
        accelerator: `auto` (a GPU if there is one), `cpu` or `cuda`.
        precision: `auto` takes bfloat16 where the hardware computes in it, else float16 on a
            GPU and float32 on a CPU.
        threads: of torch on the CPU, in each process; 0 leaves the choice to torch.
        devices: GPUs, or processes on the CPU, on each machine.
        nodes: machines; several are started by torchrun or SLURM, which say which is which.

    Raises:
        UserError: more GPUs are asked for than there are, or float16 on a CPU.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "runtime.accelerator: found cuda, but torch sees no GPU; check the driver with "
            "nvidia-smi, or set it to auto or cpu"
        )
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise UserError(
            f"runtime.devices: found {devices}, but torch sees {torch.cuda.device_count()} GPUs; "
            f"lower it, or check CUDA_VISIBLE_DEVICES"
        )
    if nodes > 1 and not _STARTERS & os.environ.keys():
        raise UserError(
            f"runtime.nodes: found {nodes}, but neither torchrun nor SLURM started this command; "
            f"start it with one of them on each machine, or set it to 1"
        )
    if accelerator == "cpu" and precision == "16-mixed":
        raise UserError(
            "runtime.precision: found 16-mixed, which needs a GPU; set it to auto or 32-true"
        )
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        torch.backends.cudnn.benchmark = True
    chosen = _best_precision(accelerator) if precision == "auto" else precision
    several = devices * nodes > 1
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if several else "auto",
        precision=chosen,
    )
    fabric.launch()
    if threads:  # after launch, which sets it too where there are several processes
        torch.set_num_threads(threads)
    return fabric


def make_deterministic() -> None:
    """Let torch use only what gives the same bits every time; some GPU work gets slower."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def can_fuse(fabric: Fabric, clips: bool) -> bool:
    """Whether a fused optimizer may be used: not where float16's gradients are to be clipped."""
    return not (clips and _precision(fabric) == "16-mixed")


def peak_memory(fabric: Fabric) -> float:
    """The most GPU memory held by tensors so far, GB; 0 on a CPU."""
    cuda = fabric.device.type == "cuda"
    return torch.cuda.max_memory_allocated(fabric.device) / 1e9 if cuda else 0.0


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Say what to lower when the GPU's memory does not suffice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the GPU's memory does not suffice ({first}); lower train.batch_size and raise "
            f"train.gradient.accumulate as much, lower train.size, or set runtime.precision to "
            f"bf16-mixed; in validation lower runtime.batch_size"
        ) from None


def workers(asked: int) -> int:
    """How many worker processes to start: as asked, but no more than there are cores."""
    return min(asked, len(os.sched_getaffinity(0)))


def describe(fabric: Fabric) -> str:
    """The device, precision and number of processes in a few words, for a log."""
    several = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{arithmetic(fabric)}{several}"


def arithmetic(fabric: Fabric) -> str:
    """What decides how numbers are rounded: the device and the precision."""
    name = torch.cuda.get_device_name() if fabric.device.type == "cuda" else "CPU"
    threads = f", {torch.get_num_threads()} threads" if name == "CPU" else ""
    return f"{name}{threads}, {_precision(fabric)}"


def _precision(fabric: Fabric) -> str:
    return str(fabric.strategy.precision.precision)


def _best_precision(accelerator: str) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    # Without these instructions bfloat16 is emulated and several times slower than float32.
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"
