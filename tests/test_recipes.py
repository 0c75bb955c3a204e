"""Every recipe in the repository is one that runs."""

import importlib
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.augmentation import Augmentation
from pipeline.networks import model
from pipeline.recipe import read

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PARAMETERS = {
    "brain-mri": 7_763_041,
    "carvana": 24_436_369,
    "carvana-laptop": 12_524_932,
    "ekami-unet-1024": 35_371_873,
    "ekami-unet-572": 31_390_721,
    "lab-cnn": 371_073,
    "lab-unet": 7_760_097,
    "oxford-pets": 8_630_563,
    "posit-unet-128": 31_031_745,
    "sample": 5_524_617,
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_can_be_built(path: Path) -> None:
    recipe = read.load(path)
    network = model.for_training(recipe.train, 0, "none")
    assert model.parameters(network) == PARAMETERS.get(path.stem, model.parameters(network))
    Augmentation(recipe.train.augment)
    source = importlib.import_module(f"pipeline.sources.{recipe.split.source}")
    assert callable(source.read_entries)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_where_it_comes_from(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_every_recipe_of_the_table_is_there() -> None:
    """The counts above are of recipes that exist; yours need not stand among them."""
    assert PARAMETERS.keys() <= {path.stem for path in RECIPES}


def test_params_yaml_runs_the_sample_first() -> None:
    """What a new user's first `dvc repro` does."""
    assert read.load_recipes(ROOT / "params.yaml") == ("sample",)
    assert read.load_folds(ROOT / "params.yaml", available=5) == (0, 1, 2, 3, 4)


def test_the_competition_recipe_is_the_one_announced() -> None:
    recipe = read.load(ROOT / "recipes/carvana.yaml")
    assert recipe.train.size == (1024, 1024)
    assert (recipe.train.model.architecture, recipe.train.model.encoder) == ("Unet", "resnet34")
    assert recipe.train.loss.bce > 0 and recipe.train.loss.dice > 0
    assert recipe.split.folds == 5
    assert recipe.validate_.tta == "hflip"


def test_the_two_carvana_recipes_hold_out_the_same_cars() -> None:
    """As the documentation's ensemble and its pseudo-labels need it."""
    first, second = (
        read.load(ROOT / f"recipes/{name}.yaml") for name in ("carvana", "carvana-laptop")
    )
    assert first.split == second.split
