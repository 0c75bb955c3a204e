"""What to run, and with which settings: `params.yaml` and `recipes/<name>.yaml`, validated.

A recipe has one section per stage, each tracked by DVC, plus `runtime`, which describes the
machine and is not. There is no default anywhere in the schema (`pipeline/settings/`): a value
that can change a result stands in the YAML, where DVC sees it.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pipeline import yaml_reader
from pipeline.errors import UserError
from pipeline.settings.base import Section
from pipeline.settings.data import Competition, Dataset, Split, Synthetic
from pipeline.settings.evaluation import Predict, Tune, Validate
from pipeline.settings.runtime import Runtime
from pipeline.settings.training import Train


class Recipe(Section):
    """One experiment, whole."""

    download: Annotated[Synthetic | Competition | Dataset, Field(discriminator="kind")]
    split: Split
    train: Train
    validate_: Annotated[Validate, Field(alias="validate")]
    tune: Tune
    predict: Predict
    runtime: Runtime


class Run(Section):
    """`params.yaml`: which recipes and folds `dvc repro` works on."""

    recipes: Annotated[tuple[str, ...], Field(min_length=1)]
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


S = TypeVar("S", bound=Section)


def load(path: Path) -> Recipe:
    """Read and validate one recipe.

    Raises:
        UserError: the file is missing, is no YAML, or has a wrong key or value; the message
            names every one of them with what was found and what is allowed.
    """
    return _validated(Recipe, path)


def load_folds(path: Path, available: int) -> tuple[int, ...]:
    """The folds listed in `params.yaml`, each one of the recipe's 0 to `available` - 1."""
    folds = _validated(Run, path).folds
    for fold in folds:
        check_fold(fold, available, f"{path}: folds")
    if len(set(folds)) != len(folds):
        raise UserError(f"{path}: folds: found {list(folds)}, expected each fold once")
    return folds


def check_fold(fold: int, available: int, where: str) -> None:
    """Raise `UserError` unless the recipe, cut into `available` folds, has this one."""
    if not 0 <= fold < available:
        raise UserError(
            f"{where}: found fold {fold}, expected 0 to {available - 1} "
            f"(the recipe's split.folds is {available})"
        )


def _validated(schema: type[S], path: Path) -> S:
    try:
        return schema.model_validate(yaml_reader.read(path))
    except ValidationError as error:
        found = dict.fromkeys(_explained(detail, schema) for detail in error.errors())
        raise UserError(f"{path}: " + "; ".join(found)) from None


def _explained(error: Any, schema: type[Section]) -> str:
    """One wrong key in a user's words."""
    names = _names(schema)
    # A union adds the names of its members to the location: not part of the key.
    parts = [str(part) for part in error["loc"] if part in names or isinstance(part, int)]
    if error["type"] == "extra_forbidden":
        *place, key = error["loc"]
        where = ".".join([*(str(part) for part in place if part in names), str(key)])
        if key in names:
            return f"{where}: a key of another section or choice; remove it"
        near = difflib.get_close_matches(str(key), sorted(names), n=1)
        return f"{where}: unknown key; " + (f"did you mean {near[0]!r}?" if near else "remove it")
    where = ".".join(parts) or "the file"
    if error["type"] == "missing":
        return f"{where}: missing; every key stands in the file, see the other recipes"
    if error["type"] == "union_tag_invalid":
        key, found = error["ctx"]["discriminator"].strip("'"), error["ctx"]["tag"]
        return f"{where}.{key}: found {found!r}; expected one of {error['ctx']['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        key = error["ctx"]["discriminator"].strip("'")
        return f"{where}.{key}: missing; every key stands in the file, see the other recipes"
    return f"{where}: found {error['input']!r}; {error['msg']}"


def _names(schema: type[BaseModel]) -> set[str]:
    """Every key that occurs anywhere in the schema."""
    definitions = schema.model_json_schema(by_alias=True)
    sections = [definitions, *definitions.get("$defs", {}).values()]
    return {name for section in sections for name in section.get("properties", {})}
