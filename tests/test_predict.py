"""The stage `predict`: kills, bad inputs, full disks, several processes; never a short file."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, jpeg, tiny_image, tiny_mask, tiny_recipe, write_yaml

from pipeline import model, samples, submission
from pipeline.samples import Sample

IMAGES = [f"{car:012x}_{view:02d}" for car in range(6) for view in range(1, 5)]
CHUNK = 4  # images; batches of two
KILLS = 20
ARGUMENTS = [
    "recipe.yaml", "--params", "params.yaml", "--raw", "raw", "--samples", "samples.csv",
    "--runs", "runs", "--metrics", "metrics.json", "--work", "work", "--out", "out",
    "--summary", "prediction.json",
]  # fmt: skip


class Project:
    """What the stage reads, in one folder, and ways to run it."""

    def __init__(self, folder: Path, runner: "Runner") -> None:
        self.folder, self.runner = folder, runner

    def run(self, kill_after: float | None = None, chunk: int = CHUNK) -> tuple[int, str, float]:
        """Exit status (negative: the signal), what was printed, seconds."""
        return self.runner.run(self.folder, kill_after, chunk)

    def fresh(self) -> None:
        for name in ("work", "out"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def submission(self) -> bytes:
        return (self.folder / "out/submit.csv.gz").read_bytes()

    def results(self) -> list[bytes]:
        return [self.submission(), (self.folder / "out/images.csv").read_bytes()]

    def figures(self) -> dict[str, Any]:
        return json.loads((self.folder / "prediction.json").read_text())

    def complete(self) -> list[Path]:
        return sorted(self.folder.glob("work/predict-*/chunk-*.rows"))

    def recipe(self, **sections: dict[str, Any]) -> None:
        content = tiny_recipe()
        content["runtime"] |= {"batch_size": 2, "workers": 1}
        content["validate"]["tta"] = "none"
        for name, values in sections.items():
            content[name] |= values
        write_yaml(self.folder / "recipe.yaml", content)

    def replace(self, name: str, data: bytes) -> None:
        write_zip(self.folder / "raw/test.zip", {name: data})


class Runner:
    """See `forked_runs`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests/forked_runs.py"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self.answer() == "ready\n"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def run(self, folder: Path, kill_after: float | None, chunk: int) -> tuple[int, str, float]:
        assert self.process.stdin is not None
        order = {"arguments": ARGUMENTS, "folder": str(folder), "log": str(folder / "log")}
        order |= {"chunk": chunk, "kill_after": kill_after}  # type: ignore[dict-item]
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.answer())
        return answer["status"], (folder / "log").read_text(), answer["seconds"]


def picture(name: str) -> bytes:
    number = IMAGES.index(name)
    return jpeg(tiny_image(tiny_mask(number), number))


def write_zip(path: Path, changed: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in IMAGES:
            archive.writestr(f"test/{name}.jpg", changed.get(name) or picture(name))


def rows(images: list[str]) -> list[Sample]:
    return [
        Sample(name, "test", name[:12], f"test.zip!test/{name}.jpg", "", -1, 64, 96, 0.0)
        for name in images
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    (folder / "raw").mkdir()
    write_zip(folder / "raw/test.zip", {})
    listed = "".join(f"{name}.jpg,\n" for name in IMAGES)
    (folder / "raw/sample_submission.csv").write_text(f"{submission.HEADER}\n{listed}")
    samples.write(folder / "samples.csv", rows(IMAGES))
    write_yaml(folder / "params.yaml", {"recipes": ["recipe"], "folds": [0, 1]})
    (folder / "metrics.json").write_text('{"threshold": 0.5}')
    for fold in (0, 1):
        description = model.Description(
            "Unet", "tu-resnet10t", (16, 16, 8, 8, 4), (32, 64), "linear", (0.5,) * 3, (0.5,) * 3,
            1, fold,
        )  # fmt: skip
        network = model.build(description, "none")
        model.save(folder / f"runs/fold{fold}/model.pt", network, network.state_dict())
    return folder


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    with runner.process as process:
        yield runner
        process.stdin.close()  # type: ignore[union-attr]


@pytest.fixture
def project(template: Path, tmp_path: Path, runner: Runner) -> Project:
    shutil.copytree(template, tmp_path / "project")
    project = Project(tmp_path / "project", runner)
    project.recipe()
    return project


def test_twenty_kills_change_no_byte_and_repeat_no_chunk(project: Project) -> None:
    status, printed, seconds = project.run()
    assert status == 0, printed
    whole = project.results()
    generator = random.Random(7)
    survived = 0
    for _ in range(KILLS):
        project.fresh()
        killed, printed, _ = project.run(generator.uniform(0.1, 1) * seconds)
        assert killed in {-signal.SIGKILL, 0}, printed
        assert not (project.folder / "out/submit.csv.gz").exists() or project.results() == whole
        before = project.complete()
        survived += len(before)
        status, printed, _ = project.run()
        assert status == 0, printed
        assert project.results() == whole
        if killed:
            assert project.figures()["predicted_now"] == len(IMAGES) - CHUNK * len(before)
        assert not list((project.folder / "work").iterdir())
    assert survived, "no kill came after a chunk"
