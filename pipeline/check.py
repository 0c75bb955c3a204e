"""Command `check`: refuse before any work what a stage would refuse after hours of it."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.paths import recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import Competition, Recipe, Synthetic
from pipeline.support.errors import UserError


def check_network(recipe: Recipe, path: Path) -> int:
    """Build the recipe's network on torch's meta device, which takes neither time nor memory.

    Returns:
        The number of its parameters.

    Raises:
        UserError: the encoder is unknown, or the size is none the network takes.
    """
    import torch

    from pipeline.networks import model

    try:
        with torch.device("meta"):
            network = model.build(model.describe(recipe.train, 0), weights="none")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return model.parameters(network)


def run(name: str, params: Path) -> None:
    """Check the recipe `name` and `params`, and say what was found to be right."""
    path = recipe_file(name)
    recipe = read.load(path)
    parameters = check_network(recipe, path)
    print(f"{path}: every key is right; a network of {parameters / 1e6:.1f} M parameters")
    recipes = read.load_recipes(params)
    folds: Sequence[int] = read.load_folds(params, recipe.split.folds)
    listed = "is listed" if name in recipes else f"is not listed, so dvc repro does not run {name}"
    print(f"{params}: {name} {listed}; folds {', '.join(map(str, folds))}")
    print(_archives(recipe))


def _archives(recipe: Recipe) -> str:
    if isinstance(recipe.download, Synthetic):
        return "archives: drawn here, no account is needed"
    kind = "competition" if isinstance(recipe.download, Competition) else "data set"
    return f"archives: of the {kind} {recipe.download.slug}, from $PIPELINE_DATA or Kaggle"
