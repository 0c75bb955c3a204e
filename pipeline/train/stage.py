"""Stage `train`: fit one fold's network, phase by phase, and keep its last (averaged) weights.

`train` is the whole of it: decode and augment (data.py), forward, loss (loss.py),
backward, a step of optimizer, schedule and moving average (optimization.py); after an epoch the
held-out loss and Dice (held_out.py). It saves itself every now and then, and goes on from any
step (checkpoint.py).
"""

import contextlib
import copy
import csv
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline.augmentation import Augmentation
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.networks import model
from pipeline.paths import Paths
from pipeline.recipe.schema import Phase, Recipe, Runtime, Train
from pipeline.support import distributed, files, fingerprint, hardware, interrupt
from pipeline.support.arrays import Size
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.support.progress import Bar, Stopwatch, TensorBoard
from pipeline.train import checkpoint, optimization, pseudo
from pipeline.train.checkpoint import Checkpointer, Progress, Row, State
from pipeline.train.data import (
    Cache,
    Images,
    Joined,
    Share,
    Shuffle,
    TrainingSet,
    load_batches,
    prefer_foreground,
)
from pipeline.train.held_out import HeldOut, Score
from pipeline.train.loss import Losses, entropy_dice, shares
from pipeline.train.pseudo import PseudoLabels


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a training needs besides its network: of which images, how, on what, where to."""

    rows: Sequence[Sample]  # to train on
    cache: Cache  # their decoded images, and those held out
    held_out: HeldOut
    settings: Train
    runtime: Runtime
    fabric: Fabric
    last: Path  # the checkpoint
    stop: Stop
    board: TensorBoard
    epochs: Path | None = None  # the folder to keep every epoch's weights in
    pseudo: PseudoLabels | None = None  # more to train on

    @property
    def every_row(self) -> Sequence[Sample]:
        """Those to train on, with true masks and, after them, with what another network says."""
        return [*self.rows, *self.pseudo.rows] if self.pseudo else self.rows

    def training_set(self, images: Images, size: Size) -> TrainingSet:
        """What is drawn from at one size, augmented."""
        if self.pseudo:
            images = Joined(images, self.pseudo.at(size))
        return TrainingSet(self.every_row, images, Augmentation(self.settings.augment))


def train(network: model.Segmenter, job: Job) -> tuple[State, Progress]:
    """Run all phases, going on from the checkpoint if an earlier run has left one.

    Returns:
        The weights to keep, and how the run went.

    Raises:
        UserError: the loss is no longer finite; the message holds its terms and sample ids.
    """
    settings, fabric, stop = job.settings, job.fabric, job.stop
    checkpointer = Checkpointer(job.last, job.runtime.checkpoint_seconds, stop, fabric)
    _choose_precision(network, job, checkpointer.precision)
    shuffles = [_shuffle(phase, job) for phase in settings.phases]
    hard, compiles = settings.target.hard, hardware.compiles(job.runtime.compile, fabric)
    wrapped, optimizer, clip = *_set_up(network, job, compiles), settings.gradient.clip
    plain = optimizer.optimizer
    schedule = optimization.Schedule(plain, settings.phases, [one.steps for one in shuffles])
    # The schedule before the optimizer: see its load_state_dict.
    parts = {"network": network, "schedule": schedule, "optimizer": plain}
    parts["precision"] = fabric.strategy.precision  # float16's loss scale
    judged: nn.Module = network
    if settings.weights.ema != "none":
        average = optimization.MovingAverage(network, settings.weights.ema)
        parts["average"], judged = average, average.module
    losses = Losses(fabric.device, [row.sample_id for row in job.every_row])
    progress = checkpointer.resume(parts, {"losses": losses})
    clock, patience = Stopwatch(fabric.device), settings.validation.patience
    upload = hardware.Upload(fabric.device)

    ends = 0
    for number, (phase, batches) in enumerate(zip(settings.phases, shuffles, strict=True)):
        ends += phase.epochs
        if progress.epoch >= ends or progress.is_stale(patience):
            continue
        schedule.enter(number)
        images = job.cache.at(phase.size)
        dataset = job.training_set(images, phase.size)
        if compiles:
            compiles = _compile(wrapped, network, batches.sizes, phase.size, job)
        workers = hardware.workers(job.runtime.workers, fabric)
        loader = load_batches(dataset, batches, workers, pin=fabric.device.type == "cuda")
        while progress.epoch < ends and not progress.is_stale(patience):
            title = _title(number, progress.epoch + 1, settings)
            batches.epoch, batches.first = progress.epoch, progress.batch
            done, of, size = batches.first, batches.first + len(batches), batches.batch_size
            wrapped.train()
            clock.restart()
            with Bar(title, done, of, size, fabric) as bar:
                for pixels, targets, rows in loader:  # (B, H, W, 3), (B, H, W[, C]) uint8; (B,)
                    clock.mark()
                    pixels, truth = upload(pixels), shares(upload(targets), hard)
                    progress.batch += 1
                    ends_step = progress.batch % batches.accumulate == 0
                    with fabric.no_backward_sync(wrapped, enabled=not ends_step):
                        terms = entropy_dice(wrapped(pixels), truth, settings.loss)
                        fabric.backward(terms.total / batches.accumulate)
                    if ends_step:
                        if clip != "none":  # infinite ones: float16's scaler skips the step
                            fabric.clip_gradients(wrapped, optimizer, None, clip, 2.0, False)
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                        schedule.after_step()
                        if settings.weights.ema != "none":
                            average.update()
                    bar.update()
                    if losses.add(terms, rows):
                        bar.show(losses.look())
                    if ends_step and checkpointer.is_due():
                        losses.look()
                        checkpointer.save(progress)
                    clock.mark()
                losses.look()
            clock.stop()

            score, epoch = None, progress.epoch + 1
            if epoch % settings.validation.every == 0 or epoch == settings.epochs:
                score = job.held_out.score(judged, images, stop)
                if score is None:
                    checkpointer.save_and_leave(progress)
                schedule.after_score(score.dice)
            row = _row(epoch, number, score, schedule.rate)
            row |= _measure(losses, clock, batches.images, fabric)
            losses.clear()
            progress.end_epoch(row)
            # The weights that are used are those of the last size.
            if score is not None and settings.choices and number == len(shuffles) - 1:
                progress.note_score(score.dice, checkpoint.on_cpu(judged))
            if job.epochs and fabric.is_global_zero:
                weights = checkpoint.on_cpu(judged)
                model.save(job.epochs / f"epoch-{epoch:03d}.pt", network, weights)
            job.board.write_epoch(epoch, row, score.pictures if score else {})
            fabric.print(f"{title}: {_describe(row)}", flush=True)
            if checkpointer.is_due(epoch_ends=True):
                checkpointer.save(progress)
        del images, dataset, loader  # before those of the next size take their place
    if settings.weights.keep == "best":
        return progress.best["weights"], progress
    return checkpoint.on_cpu(judged), progress


def _choose_precision(network: model.Segmenter, job: Job, kept: str | None) -> None:
    """Let the Fabric compute in what `runtime.precision` asks for: `auto` is measured on a CPU.

    A run that goes on keeps the precision it began in.
    """
    fabric, settings = job.fabric, job.settings
    if job.runtime.precision != "auto" or fabric.device.type != "cpu":
        return
    if kept in ("32-true", "bf16-mixed"):  # and not a GPU's
        hardware.set_precision(fabric, kept)
        fabric.print(f"precision {kept}, as before", flush=True)
        return
    if not hardware.has_bfloat16():
        return
    tried = copy.deepcopy(network).train()

    def step() -> None:
        with fabric.autocast():
            logits = tried(images)
        fabric.backward(entropy_dice(logits, torch.zeros_like(logits), settings.loss).total)

    with torch.random.fork_rng([]):  # the training's own stay as they are
        images = torch.randint(0, 256, (2, *settings.phases[0].size, 3), dtype=torch.uint8)
        fabric.print(hardware.measure_precision(fabric, step), flush=True)


def _shuffle(phase: Phase, job: Job) -> Shuffle:
    """This process's share of each batch of a phase."""
    settings, fabric = job.settings, job.fabric
    chances, times = None, 3 if settings.augment.triple else 1
    if settings.sampler.name == "prefer-foreground":
        chances = np.tile(prefer_foreground(job.rows, settings.sampler.uniform), times) / times
    batches = Shuffle(
        times * len(job.rows),
        phase.batch_size,
        settings.seed,
        accumulate=settings.gradient.accumulate,
        drop_last=settings.drop_last,
        chances=chances,
        extra=job.pseudo.extra if job.pseudo else None,
        share=Share(fabric.global_rank, fabric.world_size, job.runtime.devices),
    )
    if batches.batch_size % fabric.world_size:
        raise UserError(
            f"train.phases: found batches of {batches.batch_size} (batch_size "
            f"{phase.batch_size}, {len(job.rows)} images) for {fabric.world_size} processes, "
            f"expected a multiple; change batch_size, or runtime.devices"
        )
    return batches


def _set_up(network: model.Segmenter, job: Job, compiles: bool) -> tuple[Any, Any]:
    """Network and optimizer as Fabric runs them; compiled, anew for the shapes of each phase."""
    clips = job.settings.gradient.clip != "none"
    plain = optimization.make_optimizer(
        network.parameters(),
        hardware.can_fuse(job.fabric, clips),
        **job.settings.optimizer.model_dump(),
    )
    compiled: Any = torch.compile(network, dynamic=False) if compiles else network
    wrapped, optimizer = job.fabric.setup(compiled, plain)
    return wrapped, optimizer


def _compile(
    wrapped: Any, network: model.Segmenter, batches: Sequence[int], size: Size, job: Job
) -> bool:
    """Compile for batches of so many images of a size now, by steps that leave no trace.

    Compiling takes a minute: it is told, and not counted as speed. A network that does not
    compile is trained as it is, and that is said.

    Returns:
        Whether it is compiled from now on.
    """
    fabric = job.fabric
    buffers = [buffer.clone() for buffer in network.buffers()]  # BatchNorm's statistics
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    wrapped.train()

    def step() -> None:
        for images in batches:
            pixels = torch.zeros(images, *size, 3, dtype=torch.uint8, device=fabric.device)
            logits = wrapped(pixels)
            nothing = torch.zeros_like(logits)
            fabric.backward(entropy_dice(logits, nothing, job.settings.loss).total)

    with torch.random.fork_rng(gpus):
        done = hardware.compile_now(step, fabric, "this network", "it is trained without")
    if not done:
        # Not set up once more: DDP would then hang on the parameters twice.
        wrapped._forward_module = wrapped._forward_module._orig_mod
    with torch.no_grad():
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)
    network.zero_grad(set_to_none=True)
    return done


def _title(number: int, epoch: int, settings: Train) -> str:
    title = f"epoch {epoch}/{settings.epochs}"
    if len(settings.phases) == 1:
        return title
    height, width = settings.phases[number].size
    return f"phase {number + 1}/{len(settings.phases)} at {height}x{width}, {title}"


def _row(epoch: int, phase: int, score: Score | None, rate: float) -> Row:
    """An epoch's row of the history, but for what `_measure` adds; None was not measured."""
    return {
        "epoch": epoch,
        "phase": phase + 1,
        "dice": score and score.dice,
        "pixel_accuracy": score and score.pixel_accuracy,
        "held_out_loss": score and score.loss,
        "held_out_bce": score and score.bce,
        "held_out_dice_loss": score and score.dice_loss,
        "learning_rate": rate,
    }


def _measure(losses: Losses, clock: Stopwatch, images: int, fabric: Fabric) -> Row:
    """An epoch's losses and speed, after `images` images; all processes must ask.

    `waiting` is a share, of the first process; the rest is over all processes.
    """
    means = distributed.total(fabric, losses.means().tolist())
    total, bce, dice, accuracy = (value / fabric.world_size for value in means)
    return {
        "loss": total,
        "bce": bce,
        "dice_loss": dice,
        "training_accuracy": accuracy,
        "images_per_second": images / clock.seconds if images else None,
        "waiting": clock.waiting,
        "gpu_memory_gb": hardware.peak_gpu_memory(fabric),
    }


def _describe(row: Row) -> str:
    """An epoch in a few words; what was not measured is left out."""
    words = {
        "loss": "loss {:.4f}",
        "held_out_loss": "held-out loss {:.4f}",
        "dice": "held-out Dice {:.5f}",
        "waiting": "{:.0%} waiting for data",
    }
    return ", ".join(
        text.format(row[name]) for name, text in words.items() if row[name] is not None
    )


def divide(table: Sequence[Sample], fold: int, where: Path) -> tuple[list[Sample], list[Sample]]:
    """The rows to train on, and those to judge by after each epoch.

    These are the ones that the split has set apart for it, or else those held out.

    Raises:
        UserError: there are none of one kind.
    """
    training, held_out = samples.training(table, fold), samples.held_out(table, fold)
    apart = samples.validation(table, fold)
    if not training or not held_out:
        raise UserError(
            f"{where}: found {len(training)} rows to train on and {len(held_out)} held out in "
            f"fold {fold}, expected some of both; run the split stage again"
        )
    return training, apart or held_out


def run(recipe: Recipe, paths: Paths, fold: int) -> None:
    """Train one fold of one recipe."""
    runtime = recipe.runtime
    work = paths.work / f"train-fold{fold}"
    # Fabric starts the other processes, if any, with this same command: they find it locked.
    locked = files.only_process(work) if distributed.is_first() else contextlib.nullcontext()
    with locked, hardware.explain_failures():
        hardware.reuse_freed_memory()  # before loader processes are forked, which inherit it
        fabric = hardware.launch(
            runtime.accelerator, runtime.precision, runtime.threads, runtime.devices, runtime.nodes
        )
        if runtime.deterministic:
            hardware.make_deterministic()
        _run(recipe, paths, fold, fabric, work)
        distributed.leave()
        if fabric.is_global_zero:
            shutil.rmtree(work)


def _run(recipe: Recipe, paths: Paths, fold: int, fabric: Fabric, work: Path) -> None:
    settings, runtime = recipe.train, recipe.runtime
    table = samples.read(paths.samples)
    training, held_out = divide(table, fold, paths.samples)
    samples.check_classes([*training, *held_out], settings.classes, paths.samples)
    fabric.seed_everything(settings.seed, verbose=False)
    network = model.for_training(settings, fold, settings.model.weights)
    apart = samples.validation(table, fold)
    read, others = [paths.samples], []
    if settings.weights.init_from != "none":
        start = checkpoint.find_other(
            "train.weights.init_from", settings.weights.init_from, fold, paths
        )
        checkpoint.load_start(network, start)
        read.append(start.path)
        others.append(start.network.description)
    labels = None
    if settings.pseudo != "none":
        labels = pseudo.make(recipe, paths, fold, len(training), fabric, work)
        read.append(labels.teacher)
        others.append(labels.description)
    # What is chosen by images set apart, is chosen by images of no score; what the others have
    # seen and chosen counts as seen and chosen by this training.
    choices = ["" if apart else settings.choices, *(other.choices for other in others)]
    seen = {name for row in (*training, *apart) for name in (row.group, row.sample_id)}
    network.description = dataclasses.replace(
        network.description,
        choices=", ".join(filter(None, dict.fromkeys(choices))),
        seen=tuple(sorted(seen.union(*(other.seen for other in others)))),
    )
    if fabric.world_size > 1:
        model.freeze_unused(network)
    if settings.sync_batchnorm:
        distributed.synchronize_batchnorm(fabric, network)
    if fabric.global_rank:  # else dropout would drop the same in every process
        torch.manual_seed(settings.seed + fabric.global_rank)
    fabric.print(
        f"fold {fold}: {len(training)} images to train on, {len(held_out)} "
        f"{'set apart to judge by' if apart else 'held out'}; "
        f"{model.parameters(network) / 1e6:.1f} M parameters on {hardware.describe(fabric)}"
    )
    archives, workers = Archives(paths.raw), hardware.workers(runtime.workers, fabric)
    # On disk are all folds' images, once for all of them.
    rows = [row for row in table if row.split == "train"]
    rows = rows if runtime.cache == "disk" else [*training, *held_out]
    sizes = [phase.size for phase in settings.phases]
    target = settings.target
    cache = Cache(
        runtime.cache, paths.work, rows, archives, settings.resize, sizes, target.resize,
        runtime.devices,
    )  # fmt: skip
    judge = HeldOut(
        held_out, archives, settings.loss, settings.validation.tta, fabric, runtime.batch_size,
        workers, pictures=runtime.tensorboard, hard=target.hard,
        keep=runtime.cache == "ram" or (runtime.cache == "disk" and settings.classes == 1),
    )  # fmt: skip
    decides = settings.model_dump_json() + (labels.tta if labels else "")
    last = work / fingerprint.key("train", decides, read, paths.raw) / "last.pt"
    logs = paths.logs / f"fold{fold}" if runtime.tensorboard and fabric.is_global_zero else None
    epochs = paths.epochs(fold) if settings.weights.keep == "all" else None
    if fabric.is_global_zero and not last.exists():  # those of an earlier training
        shutil.rmtree(paths.epochs(fold), ignore_errors=True)
    with TensorBoard(logs) as board, interrupt.note_signals() as stop:
        job = Job(
            training, cache, judge, settings, runtime, fabric, last, stop, board, epochs, labels
        )
        weights, progress = train(network, job)
    if fabric.is_global_zero:
        write_results(paths, fold, network, weights, progress, settings, apart=bool(apart))


def write_results(
    paths: Paths,
    fold: int,
    network: model.Segmenter,
    weights: State,
    progress: Progress,
    settings: Train,
    apart: bool,
) -> None:
    """Write `history.csv`, `metrics.json` and, last, `model.pt`.

    `flatters` says whether the Dice beside it has chosen what is kept: it is then no score to
    expect of new images. Where the images were set `apart` for that, the held-out fold's Dice,
    which `validate` measures, is one all the same; else every stage that reads it says so.
    """
    choices = network.description.choices
    epoch = int(progress.best["epoch"]) if settings.weights.keep == "best" else progress.epoch
    row = progress.history[epoch - 1]
    shown = ("dice", "pixel_accuracy", "held_out_loss", "loss")
    metrics: dict[str, Any] = {name: row[name] for name in shown}
    chosen = {"chosen_on_set_apart": settings.choices if apart else ""}
    chosen["chosen_on_held_out"] = choices
    metrics |= {"epoch": epoch, "flatters": any(chosen.values())}
    metrics |= {name: words for name, words in chosen.items() if words}
    files.write_text(paths.run_metrics(fold), json.dumps(metrics, indent=2) + "\n")
    _write_history(paths.history(fold), progress.history)
    model.save(paths.model(fold), network, weights)
    of = "Dice of the images set apart" if apart else "held-out Dice"
    print(f"fold {fold}: {of} {row['dice']:.5f} of epoch {epoch}, whose weights are kept")
    for name, words in chosen.items():
        if words:
            images = "those" if name == "chosen_on_set_apart" else "the held-out images"
            print(f"it flatters: {images} have chosen {words}")


def _write_history(path: Path, history: Sequence[Row]) -> None:
    """A row an epoch; what was not measured is an empty cell."""
    with files.written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
