import signal
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from pipeline.support import hardware
from pipeline.support.interrupt import Stop
from pipeline.train import checkpoint
from pipeline.train.checkpoint import Keeper, Progress


@pytest.fixture
def fabric() -> Fabric:
    return hardware.launch("cpu", "32-true", 1, 1, 1)


def row(dice: float) -> dict[str, float]:
    return {"dice": dice}


def test_a_first_run_starts_at_the_beginning(tmp_path: Path, fabric: Fabric) -> None:
    assert checkpoint.resume(tmp_path / "last.pt", {}, {}, fabric) == Progress()


def test_parts_progress_and_random_numbers_come_back(
    tmp_path: Path, fabric: Fabric, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, path = torch.nn.Linear(3, 2), tmp_path / "last.pt"
    own = torch.nn.Linear(2, 1)
    weight, other = layer.weight.detach().clone(), own.weight.detach().clone()
    progress = Progress(batch=7)
    progress.end_epoch(row(0.9), {"weight": weight}, 2)
    progress.batch = 3
    checkpoint.save(path, {"layer": layer}, {"own": own}, progress, fabric)
    drawn = torch.rand(5)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(own.weight)
    resumed = checkpoint.resume(path, {"layer": layer}, {"own": own}, fabric)
    assert torch.equal(torch.rand(5), drawn)
    assert torch.equal(layer.weight, weight) and torch.equal(own.weight, other)
    assert torch.equal(resumed.best[0]["weights"]["weight"], weight)
    assert (resumed.epoch, resumed.batch, resumed.history) == (1, 3, [row(0.9)])
    assert "going on after epoch 1, batch 3 from" in capsys.readouterr().out


def test_the_best_epochs_are_kept_best_first() -> None:
    progress = Progress()
    for dice in (0.5, 0.7, 0.6, 0.7):
        progress.end_epoch(row(dice), {}, 3)
    assert [(e["dice"], e["epoch"]) for e in progress.best] == [(0.7, 2), (0.7, 4), (0.6, 3)]
    assert len(progress.history) == progress.epoch == 4


def test_a_run_is_stale_after_epochs_without_a_gain() -> None:
    progress = Progress()
    assert not progress.is_stale(1)
    for dice in (0.5, 0.7, 0.7, 0.6):
        progress.end_epoch(row(dice), {}, 1)
    assert progress.is_stale(2) and not progress.is_stale(3) and not progress.is_stale("none")


def test_it_is_saved_in_time_and_when_asked_to_stop(tmp_path: Path, fabric: Fabric) -> None:
    stop, path = Stop(), tmp_path / "last.pt"
    keeper = Keeper(path, {}, {}, 1000, stop, fabric)
    assert not keeper.is_due() and Keeper(path, {}, {}, 0, stop, fabric).is_due()
    keeper.save(Progress())
    assert path.exists()
    stop.signal = signal.SIGTERM
    assert keeper.is_due()
    with pytest.raises(SystemExit) as left:
        keeper.save(Progress(epoch=2))
    assert left.value.code == 143
    assert keeper.resume().epoch == 2
    stop.signal = signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        keeper.save(Progress())
