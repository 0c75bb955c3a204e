"""A score of images that have chosen something says so, in every place where it is read."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, write_tiny_archives, write_yaml
from training import Place, small_recipe

from pipeline.__main__ import main
from pipeline.networks import model
from pipeline.recipe import read

CHOOSING: dict[str, dict] = {
    "best": {"weights": {"keep": "best"}},
    "patience": {"validation": {"patience": 2}},
    "plateau": {"schedule": {"name": "plateau", "factor": 0.5, "patience": 1, "gain": 0.0}},
}
SAID = {"best": "the epoch that is kept", "patience": "when to stop", "plateau": "learning rate"}


def stages(folder: Path, changes: dict, monkeypatch: pytest.MonkeyPatch) -> Place:
    write_tiny_archives(folder / "raw")
    place = Place(folder, folder / "raw", small_recipe(**changes))
    write_yaml(folder / "params.yaml", {"recipes": [place.name], "folds": [0]})
    monkeypatch.chdir(folder)
    main(place.arguments(0))
    main(["validate", place.name, "--fold", "0", "--at", f"raw={place.raw}"])
    main(["tune", place.name, "--at", f"raw={place.raw}"])
    return place


@pytest.mark.parametrize("how", CHOOSING)
def test_a_score_that_has_chosen_flatters_from_training_to_status(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = stages(tmp_path, CHOOSING[how], monkeypatch)
    said = capsys.readouterr().out
    assert said.count("flatter") == 3 and said.count(SAID[how]) == 3, "train, validate and tune"
    assert SAID[how] in model.load(place.runs / "fold0/model.pt").description.choices
    evaluated = json.loads((tmp_path / "eval/small/metrics.json").read_text())
    for metrics in (place.metrics(), evaluated):
        assert metrics["flatters"] is True and SAID[how] in metrics["chosen_on_held_out"]
    main(["status"])
    assert f"{evaluated['dice']:.5f} (flatters)" in capsys.readouterr().out


def test_by_default_nothing_is_chosen_and_nothing_flatters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = stages(tmp_path, {"epochs": 2}, monkeypatch)
    main(["status"])
    assert "flatter" not in capsys.readouterr().out
    evaluated = json.loads((tmp_path / "eval/small/metrics.json").read_text())
    assert place.metrics()["flatters"] is evaluated["flatters"] is False
    assert place.metrics()["epoch"] == 2


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_chooses_says_that_its_score_flatters(path: Path) -> None:
    recipe = read.load(path)
    flatters = bool(recipe.train.choices) and recipe.split.validation == "none"
    assert ("flatter" in path.read_text()) >= flatters
    if not path.read_text().startswith("# The competition"):
        return
    (*_, last) = yaml.safe_load(path.read_text())["train"]["phases"]
    assert last["schedule"]["name"] in {"one-cycle", "cosine"}, "it ends at rate zero"
