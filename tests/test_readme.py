"""The README is run, not only read."""

import json
import os
import re
import resource
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT, copy_project
from pages import looked_at
from playwright.sync_api import Browser

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.masks import submission

README = (ROOT / "README.md").read_text()
COMMANDS = [block.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S)]
SAMPLE, TESTS = COMMANDS[:2]
GIGABYTE = 1e9


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as a newcomer's shell would, outside any active environment but with its PATH."""
    # The outer environment's programs stay on the PATH: dvc itself is installed there.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env={**env, "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose `.venv` sees this environment's packages, so that no gigabyte is fetched."""
    folder = copy_project(tmp_path_factory.mktemp("readme") / "clone")
    venv.create(folder / ".venv", with_pip=True)
    inside = next((folder / ".venv/lib").glob("python*/site-packages"))
    (inside / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture(scope="module")
def first_run(clone: Path) -> str:
    """What the README's first command printed."""
    done = run(SAMPLE, clone)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


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
    table = samples.read(clone / "data/sample/samples.csv")
    sizes = {f"{row.sample_id}.jpg": row.size for row in samples.test(table)}
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


def test_the_results_it_names_are_there(clone: Path, first_run: str) -> None:
    table = README.split("## Results")[1].split("##")[0]
    for cell in re.findall(r"^\| `([^|]*)` \|", table, re.M):
        for name in re.split("`, `", cell):
            folder = name if "/" in name else f"eval/<recipe>/{name}"
            path = clone / folder.replace("<recipe>", "sample").replace("<k>", "0")
            assert path.exists(), f"the README names {name}"


def test_the_figures_it_shows_are_those_dvc_prints(clone: Path, first_run: str) -> None:
    done = run(". .venv/bin/activate && dvc metrics show eval/sample/metrics.json --json", clone)
    assert done.returncode == 0, done.stdout
    shown = README.split("The sample's figures")[1].split("```")[1]
    assert "eval/sample/metrics.json" in shown
    names, values = (re.split(r"  +", line.strip()) for line in shown.strip().splitlines()[:2])
    printed = dict(zip(names, values, strict=True))
    metrics = json.loads((clone / "eval/sample/metrics.json").read_text())
    # Weights differ in their last digits from one processor to the next.
    assert float(printed["dice"]) == pytest.approx(metrics["dice"], abs=0.01)
    assert int(printed["images"]) == metrics["images"]


def test_the_map_names_every_module() -> None:
    section = README.split("## Map")[1].split("\n## ")[0]
    cells = " ".join(re.findall(r"^\| ([^|]*) \|", section, re.M))
    named = set(re.findall(r"`([a-z_0-9]+\.py|[a-z_]+/)`", cells))
    there = {path.name for path in (ROOT / "pipeline").glob("*.py")} - {"__init__.py"}
    there |= {f"{p.parent.name}/" for p in (ROOT / "pipeline").glob("*/__init__.py")}
    assert named == there
    for package in ("training", "prediction", "evaluation", "web"):
        row = next(line for line in section.splitlines() if line.startswith(f"| `{package}/`"))
        inside = {path.stem for path in (ROOT / "pipeline" / package).glob("[!_]*.py")}
        assert set(re.findall(r"`([a-z_0-9]+)`", row)) == inside


def test_every_recipe_is_in_the_table() -> None:
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert re.search(rf"^\|[^|]*`{path.stem}`[^|]*\|", README, re.M), path.stem


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_commands_run_modules_that_exist() -> None:
    for module in re.findall(r"python -m (pipeline[.\w]*)", README):
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), module
