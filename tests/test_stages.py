"""The stages as DVC runs them, on tiny archives: graph, reruns, wrong inputs, kills."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import (
    ROOT,
    SLUG,
    TEST_CARS,
    TRAIN_CARS,
    VIEWS,
    copy_project,
    gif,
    one_phase,
    run_verb,
    tiny_mask,
    tiny_recipe,
    write_tiny_archives,
    write_yaml,
)

from pipeline.data import rows as mask_rows
from pipeline.evaluation.out_of_fold import Measures
from pipeline.masks import submission
from pipeline.support import files, table

BIN = Path(sys.executable).parent
TRAINING = (ROOT / "docs/training.md").read_text()
ENTRY = f"{sys.executable} -m pipeline"
SBATCH = """
export SLURM_JOB_NAME=tiny SLURM_JOB_ID=1 SLURM_NTASKS=1
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
SLURM_ARRAY_TASK_ID=0 bash $1 & first=$!
SLURM_ARRAY_TASK_ID=1 bash $1 && wait $first
"""
STAGES = ("download", "split", "train", "validate", "tune", "predict", "encode", "report")


class Project:
    """A clone of the project whose recipes use tiny archives, and a way to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(folder / "project")
        self.archives = folder / "archives"
        write_tiny_archives(self.archives / "competitions" / SLUG)
        for recipe in ("tiny", "other"):
            self.recipe(recipe, tiny_recipe())
        self.params(["tiny"])

    def recipe(self, name: str, content: dict) -> None:
        write_yaml(self.folder / f"recipes/{name}.yaml", content)

    def change(self, name: str, section: str, **values: object) -> None:
        path = self.folder / f"recipes/{name}.yaml"
        content = yaml.safe_load(path.read_text())
        content[section] |= values
        write_yaml(path, content)

    def epochs(self, count: int) -> None:
        path = self.folder / "recipes/tiny.yaml"
        write_yaml(path, one_phase(yaml.safe_load(path.read_text()), epochs=count))

    def params(self, recipes: list[str], folds: tuple[int, ...] = (0, 1)) -> None:
        write_yaml(
            self.folder / "params.yaml", {"recipes": recipes, "blends": [], "folds": list(folds)}
        )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        env |= {"PIPELINE_DATA": str(self.archives), **environment}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro` and return the stages that did work."""
        done = self.run("dvc", "repro", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
        return [line.split("'")[1] for line in lines]

    def command(self, stage: str, recipe: str = "tiny", fold: int = 0) -> str:
        """A stage's command as dvc.yaml has it."""
        text: str = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"][stage]["cmd"]
        return text.replace("${item.recipe}", recipe).replace("${item.fold}", str(fold))

    def stage(
        self, name: str, recipe: str = "tiny", *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one stage as dvc.yaml has it, without DVC and in this process."""
        program = "python -m pipeline "
        command = self.command(name, recipe)
        assert command.startswith(program)
        arguments = shlex.split(command.removeprefix(program))
        return run_verb(*arguments, *options, at=self.folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project after its first `dvc repro`; tests that change it must change it back."""
    project = Project(tmp_path_factory.mktemp("stages"))
    patch = pytest.MonkeyPatch()
    patch.setenv("PIPELINE_DATA", str(project.archives))
    assert sorted(project.repro()) == [
        "download@tiny", "encode@tiny", "predict@tiny", "report@tiny", "split@tiny",
        "train@tiny-0", "train@tiny-1", "tune@tiny", "validate@tiny-0", "validate@tiny-1",
    ]  # fmt: skip
    yield project
    patch.undo()


@pytest.fixture
def broken(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project to spoil."""
    project = object.__new__(Project)
    project.folder, project.archives = tmp_path / "project", tmp_path / "archives"
    shutil.copytree(finished.folder, project.folder, ignore=shutil.ignore_patterns(".dvc"))
    shutil.copytree(finished.archives, project.archives)
    return project


def test_the_first_run_leaves_a_valid_submission(finished: Project) -> None:
    names = [f"{car}_{view}.jpg" for car in TEST_CARS for view in VIEWS]
    path = finished.folder / "submissions/tiny/submit.csv.gz"
    assert [name for name, _ in mask_rows.read_rows(path)] == names
    sample = finished.archives / f"competitions/{SLUG}/sample_submission.csv.zip"
    summary = submission.check(path, sample, dict.fromkeys(names, (64, 96)))
    assert summary.rows == 4


def test_the_first_run_leaves_every_result(finished: Project) -> None:
    metrics = json.loads((finished.folder / "eval/tiny/metrics.json").read_text())
    assert 0 < metrics["dice_at_half"] <= metrics["dice"] <= 1
    assert metrics["images"] == 12 and metrics["folds"] == 2
    with (finished.folder / "eval/tiny/images.csv").open() as stream:
        images = list(csv.DictReader(stream))
    assert np.mean([float(row["dice"]) for row in images]) == pytest.approx(
        metrics["dice"], abs=1e-5
    )
    for fold in (0, 1):
        held_out = [row["sample_id"] for row in images if row["fold"] == str(fold)]
        content = np.load(finished.folder / f"oof/tiny/fold{fold}.npz")
        assert content["sample_id"].tolist() == held_out
        assert (content["counts"].sum(axis=(1, 2)) == 64 * 96).all()
        measured = table.read(finished.folder / f"oof/tiny/fold{fold}-measures.csv", Measures, "")
        assert [one.sample_id for one in measured] == held_out
        overlays = (finished.folder / f"oof/tiny/fold{fold}-overlays").glob("*.jpg")
        assert sorted(path.name.rsplit("-", 1)[0] for path in overlays) == [
            "random-01", "random-02", "worst-01", "worst-02", "worst-03", "worst-04",
        ]  # fmt: skip
        assert (finished.folder / f"runs/tiny/fold{fold}/history.csv").is_file()
    assert (finished.folder / "eval/tiny/report.html").read_text().startswith("<!doctype html>")
    assert (finished.folder / "eval/tiny/sanity.csv").read_text().startswith("img,view,")
    assert not list((finished.folder / "work/tiny").glob("*")), "scratch is deleted on success"


def test_a_second_run_does_nothing(finished: Project) -> None:
    assert finished.repro() == []


def test_a_change_reruns_what_follows_from_it_alone(finished: Project) -> None:
    finished.change("tiny", "tune", bootstrap=60)
    ran = finished.repro()
    assert ran == ["tune@tiny", "encode@tiny", "report@tiny"], "no network for a threshold"
    finished.change("tiny", "encode", compression=1)
    assert finished.repro() == ["encode@tiny", "report@tiny"]
    finished.change("tiny", "runtime", batch_size=3)
    assert finished.repro() == [], "runtime is never tracked"
    finished.change("tiny", "validate", tta="none")
    assert finished.repro() == [
        "validate@tiny-0", "validate@tiny-1", "tune@tiny", "predict@tiny", "encode@tiny",
        "report@tiny",
    ], "not train"  # fmt: skip


def test_switching_recipes_and_back_recomputes_nothing(finished: Project) -> None:
    finished.params(["other"])
    assert len(finished.repro()) == 10
    finished.params(["tiny"])
    assert finished.repro() == []
    finished.params(["other", "tiny"])
    assert finished.repro() == []
    finished.params(["tiny"])


def test_status_shows_what_is_there(finished: Project) -> None:
    done = run_verb("status", at=finished.folder)
    assert done.returncode == 0, done.stderr
    heads, *rows = done.stdout.splitlines()
    found = {row.split()[0]: row for row in rows}
    assert {"tiny", "carvana", "sample"} <= found.keys()
    assert found["sample"].split()[1:] == ["-"] * 9
    dice = json.loads((finished.folder / "eval/tiny/metrics.json").read_text())["dice"]
    tiny = found["tiny"]
    assert tiny.split()[1] == "16" and f"{dice:.5f}" in tiny and "ready" in tiny
    at = heads.index("folds trained")
    assert tiny[at : at + 4] == "0 1 ", "columns stand below their headings"


def test_metrics_and_plots_are_known_to_dvc(finished: Project) -> None:
    shown = finished.run("dvc", "metrics", "show", "--json")
    assert shown.returncode == 0 and "eval/tiny/metrics.json" in shown.stdout, shown.stderr
    plots = finished.run("dvc", "plots", "show", "--json")
    assert plots.returncode == 0 and "thresholds.csv" in plots.stdout, plots.stderr
    assert "fold0-overlays" in plots.stdout


def test_folds_train_at_once_as_tasks_of_a_cluster(finished: Project) -> None:
    """The docs' script, started as `sbatch` starts an array of it."""
    script = TRAINING.split("```bash\n")[1].split("```")[0].replace("carvana", "tiny")
    assert "#SBATCH --job-name=tiny --array=0-4" in script
    (finished.folder / ".venv/bin").mkdir(parents=True)
    (finished.folder / ".venv/bin/activate").write_text(f'pipeline() {{ {ENTRY} "$@"; }}\n')
    (finished.folder / "folds.sh").write_text(script.replace("exec ", ""))
    (finished.folder / "sbatch").write_text(SBATCH)
    finished.epochs(2)
    finished.change("tiny", "runtime", cache="disk")
    done = finished.run("sh", "sbatch", "folds.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    for fold in (0, 1):
        history = finished.folder / f"runs/tiny/fold{fold}/history.csv"
        assert len(history.read_text().splitlines()) == 3
    # Both are recorded: whatever is left to do comes after them.
    assert finished.repro("--dry", "train", "validate") == []
    caches = list((finished.folder / "work/tiny").glob("cache-*"))
    assert len(caches) == 1, "one for both folds"
    shutil.rmtree(finished.folder / "work/tiny")
    finished.epochs(1)
    finished.change("tiny", "runtime", cache="ram")
    assert finished.repro() == [], "the networks of before are in DVC's cache"


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """One line that says all of `said`, exit code 1, no traceback."""
    message = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert message.startswith("error: ") and "Traceback" not in done.stderr, done.stderr
    for words in said:
        assert words in message


def test_an_unknown_recipe_is_refused(finished: Project) -> None:
    finished.params(["carvanna"])
    done = finished.run("dvc", "repro")
    finished.params(["tiny"])
    assert done.returncode != 0 and "recipes/carvanna.yaml" in done.stderr
    refused(finished.stage("split", "carvanna"), "recipes/carvanna.yaml: no such file", "tiny.yaml")


def test_a_wrong_recipe_stops_every_stage_before_it_works(broken: Project) -> None:
    broken.change("tiny", "train", epoch=3)
    for name in STAGES:
        refused(broken.stage(name), "recipes/tiny.yaml: train.epoch: unknown key", "'epochs'")


def test_missing_inputs_name_the_stage_to_run(broken: Project) -> None:
    files_before = sorted((broken.folder / "submissions").rglob("*"))
    shutil.rmtree(broken.folder / "eval")
    refused(broken.stage("encode"), "metrics.json", "run the tune stage first")
    (broken.folder / "oof/tiny/fold1.npz").unlink()
    refused(broken.stage("tune"), "fold1.npz", "run the validate stage of this fold")
    (broken.folder / "runs/tiny/fold0/model.pt").unlink()
    refused(broken.stage("validate"), "model.pt", "run the train stage")
    (broken.folder / "data/tiny/samples.csv").unlink()
    refused(broken.stage("train"), "samples.csv", "run the split stage")
    assert sorted((broken.folder / "submissions").rglob("*")) == files_before
    begun = [path for path in (broken.folder / "work").rglob("*") if path.is_file()]
    assert not begun, "nothing is begun that cannot be ended"


def test_the_score_of_a_fold_is_the_scorer_s(broken: Project) -> None:
    """Counted at each level and measured on runs, or written as text and compared with GIFs."""
    done = broken.stage("validate", "tiny", "--masks", "fold0.csv")
    assert done.returncode == 0, done.stderr
    masks = "data/tiny/raw/train_masks.zip"
    options = ("--partial", "--out", "scores.csv")
    done = run_verb("score", "fold0.csv", masks, *options, at=broken.folder)
    assert done.returncode == 0, done.stderr
    with (broken.folder / "scores.csv").open() as stream:
        scores = {row["img"]: float(row["dice"]) for row in csv.DictReader(stream)}
    measured = table.read(broken.folder / "oof/tiny/fold0-measures.csv", Measures, "")
    assert scores == {f"{one.sample_id}.jpg": one.dice for one in measured}


def test_a_model_of_another_fold_is_refused(broken: Project) -> None:
    runs = broken.folder / "runs/tiny"
    shutil.copy(runs / "fold1/model.pt", runs / "fold0/model.pt")
    refused(broken.stage("validate"), "trained without fold 1, expected fold 0")


def replace_member(archive: Path, name: str, data: bytes | None) -> None:
    with zipfile.ZipFile(archive) as old:
        members = {member: old.read(member) for member in old.namelist()}
    if data is None:
        del members[name]
    else:
        members[name] = data
    archive.unlink()  # it may be a hard link
    with zipfile.ZipFile(archive, "w") as new:
        for member, content in members.items():
            new.writestr(member, content)


def test_archives_that_do_not_fit_are_refused(broken: Project) -> None:
    raw = broken.folder / "data/tiny/raw"
    stem = f"{TRAIN_CARS[0]}_01"
    mask = f"train_masks/{stem}_mask.gif"
    replace_member(raw / "train_masks.zip", mask, gif(tiny_mask(0)[:, :-1]))
    refused(broken.stage("split"), f"{stem}_mask.gif: found 64x95", "expected 64x96")
    replace_member(raw / "train_masks.zip", mask, None)
    refused(broken.stage("split"), "no mask for 1 of 12 samples", stem)
    truncated = (raw / "train.zip").read_bytes()[:-100]
    (raw / "train.zip").unlink()
    (raw / "train.zip").write_bytes(truncated)
    refused(broken.stage("split"), "train.zip", "no whole zip file", "run the download stage")
    (raw / "train.zip").unlink()
    refused(broken.stage("split"), "train.zip", "download.files")


def test_a_bad_test_image_fails_or_is_left_empty(broken: Project) -> None:
    raw = broken.folder / "data/tiny/raw"
    bad = f"{TEST_CARS[0]}_02.jpg"
    with zipfile.ZipFile(raw / "test.zip") as archive:
        whole = archive.read(f"test/{bad}")
    replace_member(raw / "test.zip", f"test/{bad}", whole[:-300])
    before = (broken.folder / "submissions/tiny/submit.csv.gz").read_bytes()
    assert bad in broken.stage("predict").stdout
    refused(broken.stage("encode"), bad, "cut short", "encode.on_bad_image")
    assert (broken.folder / "submissions/tiny/submit.csv.gz").read_bytes() == before
    broken.change("tiny", "encode", on_bad_image="empty")
    done = broken.stage("encode")
    assert done.returncode == 0, done.stderr
    assert f"left empty: test.zip!test/{bad}" in done.stdout
    rows = dict(mask_rows.read_rows(broken.folder / "submissions/tiny/submit.csv.gz"))
    assert rows[bad] == "" and len(rows) == 4 and sum(map(bool, rows.values())) >= 2


def mend(project: Project, *names: str) -> None:
    """Change files of the project's code, as an edit of a message does."""
    for name in names:
        with (project.folder / "pipeline" / name).open("a") as stream:
            stream.write("\n# mended\n")


# A message in support, one in the report, the display of progress, and that of a recipe's errors.
HARMLESS = ("support/errors.py", "report/stage.py", "support/progress.py", "recipe/read.py")
LOSS = "train/loss.py"


def test_mending_a_message_leaves_networks_up_to_date_and_another_loss_does_not(
    finished: Project,
) -> None:
    code = {name: (finished.folder / "pipeline" / name).read_bytes() for name in (*HARMLESS, LOSS)}

    def changed() -> dict[str, object]:
        status = finished.run("dvc", "status", "--json", "train")
        assert status.returncode == 0, status.stderr
        return json.loads(status.stdout)

    try:
        mend(finished, *HARMLESS)
        assert changed() == {}
        mend(finished, LOSS)
        assert sorted(changed()) == ["train@tiny-0", "train@tiny-1"]
    finally:
        for name, content in code.items():
            (finished.folder / "pipeline" / name).write_bytes(content)
    assert changed() == {}


def test_a_killed_training_goes_on_unless_its_code_has_changed(broken: Project) -> None:
    shutil.rmtree(broken.folder / "runs/tiny/fold0")
    broken.epochs(8)
    broken.change("tiny", "runtime", checkpoint_seconds=0)
    process = subprocess.Popen(
        ["sh", "-c", f"exec {broken.command('train')}"], cwd=broken.folder, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/8"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (broken.folder / "runs/tiny/fold0").exists(), "nothing is left half"
    shutil.copytree(broken.folder / "work", broken.folder / "half")

    loss = (broken.folder / "pipeline" / LOSS).read_bytes()
    mend(broken, LOSS)
    done = broken.run("sh", "-c", broken.command("train"))
    assert done.returncode == 0, done.stderr
    assert "going on after" not in done.stdout and "epoch 1/8" in done.stdout

    shutil.rmtree(broken.folder / "work")
    (broken.folder / "half").rename(broken.folder / "work")
    (broken.folder / "runs/tiny/fold0/model.pt").unlink()
    (broken.folder / "pipeline" / LOSS).write_bytes(loss)
    mend(broken, *HARMLESS)
    done = broken.run("sh", "-c", broken.command("train"))
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in done.stdout and "epoch 1/8" not in done.stdout
    assert (broken.folder / "runs/tiny/fold0/model.pt").is_file()


def test_two_trainers_of_one_fold_do_not_run_at_once(broken: Project) -> None:
    broken.epochs(2)  # whatever the settings: the results' place is one
    with files.only_process(broken.folder / "work/tiny/train-fold0"):
        refused(broken.stage("train"), "another process is working here")
