"""The machine: which device computes, in which precision, with how much memory."""

import contextlib
import ctypes
import datetime
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.plugins.precision import Precision as FabricPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from pipeline.support import distributed
from pipeline.support.errors import UserError

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

# Variables by which torchrun and SLURM, or Fabric in its own processes, tell who is who.
_STARTERS = {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK"}
# By what each is known, and where it tells how many processes it has started.
_COUNTS = {
    "torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS"),
}
# A process that is done waits so long for the others: for a shard of a test set, or an epoch.
# Its default, 30 minutes, would end a run whose shares are uneven.
_PATIENCE = datetime.timedelta(days=1)


def check(accelerator: str, precision: Precision, devices: int, nodes: int) -> str:
    """What computes, `cpu` or `cuda`; for the arguments see `launch`.

    Raises:
        UserError: more GPUs are asked for than there are, float16 on a CPU, or torchrun or srun
            has started another number of processes.
    """
    for starter, (sign, count) in _COUNTS.items():
        if sign in os.environ and (started := int(os.environ[count])) != devices * nodes:
            if (starter, started) == ("srun", 1):
                continue  # Fabric starts the others, see `launch`
            raise UserError(
                f"{starter} has started {started} processes, expected {nodes} x {devices} "
                f"(runtime.nodes x runtime.devices; validate takes one process); change what "
                f"{starter} is told, or the recipe"
            )
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
    return accelerator


def launch(
    accelerator: str, precision: Precision, threads: int, devices: int, nodes: int
) -> Fabric:
    """Make a Fabric, and with several devices its other processes too.

    With several devices the command starts itself again for each of the others, so this comes
    before anything that only one process may do. They end when the first one does.

    Args:
        accelerator: `auto` (a GPU if there is one), `cpu` or `cuda`.
        precision: `auto` takes bfloat16 where the hardware has instructions for it, else float16
            on a GPU and float32 on a CPU; `measure_precision` finds out what a CPU is good at.
        threads: of torch on the CPU, in each process, and no more than its cores; 0 leaves the
            choice to torch.
        devices: GPUs, or processes on the CPU, on each machine.
        nodes: machines; several are started by torchrun or SLURM, which say which is which.

    Raises:
        UserError: more GPUs are asked for than there are, or float16 on a CPU.
    """
    accelerator = check(accelerator, precision, devices, nodes)
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        torch.backends.cudnn.benchmark = True
    several = devices * nodes > 1
    # One process of a batch script without srun: without being told, Fabric would take SLURM's word
    # that it is the only one, and leave the other devices idle.
    alone = several and nodes == 1 and os.environ.get("SLURM_NTASKS") == "1"
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=_PATIENCE) if several else "auto",
        precision=_best_precision(accelerator) if precision == "auto" else precision,
        plugins=[LightningEnvironment()] if alone else None,
    )
    fabric.launch()
    distributed.end_with_first()
    if threads:  # after launch, which sets it too where there are several processes
        torch.set_num_threads(min(threads, len(os.sched_getaffinity(0))))
    return fabric


def make_deterministic() -> None:
    """Let torch use only what gives the same bits every time; some GPU work gets slower."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def precision(fabric: Fabric) -> str:
    """Its name, as in `runtime.precision`, but never `auto`."""
    return str(fabric.strategy.precision.precision)


def set_precision(fabric: Fabric, chosen: str) -> None:
    """Compute in another precision of the CPU's: `32-true` or `bf16-mixed`.

    Before a network is set up with the Fabric.
    """
    if chosen != precision(fabric):
        plugin = FabricPrecision() if chosen == "32-true" else MixedPrecision("bf16-mixed", "cpu")
        # Fabric holds it twice: for its networks, and for `autocast`.
        fabric.strategy.precision = fabric._precision = plugin


def measure_precision(fabric: Fabric, step: Callable[[], object]) -> str:
    """Choose between float32 and bfloat16 on a CPU by the time that `step` takes in each.

    A CPU that has bfloat16 instructions need not be fast with them: on some Intel processors
    with avx512_bf16 but without AMX a training step takes twice as long as in float32. So each
    gets one step to warm up, then three, of which the fastest counts: other processes may
    have disturbed the rest. The Fabric is left in the one that won.

    Returns:
        What was measured and chosen, in words; of several processes the first decides.
    """

    def measure() -> tuple[str, str]:
        seconds = {}
        for name in ("32-true", "bf16-mixed"):
            set_precision(fabric, name)
            step()
            taken = [_seconds(step) for _ in range(3)]
            seconds[name] = min(taken)
        best = min(seconds, key=lambda name: seconds[name])
        return best, ", ".join(f"{name} {one:.3f} s a step" for name, one in seconds.items())

    chosen, measured = distributed.decide_in_first(fabric, measure)
    set_precision(fabric, chosen)
    return f"precision {chosen}, measured on this machine: {measured}"


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def can_fuse(fabric: Fabric, clips: bool) -> bool:
    """Whether a fused optimizer may be used: not where float16's gradients are to be clipped."""
    return not (clips and precision(fabric) == "16-mixed")


def compiles(asked: bool, fabric: Fabric) -> bool:
    """Whether to compile networks, as `runtime.compile` asks: on a GPU, and else it is said.

    On a CPU it would take minutes, and the libraries that convolve there stay what they are.
    """
    if asked and fabric.device.type != "cuda":
        fabric.print("runtime.compile: only for a GPU; here networks run as they are", flush=True)
        return False
    return asked


def compile_now(step: Callable[[], object], fabric: Fabric, what: str, otherwise: str) -> bool:
    """Run a step of a network that compiles as it runs first; whether it did.

    How long it took, or that `what` does not compile and what is done `otherwise`, is said.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    began = time.perf_counter()
    try:
        # After 8 networks or shapes torch would go on without, and only its log would say so.
        with config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
            step()
    except (TorchDynamoException, InductorError) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        fabric.print(
            f"WARNING: runtime.compile is true, but {what} does not compile ({words}); "
            f"{otherwise}, which is slower",
            flush=True,
        )
        return False
    fabric.print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
    return True


class Upload:
    """Tensors to the device that computes: to a GPU while it computes, by a stream of its own.

    The current stream waits for what it is given, and for nothing that is uploaded later. From
    pinned memory the caller does not wait, and must leave the tensors as they are until the work
    that it queues with them is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        if self._stream is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._stream):
            there = tensor.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        there.record_stream(current)  # its memory is not given to another upload before
        return there


def peak_gpu_memory(fabric: Fabric) -> float:
    """The most GPU memory held by tensors so far, GB; 0 on a CPU."""
    cuda = fabric.device.type == "cuda"
    return torch.cuda.max_memory_allocated(fabric.device) / 1e9 if cuda else 0.0


def peak_memory() -> float:
    """The most memory this process has had resident so far, in MB (10**6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux gives KiB


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that processes could still take here, with what file caches give back.

    Of the machine, or of the container or job (a control group of Linux, version 2) that this
    process is in, whose limit the machine's own figures do not show.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (root / "proc/meminfo").read_text().split("MemAvailable:")[1]
        free = int(text.split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = (root / "proc/self/cgroup").read_text().split("0::/")[1].split("\n")[0]
        top = root / "sys/fs/cgroup"
        for folder in (top / group, *(top / group).parents):
            with contextlib.suppress(OSError, ValueError, IndexError):  # the limit "max" is none
                limit = int((folder / "memory.max").read_text())
                used = int((folder / "memory.current").read_text())
                cached = (folder / "memory.stat").read_text().split("inactive_file ")[1].split()[0]
                free = min(free, limit - used + int(cached))
    return max(0, free)


def check_cache_fits(needed: int, images: int) -> None:
    """Refuse to keep decoded images in memory where the kernel would end it without a word.

    Raises:
        UserError: fewer than `needed` bytes are free.
    """
    free = free_memory()
    if needed > free:
        raise UserError(
            f"runtime.cache: found ram, which takes {needed / 1e9:.1f} GB for {images} images; the "
            f"machine has {free / 1e9:.1f} GB of memory free: set it to disk or none"
        )


# Numbers of malloc.h, and the largest threshold that 64-bit glibc takes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 32 << 20


def reuse_freed_memory() -> None:
    """Make glibc keep freed memory for the next image.

    By default every array of some megabytes is mapped afresh and faulted in page by page:
    half the time of decoding and resizing. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 16 << 20))
    for number, value in settings:
        accepted = mallopt(number, value)
        assert accepted, f"mallopt({number}, {value}) was refused"


@contextlib.contextmanager
def explain_failures() -> Iterator[None]:
    """Say which setting to change, where torch fails for a reason a user can put right.

    Raises:
        UserError: the GPU's memory does not suffice, a loader process has died, a batch is too
            small for BatchNorm, or another process of this run has ended.
    """
    try:
        with distributed.explain_lost_process():
            yield
    except torch.cuda.OutOfMemoryError as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the GPU's memory does not suffice ({first}); lower the phase's batch_size and raise "
            f"train.gradient.accumulate as much, lower its size, or set runtime.precision to "
            f"bf16-mixed; in validation and prediction lower runtime.batch_size"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a process that decodes images has ended ({str(error).partition('.')[0]}): most often "
            f"for want of memory, the machine's or that of /dev/shm; lower runtime.workers or "
            f"the phase's batch_size, or give it more"
        ) from None
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise UserError(
            "train.phases: found so few images in a batch, for each device, that BatchNorm has one "
            "value a channel to take statistics of; raise batch_size, or size"
        ) from None


def workers(asked: int | Literal["auto"], fabric: Fabric) -> int:
    """How many workers each process of a run starts: no more than its share of the cores.

    `auto` takes all of them but one where a GPU computes, and a quarter where the cores do.
    """
    here = getattr(fabric.strategy, "num_processes", 1)  # those of this machine, if several
    cores = max(1, len(os.sched_getaffinity(0)) // here)
    if asked != "auto":
        return min(asked, cores)
    return max(1, cores - 1) if fabric.device.type == "cuda" else cores // 4


def describe(fabric: Fabric) -> str:
    """The device, precision and number of processes in a few words, for a log."""
    several = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{arithmetic(fabric)}{several}"


def arithmetic(fabric: Fabric, compiled: bool = False) -> str:
    """What decides how numbers are rounded: the device, the precision, and whether it compiles."""
    if fabric.device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, {precision(fabric)}{', compiled' * compiled}"
    return f"CPU, {torch.get_num_threads()} threads, {precision(fabric)}"


def _best_precision(accelerator: str) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    return "bf16-mixed" if has_bfloat16() else "32-true"


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without, it is several times slower."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
