"""Command `check`: refuse before any work what a stage would refuse after hours of it."""

import difflib
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.data import samples
from pipeline.paths import PARAMS, Paths, recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import Competition, Dataset, Folders, Recipe
from pipeline.support import files
from pipeline.support.errors import UserError


def run(names: Sequence[str], moved: dict[str, Path]) -> None:
    """Check recipes and say what was found to be right; all that is wrong is said, not the first.

    Args:
        names: of recipes; none: those that `params.yaml` lists, as `dvc repro` runs them.
        moved: see `Paths.of`.

    Raises:
        UserError: something is wrong; what, stands on stderr.
    """
    wrong = _try(PARAMS, _params)
    listed = () if names or wrong else (*read.load_recipes(PARAMS), *read.load_blends(PARAMS))
    for name in names or listed:
        wrong += _check(name, Paths.of(name, moved))
    if wrong:
        raise UserError(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong, see above")


def _check(name: str, paths: Paths) -> int:
    """How many things are wrong with a recipe, each said."""
    path = recipe_file(name)
    try:
        recipe = read.load(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: every key is right")
    wrong = _try(path, lambda: _held_out_alike(recipe, path)) if _others(recipe) else 0
    if recipe.blend:  # no network, and no decoded images
        return (
            wrong
            + _try(path, lambda: _folds(recipe, name))
            + _try(paths.raw, lambda: _archives(recipe, paths))
            + _try(paths.work, lambda: _writable(paths))
        )
    return (
        wrong
        + _try(path, lambda: _network(recipe, path))
        + _try(path, lambda: _folds(recipe, name))
        + _try(path, lambda: _machine(recipe))
        + _try(paths.raw, lambda: _archives(recipe, paths))
        + _try(paths.work, lambda: _room(recipe, paths))
    )


def _try(what: Path, check: Callable[[], str]) -> int:
    """Run one check: say what it found to be right and return 0, or what is wrong and return 1."""
    try:
        said = check()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{what}: {said}")
    return 0


def check_network(recipe: Recipe, path: Path) -> int:
    """Build the recipe's network on torch's meta device, which takes neither time nor memory.

    One batch goes through it as in training: what its shapes cannot do is found, too.

    Returns:
        The number of its parameters.

    Raises:
        UserError: the encoder is unknown, or the size is none the network takes.
    """
    from pipeline.networks import model
    from pipeline.support import hardware

    settings = recipe.train
    try:
        with hardware.explain_failures():
            network = model.try_batches(settings, recipe.runtime.devices * recipe.runtime.nodes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return model.parameters(network)


def _network(recipe: Recipe, path: Path) -> str:
    sizes = ", ".join(f"{height}x{width}" for height, width in _sizes(recipe))
    parameters = check_network(recipe, path)
    return f"a network of {parameters / 1e6:.1f} M parameters, for {sizes} pixels"


def _sizes(recipe: Recipe) -> list[tuple[int, int]]:
    """Those of all phases, each once."""
    return list(dict.fromkeys(phase.size for phase in recipe.train.phases))


def _params() -> str:
    names = read.load_recipes(PARAMS)
    for name in names:
        if not recipe_file(name).is_file():
            there = sorted(path.stem for path in recipe_file(name).parent.glob("*.yaml"))
            near = difflib.get_close_matches(name, there, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there)}"
            raise UserError(
                f"{PARAMS}: recipes: found {name!r}, but there is no {recipe_file(name)}; {advice}"
            )
    return f"dvc repro runs {', '.join([*names, *read.load_blends(PARAMS)])}"


def _folds(recipe: Recipe, name: str) -> str:
    listed = read.load_blends(PARAMS) if recipe.blend else read.load_recipes(PARAMS)
    if name not in listed:
        return f"{PARAMS} does not list {name}, so dvc repro does not run it"
    folds = read.load_folds(PARAMS, recipe.split.folds)
    does = "blends" if recipe.blend else "trains"
    return f"of {recipe.split.folds} folds dvc repro {does} {', '.join(map(str, folds))}"


def _others(recipe: Recipe) -> list[tuple[str, str]]:
    """The recipes that this one is made of or learns from, each after the key that names it."""
    if recipe.blend:
        return [("blend.recipes", name) for name in recipe.blend.recipes]
    start, pseudo = recipe.train.weights.init_from, recipe.train.pseudo
    others = [] if start == "none" else [("train.weights.init_from", start)]
    return others + ([] if pseudo == "none" else [("train.pseudo.recipe", pseudo.recipe)])


def _held_out_alike(recipe: Recipe, path: Path) -> str:
    """Whether the others hold out the same images: what one is judged on, none has learned from.

    Only what is sure to be refused later: the same data, cut into folds in another way.
    """
    ours, others = recipe.split.model_dump(), _others(recipe)
    for key, name in others:
        other = read.load(path.with_stem(name))
        theirs = other.split.model_dump()
        alike = other.download == recipe.download and theirs["source"] == ours["source"]
        if not recipe.blend:  # it is refused for what the other has seen, which may be none of it
            alike = alike and theirs["by"] == ours["by"]
        for setting in ("by", "folds", "seed"):
            found, expected = theirs.get(setting), ours.get(setting)
            if alike and found != expected:
                first = path.with_stem(recipe.blend.recipes[0]) if recipe.blend else path
                raise UserError(
                    f"{path}: {key}: found {name!r}, whose split.{setting} is {found}, expected "
                    f"{expected} as in {first}, or one learns from images that the other is judged "
                    f"on; give both the same section split"
                )
    return f"held-out images are those of {', '.join(dict.fromkeys(name for _, name in others))}"


def _machine(recipe: Recipe) -> str:
    from pipeline.support import hardware

    runtime = recipe.runtime
    found = hardware.check(runtime.accelerator, runtime.precision, runtime.devices, runtime.nodes)
    return f"runs on {runtime.devices} {'GPU' if found == 'cuda' else 'CPU process'}(s)"


def _archives(recipe: Recipe, paths: Paths) -> str:
    wanted = recipe.download
    if recipe.blend:
        return f"archives are those of {recipe.blend.recipes[0]}"
    if isinstance(wanted, Folders):
        for key, place in (("images", wanted.images), ("masks", wanted.masks)):
            if not Path(place).expanduser().exists():
                raise UserError(f"download.{key}: {place}: no such folder or zip; correct it")
        return f"images of {wanted.images}, masks of {wanted.masks}"
    if not isinstance(wanted, Competition | Dataset):
        return "archives are drawn here, no account is needed"
    missing = [
        origin
        for origin in wanted.origins
        if not (_is_here(paths.raw, Path(origin).name) or _is_here(paths.archives, origin))
    ]
    if not missing:
        return "every archive is here"
    if local := os.environ.get("PIPELINE_DATA"):
        for origin in missing:
            if not _is_here(Path(local), origin):
                raise UserError(
                    f"{Path(local, origin)}: no such file; PIPELINE_DATA is set, so archives are "
                    f"taken from there: put it there, or unset PIPELINE_DATA to ask Kaggle"
                )
        return f"{len(missing)} archives to come from {local}"
    return f"{len(missing)} archives to come from Kaggle, with {_account()}"


def _is_here(folder: Path, name: str) -> bool:
    """Whether a file is there, as it is or zipped by Kaggle on its way."""
    return any((folder / f"{name}{ending}").is_file() for ending in ("", ".zip"))


def _account() -> str:
    """Where the user's credentials are; Kaggle is not asked whether it knows them."""
    from pipeline.kaggle import credentials

    if found := credentials.find():
        return found.source
    if (login := credentials.login_file()).is_file():
        return str(login)
    raise credentials.none_found()


def _writable(paths: Paths) -> str:
    """Whether results can be written."""
    for place in (paths.raw, paths.runs, paths.oof, paths.evaluation, paths.submission, paths.work):
        files.check_writable(next(folder for folder in place.parents if folder.exists()))
    return f"{shutil.disk_usage('.').free / 1e9:.0f} GB are free on the disk"


def _room(recipe: Recipe, paths: Paths) -> str:
    """Whether results can be written, and decoded images kept."""
    free = _writable(paths)
    cache = recipe.runtime.cache
    if cache == "none" or not paths.samples.exists():
        return free
    rows = [row for row in samples.read(paths.samples) if row.split == "train"]
    sizes = [len(rows) * math.prod(size) for size in _sizes(recipe)]
    pixels = sum(sizes) if cache == "disk" else max(sizes)  # in memory one size at a time
    needed = pixels * (3 + (1 if recipe.train.classes == 1 else recipe.train.classes))
    if cache == "disk" and not list(paths.work.glob("cache-*")):
        files.check_space(Path("."), needed, f"runtime.cache: disk, of {len(rows)} images,")
    if cache == "ram":
        from pipeline.support import hardware

        needed *= recipe.runtime.devices  # each process has its own
        hardware.check_cache_fits(needed, len(rows))
    return f"{free}, decoded images take {needed / 1e9:.1f} GB of {cache}"
