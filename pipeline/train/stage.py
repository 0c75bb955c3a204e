"""Stage `train`: fit one fold's network; the weights of the best epochs are kept.

The loop below is the whole of it: decode and augment (training/dataset.py), forward, loss
(training/loss.py), backward, a step of optimizer and schedule; after each epoch the held-out
Dice at full resolution. It saves itself every now and then, and goes on from any step.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch.utils.data import DataLoader

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe, Runtime, Train
from pipeline.support import distributed, files, fingerprint, hardware, interrupt
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.support.progress import Bar, Stopwatch, TensorBoard
from pipeline.train import averages, cache, checkpoint, optimizers, results, schedules, starting
from pipeline.train.augment import Augmentation
from pipeline.train.dataset import Decoder, Shuffle, TrainingSet, load_batches, prefer_foreground
from pipeline.train.held_out import HeldOut
from pipeline.train.loss import entropy_dice, shares
from pipeline.train.meter import Losses, measured


def train(
    network: model.Segmenter,
    dataset: TrainingSet,
    held_out: HeldOut,
    settings: Train,
    runtime: Runtime,
    fabric: Fabric,
    last: Path,
    stop: Stop,
    journal: TensorBoard,
) -> checkpoint.Progress:
    """Run all epochs, going on from the checkpoint `last` if an earlier run left one.

    Raises:
        UserError: the loss is no longer finite; the message holds its terms and sample ids.
    """
    batches, loader = _batches(dataset, settings, runtime, fabric)
    wrapped, optimizer, schedule, ema = _set_up(network, settings, runtime, fabric, batches.steps)
    losses = Losses(fabric.device, [row.sample_id for row in dataset.rows])
    clock, clip = Stopwatch(fabric.device), settings.gradient.clip
    state = {
        "network": network,
        "optimizer": optimizer.optimizer,
        "schedule": schedule,
        "precision": fabric.strategy.precision,  # float16's loss scale
        "ema": ema,
    }
    own, seconds = {"losses": losses}, runtime.checkpoint_seconds
    keeper = checkpoint.Keeper(last, state, own, seconds, stop, fabric)
    progress = keeper.resume()

    while progress.epoch < settings.epochs and not progress.is_stale(settings.validation.patience):
        title = f"epoch {progress.epoch + 1}/{settings.epochs}"
        batches.epoch, batches.first = progress.epoch, progress.batch
        wrapped.train()
        clock.restart()
        bar = Bar(title, batches.first, batches.first + len(batches), batches.batch_size, fabric)
        for images, targets, rows in loader:  # (B, H, W, 3) and (B, H, W[, C]), uint8; (B,)
            clock.mark()
            images = images.to(fabric.device, non_blocking=True)
            truth = shares(targets.to(fabric.device, non_blocking=True))
            progress.batch += 1
            ends_step = progress.batch % batches.accumulate == 0
            with fabric.no_backward_sync(wrapped, enabled=not ends_step):
                terms = entropy_dice(wrapped(images), truth, **settings.loss.model_dump())
                fabric.backward(terms.total / batches.accumulate)
            if ends_step:
                if clip != "none":  # infinite ones are float16's, whose scaler skips the step
                    fabric.clip_gradients(wrapped, optimizer, None, clip, 2.0, False)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.after_step()
                ema.update()
            bar.update()
            if losses.add(terms, rows):
                bar.show(losses.look())
            if ends_step and keeper.is_due():
                losses.look()
                keeper.save(progress)
            clock.mark()
        bar.__exit__()
        losses.look()
        clock.stop()

        score = held_out.score(ema.network, stop)
        if score is None:
            keeper.save_and_leave(progress)
        row = {"epoch": progress.epoch + 1, "dice": score.dice, "learning_rate": schedule.rate}
        row |= measured(losses, clock, len(batches) * batches.batch_size, fabric)
        schedule.after_epoch(score.dice)
        losses.clear()
        progress.end_epoch(row, averages.on_cpu(ema.network), settings.weights.average)
        journal.write_epoch(progress.epoch, row, score.pictures)
        said = f"loss {row['loss']:.4f}, held-out Dice {score.dice:.5f}"
        fabric.print(f"{title}: {said}, {row['waiting'] or 0:.0%} waiting for data", flush=True)
        if keeper.is_due(epoch_ends=True):
            keeper.save(progress)
    if settings.weights.average > 1:  # their mean is still to be scored
        keeper.save(progress)
    return progress


def _batches(
    dataset: TrainingSet, settings: Train, runtime: Runtime, fabric: Fabric
) -> tuple[Shuffle, DataLoader[Any]]:
    """This process's share of each batch, and the loader that prepares it."""
    chances = None
    if settings.sampler.name == "prefer-foreground":
        chances = prefer_foreground(dataset.rows, settings.sampler.uniform)
    batches = Shuffle(
        len(dataset), settings.batch_size, settings.seed, settings.gradient.accumulate,
        fabric.global_rank, fabric.world_size, chances,
    )  # fmt: skip
    if batches.batch_size % fabric.world_size:
        raise UserError(
            f"train.batch_size: found batches of {batches.batch_size} for {fabric.world_size} "
            f"processes, expected a multiple; change it, or runtime.devices"
        )
    pin = fabric.device.type == "cuda"
    return batches, load_batches(dataset, batches, hardware.workers(runtime.workers), pin)


def _set_up(
    network: model.Segmenter, settings: Train, runtime: Runtime, fabric: Fabric, steps: int
) -> tuple[_FabricModule, Any, schedules.Schedule, averages.Ema]:
    """Network and optimizer as Fabric runs them, schedule over all epochs, moving average."""
    fused = hardware.can_fuse(fabric, clips=settings.gradient.clip != "none")
    plain = optimizers.make(network.parameters(), fused, **settings.optimizer.model_dump())
    compiled: Any = torch.compile(network) if runtime.compile else network
    wrapped, optimizer = fabric.setup(compiled, plain)
    schedule = schedules.make(plain, settings.epochs * steps, **settings.schedule.model_dump())
    decay = None if settings.weights.ema == "none" else settings.weights.ema
    return wrapped, optimizer, schedule, averages.Ema(network, decay)


def _rows_of(table: Sequence[Sample], fold: int, where: Path) -> tuple[list[Sample], list[Sample]]:
    training, held_out = samples.training(table, fold), samples.held_out(table, fold)
    if not training or not held_out:
        raise UserError(
            f"{where}: found {len(training)} rows to train on and {len(held_out)} held out in "
            f"fold {fold}, expected some of both; run the split stage again"
        )
    return training, held_out


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
    training, held_out = _rows_of(table, fold, paths.samples)
    samples.check_classes([*training, *held_out], settings.classes, paths.samples)
    fabric.seed_everything(settings.seed, verbose=False)
    network = model.build(model.describe(settings, fold), settings.model.weights)
    start = None
    if settings.weights.init_from != "none":
        start = starting.find(settings.weights.init_from, fold, paths)
        starting.load(network, start)
    if settings.sync_batchnorm:
        distributed.synchronize_batchnorm(fabric, network)
    fabric.print(
        f"fold {fold}: {len(training)} images to train on, {len(held_out)} held out; "
        f"{model.parameters(network) / 1e6:.1f} M parameters on {hardware.describe(fabric)}"
    )
    archives = Archives(paths.raw)
    # On disk are all folds' images, once for all of them.
    rows = training if runtime.cache != "disk" else [row for row in table if row.split == "train"]
    decoder = Decoder(rows, archives, settings.size, settings.resize)
    pictures = cache.open_pictures(runtime.cache, decoder, paths.work)
    dataset = TrainingSet(training, rows, pictures, Augmentation(**settings.augment.model_dump()))
    predictor = Predictor(
        {}, settings.size, settings.resize, settings.validation.tta, fabric,
        runtime.batch_size, hardware.workers(runtime.workers),
    )  # fmt: skip
    judge = HeldOut(held_out, archives, predictor, runtime.tensorboard)
    read = [paths.samples, start] if start else [paths.samples]
    last = work / fingerprint.key("train", settings.model_dump_json(), read, paths.raw) / "last.pt"
    logs = paths.logs / f"fold{fold}" if runtime.tensorboard and fabric.is_global_zero else None
    with TensorBoard(logs) as journal, interrupt.note_signals() as stop:
        progress = train(network, dataset, judge, settings, runtime, fabric, last, stop, journal)
        results.write(paths, fold, network, progress, judge, stop)
