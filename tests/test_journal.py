import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.training.journal import Journal


def test_no_journal_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal(None) as journal:
        journal.write_epoch(1, {"loss": 1.0}, {"a": np.zeros((4, 4, 3), np.uint8)})
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="runtime.tensorboard: found true, but a package is miss"):
        Journal(tmp_path)


def test_an_epoch_told_twice_counts_once(tmp_path: Path) -> None:
    """A killed run has told of more than it has saved."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in ((1, 2, 3), (2, 3)):
        time.sleep(1.1)  # files are told apart by the second they began in
        with Journal(tmp_path) as journal:
            for epoch in epochs:
                journal.write_epoch(epoch, {"dice": epoch / len(epochs)}, {})
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("dice")
    assert [event.step for event in found] == [1, 2, 3]
    assert [event.value for event in found] == pytest.approx([1 / 3, 1.0, 1.5])
