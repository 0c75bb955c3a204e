import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from pipeline.support.errors import UserError
from pipeline.support.progress import Stopwatch, TensorBoard


def test_no_journal_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TensorBoard(None) as journal:
        journal.write_epoch(1, {"loss": 1.0}, {"a": np.zeros((4, 4, 3), np.uint8)})
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="runtime.tensorboard: found true, but a package is miss"):
        TensorBoard(tmp_path)


def test_an_epoch_told_twice_counts_once(tmp_path: Path) -> None:
    """A killed run has told of more than it has saved."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in ((1, 2, 3), (2, 3)):
        time.sleep(1.1)  # files are told apart by the second they began in
        with TensorBoard(tmp_path) as journal:
            for epoch in epochs:
                journal.write_epoch(epoch, {"dice": epoch / len(epochs)}, {})
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("dice")
    assert [event.step for event in found] == [1, 2, 3]
    assert [event.value for event in found] == pytest.approx([1 / 3, 1.0, 1.5])


def test_a_full_disk_ends_the_journal_and_not_the_training(tmp_path: Path) -> None:
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from pipeline.support.progress import TensorBoard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a full disk, for this process
with TensorBoard(Path({str(tmp_path)!r})) as journal:
    for epoch in range(4):
        picture = np.random.default_rng(epoch).integers(0, 255, (100, 100, 3), np.uint8)
        journal.write_epoch(epoch, {{"dice": 0.5}}, {{"a": picture}})
print("trained")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0 and done.stdout.endswith("trained\n"), done.stderr
    assert done.stdout.count("nothing more is written for TensorBoard") == 1, done.stdout


def test_what_is_not_a_step_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 6, 8, 14, 16, 16, 20, 20, 22, 22])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock = Stopwatch(torch.device("cpu"))
    for _ in range(4):
        clock.mark()
    clock.stop()
    assert (clock.seconds, clock.waiting) == (16, 0.75)
    clock.restart()
    clock.mark()
    clock.mark()
    clock.stop()
    assert (clock.seconds, clock.waiting) == (2, 0)
