"""The README and the docs are run, not only read."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, SLUG, copy_project, tiny_recipe, write_tiny_archives, write_yaml
from pages import looked_at
from playwright.sync_api import Browser

from pipeline.__main__ import main
from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.masks import submission
from pipeline.support.fingerprint import CODE

PAGES = {
    path.name: path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
README = PAGES["README.md"]
COMMANDS = {
    name: [block.strip() for block in re.findall(r"```sh\n(.*?)```", page, re.S)]
    for name, page in PAGES.items()
}
SAMPLE, TESTS = COMMANDS["README.md"]  # the second is what .ci/run runs
LATER = [(name, command) for name in PAGES if name != "README.md" for command in COMMANDS[name]]
GIGABYTE = 1e9

# The first run alone takes longer than a test may, on a slow or a busy machine.
pytestmark = pytest.mark.timeout(2400)


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a newcomer's shell would, outside any active environment but with its PATH."""
    # The outer environment's programs stay on the PATH: dvc itself is installed there.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "a", f"GIT_{role}_EMAIL": "a@b"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env={**env, "PATH": path, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = re.split(r"\n## ", PAGES[page].split(f"## {heading}\n")[1])[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.M)
    return [re.split(r" \| ", row) for row in rows if not row.startswith("---")][1:]


def named(cell: str) -> list[str]:
    """What stands between backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose `.venv` sees this environment's packages, so that no gigabyte is fetched."""
    folder = copy_project(tmp_path_factory.mktemp("readme") / "clone")
    venv.create(folder / ".venv", with_pip=True)
    inside = next((folder / ".venv/lib").glob("python*/site-packages"))
    (inside / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / ".venv/bin/dvc").symlink_to(Path(sys.executable).with_name("dvc"))
    return folder


@pytest.fixture(scope="module")
def first_run(clone: Path) -> str:
    """What the README's first command printed."""
    done = run(SAMPLE, clone)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def committed(clone: Path, first_run: str) -> Path:
    """The clone after its first run, which is committed; some photographs lie in it."""
    done = run("git add -A && git commit -qm 'first run'", clone)
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(clone / "data/sample/raw/test.zip") as archive:
        for name in archive.namelist()[:2]:
            (clone / "photos").mkdir(exist_ok=True)
            (clone / "photos" / Path(name).name).write_bytes(archive.read(name))
    return clone


@pytest.fixture(scope="module")
def competition(clone: Path, first_run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose recipe `carvana` is a tiny one; its archives lie in `archives` beside it."""
    folder = tmp_path_factory.mktemp("competition")
    project = copy_project(folder / "project")
    (project / ".venv").symlink_to(clone / ".venv")
    write_tiny_archives(folder / "archives/competitions" / SLUG)
    write_yaml(project / "recipes/carvana.yaml", tiny_recipe())
    write_yaml(project / "params.yaml", {"recipes": ["carvana"], "blends": [], "folds": [0, 1]})
    return project


# --- the first two commands


def test_the_first_two_commands_are_single_lines_that_stand_alone() -> None:
    for command in (SAMPLE, TESTS):
        assert "\n" not in command
        assert "python3 -m venv .venv" in command and "-c constraints.txt" in command
    assert SAMPLE.endswith("&& dvc repro")
    assert TESTS.endswith("&& pytest")


def test_ci_runs_the_readmes_test_command() -> None:
    lines = [line for line in README.splitlines() if line.endswith(" && pytest")]
    assert lines == [TESTS], ".ci/run takes the one line that ends so"


def test_the_first_command_leaves_a_valid_submission(clone: Path, first_run: str) -> None:
    raw = clone / "data/sample/raw"
    rows = samples.read(clone / "data/sample/samples.csv")
    sizes = {f"{row.sample_id}.jpg": row.size for row in samples.test(rows)}
    summary = submission.check(
        clone / "submissions/sample/submit.csv.gz", mask_rows.find_sample(raw), sizes
    )
    assert summary.rows == 64
    assert summary.empty_rows == 0
    metrics = json.loads((clone / "eval/sample/metrics.json").read_text())
    assert metrics["dice"] >= 0.97
    assert (metrics["images"], metrics["groups"], metrics["folds"]) == (128, 8, 5)
    assert "img/s" in first_run, "what takes long shows its progress"


def test_its_report_opens_and_works(browser: Browser, clone: Path, first_run: str) -> None:
    looked_at(browser, clone / "eval/sample/report.html")


def test_no_process_of_the_first_command_was_large(first_run: str) -> None:
    """The largest of all processes that this one has waited for, directly or not."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 3 * GIGABYTE


def test_a_second_repro_runs_nothing(clone: Path, first_run: str) -> None:
    done = run(". .venv/bin/activate && dvc repro", clone)
    assert done.returncode == 0, done.stdout
    assert "Running stage" not in done.stdout
    assert "Data and pipelines are up to date" in done.stdout


# --- what the pages say


def test_the_results_they_name_are_there(clone: Path, first_run: str) -> None:
    rows = [*table("README.md", "What you get"), *table("report.md", "The files")]
    assert len(rows) > 12
    for where, _ in rows:
        for name in named(where):
            path = clone / name.replace("<recipe>", "sample").replace("<k>", "0")
            assert path.exists(), f"a table names {name}"


def test_the_figures_they_show_are_those_of_a_run(clone: Path, first_run: str) -> None:
    metrics = json.loads((clone / "eval/sample/metrics.json").read_text())
    shown = {name: value for name, value in table("report.md", "The threshold") if name}
    # Weights differ in their last digits from one processor to the next.
    assert float(shown["`dice`"]) == pytest.approx(metrics["dice"], abs=0.01)
    for names in shown:
        for name in named(names):
            assert name in metrics, f"the table shows {name}"


@pytest.mark.parametrize(("page", "command"), LATER)
def test_every_other_command_runs(
    page: str, command: str, committed: Path, competition: Path
) -> None:
    """Those of the competition on tiny archives, the rest on the sample, in the pages' order."""
    archives = competition.parent / "archives"
    folder, environment = committed, {}
    if "carvana" in command or "/path/to/archives" in command:
        folder, environment = competition, {"PIPELINE_DATA": str(archives)}
    command = command.replace("/path/to/archives", str(archives))
    done = run(f"set -e; . .venv/bin/activate\n{command}", folder, **environment)
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_experiment_can_be_taken_back(committed: Path) -> None:
    """The docs' commands end where they began."""
    assert run("git status --porcelain -- recipes dvc.lock", committed).stdout == ""


def test_every_command_they_mention_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those in a sentence, or in an example's output: the verb, and every flag."""
    for name, page in PAGES.items():
        spans = re.findall(r"`([^`\n]+)`", page) + re.findall(
            r"^(?:\$ )?(pipeline .*)$", page, re.M
        )
        said = "\n".join(spans)
        for verb, rest in re.findall(r"\bpipeline ([a-z]+(?:-[a-z]+)*)\b([^|&;\n]*)", said):
            with pytest.raises(SystemExit) as stopped:
                main([verb, "--help"])
            assert stopped.value.code == 0, f"{name}: pipeline {verb}"
            helped = capsys.readouterr().out
            for flag in re.findall(r"\s(--?[a-z][a-z-]*)", rest):
                assert flag in helped, f"{name}: pipeline {verb} {flag}"


def test_the_map_names_every_room() -> None:
    rooms = [named(row[0]) for part in ("Verbs", "Nouns") for row in table("architecture.md", part)]
    there = {path.name for path in (ROOT / "pipeline").glob("*.py") if path.stem[0] != "_"}
    there |= {f"{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert {name for names in rooms for name in names} == there


def test_the_map_names_what_may_change_a_result() -> None:
    rows = table("architecture.md", "What may change a result")
    assert {named(stage)[0]: tuple(named(code)) for stage, code in rows} == CODE


def test_files_they_name_are_there() -> None:
    for name, page in PAGES.items():
        for target in re.findall(
            r"`((?:pipeline|tests|sample|recipes|benchmarks)/[\w./-]+)`", page
        ):
            own = target in (
                "pipeline/sources/shapes.py",
                "recipes/shapes.yaml",
                "recipes/lesions.yaml",
                "recipes/mine.yaml",
            )
            assert own or (ROOT / target).exists(), f"{name} names {target}"


def test_every_recipe_is_in_a_table() -> None:
    tables = README + PAGES["reproductions.md"]
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert re.search(rf"^\|[^|]*`{path.stem}`[^|]*\|", tables, re.M), path.stem


def test_links_lead_somewhere() -> None:
    for name, page in PAGES.items():
        folder = ROOT if (ROOT / name).exists() else ROOT / "docs"
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page):
            assert (folder / target).exists(), f"{name}: {target}"


def test_wrong_params_are_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where DVC would speak of its own: docs/competition.md has both."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    for content, said in (
        ("recipes: sample\nfolds: [0]", "recipes: found 'sample'; expected a list"),
        ("recipes: [sample]\nfolds: 0", "folds: found 0; expected a list"),
        ("", "params.yaml"),
    ):
        (tmp_path / "params.yaml").write_text(content)
        with pytest.raises(SystemExit):
            main(["check", "sample"])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "nope"])
    assert "no such file" in capsys.readouterr().err
