from pathlib import Path

import torch

from pipeline import checkpoint
from pipeline.checkpoint import Progress


def test_a_first_run_starts_at_the_beginning(tmp_path: Path) -> None:
    assert checkpoint.resume(tmp_path / "last.pt", {}) == Progress()


def test_parts_progress_and_random_numbers_come_back(tmp_path: Path) -> None:
    layer, path = torch.nn.Linear(3, 2), tmp_path / "last.pt"
    weight = layer.weight.detach().clone()
    progress = Progress(4, 0.9, {"weight": weight}, [{"epoch": 4, "dice": 0.9}])
    checkpoint.save(path, {"layer": layer}, progress)
    drawn = torch.rand(5)
    torch.nn.init.zeros_(layer.weight)
    resumed = checkpoint.resume(path, {"layer": layer})
    assert torch.equal(torch.rand(5), drawn)
    assert torch.equal(layer.weight, weight)
    assert torch.equal(resumed.best_weights["weight"], weight)
    assert (resumed.epoch, resumed.best_dice, resumed.history) == (4, 0.9, progress.history)
