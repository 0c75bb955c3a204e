"""The stages `predict` and `encode`: kills, bad inputs, full disks, damage, several processes."""

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

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import ROOT, jpeg, tiny_image, tiny_mask, tiny_recipe, write_yaml

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.samples import Sample
from pipeline.evaluation.decision import Decision
from pipeline.levels.kept import Chunk, Kept
from pipeline.masks import rle
from pipeline.masks.clean_up import CleanUp, clean
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
    "kept": "kept", "submission": "out",
}  # fmt: skip
AT = [word for name, path in PLACES.items() for word in ("--at", f"{name}={path}")]


class Project:
    """What the stage reads, in one folder, and ways to run it."""

    def __init__(self, folder: Path, runner: "Runner") -> None:
        self.folder, self.runner = folder, runner

    def run(
        self, stage: str = "predict", kill_after: float | None = None, chunk: int = CHUNK
    ) -> tuple[int, str, float]:
        """Exit status (negative: the signal), what was printed, seconds."""
        return self.runner.run(self.folder, [stage, "recipe", *AT], kill_after, chunk)

    def done(self, *stages: str, chunk: int = CHUNK) -> str:
        """Run the stages to their end; what the last one printed."""
        printed = ""
        for stage in stages:
            status, printed, _ = self.run(stage, chunk=chunk)
            assert status == 0, printed
        return printed

    def fresh(self) -> None:
        for name in ("work", "kept", "out"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def results(self, stage: str) -> dict[str, bytes]:
        folder = self.folder / {"predict": "kept", "encode": "out"}[stage]
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}

    def masks(self) -> dict[str, str]:
        return dict(mask_rows.read_rows(self.folder / "out/submit.csv.gz"))

    def figures(self, name: str = "prediction") -> dict[str, Any]:
        return json.loads((self.folder / f"eval/{name}.json").read_text())

    def complete(self) -> list[Path]:
        return sorted(self.folder.glob("work/predict-*/chunk-*.levels"))

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

    def run(
        self, folder: Path, arguments: list[str], kill_after: float | None, chunk: int
    ) -> tuple[int, str, float]:
        assert self.process.stdin is not None
        order: dict[str, Any] = {"arguments": arguments, "folder": str(folder), "chunk": chunk}
        order |= {"log": str(folder / "log"), "kill_after": kill_after}
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


def test_other_flips_are_another_prediction(project: Project) -> None:
    project.done("predict")
    once = project.results("predict")
    project.recipe(validate={"tta": "hflip"})
    project.done("predict")
    assert project.figures()["predicted_now"] == len(IMAGES)
    assert project.results("predict") != once


def test_twenty_kills_of_a_prediction_change_no_byte_and_repeat_no_chunk(project: Project) -> None:
    _, printed, seconds = project.run()
    whole = project.results("predict")
    assert len(whole) == len(IMAGES) // CHUNK, printed
    generator = random.Random(7)
    survived = 0
    for _ in range(KILLS):
        project.fresh()
        killed, printed, _ = project.run(kill_after=generator.uniform(0.1, 1) * seconds)
        assert killed in {-signal.SIGKILL, 0}, printed
        assert project.results("predict") in ({}, whole)
        before = project.complete()
        survived += len(before)
        project.done("predict")
        assert project.results("predict") == whole
        if killed and before:
            assert project.figures()["predicted_now"] == len(IMAGES) - CHUNK * len(before)
        assert not list((project.folder / "work").iterdir())
    assert survived, "no kill came after a chunk"


def test_twenty_kills_of_an_encoding_change_no_byte(project: Project) -> None:
    project.done("predict", "encode")
    whole = project.results("encode")
    _, _, seconds = project.run("encode")
    generator = random.Random(7)
    for _ in range(KILLS):
        shutil.rmtree(project.folder / "out")
        killed, printed, _ = project.run("encode", generator.uniform(0.1, 1) * seconds)
        assert killed in {-signal.SIGKILL, 0}, printed
        found = project.results("encode")
        assert all(data == whole[name] for name, data in found.items() if not hidden(name))
        project.done("encode")
        assert project.results("encode") == whole
        assert not list((project.folder / "work").iterdir())


def hidden(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def test_nothing_is_predicted_for_another_threshold(project: Project) -> None:
    project.done("predict", "encode")
    predicted, submitted = project.results("predict"), project.masks()
    shutil.rmtree(project.folder / "runs")
    decide(project, threshold=0.51)
    printed = project.done("encode")
    assert "at threshold 0.5117" in printed  # the nearest of 256
    assert project.results("predict") == predicted
    strict = project.masks()
    areas = [
        sum(rle.check(text, 64, 96) for text in found.values()) for found in (submitted, strict)
    ]
    assert areas[0] > areas[1] > 0


def test_the_submission_is_made_of_the_kept_levels(project: Project) -> None:
    project.done("predict")
    levels = [image.levels() for image in Kept.open(project.folder / "kept", IMAGES, "").images()]
    typical = np.percentile(np.stack(levels), [10, 50, 90]).astype(int).tolist()
    for level in (1, *typical, 255):
        decide(project, threshold=level / 256)
        project.done("encode")
        for found, one in zip(project.masks().values(), levels, strict=True):
            large = cv2.resize(one, (96, 64), interpolation=cv2.INTER_LINEAR)
            assert found == rle.encode(large >= level)


def decide(project: Project, threshold: float = 0.5, **clean_up: bool | int) -> None:
    tuned = {"threshold": threshold, "clean_up": dataclasses.asdict(CleanUp(**clean_up))}
    (project.folder / "eval/metrics.json").write_text(json.dumps(tuned))


def test_masks_are_cleaned_up_as_tuned(project: Project) -> None:
    project.done("predict", "encode")
    found = project.masks()
    largest = CleanUp(keep_largest=True)
    decide(project, keep_largest=True)
    largest = CleanUp(keep_largest=True)
    project.done("encode")
    kept = project.masks()
    assert list(kept) == list(found) and kept != found
    for name, text in found.items():
        assert kept[name] == rle.encode(clean(rle.decode(text, 64, 96), largest))


def refused(outcome: tuple[int, str, float], *said: str) -> None:
    status, printed, _ = outcome
    assert status == 1 and "Traceback" not in printed, printed
    last = printed.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("error: "), printed
    for words in said:
        assert words in last


def test_bad_images_are_told_and_what_becomes_of_them_is_decided_later(project: Project) -> None:
    cut, large = IMAGES[5], IMAGES[16]
    project.replace(cut, picture(cut)[:-300])
    table = [
        dataclasses.replace(row, height=63) if row.sample_id == large else row
        for row in rows(IMAGES)
    ]
    samples.write(project.folder / "samples.csv", table)
    assert f"{cut}.jpg" in project.run()[1], "said at once"
    predicted = project.results("predict")
    refused(project.run("encode"), f"{cut}.jpg", "cut short", "1 others", "encode.on_bad_image")
    assert not project.results("encode")
    project.recipe(encode={"on_bad_image": "empty"})
    printed = project.done("encode")
    assert "2 bad images" in printed and f"left empty: test.zip!test/{cut}.jpg" in printed
    assert f"left empty: test.zip!test/{large}.jpg: found 63x96" in printed
    figures = project.figures("submission")
    assert (figures["bad_images"], figures["images"]) == (2, len(IMAGES))
    found = project.masks()
    assert [name for name in IMAGES if f"{name}.jpg" in found] == IMAGES
    assert found[f"{cut}.jpg"] == found[f"{large}.jpg"] == ""
    told = {row["img"]: row for row in image_table(project)}
    for bad in (told[f"{cut}.jpg"], told[f"{large}.jpg"]):
        assert float(bad["area"]) == float(bad["disagreement"]) == 0
    assert "cut short" in told[f"{cut}.jpg"]["error"]
    assert [row["img"] for row in image_table(project) if row["error"]] == [
        f"{cut}.jpg", f"{large}.jpg",
    ]  # fmt: skip
    project.recipe()
    refused(project.run("encode"), "cut short")
    assert project.results("predict") == predicted
    project.replace(cut, picture(cut))
    samples.write(project.folder / "samples.csv", rows(IMAGES))
    project.done("predict", "encode")
    assert all(project.masks().values())


def test_a_wrong_order_is_found_before_anything_is_published(project: Project) -> None:
    project.done("predict", "encode")
    before = project.results("encode")
    listed = project.folder / "raw/sample_submission.csv"
    listed.write_text(listed.read_text().replace(IMAGES[0], "another"))
    refused(project.run("encode"), "another")
    assert project.results("encode") == before


def image_table(project: Project) -> list[dict[str, str]]:
    with (project.folder / "out/masks.csv").open() as stream:
        assert stream.readline() == "img,area,disagreement,error\n"
        stream.seek(0)
        return list(csv.DictReader(stream))


def test_the_image_table_tells_area_and_disagreement(project: Project) -> None:
    project.done("predict", "encode")
    found, table = project.masks(), image_table(project)
    assert [row["img"] for row in table] == [f"{name}.jpg" for name in IMAGES]
    for row in table:
        assert int(row["area"]) == rle.check(found[row["img"]], 64, 96)
    assert any(0 < float(row["disagreement"]) <= 1 for row in table)
    write_yaml(project.folder / "params.yaml", {"recipes": ["recipe"], "folds": [1]})
    project.done("predict", "encode")
    assert {float(row["disagreement"]) for row in image_table(project)} == {0.0}


def test_workers_change_no_byte_and_batches_few_pixels(project: Project) -> None:
    results, masks = [], []
    for workers, batch, chunk in (
        (1, 2, 4),
        (0, 2, 4),
        (2, 2, 4),
        (2, 3, 6),
        (2, 2, 100),
        (2, 3, 1),
    ):
        project.fresh()
        project.recipe(runtime={"workers": workers, "batch_size": batch})
        project.done("predict", "encode", chunk=chunk)
        results.append(project.results("predict"))
        masks.append(masks_of(project))
    assert results[0] == results[1] == results[2]
    for found in masks[3:]:
        assert np.count_nonzero(found != masks[0]) <= 2 * len(IMAGES)


def masks_of(project: Project) -> npt.NDArray[np.bool_]:
    return np.stack([rle.decode(text, 64, 96) for text in project.masks().values()])


@pytest.mark.parametrize("damage", ["half", "empty", "byte", "table", "cut"])
def test_a_damaged_chunk_of_a_stopped_run_is_made_again(project: Project, damage: str) -> None:
    project.done("predict")
    whole = project.results("predict")
    kept = stopped(project, chunks=3)
    spoil(kept[0], damage)
    printed = project.done("predict")
    assert f"{kept[0].name}: damaged" in printed
    assert project.results("predict") == whole
    assert project.figures()["predicted_now"] == len(IMAGES) - CHUNK * (len(kept) - 1)


@pytest.mark.parametrize("damage", ["half", "empty", "byte", "table", "cut"])
def test_a_damaged_chunk_is_never_encoded_and_alone_predicted_again(
    project: Project, damage: str
) -> None:
    project.done("predict")
    whole = project.results("predict")
    name = "chunk-00002.levels"
    spoil(project.folder / "kept" / name, damage)
    status, printed, _ = project.run("encode")
    assert status == 1 and f"{name}: damaged" in printed
    assert "run the predict stage" in printed.strip().splitlines()[-1]
    assert not project.results("encode")
    assert "going on with 1 of 6 chunks" in project.done("predict")
    assert project.results("predict") == whole and project.figures()["predicted_now"] == CHUNK
    project.done("encode")


def stopped(project: Project, chunks: int) -> list[Path]:
    """Make of a finished prediction one that was stopped after some chunks."""
    chunk = Chunk.open(project.folder / "kept/chunk-00000.levels")
    assert chunk is not None
    scratch = project.folder / f"work/predict-{chunk.key}"
    scratch.parent.mkdir(exist_ok=True)
    (project.folder / "kept").rename(scratch)
    for path in project.complete()[chunks:]:
        path.unlink()
    return project.complete()


def spoil(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    match damage:
        case "half":
            data = data[: len(data) // 2]
        case "empty":
            data = bytearray()
        case "byte":
            data[len(data) // 3] ^= 1
        case "table":  # another network's levels, it would say
            data[data.index(b'"key"') + 8] ^= 1
        case "cut":
            data = data[:-1]
    path.write_bytes(bytes(data))


def test_chunks_of_two_predictions_are_never_mixed(project: Project) -> None:
    project.done("predict")
    other = (project.folder / "kept/chunk-00003.levels").read_bytes()
    project.recipe(validate={"tta": "hflip"})
    project.done("predict")
    whole = project.results("predict")
    (project.folder / "kept/chunk-00003.levels").write_bytes(other)
    refused(project.run("encode"), "found chunks of several runs", "run the predict stage")
    project.done("predict")
    assert project.figures()["predicted_now"] > 0 and project.results("predict") == whole


def test_another_table_or_precision_is_another_prediction(project: Project) -> None:
    project.done("predict")
    samples.write(project.folder / "samples.csv", rows(IMAGES[::-1]))
    project.done("predict")
    assert project.figures()["predicted_now"] == len(IMAGES)
    Kept.open(project.folder / "kept", IMAGES[::-1], "")
    project.recipe(runtime={"precision": "bf16-mixed"})
    project.done("predict")
    assert project.figures()["predicted_now"] == len(IMAGES)


def test_the_figures_are_those_of_the_run(project: Project) -> None:
    project.done("predict")
    told = project.figures()
    assert told["images_per_second"] == pytest.approx(len(IMAGES) / told["seconds"], rel=0.01)
    waits = [value for name, value in told.items() if "waited" in name]
    assert len(waits) == 4 and all(0 <= value <= 1 for value in waits)
    assert told["peak_memory_mb"] > 1
    assert (told["peak_gpu_memory_mb"] > 0) == torch.cuda.is_available()
    size = sum(map(len, project.results("predict").values()))
    assert told["kilobytes_per_image"] == pytest.approx(size / 1e3 / len(IMAGES), abs=1e-3)


def test_levels_of_other_images_are_refused(project: Project) -> None:
    project.done("predict")
    samples.write(project.folder / "samples.csv", rows(IMAGES)[1:])
    refused(project.run("encode"), "found 24 images that are not the 23", "run the predict stage")
    shutil.rmtree(project.folder / "kept")
    refused(project.run("encode"), "chunk-00000.levels: no such file", "run the predict stage")


def test_a_place_that_takes_nothing_is_found_before_any_image_is_predicted(
    project: Project,
) -> None:
    (project.folder / "file").touch()
    for stage, place in (("predict", "kept=file/kept"), ("encode", "submission=file/out")):
        outcome = project.runner.run(
            project.folder, [stage, "recipe", *AT, "--at", place], None, CHUNK
        )
        refused(outcome, "file", "a file stands where a folder is needed")
        assert "img/s" not in outcome[1] and not project.complete()
        project.done("predict")


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
    project.done("predict")


def test_a_full_disk_is_named_and_nothing_short_is_left(project: Project) -> None:
    work = project.folder / "work"
    work.mkdir()
    with small_disk(work) as free:
        refused(project.run(), "No space left on device", "free some space")
        assert not (project.folder / "kept").exists()
        free()
        project.done("predict")
        ballast = fill(work)
        refused(project.run("encode"), "No space left on device", "free some space")
        assert not project.results("encode")
        ballast.unlink()
        project.done("encode")
    assert len(project.masks()) == len(IMAGES)


def fill(folder: Path) -> Path:
    ballast = folder / "more"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return ballast


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system of 256 kB, full but for some chunks; what is yielded frees it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes the rights of root")
    try:
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(240 << 10))
        yield ballast.unlink
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_second_process_is_refused(project: Project) -> None:
    for stage in ("predict", "encode"):
        with files.only_process(project.folder / "work" / stage):
            refused(project.run(stage), "another process is working here")
        project.done("predict")


@pytest.mark.parametrize(
    ("stage", "place"), [("predict", "kept"), ("predict", "evaluation"), ("encode", "submission")]
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    project: Project, runner: Runner, stage: str, place: str
) -> None:
    (project.folder / "file").write_text("where a folder is needed")
    arguments = [stage, "recipe", *AT, "--at", f"{place}=file/there"]
    refused(runner.run(project.folder, arguments, None, CHUNK), "file", "a file stands where a")
    assert not list(project.folder.glob("work/*/*")), "nothing has been predicted"
    assert not project.results("predict")


def test_no_test_images_make_no_submission(project: Project) -> None:
    project.done("predict", "encode")  # of a table that had some
    training = Sample("a", "train", "a", "train.zip!a.jpg", "m.zip!a.gif", 0, 64, 96, 0.1)
    samples.write(project.folder / "samples.csv", [training])
    assert "no test images" in project.done("predict")
    assert "no test images" in project.done("encode")
    assert os.listdir(project.folder / "out") == ["masks.csv"]
    assert os.listdir(project.folder / "kept") == []
    assert image_table(project) == [] and project.figures() == {"images": 0}


def command(project: Project) -> subprocess.Popen[str]:
    """The stage in two processes."""
    project.recipe(runtime={"devices": 2})
    return subprocess.Popen(
        [sys.executable, ROOT / "tests/small_chunks.py", "predict", "recipe", *AT],
        cwd=project.folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_killed_process_ends_the_run_and_a_rerun_makes_the_bytes_of_one(project: Project) -> None:
    with command(project) as process:
        while not project.complete() and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()[1]
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        _, printed = process.communicate()
    assert process.returncode != 0
    assert "another process of this run has ended" in printed or "with code -9" in printed
    assert not (project.folder / "kept").exists()
    kept = len(project.complete())
    assert 0 < kept < len(IMAGES) // CHUNK
    with command(project) as process:
        _, printed = process.communicate()
    assert process.returncode == 0, printed
    assert project.figures()["predicted_now"] == len(IMAGES) - CHUNK * kept
    together = project.results("predict")
    project.fresh()
    project.recipe()
    project.done("predict")
    assert project.results("predict") == together
