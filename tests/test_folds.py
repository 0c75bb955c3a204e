"""`pipeline folds`: DVC runs and records each fold; here its stages are lines of shell."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import run_verb, tiny_recipe, write_yaml

from pipeline import folds
from pipeline.recipe import read
from pipeline.support.errors import UserError

TRAIN = """
trap 'touch saved$1; exit 130' INT
touch began$1
echo "epoch 1/1: seen $CUDA_VISIBLE_DEVICES"
if [ -e broken$1 ]; then echo "error: data.zip: no such file; bring it" >&2; exit 1; fi
while [ -e slow ]; do sleep 0.05; done
echo "$CUDA_VISIBLE_DEVICES" > model$1
"""


STAGES = """
stages:
  download: {matrix: {recipe: "${recipes}"}, cmd: echo a > raw, outs: [raw]}
  split: {matrix: {recipe: "${recipes}"}, cmd: echo a > samples, deps: [raw], outs: [samples]}
  train:
    matrix: {recipe: "${recipes}", fold: "${folds}"}
    cmd: sh train.sh ${item.fold}
    deps: [samples]
    outs: ["model${item.fold}"]
  validate:
    matrix: {recipe: "${recipes}", fold: "${folds}"}
    cmd: cp model${item.fold} oof${item.fold}
    deps: ["model${item.fold}"]
    outs: ["oof${item.fold}"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs, three folds, and stages that take no time."""
    recipe = tiny_recipe()
    recipe["split"]["folds"] = 3
    recipe["runtime"]["accelerator"] = "auto"
    write_yaml(tmp_path / "recipes/tiny.yaml", recipe)
    write_yaml(tmp_path / "params.yaml", {"recipes": ["tiny"], "blends": [], "folds": [0, 1, 2]})
    (tmp_path / "train.sh").write_text(TRAIN)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nanalytics = false\nno_scm = true\n")
    monkeypatch.setattr(folds, "_gpus", lambda: ["3", "7"])
    return tmp_path


def dvc(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def test_folds_at_once_are_done_for_dvc_and_a_failed_one_alone_runs_again(project: Path) -> None:
    (project / "broken1").touch()
    done = run_verb("folds", "tiny", at=project)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    log = project / "work/tiny/fold1.log"
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: fold 1")]
    assert (
        error
        == "error: fold 1: data.zip: no such file; bring it (all it said: work/tiny/fold1.log)"
    )  # noqa: E501
    assert "data.zip: no such file" in log.read_text()
    assert done.stderr.splitlines()[-1].startswith("error: 1 of 3 folds failed")
    seen = {(project / f"model{fold}").read_text().strip() for fold in (0, 2)}
    assert seen <= {"3", "7"} and not (project / "model1").exists()
    assert "fold 0: epoch 1/1: seen " in done.stderr

    (project / "broken1").unlink()
    for fold in (0, 1, 2):
        (project / f"began{fold}").unlink()
    done = run_verb("folds", "tiny", at=project)
    assert done.returncode == 0 and "folds 0, 1, 2 are trained" in done.stdout, done.stderr
    assert [fold for fold in (0, 1, 2) if (project / f"began{fold}").exists()] == [1]
    assert not list((project / "work/tiny").iterdir())
    assert "up to date" in dvc(project, "status"), "dvc repro has nothing left to train"


def test_ctrl_c_stops_all_and_begins_no_other(project: Path) -> None:
    (project / "slow").touch()

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while len(list(project.glob("began*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    done = run_verb("folds", "tiny", "--jobs", "2", at=project)
    assert done.returncode == 130, done.stderr
    assert "interrupted: run the same command again to go on" in done.stderr
    began = {path.name.removeprefix("began") for path in project.glob("began*")}
    saved = {path.name.removeprefix("saved") for path in project.glob("saved*")}
    assert len(began) == 2 and saved == began, "each has saved itself, and has ended"
    assert not list((project / "work/tiny").iterdir())


def test_a_terminal_has_one_line_a_fold_and_errors_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    with folds._Lines([3, 4]) as lines:
        lines.show(4, "epoch 1/2:  50%|#####     | 2/4 [00:01<00:01]")
        lines.say("error: fold 3: data.zip: no such file")
        lines.show(4, "fold 4: done, in 2 s")
    seen = [text.strip() for text in re.split(r"[\r\n]|\x1b\[A", terminal.getvalue())]
    assert "fold 3: waits" in seen and "error: fold 3: data.zip: no such file" in seen
    assert [text for text in seen if text.startswith("fold 4: ")][-1] == "fold 4: done, in 2 s"
    assert max(len(text) for text in seen if text.startswith("fold 4: e")) < 30


def test_each_job_has_its_own_gpus_and_cores(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "_gpus", lambda: ["0", "1", "2", "3", "4"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    runtime = read.load(project / "recipes/tiny.yaml").runtime
    two = runtime.model_copy(update={"devices": 2})
    assert folds.divide(two, None, 5) == [
        folds.Place(frozenset(range(4)), "0,1"), folds.Place(frozenset(range(4, 8)), "2,3"),
    ]  # fmt: skip
    assert len(folds.divide(runtime, None, 9)) == 5 and len(folds.divide(runtime, 3, 5)) == 3
    with pytest.raises(UserError, match="--jobs: found 3, at 2 GPUs each .* torch sees 5"):
        folds.divide(two, 3, 5)
    with pytest.raises(UserError, match="--jobs: found 0, expected 1 or more"):
        folds.divide(two, 0, 5)
    assert folds.divide(runtime, None, 1) == [folds.Place(frozenset(range(8)), "0")]
    on_cpu = folds.divide(runtime.model_copy(update={"accelerator": "cpu"}), 3, 5)
    assert [sorted(place.cores) for place in on_cpu] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert {place.gpus for place in on_cpu} == {None}
    many = folds.divide(runtime.model_copy(update={"accelerator": "cpu"}), 16, 16)
    assert all(len(place.cores) == 1 for place in many)


def test_what_dvc_does_not_know_is_refused(project: Path) -> None:
    write_yaml(project / "params.yaml", {"recipes": ["other"], "blends": [], "folds": [0]})
    done = run_verb("folds", "tiny", at=project)
    assert done.returncode == 1 and "expected tiny among them" in done.stderr
    write_yaml(project / "params.yaml", {"recipes": ["tiny"], "blends": [], "folds": [0]})
    done = run_verb("folds", "tiny", "--fold", "2", at=project)
    assert done.returncode == 1 and "--fold: found 2, expected one that params" in done.stderr
