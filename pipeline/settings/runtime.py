"""The machine: section `runtime`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import Count, NotNegative, Section

Some = Annotated[int, Field(ge=0, le=1024)]  # more processes or threads end in a crash
OneOrMore = Annotated[int, Field(ge=1, le=1024)]


class Runtime(Section):
    """The machine. Never tracked: nothing here changes a result beyond rounding.

    But for one thing: on several devices BatchNorm sees each one's share of a batch alone, unless
    `train.sync_batchnorm` is true.
    """

    accelerator: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    compile: bool  # torch.compile in training: minutes at the start, faster steps
    deterministic: bool  # the same weights from run to run, bit for bit; slower on a GPU
    workers: Some  # that decode, at most one a core; 0: the main process
    devices: OneOrMore  # GPUs, or CPU processes, on each machine
    nodes: OneOrMore  # machines; with several, start one command a machine with torchrun or SLURM
    threads: Some  # of torch on the CPU; 0: torch decides
    cache: Literal["none", "ram", "disk"]  # decoded training images at network size
    batch_size: Count  # of validation and prediction
    checkpoint_seconds: NotNegative  # at least so long between two checkpoints of a training
    tensorboard: bool  # curves and pictures of the training, in logs/<recipe>/
