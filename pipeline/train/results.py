"""What the training of a fold leaves: history, figures and the network."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.networks import model
from pipeline.paths import Paths
from pipeline.support import distributed, files
from pipeline.support.interrupt import Stop
from pipeline.train import averages
from pipeline.train.averages import State
from pipeline.train.checkpoint import Progress
from pipeline.train.held_out import HeldOut


def write(
    paths: Paths,
    fold: int,
    network: model.Segmenter,
    progress: Progress,
    held_out: HeldOut,
    stop: Stop,
) -> None:
    """Write `history.csv`, `metrics.json` and, last, `model.pt`; all processes must call.

    The weights are those of the best epoch, or the mean of several where that scores better.
    """
    weights, metrics = choose(network, progress, held_out, stop)
    if held_out.fabric.is_global_zero:
        _write_history(paths.history(fold), progress.history)
        files.write_text(paths.run_metrics(fold), json.dumps(metrics, indent=2) + "\n")
        model.save(paths.model(fold), network, weights)


def choose(
    network: model.Segmenter, progress: Progress, held_out: HeldOut, stop: Stop
) -> tuple[State, dict[str, float]]:
    """The weights to keep, and their figures.

    The mean of the best epochs' weights is scored like they were, and kept only if its Dice is
    higher than that of the best: `averaged` says of how many epochs the kept weights are.
    """
    best = progress.best[0]
    loss = progress.history[best["epoch"] - 1]["loss"]
    metrics = {"dice": best["dice"], "epoch": best["epoch"], "loss": loss, "averaged": 1}
    if len(progress.best) == 1:
        return best["weights"], metrics
    if held_out.fabric.is_global_zero:
        network.load_state_dict(averages.mean([epoch["weights"] for epoch in progress.best]))
    distributed.copy_from_first(held_out.fabric, network.state_dict().values())
    score = held_out.score(network, stop)
    if score is None:
        stop.leave()
    count = len(progress.best)
    held_out.fabric.print(
        f"held-out Dice of the best epoch {best['dice']:.5f}, "
        f"of the mean of the best {count} {score.dice:.5f}"
    )
    metrics["dice_of_average"] = score.dice
    if score.dice <= best["dice"]:
        return best["weights"], metrics
    return averages.on_cpu(network), metrics | {"dice": score.dice, "averaged": count}


def _write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    with files.written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
