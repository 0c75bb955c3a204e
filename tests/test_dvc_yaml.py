"""dvc.yaml says what the code does: deps are imports, params are sections, arrows run one way."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
COMMANDS = {"submit", "score", "cutout"}  # verbs outside the graph
VERBS = set(STAGES) | COMMANDS
PACKAGES = [path.parent for path in (ROOT / "pipeline").glob("*/__init__.py")]
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))


def module_path(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return path if path.exists() else None


def imports(path: Path) -> set[Path]:
    """Project modules that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide from this test"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = {module_path(name) for name in names if name.startswith("pipeline.")}
    if 'import_module(f"pipeline.sources.' in path.read_text():
        found |= set((ROOT / "pipeline/sources").glob("[!_]*.py"))
    return {path for path in found if path}


def closure(path: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imports(current)
    return seen


def expected_deps(stage: str) -> set[str]:
    files = {str(path.relative_to(ROOT)) for path in closure(ROOT / f"pipeline/{stage}.py")}
    if any('"templates"' in (ROOT / file).read_text() for file in files):
        files.add("pipeline/evaluation/templates")
    for package in PACKAGES:
        folder = str(package.relative_to(ROOT))
        inside = {str(path.relative_to(ROOT)) for path in package.glob("[!_]*.py")}
        if inside <= files:  # all of its modules: named as a folder
            files = {file for file in files if not file.startswith(f"{folder}/")} | {folder}
    return files


def code_deps(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/")}


def keys_read(stage: str) -> set[str]:
    """`recipe.<section>` or `recipe.<section>.<key>` in the stage's file: only verbs see params."""
    tree = ast.parse((ROOT / f"pipeline/{stage}.py").read_text())
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    sections = [
        node
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id == "recipe"
    ]
    inner = {id(node.value): node.attr for node in attributes}
    return {
        ".".join(filter(None, (node.attr.rstrip("_"), inner.get(id(node))))) for node in sections
    }


def section(key: str) -> str:
    return key.partition(".")[0]


def keys_declared(stage: str) -> set[str]:
    files = [entry for entry in STAGES[stage]["params"] if isinstance(entry, dict)]
    assert [list(entry) for entry in files] == [["recipes/${item.recipe}.yaml"]]
    return set(files[0]["recipes/${item.recipe}.yaml"])


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_file_and_its_imports(stage: str) -> None:
    assert code_deps(stage) == expected_deps(stage)


def test_compiled_code_calls_no_compiled_code_of_another_file() -> None:
    """numba's cache would go on with the old code of that file."""
    found = 0
    for path in (ROOT / "pipeline").rglob("*.py"):
        tree = ast.parse(path.read_text())
        foreign = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline")
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "njit" in map(_name, node.decorator_list):
                found += 1
                used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                types = {name.id for part in (*node.args.args, node.returns) if part
                         for name in ast.walk(part) if isinstance(name, ast.Name)}  # fmt: skip
                assert not (used - types) & foreign, f"{path.name}: {node.name}"
    assert found > 10


def _name(decorator: ast.expr) -> str:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return call.attr if isinstance(call, ast.Attribute) else ""


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_keys_read(stage: str) -> None:
    """A stage that declares more would run again for nothing, one that declares less, too late."""
    read = {key for key in keys_read(stage) if section(key) != "runtime"}
    whole = {key for key in keys_declared(stage) if key == section(key)}
    needed = {section(key) if section(key) in whole else key for key in read}
    assert keys_declared(stage) == needed


@pytest.mark.parametrize("stage", STAGES)
def test_folds_are_declared_where_they_are_read(stage: str) -> None:
    reads = "load_folds(" in (ROOT / f"pipeline/{stage}.py").read_text()
    assert reads == ("folds" in STAGES[stage]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_command_names_what_is_declared(stage: str) -> None:
    """Every path in the command is a dep, an out, a folder of outs, or untracked scratch."""
    entry = STAGES[stage]
    assert re.match(
        rf"python -m pipeline\.{stage} recipes/\$\{{item\.recipe\}}\.yaml ", entry["cmd"]
    )
    declared = [*entry["deps"]]
    for kind in ("outs", "metrics", "plots"):
        declared += [
            next(iter(out)) if isinstance(out, dict) else out for out in entry.get(kind, [])
        ]
    paths = [word for word in entry["cmd"].split()[4:] if "/" in word]
    for path in paths:
        scratch = path.startswith(("work/${item.recipe}", "logs/${item.recipe}"))
        assert scratch or any(d == path or d.startswith(f"{path}/") for d in declared), path


def test_every_import_runs_one_way() -> None:
    for path in MODULES:
        name = path.stem
        for target in imports(path):
            assert target.stem not in VERBS, f"{name} imports the verb {target.stem}"
            inside = path.parent.name == "settings" or name == "params" or name in VERBS
            schema = target.stem == "params" or target.parent.name == "settings"
            assert inside or not schema, f"the noun {name} imports {target.stem}"
            assert path not in closure(target), f"{name} and {target.stem} import each other"


def test_packages_export_nothing() -> None:
    for path in MODULES:
        if path.name == "__init__.py":
            assert len(ast.parse(path.read_text()).body) == 1, f"{path} holds more than a docstring"


def test_torch_stays_out_of_what_does_not_compute() -> None:
    for verb in {"download", "split", "tune", "submit", "score", "report"}:
        for path in closure(ROOT / f"pipeline/{verb}.py"):
            text = path.read_text()
            assert not re.search(r"^\s*(import|from) torch\b", text, re.M), f"{verb} loads {path}"


def test_training_and_prediction_need_neither_dvc_nor_kaggle() -> None:
    for verb in ("train", "validate", "predict", "cutout"):
        for path in closure(ROOT / f"pipeline/{verb}.py"):
            assert not re.search(r"^\s*(import|from) (dvc|kaggle)", path.read_text(), re.M), path


def test_matplotlib_stays_out_of_what_draws_nothing() -> None:
    """Importing it takes longer than tuning."""
    for verb in VERBS - {"report"}:
        for path in closure(ROOT / f"pipeline/{verb}.py"):
            text = path.read_text()
            assert not re.search(r"^\s*(import|from) (matplotlib|jinja2)\b", text, re.M), path


def test_templates_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folder = ROOT / "pipeline/evaluation"
    patterns = settings["tool"]["setuptools"]["package-data"]["pipeline.evaluation"]
    listed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert listed == set((folder / "templates").iterdir())
