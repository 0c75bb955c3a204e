"""What a training run needs to go on after it was stopped."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import fingerprint
from pipeline.files import written_whole

key = fingerprint.key  # of the folder for checkpoints


@dataclasses.dataclass
class Progress:
    """How far a run has come: what is needed besides the state of network and optimiser."""

    epoch: int = 0
    best_dice: float = -1.0
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def save(path: Path, parts: Mapping[str, Any], progress: Progress) -> None:
    """Write the states of all `parts`, of the random generators, and the progress, in one step.

    Args:
        parts: objects with `state_dict` and `load_state_dict`, by name.
    """
    content = {name: part.state_dict() for name, part in parts.items()}
    content["random"] = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    content["progress"] = dataclasses.asdict(progress)
    with written_whole(path) as temporary:
        torch.save(content, temporary)


def resume(path: Path, parts: Mapping[str, Any]) -> Progress:
    """Bring `parts` and the random generators to the state saved in `path`, if it exists."""
    if not path.exists():
        return Progress()
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    on_cpu, *on_gpus = content["random"]
    torch.set_rng_state(on_cpu)
    torch.cuda.set_rng_state_all(on_gpus)
    progress = Progress(**content["progress"])
    print(f"going on after epoch {progress.epoch} from {path}", flush=True)
    return progress
