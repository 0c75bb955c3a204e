"""The stage `predict`: kills, bad inputs, full disks, several processes; never a short file."""

import contextlib
import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import ROOT, jpeg, tiny_image, tiny_mask, tiny_recipe, write_yaml

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.evaluation.decision import Decision
from pipeline.masks import parts, rle
from pipeline.networks import model
from pipeline.support import files

IMAGES = [f"{car:012x}_{view:02d}" for car in range(6) for view in range(1, 5)]
CHUNK = 4  # images; batches of two
KILLS = 20
NETWORK = {
    "architecture": "Unet", "encoder": "tu-resnet10t", "decoder_channels": (16, 16, 8, 8, 4),
    "pixel_unshuffle": 1,
}  # fmt: skip
PLACES = {
    "raw": "raw", "samples": "samples.csv", "runs": "runs", "evaluation": "eval", "work": "work",
    "submission": "out",
}  # fmt: skip
ARGUMENTS = ["predict", "recipe"]
for name, path in PLACES.items():
    ARGUMENTS += ["--at", f"{name}={path}"]


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
        return [self.submission(), (self.folder / "out/masks.csv").read_bytes()]

    def figures(self) -> dict[str, Any]:
        return json.loads((self.folder / "eval/prediction.json").read_text())

    def complete(self) -> list[Path]:
        return sorted(self.folder.glob("work/predict-*/chunk-*.rows"))

    def recipe(self, **sections: dict[str, Any]) -> None:
        content = tiny_recipe()
        content["runtime"] |= {"batch_size": 2, "workers": 1}
        content["validate"]["tta"] = "none"
        for name, values in sections.items():
            content[name] |= values
        write_yaml(self.folder / "recipes/recipe.yaml", content)

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
    (folder / "raw/sample_submission.csv").write_text(f"{mask_rows.HEADER}\n{listed}")
    samples.write(folder / "samples.csv", rows(IMAGES))
    write_yaml(folder / "params.yaml", {"recipes": ["recipe"], "folds": [0, 1]})
    (folder / "eval").mkdir()
    (folder / "eval/metrics.json").write_text(json.dumps(Decision(128).as_metrics()))
    for fold in (0, 1):
        description = model.Description(
            NETWORK, (32, 64), "linear", (0.5,) * 3, (0.5,) * 3, 1, fold
        )  # fmt: skip
        torch.manual_seed(fold)  # whatever ran before: masks of several parts
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


def test_the_largest_part_alone_may_be_kept(project: Project) -> None:
    status, printed, _ = project.run()
    assert status == 0, printed
    found = dict(mask_rows.read_rows(project.folder / "out/submit.csv.gz"))
    project.fresh()
    project.recipe(predict={"keep": "largest"})
    status, printed, _ = project.run()
    assert status == 0, printed
    kept = dict(mask_rows.read_rows(project.folder / "out/submit.csv.gz"))
    project.recipe()
    project.fresh()
    assert list(kept) == list(found)
    for name, text in found.items():
        assert kept[name] == rle.encode(parts.largest(rle.decode(text, 64, 96)))


def refused(outcome: tuple[int, str, float], *said: str) -> None:
    status, printed, _ = outcome
    assert status == 1 and "Traceback" not in printed, printed
    last = printed.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("error: "), printed
    for words in said:
        assert words in last


def test_a_corrupt_image_ends_the_run_and_a_whole_one_lets_it_go_on(project: Project) -> None:
    bad = IMAGES[9]
    project.replace(bad, picture(bad)[:-300])
    refused(project.run(), f"{bad}.jpg", "cut short", "predict.on_bad_image")
    assert not (project.folder / "out").exists()
    assert len(project.complete()) == 2, "the chunks before it are kept"
    project.replace(bad, picture(bad))
    status, printed, _ = project.run()
    assert status == 0, printed


def test_bad_images_may_be_left_empty(project: Project) -> None:
    cut, large = IMAGES[5], IMAGES[16]
    project.replace(cut, picture(cut)[:-300])
    table = [
        dataclasses.replace(row, height=63) if row.sample_id == large else row
        for row in rows(IMAGES)
    ]
    samples.write(project.folder / "samples.csv", table)
    refused(project.run(), f"{large}.jpg: found 63x96", "predict.on_bad_image to empty")
    project.recipe(predict={"on_bad_image": "empty"})
    status, printed, _ = project.run()
    assert status == 0, printed
    assert "2 bad images" in printed and f"left empty: test.zip!test/{cut}.jpg" in printed
    assert f"left empty: test.zip!test/{large}.jpg: found 63x96" in printed
    assert (project.figures()["bad_images"], project.figures()["images"]) == (2, len(IMAGES))
    found = dict(mask_rows.read_rows(project.folder / "out/submit.csv.gz"))
    assert [name for name in IMAGES if f"{name}.jpg" in found] == IMAGES
    assert found[f"{cut}.jpg"] == found[f"{large}.jpg"] == ""
    told = {row["img"]: row for row in image_table(project)}
    assert told[f"{cut}.jpg"]["area"] == told[f"{large}.jpg"]["area"] == "0"
    assert "cut short" in told[f"{cut}.jpg"]["error"]
    assert [row["img"] for row in image_table(project) if row["error"]] == [
        f"{cut}.jpg", f"{large}.jpg",
    ]  # fmt: skip


def test_what_becomes_of_bad_images_may_be_changed_in_between(project: Project) -> None:
    """Finished chunks are kept, whichever way it is changed."""
    bad = IMAGES[9]
    project.replace(bad, picture(bad)[:-300])
    listed = project.folder / "raw/sample_submission.csv"
    listed.write_text(listed.read_text().replace(IMAGES[0], "another"))  # refused at the end
    refused(project.run(), "cut short")
    project.recipe(predict={"on_bad_image": "empty"})
    status, printed, _ = project.run()
    assert status == 1 and "another" in printed, printed
    assert "going on with 4 of 6 chunks" in printed and len(project.complete()) == 6
    project.recipe(predict={"on_bad_image": "fail"})
    refused(project.run(), "cut short", "predict.on_bad_image")
    assert len(project.complete()) == 6


def image_table(project: Project) -> list[dict[str, str]]:
    with (project.folder / "out/masks.csv").open() as stream:
        assert stream.readline() == "img,area,disagreement,error\n"
        stream.seek(0)
        return list(csv.DictReader(stream))


def test_the_image_table_tells_area_and_disagreement(project: Project) -> None:
    status, printed, _ = project.run()
    assert status == 0, printed
    found = dict(mask_rows.read_rows(project.folder / "out/submit.csv.gz"))
    table = image_table(project)
    assert [row["img"] for row in table] == [f"{name}.jpg" for name in IMAGES]
    for row in table:
        assert int(row["area"]) == rle.check(found[row["img"]], 64, 96)
    assert any(0 < float(row["disagreement"]) <= 1 for row in table)
    write_yaml(project.folder / "params.yaml", {"recipes": ["recipe"], "folds": [1]})
    assert project.run()[0] == 0
    assert {float(row["disagreement"]) for row in image_table(project)} == {0.0}


def test_workers_change_no_byte_and_batches_few_pixels(project: Project) -> None:
    results, masks = [], []
    for workers, batch, chunk in ((1, 2, 4), (0, 2, 4), (2, 2, 4), (2, 3, 6), (2, 2, 100)):
        project.recipe(runtime={"workers": workers, "batch_size": batch})
        status, printed, _ = project.run(chunk=chunk)
        assert status == 0, printed
        results.append(project.results())
        masks.append(masks_of(project))
    assert results[0] == results[1] == results[2]
    for found in masks[3:]:
        assert np.count_nonzero(found != masks[0]) <= 2 * len(IMAGES)


def masks_of(project: Project) -> npt.NDArray[np.bool_]:
    rows = mask_rows.read_rows(project.folder / "out/submit.csv.gz")
    return np.stack([rle.decode(text, 64, 96) for _, text in rows])


def test_an_unreadable_archive_is_named(project: Project) -> None:
    path = project.folder / "raw/test.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(project.run(), "raw/test.zip", "no whole zip file")
    path.unlink()
    path.mkdir()
    refused(project.run(), "raw/test.zip", "not readable")
    path.rmdir()
    refused(project.run(), "raw/test.zip", "missing")
    path.write_bytes(whole)
    assert project.run()[0] == 0


def test_a_full_disk_is_named_and_nothing_short_is_left(project: Project) -> None:
    work = project.folder / "work"
    work.mkdir()
    with small_disk(work) as free:
        outcome = project.run()
        refused(outcome, "No space left on device", "free some space")
        assert not (project.folder / "out/submit.csv.gz").exists()
        free()
        status, printed, _ = project.run()
        assert status == 0, printed
    assert len(list(mask_rows.read_rows(project.folder / "out/submit.csv.gz"))) == len(IMAGES)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system of 256 kB, full but for some chunks; what is yielded frees it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes the rights of root")
    try:
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(232 << 10))
        yield ballast.unlink
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_second_process_is_refused(project: Project) -> None:
    with files.only_process(project.folder / "work/predict"):
        refused(project.run(), "another process is working here")


def test_a_place_that_cannot_be_written_is_found_before_the_work(project: Project) -> None:
    (project.folder / "out").write_text("a file where a folder is needed")
    refused(project.run(), "out: File exists; a file stands where a folder is needed")
    assert not list((project.folder / "work").rglob("*")), "nothing has been predicted"


def test_no_test_images_make_no_submission(project: Project) -> None:
    training = Sample("a", "train", "a", "train.zip!a.jpg", "m.zip!a.gif", 0, 64, 96, 0.1)
    samples.write(project.folder / "samples.csv", [training])
    status, printed, _ = project.run()
    assert status == 0 and "no test images" in printed, printed
    assert os.listdir(project.folder / "out") == ["masks.csv"]
    assert image_table(project) == [] and project.figures() == {"images": 0}


def command(project: Project) -> subprocess.Popen[str]:
    """The stage in two processes."""
    project.recipe(runtime={"devices": 2})
    return subprocess.Popen(
        [sys.executable, ROOT / "tests/small_chunks.py", *ARGUMENTS], cwd=project.folder,
        text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_killed_process_ends_the_run_and_a_rerun_makes_the_bytes_of_one(project: Project) -> None:
    with command(project) as process:
        while not project.complete():
            time.sleep(0.002)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        _, printed = process.communicate()
    assert process.returncode != 0
    assert "another process of this run has ended" in printed or "with code -9" in printed
    assert not (project.folder / "out").exists()
    kept = len(project.complete())
    assert 0 < kept < len(IMAGES) // CHUNK
    with command(project) as process:
        _, printed = process.communicate()
    assert process.returncode == 0, printed
    assert project.figures()["predicted_now"] == len(IMAGES) - CHUNK * kept
    together = project.results()
    project.recipe()
    status, printed, _ = project.run()
    assert status == 0, printed
    assert project.results() == together
