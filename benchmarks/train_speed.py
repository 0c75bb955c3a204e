"""The measurements of train_gpu.py: bare steps, the real loop, and a plain one."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from train_gpu import fitting_workers

from pipeline.augmentation import Augmentation
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_image, read_mask
from pipeline.data.samples import Sample
from pipeline.networks import model
from pipeline.recipe import read
from pipeline.recipe.schema import Recipe, Train
from pipeline.support import hardware
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.support.progress import TensorBoard
from pipeline.train import stage
from pipeline.train.data import Cache
from pipeline.train.held_out import HeldOut
from pipeline.train.loss import entropy_dice
from pipeline.train.optimization import MovingAverage, make_optimizer

WARM_UP = 5  # steps before the clock starts


def measure(
    path: Path, part: str, data: Path, out: Path, seconds: float, peak: float, **how: bool
) -> dict[str, float]:
    """Images a second of one part, its share of the peak, and its memory in GB.

    Args:
        data: folder with `raw/` and `samples.csv`.
    """
    recipe = read.load(path)
    if recipe.train.classes > 1:
        raise UserError(f"{path}: found {recipe.train.classes} classes, expected one: give another")
    torch.manual_seed(0)
    hardware.reuse_freed_memory()  # as `train` does
    runtime = recipe.runtime
    if part == "c":
        cuda = runtime.accelerator == "cuda"
        found = plain_loop(recipe, data, seconds, torch.device("cuda" if cuda else "cpu"))
    else:
        fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
        network = model.for_training(recipe.train, 0, "none")
        if part == "a":
            found = bare_steps(network, recipe.train, fabric, seconds, **how)
        else:
            found = real_loop(network, recipe, fabric, data, out, seconds)
    on_gpu = torch.cuda.is_available() and runtime.accelerator != "cpu"
    flops = found["speed"] * flops_of_a_step(recipe.train)
    return found | {
        "share": flops / peak if on_gpu else 0.0,
        "memory": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0,
    }


def flops_of_a_step(settings: Train) -> float:
    """Multiplications and additions of one image, forward and backward, in matrix products."""
    network = model.for_training(settings, 0, "none").to("meta")
    images = torch.empty(2, *settings.size, 3, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    return counter.get_total_flops() / 2


def timed(step: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Images a second of `step`, which says how many it did."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP):
        step()
    wait()
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(10 if device.type == "cuda" else 1):  # the host runs ahead of a GPU
            images += step()
        wait()
    return images / (time.perf_counter() - started)


def bare_steps(
    network: model.Segmenter,
    settings: Train,
    fabric: Fabric,
    seconds: float,
    compile: bool,
    ema: bool = False,
    channels_last: bool = True,
) -> dict[str, float]:
    """(a) Forward, loss, backward and step on one batch that is on the device.

    Images are (B, H, W, 3), which the network only views as B, 3, H, W. So that it is fed channels
    first, they must lie so in memory.
    """
    if not channels_last:
        network.to(memory_format=torch.contiguous_format)
    plain = make_optimizer(network.parameters(), True, **settings.optimizer.model_dump())
    compiled: Any = torch.compile(network, dynamic=False) if compile else network
    wrapped, optimizer = fabric.setup(compiled, plain)
    average = MovingAverage(network, 0.999) if ema else None
    height, width = settings.size
    shape = (settings.phases[-1].batch_size, height, width)
    images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, device=fabric.device)
    if not channels_last:
        images = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    targets = torch.randint(0, 256, shape, dtype=torch.uint8, device=fabric.device)

    def step() -> int:
        terms = entropy_dice(wrapped(images), targets / 255, settings.loss)
        fabric.backward(terms.total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update()
        return len(images)

    return {"speed": timed(step, seconds, fabric.device)}


def real_loop(
    network: model.Segmenter, recipe: Recipe, fabric: Fabric, data: Path, out: Path,
    seconds: float,
) -> dict[str, float]:  # fmt: skip
    """(b) `stage.train` itself: the last of three epochs, the first of which warms up."""
    archives, settings = Archives(data / "raw"), recipe.train
    table = samples.read(data / "samples.csv")
    rows, held_out = samples.training(table, 0), samples.held_out(table, 0)[:2]
    some = rows if seconds > 5 else rows[:64]
    phase = settings.phases[-1].model_copy(update={"epochs": 3})
    short = settings.model_copy(update={"phases": (phase,)})
    cache = Cache(
        "disk", out / "speed-cache", [*rows, *held_out], archives, settings.resize, [phase.size],
        settings.target.resize,
    )  # fmt: skip
    judge = HeldOut(
        held_out, archives, settings.loss, "none", fabric, 2, 0, False, True, settings.target.hard
    )
    last = out / "speed-last.pt"
    last.unlink(missing_ok=True)
    runtime = recipe.runtime.model_copy(update={"checkpoint_seconds": 1e9})
    with TensorBoard(None) as board:
        job = stage.Job(some, cache, judge, short, runtime, fabric, last, Stop(), board)
        _, progress = stage.train(network, job)
    last.unlink(missing_ok=True)
    row = progress.history[-1]
    return {"speed": row["images_per_second"] or 0.0, "waiting": row["waiting"] or 0.0}


class Plain(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What public solutions' data sets do for each image of each epoch."""

    def __init__(self, rows: list[Sample], raw: Path, settings: Train) -> None:
        self._rows = rows
        self._archives = Archives(raw)
        self._settings = settings
        self._augment = Augmentation(settings.augment)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row, size = self._rows[index], self._settings.size[::-1]
        image = read_image(self._archives, row)
        mask = read_mask(self._archives, row)
        image, mask = cv2.resize(image, size), cv2.resize(mask, size)
        image, mask = self._augment(image.astype(np.uint8), mask.astype(np.uint8), index)
        normalized = (image / np.float32(255) - np.float32(0.45)) / np.float32(0.225)
        channels_first = np.ascontiguousarray(normalized.transpose(2, 0, 1))
        return torch.from_numpy(channels_first), torch.from_numpy(mask.astype(np.float32))


def plain_loop(
    recipe: Recipe, data: Path, seconds: float, device: torch.device
) -> dict[str, float]:
    """(c) float32 and channels first, with torch's own defaults otherwise.

    So convolutions on a GPU take TF32, and matrix products do not.
    """
    settings = recipe.train
    rows = samples.training(samples.read(data / "samples.csv"), 0)
    batch_size, (height, width) = settings.phases[-1].batch_size, settings.size
    asked = int(recipe.runtime.workers)  # train_gpu.py has put a number there
    workers = fitting_workers(asked, 16 * batch_size * height * width, 2)
    loader = DataLoader(
        Plain(rows, data / "raw", settings),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,  # or a few cars' short epochs start them again and again
        pin_memory=device.type == "cuda",
    )
    segmenter = model.for_training(settings, 0, "none")
    network: nn.Module = segmenter.network.to(device, memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    network.train()

    def batches() -> Any:
        while True:
            yield from loader

    waiting = batches()

    def step() -> int:
        images, masks = next(waiting)
        images, masks = images.to(device), masks.to(device)
        optimizer.zero_grad()
        logits = network(images).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, masks)
        probability = torch.sigmoid(logits)
        loss = loss + 1 - (2 * (probability * masks).sum() + 1) / ((probability + masks).sum() + 1)
        loss.backward()
        optimizer.step()
        loss.item()
        return len(images)

    return {"speed": timed(step, seconds, device)}
