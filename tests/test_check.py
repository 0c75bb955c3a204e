"""`pipeline check`: what can be refused before work starts, in this project's words."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_verb, tiny_recipe, write_tiny_archives, write_yaml

from pipeline.support import files


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe whose archives are there, and no account."""
    for name in ("PIPELINE_DATA", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home/.kaggle"))
    write_yaml(tmp_path / "recipes/tiny.yaml", tiny_recipe())
    write_yaml(tmp_path / "params.yaml", {"recipes": ["tiny"], "blends": [], "folds": [0, 1]})
    write_tiny_archives(tmp_path / "data/tiny/raw")
    return tmp_path


def change(project: Path, section: str, **values: object) -> None:
    recipe = tiny_recipe()
    recipe[section] |= values
    write_yaml(project / "recipes/tiny.yaml", recipe)


def resize(project: Path, height: int, width: int) -> None:
    phase = tiny_recipe()["train"]["phases"][0]
    change(project, "train", phases=[phase | {"size": [height, width]}])


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for words in said:
        assert words in done.stderr, done.stderr


def test_what_is_right_is_said(project: Path) -> None:
    for arguments in (["tiny"], []):
        done = run_verb("check", *arguments, at=project)
        assert done.returncode == 0, done.stderr
        for said in ("every key is right", "5.5 M parameters, for 32x64", "trains 0, 1"):
            assert said in done.stdout
        assert "every archive is here" in done.stdout and "GB are free" in done.stdout


def test_a_blend_needs_no_machine(project: Path) -> None:
    recipe = tiny_recipe()
    parts = {key: recipe[key] for key in recipe if key not in ("download", "split", "train")}
    parts["runtime"] = recipe["runtime"] | {"accelerator": "cuda", "cache": "disk"}
    write_yaml(project / "recipes/other.yaml", recipe)
    write_yaml(
        project / "recipes/both.yaml",
        parts | {"blend": {"recipes": ["tiny", "other"], "weights": [1, 1]}},
    )
    write_yaml(
        project / "params.yaml", {"recipes": ["tiny", "other"], "blends": ["both"], "folds": [0]}
    )
    write_tiny_archives(project / "data/other/raw")
    done = run_verb("check", at=project)
    assert done.returncode == 0, done.stderr
    assert "recipes/both.yaml: every key is right" in done.stdout


def test_recipes_that_hold_out_other_images_are_refused(project: Path) -> None:
    recipe = tiny_recipe()
    other = recipe | {"split": recipe["split"] | {"seed": 8}}
    parts = {key: recipe[key] for key in recipe if key not in ("download", "split", "train")}
    write_yaml(project / "recipes/other.yaml", other)
    write_yaml(
        project / "recipes/both.yaml",
        parts | {"blend": {"recipes": ["tiny", "other"], "weights": "auto"}},
    )
    done = run_verb("check", "both", at=project)
    refused(done, "recipes/both.yaml: blend.recipes: found 'other', whose split.seed is 8")
    refused(done, "as in recipes/tiny.yaml", "give both the same section split")
    student = {"recipe": "other", "share": 0.5, "confident": 0.1}
    weights = recipe["train"]["weights"]
    for values, key in (
        ({"weights": weights | {"init_from": "other"}}, "train.weights.init_from"),
        ({"pseudo": student}, "train.pseudo.recipe"),
    ):
        change(project, "train", **values)
        refused(run_verb("check", "tiny", at=project), f"tiny.yaml: {key}: found 'other', whose")
    # Of other archives nothing is known.
    other["download"] = {"kind": "dataset", "slug": "somebody/else"}
    write_yaml(project / "recipes/other.yaml", other)
    done = run_verb("check", "tiny", at=project)
    assert done.returncode == 0, done.stderr
    assert "held-out images are those of other" in done.stdout


def test_all_that_is_wrong_is_said_at_once(project: Path) -> None:
    write_yaml(project / "params.yaml", {"recipes": ["tiny"], "blends": [], "folds": [7]})
    (project / "data/tiny/raw/test.zip").unlink()
    resize(project, 33, 64)
    done = run_verb("check", "tiny", at=project)
    refused(done, "found size [33, 64]", "found fold 7", "found no Kaggle credentials")
    refused(done, "3 things are wrong, see above")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipes: sample\nfolds: [0]\n", "found 'sample'; expected a list, in brackets: [sample]"),
        ("recipes: [sample]\nfolds: 0\n", "folds: found 0; expected a list, in brackets: [0]"),
        ("", "params.yaml: found an empty file, expected the keys recipes, blends, folds"),
        ("# recipes: [sample]\n", "found an empty file"),
        (
            "recipes: [tiyn]\nfolds: [0]\n",
            "recipes: found 'tiyn', but there is no recipes/tiyn.yaml",
        ),
        ("recipes: [tiyn]\nfolds: [0]\n", "did you mean 'tiny'?"),
        ("recipes: [tiny\nfolds: [0]\n", "params.yaml: line 2: not valid YAML"),
        ("recipe: [tiny]\nfolds: [0]\n", "recipe: unknown key; did you mean 'recipes'?"),
    ],
)
def test_params_are_refused_in_words(project: Path, text: str, said: str) -> None:
    (project / "params.yaml").write_text(text)
    refused(run_verb("check", at=project), said, "params.yaml")


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("train", {"epoch": 3}, "train.epoch: unknown key"),
        ("train", {"weights": {"init_from": "tiny", "ema": "none", "keep": "last"}}, "init_from"),
        ("runtime", {"precision": "16-mixed"}, "which needs a GPU"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(
    project: Path, section: str, values: dict, said: str
) -> None:
    change(project, section, **values)
    refused(run_verb("check", "tiny", at=project), said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(project: Path) -> None:
    change(project, "runtime", accelerator="cuda")
    refused(run_verb("check", "tiny", at=project), "runtime.accelerator: found cuda", "no GPU")


def test_archives_may_come_from_a_folder_or_an_account(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "data/tiny/raw/test.zip").rename(project / "test.zip")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_secret")
    done = run_verb("check", "tiny", at=project)
    assert done.returncode == 0 and "1 archives to come from Kaggle" in done.stdout, done.stderr
    assert "secret" not in done.stdout + done.stderr
    monkeypatch.setenv("PIPELINE_DATA", str(project / "mine"))
    refused(run_verb("check", "tiny", at=project), "test.zip: no such file; PIPELINE_DATA is set")
    there = project / "mine/competitions/carvana-image-masking-challenge"
    there.mkdir(parents=True)
    (project / "test.zip").rename(there / "test.zip")
    done = run_verb("check", "tiny", at=project)
    assert done.returncode == 0 and "to come from" in done.stdout, done.stderr


def test_a_full_disk_is_found_before_decoding(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(project, "runtime", cache="disk")
    assert run_verb("split", "tiny", at=project).returncode == 0
    monkeypatch.setattr(files, "_SPARE", 1 << 60)
    refused(run_verb("check", "tiny", at=project), "runtime.cache: disk, of 12 images, needs 0.00")


def test_the_download_refuses_a_network_that_cannot_be_built(project: Path) -> None:
    resize(project, 33, 64)
    done = run_verb("download", "tiny", at=project)
    refused(done, "recipes/tiny.yaml: ", "found size [33, 64]", "expected 32 or 64 instead of 33")


def test_every_recipe_of_the_project_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_secret")
    monkeypatch.delenv("PIPELINE_DATA", raising=False)
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        done = run_verb("check", path.stem, at=ROOT)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_what_a_disk_refuses_anywhere_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "logs/tiny/events")

    monkeypatch.setattr("pipeline.status.run", refuse)
    done = run_verb("status", at=project)
    refused(done, f"error: logs/tiny/events: {os.strerror(number)}; ")
    assert len(done.stderr.splitlines()) == 1
