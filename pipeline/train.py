"""Stage `train`: fit one fold's network; the weights of the best epoch are kept.

The loop below is the whole of it: decode and augment (dataset.py), forward, loss (loss.py),
backward, one-cycle step; after each epoch the held-out Dice at full resolution, and a
checkpoint from which a killed run goes on.
"""

import argparse
import csv
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from pipeline import checkpoint, files, hardware, model, params, samples
from pipeline.archives import Archives
from pipeline.augment import Augmentation
from pipeline.dataset import Shuffle, TrainingSet
from pipeline.dice import HALF, dice
from pipeline.errors import UserError, command
from pipeline.images import decode_mask
from pipeline.inference import full_resolution, stream
from pipeline.loss import Terms, bce_dice
from pipeline.samples import Sample
from pipeline.settings.runtime import Runtime
from pipeline.settings.training import Train


def train(
    network: model.Segmenter,
    dataset: TrainingSet,
    held_out: Sequence[Sample],
    archives: Archives,
    settings: Train,
    runtime: Runtime,
    fabric: Fabric,
    last: Path,
) -> checkpoint.Progress:
    """Run all epochs, going on from the checkpoint `last` if an earlier run left one.

    Raises:
        UserError: the loss is no longer finite; the message holds its terms.
    """
    batches = Shuffle(len(dataset), settings.batch_size, settings.seed)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=hardware.workers(runtime.workers),
        pin_memory=fabric.device.type == "cuda",
    )
    peak = settings.optimiser.learning_rate
    decay = settings.optimiser.weight_decay
    plain = AdamW(network.parameters(), peak, weight_decay=decay, fused=True)
    wrapped, optimiser = fabric.setup(network, plain)
    steps = settings.epochs * len(batches)
    _check_schedule(steps, settings.schedule.warm_up)
    schedule = OneCycleLR(plain, peak, steps, pct_start=settings.schedule.warm_up)
    state = {
        "network": network,
        "optimiser": plain,
        "schedule": schedule,
        "precision": fabric.strategy.precision,  # float16's loss scale
    }
    progress = checkpoint.resume(last, state)
    saved = time.monotonic()

    for epoch in range(progress.epoch, settings.epochs):
        title = f"epoch {epoch + 1}/{settings.epochs}"
        started, losses = time.perf_counter(), 0.0
        batches.epoch = epoch
        wrapped.train()
        bar = tqdm(total=len(batches) * batches.batch_size, desc=title, unit="img")
        for images, targets in loader:  # (B, H, W, 3) and (B, H, W), uint8
            images = images.to(fabric.device, non_blocking=True)
            shares = targets.to(fabric.device, non_blocking=True) / 255
            terms = bce_dice(wrapped(images), shares, settings.loss.bce, settings.loss.dice)
            loss = _finite(terms, title)
            fabric.backward(terms.total)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            losses += loss
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(len(images))
        bar.close()
        speed = bar.n / (time.perf_counter() - started)

        wrapped.eval()
        score = _mean_dice(wrapped, network.description, held_out, archives, runtime, fabric)
        if score > progress.best_dice:
            progress.best_dice = score
            progress.best_weights = {k: v.cpu().clone() for k, v in network.state_dict().items()}
        progress.history.append(
            {
                "epoch": epoch + 1,
                "loss": losses / len(batches),
                "dice": score,
                "learning_rate": float(plain.param_groups[0]["lr"]),
                "images_per_second": speed,
            }
        )
        progress.epoch = epoch + 1
        if time.monotonic() - saved >= runtime.checkpoint_seconds:
            checkpoint.save(last, state, progress)
            saved = time.monotonic()
        print(f"{title}: loss {losses / len(batches):.4f}, held-out Dice {score:.5f}", flush=True)
    return progress


def _mean_dice(
    network: torch.nn.Module,
    description: model.Description,
    rows: Sequence[Sample],
    archives: Archives,
    runtime: Runtime,
    fabric: Fabric,
) -> float:
    """The competition's score of the held-out rows at threshold 0.5 and full resolution."""
    predictions = stream(
        rows, archives, [network], description.size, description.resize, "none", fabric,
        runtime.batch_size, hardware.workers(runtime.workers),
    )  # fmt: skip
    scores = []
    for prediction in tqdm(predictions, total=len(rows), desc="validate", unit="img", leave=False):
        if prediction.error:
            raise UserError(prediction.error)
        row = prediction.row
        truth = decode_mask(archives.read(row.mask), row.size, row.mask, row.values)
        scores.append(
            dice(full_resolution(prediction.probability, row.size) >= HALF / 256, truth > 0)
        )
    return float(sum(scores) / len(scores))


def _check_schedule(steps: int, warm_up: float) -> None:
    if steps * warm_up == 1:  # torch's schedule divides by the steps after the first
        raise UserError(
            f"train.schedule.warm_up: found {warm_up}, which is just one of {steps} steps, "
            f"expected more or less; raise it a little"
        )


def _finite(terms: Terms, title: str) -> float:
    loss = terms.total.item()
    if loss - loss != 0:  # true of NaN and of both infinities
        raise UserError(
            f"{title}: the loss is {loss} (BCE {terms.bce.item()}, Dice {terms.dice.item()}), "
            f"expected a finite number; lower train.optimiser.learning_rate, or set "
            f"runtime.precision to 32-true"
        )
    return loss


def _describe(settings: Train, fold: int) -> model.Description:
    return model.Description(
        network=settings.model.model_dump(exclude={"weights"}),
        size=settings.size,
        resize=settings.resize,
        mean=settings.normalisation.mean,
        std=settings.normalisation.std,
        classes=1,
        fold=fold,
    )


def _rows_of(table: Sequence[Sample], fold: int, where: Path) -> tuple[list[Sample], list[Sample]]:
    training, held_out = samples.training(table, fold), samples.held_out(table, fold)
    if not training or not held_out:
        raise UserError(
            f"{where}: found {len(training)} rows to train on and {len(held_out)} held out in "
            f"fold {fold}, expected some of both; run the split stage again"
        )
    return training, held_out


def _write_results(out: Path, network: model.Segmenter, progress: checkpoint.Progress) -> None:
    """`history.csv`, `metrics.json` and, last, `model.pt`."""
    with files.written_whole(out / "history.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(progress.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(progress.history)
    best = max(progress.history, key=lambda epoch: epoch["dice"])
    metrics = {"dice": best["dice"], "epoch": best["epoch"], "loss": best["loss"]}
    files.write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    model.save(out / "model.pt", network, progress.best_weights)


@command
def main() -> None:
    """Train one fold of one recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="recipes/<name>.yaml")
    parser.add_argument("--fold", type=int, required=True, help="the fold to hold out")
    parser.add_argument("--raw", type=Path, required=True, help="folder of archives")
    parser.add_argument("--samples", type=Path, required=True, help="samples.csv")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    recipe = params.load(args.recipe)
    params.check_fold(args.fold, recipe.split.folds, "--fold")
    settings, runtime = recipe.train, recipe.runtime
    table = samples.read(args.samples)
    training, held_out = _rows_of(table, args.fold, args.samples)

    work = args.work / f"train-fold{args.fold}"
    with files.only_process(work):
        last = (
            work / checkpoint.key(settings.model_dump_json(), [args.samples], args.raw) / "last.pt"
        )
        fabric = hardware.launch(
            runtime.accelerator, runtime.precision, runtime.threads, runtime.devices, runtime.nodes
        )
        fabric.seed_everything(settings.seed, verbose=False)
        network = model.build(_describe(settings, args.fold), settings.model.weights)
        print(
            f"fold {args.fold}: {len(training)} images to train on, {len(held_out)} held out; "
            f"{model.parameters(network) / 1e6:.1f} M parameters on {hardware.describe(fabric)}"
        )
        archives = Archives(args.raw)
        augment = Augmentation(**settings.augment.model_dump())
        dataset = TrainingSet(training, archives, settings.size, settings.resize, augment)
        if runtime.cache == "ram":
            dataset.decode_all()
        progress = train(network, dataset, held_out, archives, settings, runtime, fabric, last)
        _write_results(args.out, network, progress)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
