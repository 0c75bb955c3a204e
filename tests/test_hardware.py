import contextlib
import datetime
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pipeline.support import hardware
from pipeline.support.errors import UserError
from pipeline.support.hardware import explain_failures


class Fatal(Dataset):
    """Ends the process that reads it, as the kernel does when memory is short."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_dead_loader_process_names_the_settings() -> None:
    with pytest.raises(UserError, match=r"has ended .*lower runtime\.workers"):  # noqa: SIM117
        with explain_failures():
            list(DataLoader(Fatal(), num_workers=1))


def test_one_value_a_channel_names_the_settings() -> None:
    with pytest.raises(UserError, match=r"train\.phases: found so few images"), explain_failures():
        nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("error", [RuntimeError("other"), ValueError("other")])
def test_what_is_not_known_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match="other"), explain_failures():
        raise error


@pytest.mark.parametrize(("slow", "chosen"), [("bf16-mixed", "32-true"), ("32-true", "bf16-mixed")])
def test_the_precision_that_is_faster_here_is_chosen(slow: str, chosen: str) -> None:
    fabric = hardware.launch("cpu", "32-true", 1, 1, 1)

    def step() -> None:
        computed = torch.float32 if hardware.precision(fabric) == "32-true" else torch.bfloat16
        with fabric.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == computed
        time.sleep(0.02 if hardware.precision(fabric) == slow else 0.001)

    said = hardware.measure_precision(fabric, step)
    assert said.startswith(f"precision {chosen}, measured") and said.count("s a step") == 2
    assert hardware.precision(fabric) == chosen


def test_workers_are_as_many_as_asked_and_no_more_than_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setenv("WORLD_SIZE", "8")  # as Fabric leaves it: of two machines, here
    cpu = SimpleNamespace(strategy=SimpleNamespace(), device=torch.device("cpu"))
    four = SimpleNamespace(num_processes=4)
    gpus = SimpleNamespace(strategy=four, world_size=8, device=torch.device("cuda"))
    assert [hardware.workers(asked, cpu) for asked in (0, 3, 99, "auto")] == [0, 3, 16, 4]
    assert [hardware.workers(asked, gpus) for asked in (0, 3, 99, "auto")] == [0, 3, 4, 3]


def test_processes_wait_for_each_other_as_long_as_a_test_set_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fabric's own patience is 30 minutes, and would end a run whose shares are uneven."""
    monkeypatch.setattr(hardware.Fabric, "launch", lambda self: None)
    fabric = hardware.launch("cpu", "32-true", 0, 2, 1)
    assert fabric.strategy._timeout >= datetime.timedelta(days=1)  # type: ignore[attr-defined]


def test_an_upload_is_waited_for_by_the_work_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied on a stream of its own, kept until the other one is done; with a GPU's calls faked."""
    done: list[str] = []

    class Fake:
        """A stream, or a tensor, that notes what is asked of it."""

        def wait_stream(self, other: object) -> None:
            done.append("current waits")

        def to(self, device: object, non_blocking: bool) -> "Fake":
            done.append(f"copied, non_blocking {non_blocking}")
            return self

        def record_stream(self, other: object) -> None:
            done.append("kept for current")

    @contextlib.contextmanager
    def stream(one: object) -> Iterator[None]:
        done.append("on its own")
        yield
        done.append("back")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Fake())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Fake())
    monkeypatch.setattr(torch.cuda, "stream", stream)
    hardware.Upload(torch.device("cuda"))(Fake())  # type: ignore[arg-type]
    assert done == [
        "on its own", "copied, non_blocking True", "back", "current waits", "kept for current",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer\nmore",
    "[enforce fail at gloo/transport.cc] timed out",
])  # fmt: skip
def test_a_lost_process_is_said_in_one_line(words: str) -> None:
    with pytest.raises(UserError, match="another process of this run has ended") as caught:  # noqa: SIM117
        with explain_failures():
            raise RuntimeError(words)
    assert "\n" not in str(caught.value)


def test_free_memory_is_the_smallest_of_machine_container_and_job(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert hardware.free_memory(tmp_path) == 8000 * 1024
    write("proc/self/cgroup", "0::/job/step\n")
    write("sys/fs/cgroup/job/step/memory.max", "max\n")
    assert hardware.free_memory(tmp_path) == 8000 * 1024
    write("sys/fs/cgroup/job/memory.max", "5000000\n")
    write("sys/fs/cgroup/job/memory.current", "3000000\n")
    write("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 700000\nactive_file 5\n")
    assert hardware.free_memory(tmp_path) == 2_700_000
    assert hardware.free_memory(tmp_path / "nowhere") > 0
