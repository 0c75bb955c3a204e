"""What a GPU machine runs, rehearsed on the CPU at a tiny size: every step of on_gpu.sh."""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, SLUG, write_tiny_archives
from lightning_fabric import Fabric

from pipeline.__main__ import main
from pipeline.networks import model
from pipeline.recipe import read

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What step 2 leaves: archives put together."""
    folder = tmp_path_factory.mktemp("state")
    write_tiny_archives(folder / f"data/competitions/{SLUG}")
    return folder


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The steps, in this process: what they start as commands is called instead."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import on_gpu
    import train_gpu

    def run_until(command: str, project: Path, deadline: float, last: Path | None = None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project)
            words = command.split()[3:]
            if "smoke" in words:  # its processes are test_ranks.py's subject
                alone(project / "recipes/smoke.yaml")
            main(words)

    def run(command: list[str], **_: object) -> SimpleNamespace:
        with redirect_stdout(io.StringIO()) as printed:
            train_gpu.main(command[2:])
        return SimpleNamespace(returncode=0, stdout=printed.getvalue(), stderr="")

    monkeypatch.setattr(train_gpu, "run_until", run_until)
    monkeypatch.setattr(train_gpu.subprocess, "run", run)
    threads = torch.get_num_threads()
    yield on_gpu
    torch.set_num_threads(threads)


def alone(recipe: Path) -> None:
    text = recipe.read_text()
    assert "devices: 2" in text and "accelerator: cpu" in text and "compile: false" in text
    recipe.write_text(text.replace("devices: 2", "devices: 1"))


def step(number: int, on_gpu: Any, state: Path, out: Path) -> list[str]:
    """Run a step; the names of its results."""
    out.mkdir()
    on_gpu.main([str(number), "--state", str(state), "--out", str(out), "--rehearse"])
    assert all(path.stat().st_size <= 16 << 20 for path in out.iterdir())
    return sorted(path.name for path in out.iterdir())


def test_step_1_times_prediction(
    on_gpu: Any, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step(1, on_gpu, state, tmp_path / "out")
    table = [line.split("|") for line in capsys.readouterr().out.splitlines() if "| carv" in line]
    rows = table[len(table) // 2 :]
    assert len(rows) == 3 and all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows)
    assert ["5 network" in row[1] for row in rows] == [False, False, True]


def test_step_3_trains_scores_and_predicts_and_goes_on(
    on_gpu: Any, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = step(3, on_gpu, state, tmp_path / "out")
    assert names == ["history.csv", "metrics.json", "model-float16.pt", "submit.csv.gz"]
    assert 0 <= json.loads((tmp_path / "out/metrics.json").read_text())["dice"] <= 1
    half = model.load(tmp_path / "out/model-float16.pt").state_dict()
    (whole,) = (state / "training").glob("score*/runs/carvana/fold0/model.pt")
    for name, weight in model.load(whole).state_dict().items():
        torch.testing.assert_close(half[name], weight, rtol=1e-3, atol=1e-6)
    capsys.readouterr()
    step(3, on_gpu, state, tmp_path / "again")
    assert "epoch 1/1" not in capsys.readouterr().out, "what is done is not done again"


def test_step_4_times_training(on_gpu: Any, state: Path, tmp_path: Path) -> None:
    step(4, on_gpu, state, tmp_path / "out")
    (results,) = (state / "training").glob("speed*.jsonl")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert not [row for row in rows if "failed" in row]
    assert [row["piece"]["part"] for row in rows] == ["b", "a", "c", "a"]
    assert all(row["speed"] > 0 for row in rows)
    table = results.with_suffix(".md").read_text()
    assert "float32 (TF32 convolutions)" in table and "channels_last False" in table
    assert "\ncarvana: (b)/(a) = " in table


def test_step_5_counts_memory_and_trains_by_two(
    on_gpu: Any, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step(5, on_gpu, state, tmp_path / "out")
    said = capsys.readouterr().out
    assert "| `sample` |" in said and "two processes trained an epoch on the CPU" in said


@pytest.mark.parametrize("finished", [False, True])
def test_a_training_that_only_clears_up_when_time_is_up_is_done(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import train_gpu

    script, last = tmp_path / "stage.py", tmp_path / "model.pt"
    last.write_text("an earlier training's")
    wrote = f"pathlib.Path({str(last)!r}).touch()" if finished else "pass"
    script.write_text(
        f"import pathlib, time\n{wrote}\npathlib.Path('began').touch()\ntime.sleep(60)\n"
    )
    with contextlib.nullcontext() if finished else pytest.raises(SystemExit) as left:
        train_gpu.run_until(f"python {script}", tmp_path, time.monotonic() + 25, last)
    assert (tmp_path / "began").exists(), "the script took longer than 5 s to start"
    assert left is None or left.value.code == train_gpu.LATE


def test_channels_first_is_fed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import train_speed

    settings = read.load(ROOT / "recipes/sample.yaml").train
    phase = settings.phases[-1].model_copy(update={"size": (64, 64), "batch_size": 2})
    settings = settings.model_copy(update={"phases": (phase,)})
    for channels_last in (True, False):
        network, seen = model.for_training(settings, 0, "none"), []
        network.network.register_forward_pre_hook(lambda _, fed, seen=seen: seen.append(fed[0]))
        fabric = Fabric(accelerator="cpu", devices=1)
        train_speed.bare_steps(network, settings, fabric, 0, False, False, channels_last)
        assert seen[0].is_contiguous() != channels_last
        assert seen[0].is_contiguous(memory_format=torch.channels_last) == channels_last


def test_the_shell_joins_what_came_and_calls_the_step(tmp_path: Path) -> None:
    """Step 2, which is nothing more."""
    environment = {
        **os.environ, "STATE": str(tmp_path / "state"), "PACKS": str(tmp_path / "packs"),
        "OUT": str(tmp_path / "out"),
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)
    (tmp_path / "packs").mkdir()
    script = BENCHMARKS / "on_gpu.sh"
    subprocess.run(["bash", script, "2"], env=environment, check=True, timeout=60)
    assert (tmp_path / "state/waiting").is_dir() and (tmp_path / "out/step2.txt").exists()
    wrong = subprocess.run(["bash", script, "9"], env=environment, capture_output=True, text=True)
    assert wrong.returncode and "invalid choice" in wrong.stdout


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_finds_the_package_by_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {str(ROOT), ""}
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *(p for p in sys.path if p not in here)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    runpy.run_path(str(script), run_name="imported")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "pipeline":
            sys.modules.pop(name)
