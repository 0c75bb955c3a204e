"""What a training starts from: the state it was stopped in, or another recipe's weights."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.data import samples
from pipeline.networks import model
from pipeline.paths import Paths
from pipeline.support import distributed, hardware, tensor_file
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.train.loss import WINDOW

State = dict[str, Tensor]
Row = dict[str, float | None]  # of the history; None was not measured


@dataclasses.dataclass
class Progress:
    """How far a run has come: what is needed besides the state of network and optimizer.

    `epoch` epochs are whole, and `batch` batches of the one after them. `best` holds `dice`,
    `epoch` and `weights` of the scored epoch with the highest Dice; it is empty before the first
    one, and in runs where no choice is made by that Dice.
    """

    epoch: int = 0
    batch: int = 0
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[Row] = dataclasses.field(default_factory=list)
    stale: int = 0  # scored epochs since the best one

    def end_epoch(self, row: Row) -> None:
        """Add an epoch's row of the history."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.history.append(row)

    def note_score(self, dice: float, weights: State) -> None:
        """The latest epoch has been scored: keep its `weights` if it is the best one."""
        self.stale += 1
        if not self.best or dice > self.best["dice"]:
            self.best = {"dice": dice, "epoch": self.epoch, "weights": weights}
            self.stale = 0

    def is_stale(self, patience: Literal["none"] | int) -> bool:
        """Whether the last `patience` scored epochs have brought no better Dice."""
        return patience != "none" and self.stale >= patience


def on_cpu(network: nn.Module) -> State:
    """A copy of a network's state."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


class Checkpointer:
    """Saves a run in time and when it is asked to stop, and brings it back.

    With several processes all agree, every `WINDOW` steps, on what to do: each one's own
    state is saved, and none goes on alone.
    """

    def __init__(self, path: Path, seconds: float, stop: Stop, fabric: Fabric) -> None:
        """Read what an earlier run has left at `path`, if anything.

        Args:
            seconds: at least so long between two checkpoints.

        Raises:
            UserError: only some of the processes see the file.
        """
        self._path = path
        self._seconds = seconds
        self._stop = stop
        self._fabric = fabric
        self._saved = time.monotonic()
        self._steps = 0
        self._parts: Mapping[str, Any] = {}
        self._own: Mapping[str, Any] = {}
        self._found = _read(path, fabric)

    @property
    def precision(self) -> str | None:
        """That of the run to go on with, which keeps it; None for a new run."""
        return None if self._found is None else str(self._found["precision"])

    def resume(self, parts: Mapping[str, Any], own: Mapping[str, Any]) -> Progress:
        """Bring everything to the state saved by an earlier run, if there is one.

        Args:
            parts: what to save from now on, by name: objects with `state_dict` and
                `load_state_dict`, the same in all processes, loaded in this order.
            own: the same of this process alone.
        """
        self._parts, self._own = parts, own
        content, self._found = self._found, None
        if content is None:
            return Progress()
        # As many as there were processes; if there are more now, some share one's.
        mine = content["each"][self._fabric.global_rank % len(content["each"])]
        for name, part in parts.items():
            # None of float16's loss scale where the run was in another precision so far.
            if state := content["parts"][name]:
                part.load_state_dict(state)
        for name, part in own.items():
            part.load_state_dict(mine["own"][name])
        _set_random_state(mine["random"])
        progress = Progress(**content["progress"])
        done = f"epoch {progress.epoch}" + (f", batch {progress.batch}" if progress.batch else "")
        self._fabric.print(f"going on after {done} from {self._path}", flush=True)
        return progress

    def is_due(self, epoch_ends: bool = False) -> bool:
        """Whether to save now; asked after every step and every epoch."""
        self._steps += 1
        late = time.monotonic() - self._saved >= self._seconds
        if self._fabric.world_size > 1 and self._steps % WINDOW and not epoch_ends:
            return False
        return distributed.is_in_any(self._fabric, late or bool(self._stop.signal))

    def save(self, progress: Progress) -> None:
        """Save the states of all parts and the random generators, in one step; stop if asked.

        The first process writes, also what is each one's own; all of them must call.

        Raises:
            UserError: the network's weights are no longer finite, which no later step can mend.
        """
        mine = {"random": _random_state(), "own": _states(self._own)}
        each = distributed.gather(self._fabric, mine)
        if self._fabric.is_global_zero:
            parts = _states(self._parts)
            _check_finite(parts.get("network", {}), self._path)
            content = {
                "parts": parts,
                "each": each,
                "progress": vars(progress),
                "precision": hardware.precision(self._fabric),
            }
            tensor_file.save(self._path, content)
        self._saved = time.monotonic()
        if distributed.is_in_any(self._fabric, bool(self._stop.signal)):
            self._stop.leave()

    def save_and_leave(self, progress: Progress) -> NoReturn:
        """Save and stop."""
        self.save(progress)
        self._stop.leave()


def _read(path: Path, fabric: Fabric) -> dict[str, Any] | None:
    """A checkpoint's content; None: there is none, or a damaged one, and training begins anew."""
    there = distributed.gather(fabric, path.exists())
    if len(set(there)) > 1:
        raise UserError(
            f"{path}: only some of the processes see it; let all machines share the project's "
            f"folder, with work/ and data/"
        )
    if not there[0]:
        return None
    found: dict[str, Any] | None = tensor_file.load(path)
    # Of several processes the one that finds damage removes the file: the others may have read it.
    return found if all(distributed.gather(fabric, found is not None)) else None


def _check_finite(weights: State, path: Path) -> None:
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            before = f"{path} holds an earlier state" if path.exists() else "nothing is saved yet"
            raise UserError(
                f"{name}: found weights that are NaN or infinite, expected numbers; lower the "
                f"phase's learning_rate, set train.gradient.clip, or set runtime.precision to "
                f"32-true ({before})"
            )


def _states(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


def _random_state() -> list[torch.Tensor]:
    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *on_gpu]


def _set_random_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])


# --- Another recipe's weights.


class Other(NamedTuple):
    """Another recipe's network of the same fold, which has seen nothing that is held out here."""

    path: Path
    network: model.Segmenter


def find_other(key: str, name: str, fold: int, paths: Paths) -> Other:
    """Recipe `name`'s network of `fold`, to start or to learn from.

    Args:
        key: of the setting that names the other, for errors.
        paths: this recipe's places; the other's are the usual ones.

    Raises:
        UserError: the file is missing or damaged, of another fold, or images that are held out
            here have shaped the network.
    """
    path = Paths.of(name).model(fold)
    if not path.exists():
        raise UserError(
            f"{key}: found {name!r}, but {path} is missing; run "
            f"dvc repro train@{name}-{fold} first, with {name} among the recipes of params.yaml"
        )
    network = model.load(path)
    if network.description.fold != fold:
        raise UserError(
            f"{path}: trained without fold {network.description.fold}, expected fold {fold}; "
            f"run the other recipe's train stage again"
        )
    held_out = samples.held_out(samples.read(paths.samples), fold)
    if leaked := network.description.seen_of(held_out):
        raise UserError(
            f"{key}: found {name!r}, whose network of fold {fold} has been trained on "
            f"{len(leaked)} of the {len({row.group for row in held_out})} groups held out here, "
            f"{leaked[0]} for one; expected the same folds: give both recipes the same split "
            f"section, and train the other again"
        )
    return Other(path, network)


def load_start(network: model.Segmenter, start: Other) -> None:
    """Give `network` the weights of another, whose input size may differ.

    Raises:
        UserError: it is of another architecture.
    """
    try:
        network.load_state_dict(start.network.state_dict())
    except RuntimeError:
        raise UserError(
            f"{start.path}: found weights that do not fit this network; "
            f"give both recipes the same train.model"
        ) from None
