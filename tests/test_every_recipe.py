"""A tiny version of every recipe, from archives to threshold and submission."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import (
    ROOT,
    one_phase,
    write_tiny_archives,
    write_tiny_brains,
    write_tiny_pets,
    write_yaml,
)

from pipeline.__main__ import main
from pipeline.data import rows, samples

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ARCHIVES = {
    "carvana": write_tiny_archives,
    "brain_mri": write_tiny_brains,
    "oxford_pets": write_tiny_pets,
}  # of each source
RECIPES = [
    path.stem
    for path in sorted((ROOT / "recipes").glob("*.yaml"))
    if yaml.safe_load(path.read_text())["split"]["source"] in ARCHIVES
]
SMALLER = {
    "plain-unet": {"width": 2},
    "cnn": {"widths": [2, 2]},
    "unet1024": {},  # always 35 million parameters, but few pixels
    "Unet": {"encoder": "tu-resnet10t", "decoder_channels": [8, 8, 8, 8, 8]},
}


def smaller(recipe: dict) -> dict:
    """The recipe with what makes it itself, at a size that takes seconds."""
    network = recipe["train"]["model"]
    network |= SMALLER[network["architecture"]]
    unpadded = network.get("padding") == "valid"
    # Not a rest of one image of 64 pixels, whose sixth half is one: BatchNorm needs two.
    batch = 3 if network["architecture"] == "unet1024" else 2
    one_phase(recipe, size=[100, 116] if unpadded else [64, 128], epochs=1, batch_size=batch)
    if recipe["split"]["by"] == "first-images":
        recipe["split"] |= {"training": 7, "held_out": 3}
    if recipe["split"]["validation"] != "none":
        recipe["split"]["validation"] = 0.5
    recipe["tune"]["bootstrap"] = 10
    recipe["runtime"] |= {
        "accelerator": "cpu", "precision": "32-true", "workers": 0, "threads": 1, "batch_size": 4,
    }  # fmt: skip
    return recipe


def run(stage: str) -> None:
    """A stage as dvc.yaml has it, in the current folder."""
    command = STAGES[stage]["cmd"].replace("${item.recipe}", "tiny").replace("${item.fold}", "0")
    main(shlex.split(command)[3:])


def test_every_source_of_the_project_has_tiny_archives() -> None:
    assert set(ARCHIVES) <= {path.stem for path in (ROOT / "pipeline/sources").glob("*.py")}
    assert len(RECIPES) >= 10


@pytest.mark.parametrize("name", RECIPES)
def test_a_tiny_version_of_every_recipe_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = smaller(yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()))
    write_yaml(tmp_path / "recipes/tiny.yaml", recipe)
    write_yaml(tmp_path / "params.yaml", {"recipes": ["tiny"], "folds": [0]})
    raw = tmp_path / "data/tiny/raw"
    ARCHIVES[recipe["split"]["source"]](raw)
    for path in raw.iterdir():
        if path.name not in recipe["download"].get("files", [path.name]):
            path.unlink()

    for stage in ("split", "train", "validate", "tune"):
        run(stage)
    metrics = json.loads((tmp_path / "eval/tiny/metrics.json").read_text())
    table = samples.read(tmp_path / "data/tiny/samples.csv")
    assert metrics["images"] == len(samples.held_out(table, 0)) > 0
    assert 0 <= metrics["dice"] <= 1
    assert metrics["whole_groups"] is (recipe["split"]["by"] in ("group", "group-once"))
    if recipe["split"]["validation"] != "none":
        assert samples.validation(table, 0) and not metrics["flatters"], "chosen by others"
        those = json.loads((tmp_path / "runs/tiny/fold0/metrics.json").read_text())
        chooses = recipe["train"]["weights"]["keep"] == "best"
        assert those["flatters"] is ("chosen_on_set_apart" in those) is chooses, "the others' score"
        assert "chosen_on_held_out" not in those
    run("predict")
    run("encode")
    told = json.loads((tmp_path / "eval/tiny/submission.json").read_text())
    assert told["images"] == len(samples.test(table))
    submitted = tmp_path / "submissions/tiny/submit.csv.gz"
    assert submitted.exists() == bool(samples.test(table))
    if submitted.exists():
        assert len(list(rows.read_rows(submitted))) == len(samples.test(table))
