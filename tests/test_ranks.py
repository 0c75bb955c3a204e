"""Several processes train as one; on the CPU they talk through gloo."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import ROOT
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from training import Place, convolutions, failing, in_place, load, run, run_as, small_recipe

from pipeline.data.archives import Archives
from pipeline.networks import model
from pipeline.support import distributed, hardware
from pipeline.support.errors import UserError
from pipeline.train.checkpoint import Checkpointer, Progress

ENDED = "error: another process of this run has ended"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("backend", ["eager", failing], ids=["compiled", "not compiled"])
def test_two_processes_learn_what_one_does(raw: Path, tmp_path: Path, backend: object) -> None:
    """The same batches, half of each in either: weights, losses and scores agree."""
    recipe = small_recipe(epochs=2, gradient={"accumulate": 2, "clip": 1.0})
    alone = load(tmp_path, recipe)
    archives = Archives(raw)
    network = convolutions(model.describe(alone.train, 0))
    one, history = run(archives, alone, tmp_path / "one.pt", network=network)
    archives.close()

    recipe["runtime"] |= {"devices": 2, "compile": True}
    both, context = load(tmp_path, recipe), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.train.stage"])
    port = free_port()
    started = [
        context.Process(target=run_as, args=(rank, port, raw, both, tmp_path, backend))
        for rank in (0, 1)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0
    two, other = torch.load(tmp_path / "done.pt", weights_only=True)
    assert len(other) == len(history.history) == 2
    for mine, theirs in zip(history.history, other, strict=True):
        for name in ("loss", "bce", "dice_loss", "dice", "held_out_loss", "pixel_accuracy"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5)


# What SLURM tells a batch script, in which no `srun` stands.
BATCH = {"SLURM_JOB_NAME": "a", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
         "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


def command(place: Place) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipeline", *place.arguments(0)]
    environment = os.environ | BATCH
    return subprocess.run(
        line, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=200
    )


def test_the_command_starts_its_other_process_also_under_slurm(raw: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, raw, small_recipe({"devices": 2}, epochs=2, weights={"ema": 0.9}))
    done = command(place)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("epoch 2/2: loss") == 1
    assert len(place.history()) == 2 and place.weights()


def test_a_killed_peer_ends_the_run_in_one_line_and_keeps_what_was_saved(
    raw: Path, tmp_path: Path
) -> None:
    recipe = small_recipe({"devices": 2, "checkpoint_seconds": 0}, epochs=100)
    place = Place(tmp_path, raw, recipe)
    line = [sys.executable, "-m", "pipeline", *place.arguments(0)]
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        deadline = time.monotonic() + 120
        while not list(place.work.glob("*/*/last.pt")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        (other,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        os.kill(int(other), signal.SIGKILL)
        said = first.communicate(timeout=120)[1]
    assert first.returncode == 1 and "Traceback" not in said, said
    last = said.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith(ENDED), said
    assert list(place.work.glob("*/*/last.pt"))


def end_early(folder: Path, arguments: list[str], kill: bool) -> None:
    """The stage as a process of torchrun; with `kill` the last one is gone at its third save."""
    rank = os.environ["RANK"]
    if kill and rank == "3":
        save, left = Checkpointer.save, iter(range(3))

        def save_or_die(self: Checkpointer, progress: Progress) -> None:
            save(self, progress) if next(left) < 2 else os.kill(os.getpid(), signal.SIGKILL)

        Checkpointer.save = save_or_die  # type: ignore[method-assign]
    in_place(folder, arguments, folder / f"said-{rank}.txt", {})
    print(f"seed {torch.initial_seed()}", flush=True)


def torchrun(node: int, port: int, *arguments: object) -> None:
    """What the command `torchrun` does on one of two machines with two processes each.

    They are forked: nothing is imported four times.
    """
    config = LaunchConfig(
        min_nodes=2, max_nodes=2, nproc_per_node=2, max_restarts=0, run_id="test",
        rdzv_backend="static", rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs={"rank": node, "timeout": 120}, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, end_early)(*arguments)


def test_of_two_machines_with_two_processes_each_one_process_is_killed(
    raw: Path, tmp_path: Path
) -> None:
    """All others end, each with one line; the same command again goes on to the end."""
    runtime = {"devices": 2, "nodes": 2, "checkpoint_seconds": 0}
    recipe = small_recipe(runtime, epochs=5, batch_size=4, validation={"every": 5})
    place = Place(tmp_path, raw, recipe)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.train.stage"])
    for kill in (True, False):
        port, arguments = free_port(), (tmp_path, place.arguments(0), kill)
        nodes = [context.Process(target=torchrun, args=(n, port, *arguments)) for n in (0, 1)]
        for node in nodes:
            node.start()
        for node in nodes:
            node.join(timeout=240)
        said = [(tmp_path / f"said-{rank}.txt").read_text() for rank in range(4)]
        assert "Traceback" not in "".join(said), said
        assert [node.exitcode for node in nodes] == [1, 1] if kill else [0, 0], said
        if kill:
            assert list(place.work.glob("*/*/last.pt")) and not place.runs.exists()
            for text in said[:3]:
                assert text.replace("\r", "\n").strip().splitlines()[-1].startswith(ENDED), said
    assert "going on after epoch 2 from" in said[0] and "4 processes" in said[0]
    assert len(place.history()) == 5 and place.weights()
    seeds = {text.split("seed ")[-1] for text in said}
    assert len(seeds) == 4, "dropout differs from process to process"


def test_parameters_that_no_output_needs_are_not_waited_for(tmp_path: Path) -> None:
    """A PSPNet uses some of its encoder's stages; DDP would wait for the gradients of all."""
    settings = load(tmp_path, small_recipe(size=[64, 64])).train
    made = smp.create_model("PSPNet", "resnet18", encoder_weights=None)
    segmenter = model.Segmenter(made, model.describe(settings, 0))
    before = model.parameters(segmenter)
    model.freeze_unused(segmenter)
    used = {name for name, one in segmenter.named_parameters() if one.requires_grad}
    assert model.parameters(segmenter) < before
    assert not [name for name in used if "layer3" in name or "layer4" in name]
    assert [name for name in used if "layer2" in name]
    segmenter(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).sum().backward()
    assert {name for name, one in segmenter.named_parameters() if one.grad is not None} == used


@pytest.mark.parametrize(("starter", "told"), [
    ("torchrun", {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "4"}),
    ("srun", {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}),
])  # fmt: skip
def test_as_many_are_started_as_the_recipe_says(
    starter: str, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One device each would train the same fold four times, all into one place."""
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert hardware.check("cpu", "32-true", 2, 2) == "cpu"
    with pytest.raises(UserError, match=f"{starter} has started 4 processes, expected 1 x 1"):
        hardware.check("cpu", "32-true", 1, 1)


def test_what_two_processes_cannot_do_is_refused() -> None:
    two = types.SimpleNamespace(world_size=2, device=torch.device("cpu"))
    with pytest.raises(UserError, match="train.sync_batchnorm: found true with 2 processes on"):
        distributed.synchronize_batchnorm(two, torch.nn.Identity())


def test_the_first_process_is_known_before_any_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
        assert distributed.is_first()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not distributed.is_first()
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert not distributed.is_first(), os.environ


def test_a_process_ends_with_the_one_that_started_it() -> None:
    """Else it would wait for the other's numbers, and hold its GPU."""
    waits = "import time; from pipeline.support import distributed; distributed.end_with_first(); print('up', flush=True); time.sleep(60)"  # noqa: E501
    starts = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {waits!r}], env=os.environ | {{'RANK': '1'}})"  # noqa: E501
    with subprocess.Popen(
        [sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "up\n"
        first.kill()
        first.communicate(timeout=20)  # returns when the other has let go of the pipe
