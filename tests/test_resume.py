"""A training stopped in any way ends like one that was left alone."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import write_tiny_archives
from training import Place, same_weights, small_recipe

EPOCHS = 4


@pytest.fixture(scope="module")
def recipe() -> dict:
    """Everything that has a state: moving average, mean of epochs, two batches a step."""
    return small_recipe(
        {"checkpoint_seconds": 0, "workers": 2},
        epochs=EPOCHS, batch_size=1, gradient={"accumulate": 2, "clip": 1.0},
        weights={"ema": 0.9, "average": 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_tiny_archives(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, raw: Path, recipe: dict) -> Place:
    """A run nobody interrupts."""
    place = Place(tmp_path_factory.mktemp("whole"), raw, recipe)
    place.run()
    return place


def same_end(place: Place, whole: Place) -> None:
    assert place.history() == whole.history()
    assert place.metrics() == whole.metrics()
    same_weights(place.weights(), whole.weights())
    assert not list(place.work.iterdir()), "scratch is deleted on success"


def wait_for_checkpoint(place: Place, process, newer_than: float = 0.0) -> None:
    while process.is_alive():
        saved = list(place.work.glob("*/*/last.pt"))
        if saved and saved[0].stat().st_mtime_ns > newer_than:
            return
        time.sleep(0.01)


def wait_for_loader(process) -> list[int]:
    """The pids of its loader processes, once they have begun to work."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.is_alive():
        pids = [int(pid) for pid in listed.read_text().split()]
        states = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        blocked = [int(line[7:], 16) for state in states for line in state.splitlines()
                   if line.startswith("SigBlk:")]  # fmt: skip
        if pids and all(mask >> (signal.SIGTERM - 1) & 1 for mask in blocked):
            return pids
    raise AssertionError("it ended before")


def test_killed_at_any_moment_it_ends_the_same(
    tmp_path: Path, raw: Path, recipe: dict, whole: Place
) -> None:
    place, moments = Place(tmp_path, raw, recipe), random.Random(0)
    for _ in range(4):
        process = place.start()
        wait_for_checkpoint(place, process, time.time_ns())
        time.sleep(moments.uniform(0, 0.25))  # within a step, a save, or the validation
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
    said = place.run() if process.exitcode else place.said.read_text()
    assert "going on after epoch" in said
    same_end(place, whole)


@pytest.mark.parametrize("whom", ["the main process", "all processes"])
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, "stopped, everything saved: run the same command again"),
        (signal.SIGINT, 130, "interrupted: run the same command again to go on"),
    ],
)
def test_asked_to_stop_it_saves(
    tmp_path: Path, raw: Path, recipe: dict, whole: Place,
    number: signal.Signals, code: int, said: str, whom: str,
) -> None:  # fmt: skip
    """SLURM and a terminal send a signal to the loader's processes too."""
    rare = recipe | {"runtime": recipe["runtime"] | {"checkpoint_seconds": 1000}}
    place = Place(tmp_path, raw, rare)
    process = place.start()
    while "epoch 1/" not in (place.said.read_text() if place.said.exists() else ""):
        time.sleep(0.01)
    assert not list(place.work.glob("*/*/last.pt"))
    others = wait_for_loader(process) if whom == "all processes" else []
    for pid in [process.pid, *others]:
        os.kill(pid, number)
    process.join()
    assert process.exitcode == code, place.said.read_text()
    assert said in place.said.read_text() and "Traceback" not in place.said.read_text()
    assert list(place.work.glob("*/*/last.pt"))
    assert "going on after epoch 0, batch 2" in place.run()
    same_end(place, whole)
