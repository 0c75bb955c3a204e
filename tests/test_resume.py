"""A training stopped in any way ends like one that was left alone."""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from conftest import write_tiny_archives, write_yaml
from training import Place, same_weights, small_recipe


@pytest.fixture(scope="module")
def recipe() -> dict:
    """Everything that has a state: two phases, moving average, two batches a step."""
    recipe = small_recipe(
        {"checkpoint_seconds": 0, "workers": 2},
        epochs=2, batch_size=1, gradient={"accumulate": 2, "clip": 1.0},
        weights={"ema": 0.9}, validation={"every": 2},
    )  # fmt: skip
    (first,) = recipe["train"]["phases"]
    cosine = {"name": "cosine", "warm_up": 0.1, "end": 0.0}
    second = first | {"size": [64, 64], "learning_rate": 0.001, "schedule": cosine}
    recipe["train"]["phases"] = [first, second]
    return recipe


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


def killed(folder: Path, raw: Path, recipe: dict) -> Place:
    """A training that was killed after its first checkpoint."""
    place = Place(folder, raw, recipe)
    process = place.start()
    wait_for_checkpoint(place, process)
    process.kill()
    process.join()
    place.said.rename(folder / "said before.txt")  # its orphaned loaders may still write there
    return place


def test_with_other_settings_a_stopped_training_begins_anew(
    tmp_path: Path, raw: Path, recipe: dict
) -> None:
    place = killed(tmp_path, raw, recipe)
    phases = [phase | {"learning_rate": 0.0123} for phase in recipe["train"]["phases"]]
    write_yaml(place.recipe, recipe | {"train": recipe["train"] | {"phases": phases}})
    assert "going on after" not in place.run()


def wait_for_words(place: Place, process, words: str) -> None:
    while words not in (place.said.read_text() if place.said.exists() else ""):
        assert process.is_alive(), "it ended before"
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


def test_killed_inside_the_second_phase_it_ends_the_same(
    tmp_path: Path, raw: Path, recipe: dict, whole: Place
) -> None:
    place = Place(tmp_path, raw, recipe)
    for words in ("phase 2/2 at 64x64, epoch 3/4:", "phase 2/2 at 64x64, epoch 4/4:"):
        process = place.start()
        wait_for_words(place, process, words)  # the bar's first line
        wait_for_checkpoint(place, process, time.time_ns())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        place.said.rename(tmp_path / "said before.txt")
    said = place.run()
    assert re.search(r"going on after epoch [23](, batch \d+)? from", said), said
    assert "phase 1/2" not in said
    same_end(place, whole)


def test_a_damaged_checkpoint_is_said_and_training_begins_anew(
    tmp_path: Path, raw: Path, recipe: dict, whole: Place
) -> None:
    place = killed(tmp_path, raw, recipe)
    (last,) = place.work.glob("*/*/last.pt")
    content = bytearray(last.read_bytes())
    half = len(content) // 2
    content[half : half + 40] = bytes(byte ^ 255 for byte in content[half : half + 40])
    last.write_bytes(content)
    said = place.run()
    assert f"{last.relative_to(tmp_path)}: damaged" in said and "going on" not in said
    assert "Traceback" not in said
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
    wait_for_words(place, process, "epoch 1/")
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
