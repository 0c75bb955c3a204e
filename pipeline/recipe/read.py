"""What to run, and with which settings: `params.yaml` and `recipes/<name>.yaml`, validated.

Every error names the file, the key, what was found there and what may stand there.
"""

import difflib
import re
import reprlib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.paths import recipe_file
from pipeline.recipe.schema import Recipe, Run, Section
from pipeline.support.errors import UserError

_SOURCES = Path(__file__).parents[1] / "sources"
_SHORT = "the list is too short"
_MISSING = "every key stands in the file, see the other recipes"
_EXPECTED = {  # instead of pydantic's words, which speak of Python
    "tuple_type": "expected a list",
    "model_type": "expected a section with its keys",
    "model_attributes_type": "expected a section with its keys",
}

S = TypeVar("S", bound=Section)


def load(path: Path) -> Recipe:
    """Read and validate one recipe.

    Raises:
        UserError: the file is missing, is no YAML, or has a wrong key or value; the message
            names every one of them with what was found and what is allowed.
    """
    content = _yaml(path)
    if isinstance(content, dict) and "blend" in content:
        content = _with_member(content, path)
    recipe = _validated(Recipe, path, content)
    source = recipe.split.source
    if source == "folders":
        raise UserError(
            f"{path}: split.source: found 'folders' alone, expected a section with its settings, "
            f"as pipeline new writes it"
        )
    _check_source(source if isinstance(source, str) else source.name, path)
    _check_other("train.weights.init_from", recipe.train.weights.init_from, path)
    if recipe.train.pseudo != "none":
        _check_other("train.pseudo.recipe", recipe.train.pseudo.recipe, path)
    return recipe


def load_recipes(path: Path) -> tuple[str, ...]:
    """The recipes listed in `params.yaml`."""
    return _validated(Run, path, _yaml(path)).recipes


def load_blends(path: Path) -> tuple[str, ...]:
    """The ensembles listed in `params.yaml`.

    Raises:
        UserError: one of them is none, stands among `recipes`, or has a member that does not: DVC
            would not see what the ensemble is made of.
    """
    content = _yaml(path)
    listed = _validated(Run, path, content)
    if "blends" not in content:
        raise UserError(f"{path}: blends: missing, which dvc.yaml reads; write blends: []")
    for name in listed.recipes:
        recipe = _yaml(recipe_file(name))
        if isinstance(recipe, dict) and "blend" in recipe:
            raise UserError(f"{path}: recipes: found {name!r}, an ensemble; list it in blends")
    for name in listed.blends:
        blend = load(recipe_file(name)).blend
        if blend is None:
            raise UserError(f"{path}: blends: found {name!r}, no ensemble; list it in recipes")
        for member in blend.recipes:
            if member not in listed.recipes:
                raise UserError(
                    f"{path}: recipes: {member!r} is missing, of which {name!r} is made; "
                    f"add it, or DVC does not see when the ensemble is out of date"
                )
    return listed.blends


def load_folds(path: Path, available: int) -> tuple[int, ...]:
    """The folds listed in `params.yaml`, each one of the recipe's 0 to `available` - 1."""
    folds = _validated(Run, path, _yaml(path)).folds
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


def _with_member(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content of a blend's file, with the sections that it takes from its first recipe."""
    inherited = ("download", "split", "train")
    for name in inherited:
        if name in content:
            raise UserError(f"{path}: {name}: a blend takes it from its recipes; remove it")
    section = content["blend"]
    names = section.get("recipes") if isinstance(section, dict) else None
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        raise UserError(
            f"{path}: blend.recipes: found {names!r}, expected a list of recipes' names"
        )
    for name in names:
        member = _yaml(path.with_name(f"{name}.yaml"))
        if not isinstance(member, dict) or "blend" in member or name == path.stem:
            raise UserError(
                f"{path}: blend.recipes: found {name!r}, expected recipes that are trained"
            )
        _validated(Recipe, path.with_name(f"{name}.yaml"), member)
    first = _yaml(path.with_name(f"{names[0]}.yaml"))
    return content | {name: first[name] for name in inherited}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None


def _check_source(name: str, recipe: Path) -> None:
    """Raise `UserError` unless there is such a source; none is imported."""
    there = {path.stem for path in _SOURCES.glob("*.py") if "read_entries" in path.read_text()}
    if name not in there:
        raise UserError(
            f"{recipe}: split.source: found {name!r}, but there is no pipeline/sources/{name}.py "
            f"with read_entries; there are: {', '.join(sorted(there))}"
        )


def _check_other(key: str, other: str, recipe: Path) -> None:
    """Raise `UserError` unless the recipe to learn from is another one that is there."""
    none = ["none"] if key == "train.weights.init_from" else []
    if other == recipe.stem:
        raise UserError(
            f"{recipe}: {key}: found {other!r}, which is this recipe; "
            f"expected another one{', or none' if none else ''}"
        )
    others = {path.stem for path in recipe.parent.glob("*.yaml")} - {recipe.stem}
    if other not in others.union(none):
        raise UserError(
            f"{recipe}: {key}: found {other!r}, but there is no "
            f"{recipe.with_stem(other)}; expected one of {[*sorted(others), *none]}"
        )
    if other != "none" and "blend" in (_yaml(recipe.with_stem(other)) or {}):
        raise UserError(
            f"{recipe}: {key}: found {other!r}, which blends others and has no network; expected "
            f"a recipe that is trained"
        )


def _yaml(path: Path) -> Any:
    """The content of a YAML 1.2 file, as DVC reads it: 1e-4 is a number, a key stands once."""
    try:
        # In pure Python: the parser in C speaks YAML 1.1.
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml")))
        known = f"there are: {there}" if there else "run this in the project's folder"
        raise UserError(f"{path}: no such file; {known}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise UserError(
            f"{path}: line {_line(error.problem_mark)}: key {key!r} stands twice, first in the "
            f"section that begins in line {_line(error.context_mark)}; remove one"
        ) from None
    except MarkedYAMLError as error:
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(
            f"{path}: line {_line(error.problem_mark)}: not valid YAML: {what}"
        ) from None
    # Of bytes that are no text, days like 2017-02-30, and a thousand brackets.
    except (YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise UserError(f"{path}: not valid YAML: {said}") from None


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _validated(schema: type[S], path: Path, content: Any) -> S:
    if content is None:
        keys = ", ".join(field.alias or name for name, field in schema.model_fields.items())
        raise UserError(f"{path}: found an empty file, expected the keys {keys}")
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        allowed: dict[str, list[str]] = {}  # by key and what was found: of a choice, several
        names = _names(schema)
        for detail in error.errors():
            wrong, right = _explained(detail, names, content)
            if right not in allowed.setdefault(wrong, []):
                allowed[wrong].append(right)
        found = (f"{wrong}; {', or '.join(right)}" for wrong, right in allowed.items())
        raise UserError(f"{path}: " + "; ".join(found)) from None


def _explained(error: Any, names: set[str], content: Any) -> tuple[str, str]:
    """One wrong key in a user's words: which, with what stands there, and what may."""
    where = ".".join(_keys(error, content)) or "the file"
    if error["type"] in ("extra_forbidden", "invalid_key"):
        *place, key = error["loc"]
        shown = key if str(key).isprintable() else repr(key)
        where = ".".join([*(str(p) for p in place if p in names or isinstance(p, int)), str(shown)])
        if key in names:
            return f"{where}: a key of another section or choice", "remove it"
        near = difflib.get_close_matches(str(key), sorted(names), n=1)
        return f"{where}: unknown key", f"did you mean {near[0]!r}?" if near else "remove it"
    if error["type"] == "missing":
        return f"{where}: missing", _SHORT if isinstance(error["loc"][-1], int) else _MISSING
    if error["type"] == "union_tag_invalid":
        key, found = error["ctx"]["discriminator"].strip("'"), reprlib.repr(error["ctx"]["tag"])
        return f"{where}.{key}: found {found}", f"expected one of {error['ctx']['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        key = error["ctx"]["discriminator"].strip("'")
        return f"{where}.{key}: missing", _MISSING
    allowed = _EXPECTED.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] == "tuple_type" and isinstance(error["input"], str | int):
        allowed = f"expected a list, in brackets: [{error['input']}]"
    given = list(error["input"]) if isinstance(error["input"], tuple) else error["input"]
    return f"{where}: found {reprlib.repr(given)}", allowed.replace("Tuple", "List")


def _keys(error: Any, content: Any) -> list[str]:
    """The way to what is wrong: keys of sections and places in lists.

    pydantic puts names of a union's members between them, which are found in no file.
    """
    keys = []
    for number, part in enumerate(error["loc"], start=1):
        if isinstance(content, dict) and part in content:
            content = content[part]
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        elif error["type"] != "missing" or number < len(error["loc"]):
            continue
        keys.append(str(part) if str(part).isprintable() else repr(part))
    return keys


def _names(schema: type[BaseModel]) -> set[str]:
    """Every key that occurs anywhere in the schema."""
    definitions = schema.model_json_schema(by_alias=True)
    sections = [definitions, *definitions.get("$defs", {}).values()]
    return {name for section in sections for name in section.get("properties", {})}
