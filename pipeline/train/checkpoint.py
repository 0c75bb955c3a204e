"""What a training run needs to go on after it was stopped."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from lightning_fabric import Fabric

from pipeline.support import distributed, tensor_file
from pipeline.support.errors import UserError
from pipeline.support.interrupt import Stop
from pipeline.train.averages import State
from pipeline.train.meter import WINDOW


@dataclasses.dataclass
class Progress:
    """How far a run has come: what is needed besides the state of network and optimizer.

    `epoch` epochs are whole, and `batch` batches of the one after them. `best` holds the best
    epochs' `dice`, `epoch` and `weights`, best first.
    """

    epoch: int = 0
    batch: int = 0
    best: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def end_epoch(self, row: dict[str, float], weights: State, keep: int) -> None:
        """Add an epoch's row of the history; keep its `weights` if among the `keep` best."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.history.append(row)
        entry = {"dice": row["dice"], "epoch": self.epoch, "weights": weights}
        self.best = sorted([*self.best, entry], key=lambda e: -e["dice"])[:keep]

    def is_stale(self, patience: Literal["none"] | int) -> bool:
        """Whether the last `patience` epochs have brought no better Dice."""
        if patience == "none" or not self.best:
            return False
        return self.epoch - int(self.best[0]["epoch"]) >= patience


class Keeper:
    """Saves a run in time, and when it is asked to stop.

    With several processes all agree, every `WINDOW` steps, on what to do: each one's own
    state is saved, and none goes on alone.
    """

    def __init__(
        self,
        path: Path,
        parts: Mapping[str, Any],
        own: Mapping[str, Any],
        seconds: float,
        stop: Stop,
        fabric: Fabric,
    ) -> None:
        """Take what to save: objects with `state_dict` and `load_state_dict`, by name.

        Args:
            parts: the same in all processes.
            own: of this process.
        """
        self._path = path
        self._parts = parts
        self._own = own
        self._seconds = seconds
        self._stop = stop
        self._fabric = fabric
        self._saved = time.monotonic()
        self._steps = 0

    def resume(self) -> Progress:
        """Bring everything to the state saved by an earlier run, if there is one."""
        return resume(self._path, self._parts, self._own, self._fabric)

    def is_due(self, epoch_ends: bool = False) -> bool:
        """Whether to save now; asked after every step and every epoch."""
        self._steps += 1
        late = time.monotonic() - self._saved >= self._seconds
        if self._fabric.world_size > 1 and self._steps % WINDOW and not epoch_ends:
            return False
        return distributed.is_in_any(self._fabric, late or bool(self._stop.signal))

    def save(self, progress: Progress) -> None:
        """Save, and stop if that was asked."""
        save(self._path, self._parts, self._own, progress, self._fabric)
        self._saved = time.monotonic()
        if distributed.is_in_any(self._fabric, bool(self._stop.signal)):
            self._stop.leave()

    def save_and_leave(self, progress: Progress) -> NoReturn:
        """Save and stop."""
        self.save(progress)
        self._stop.leave()


def save(
    path: Path,
    parts: Mapping[str, Any],
    own: Mapping[str, Any],
    progress: Progress,
    fabric: Fabric,
) -> None:
    """Write the states of all `parts`, of the random generators, and the progress, in one step.

    The first process writes, also what is each one's `own`; all of them must call.
    """
    mine = {"random": _random_state(), **_states(own)}
    each = distributed.gather(fabric, mine)
    if fabric.is_global_zero:
        content = {**_states(parts), "each": each, "progress": vars(progress)}
        tensor_file.save(path, content)


def resume(
    path: Path, parts: Mapping[str, Any], own: Mapping[str, Any], fabric: Fabric
) -> Progress:
    """Bring `parts` and the random generators to the state saved in `path`, if it exists."""
    found = distributed.gather(fabric, path.exists())
    if len(set(found)) > 1:
        raise UserError(
            f"{path}: only some of the processes see it; let all machines share the project's "
            f"folder, with work/ and data/"
        )
    if not found[0]:
        return Progress()
    content = torch.load(path, map_location="cpu", weights_only=True)
    # As many as there were processes; if there are more now, some share one's.
    mine = content["each"][fabric.global_rank % len(content["each"])]
    for name, part in parts.items():
        if content[name]:  # empty: of another precision, or an average that is off
            part.load_state_dict(content[name])
    for name, part in own.items():
        part.load_state_dict(mine[name])
    _set_random_state(mine["random"])
    progress = Progress(**content["progress"])
    done = f"epoch {progress.epoch}" + (f", batch {progress.batch}" if progress.batch else "")
    if fabric.is_global_zero:
        print(f"going on after {done} from {path}", flush=True)
    return progress


def _states(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


def _random_state() -> list[torch.Tensor]:
    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *on_gpu]


def _set_random_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])
