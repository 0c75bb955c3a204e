import signal
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from pipeline.support import hardware
from pipeline.support.interrupt import Stop
from pipeline.train.checkpoint import Checkpointer, Progress


@pytest.fixture
def fabric() -> Fabric:
    return hardware.launch("cpu", "32-true", 1, 1, 1)


def checkpointer(path: Path, fabric: Fabric, stop: Stop | None = None) -> Checkpointer:
    return Checkpointer(path, 1000, stop or Stop(), fabric)


def test_a_first_run_starts_at_the_beginning(tmp_path: Path, fabric: Fabric) -> None:
    first = checkpointer(tmp_path / "last.pt", fabric)
    assert first.precision is None and first.resume({}, {}) == Progress()


def test_parts_progress_and_random_numbers_come_back(
    tmp_path: Path, fabric: Fabric, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, path = torch.nn.Linear(3, 2), tmp_path / "last.pt"
    own = torch.nn.Linear(2, 1)
    weight, other = layer.weight.detach().clone(), own.weight.detach().clone()
    progress = Progress(batch=7)
    progress.end_epoch({"dice": 0.9, "waiting": None})
    progress.note_score(0.9, {"weight": weight})
    progress.batch = 3
    first = checkpointer(path, fabric)
    first.resume({"layer": layer}, {"own": own})
    first.save(progress)
    drawn = torch.rand(5)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(own.weight)
    second = checkpointer(path, fabric)
    assert second.precision == "32-true"
    resumed = second.resume({"layer": layer}, {"own": own})
    assert torch.equal(torch.rand(5), drawn)
    assert torch.equal(layer.weight, weight) and torch.equal(own.weight, other)
    assert torch.equal(resumed.best["weights"]["weight"], weight)
    assert (resumed.epoch, resumed.batch) == (1, 3)
    assert resumed.history == [{"dice": 0.9, "waiting": None}]
    assert "going on after epoch 1, batch 3 from" in capsys.readouterr().out


def scored(*scores: float) -> Progress:
    progress = Progress()
    for dice in scores:
        progress.end_epoch({"dice": dice})
        progress.note_score(dice, {})
    return progress


def test_the_best_epoch_is_kept_the_first_of_equal_ones() -> None:
    progress = scored(0.5, 0.7, 0.6, 0.7)
    assert (progress.best["dice"], progress.best["epoch"]) == (0.7, 2)
    assert len(progress.history) == progress.epoch == 4


def test_a_run_is_stale_after_epochs_without_a_gain() -> None:
    assert not Progress().is_stale(1)
    progress = scored(0.5, 0.7, 0.7, 0.6)
    assert progress.is_stale(2) and not progress.is_stale(3) and not progress.is_stale("none")


def test_it_is_saved_in_time_and_when_asked_to_stop(tmp_path: Path, fabric: Fabric) -> None:
    stop, path = Stop(), tmp_path / "last.pt"
    late = checkpointer(path, fabric, stop)
    late.resume({}, {})
    assert not late.is_due() and Checkpointer(path, 0, stop, fabric).is_due()
    late.save(Progress())
    assert path.exists()
    stop.signal = signal.SIGTERM
    assert late.is_due()
    with pytest.raises(SystemExit) as left:
        late.save(Progress(epoch=2))
    assert left.value.code == 143
    assert checkpointer(path, fabric).resume({}, {}).epoch == 2
    stop.signal = signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        late.save(Progress())


def test_a_damaged_checkpoint_is_said_and_not_read(
    tmp_path: Path, fabric: Fabric, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.pt"
    first = checkpointer(path, fabric)
    first.resume({}, {})
    first.save(Progress(epoch=5))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpointer(path, fabric).resume({}, {}) == Progress()
    assert f"{path}: damaged" in capsys.readouterr().err
