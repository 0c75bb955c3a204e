"""The house keeps its rules: one-way imports, deps by folder, params as read, light starts."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.paths import Paths
from pipeline.support.fingerprint import CODE

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OF_BLENDS = {f"{stage}-blend": stage for stage in ("tune", "encode", "report")}
VERBS = {
    *CODE,
    "folds",
    "submit",
    "score",
    "export",
    "predict_folder",
    "compare",
    "preview",
    "check",
    "status",
    "new",
}
HARMLESS = {"support", "recipe", "paths"}  # change no result, so they are no deps
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))


def place(path: Path) -> str:
    """The room of the house a file is in: the folder, or the file, below `pipeline/`."""
    return path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> frozenset[Path]:
    """Project modules that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide from this test"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    found = {path for path in found if path.exists() and (ROOT / "pipeline") in path.parents}
    if 'import_module(f"pipeline.sources.' in path.read_text():
        found |= set((ROOT / "pipeline/sources").glob("[!_]*.py"))
    return frozenset(found)


def closure(paths: set[Path]) -> set[Path]:
    seen: set[Path] = set()
    waiting = [*paths]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imports(current)
    return seen


def files_of(verb: str) -> set[Path]:
    file = ROOT / "pipeline" / f"{verb}.py"  # a folder may be left of an older tree
    return {file} if file.exists() else set(file.with_suffix("").rglob("*.py"))


def text_of(verb: str) -> str:
    return "\n".join(path.read_text() for path in sorted(files_of(verb)))


@pytest.mark.parametrize("stage", CODE)
def test_a_stage_imports_what_it_declares(stage: str) -> None:
    """More would change its result unseen; less makes it run again for nothing."""
    used = {place(path) for path in closure(files_of(stage))}
    assert used - HARMLESS == {part.removesuffix(".py") for part in CODE[stage]}


@pytest.mark.parametrize("stage", CODE)
def test_dvc_deps_are_the_same(stage: str) -> None:
    code = [dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/")]
    assert code == [f"pipeline/{part}" for part in CODE[stage]]
    assert set(STAGES) == {*CODE, *OF_BLENDS, "member"}


def test_support_cannot_change_a_result() -> None:
    """It knows nothing of data and networks, so nothing there can be computed in it."""
    for path in MODULES:
        if place(path) in HARMLESS:
            assert {place(target) for target in imports(path)} <= HARMLESS, path


def test_every_import_runs_one_way() -> None:
    for path in MODULES:
        if path.name == "__main__.py":
            continue
        for target in imports(path):
            foreign = place(target) in VERBS and place(target) != place(path)
            assert not foreign, f"{path} imports the verb {place(target)}"
            assert path not in closure({target}), f"{path} and {target} import each other"
    for path in MODULES:
        for other in {place(target) for target in imports(path)} - {place(path)}:
            back = {place(p) for q in MODULES if place(q) == other for p in imports(q)}
            assert place(path) not in back, f"{place(path)} and {other} import each other"


def test_packages_export_nothing() -> None:
    for path in MODULES:
        if path.name == "__init__.py":
            assert len(ast.parse(path.read_text()).body) == 1, f"{path} holds more than a docstring"


def test_nobody_else_spells_a_path() -> None:
    folders = "data|runs|oof|eval|work|logs|submissions"
    for path in MODULES:
        if path.name != "paths.py":
            found = re.search(rf"Path\(f?\"({folders})[/\"]", path.read_text())
            assert not found, f"{path}: {found}"


def keys_read(stage: str) -> set[str]:
    """`recipe.<section>` or `recipe.<section>.<key>` in the stage's own files."""
    attributes = [
        node for node in ast.walk(ast.parse(text_of(stage))) if isinstance(node, ast.Attribute)
    ]
    sections = [
        node
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id == "recipe"
    ]
    inner = {id(node.value): node.attr for node in attributes}
    keys = {".".join(filter(None, (n.attr.rstrip("_"), inner.get(id(n))))) for n in sections}
    # The front door reads the number of folds, to check those it is given.
    return keys | ({"split.folds"} if stage in ("train", "validate", "tune", "predict") else set())


def keys_declared(stage: str) -> set[str]:
    files = [entry for entry in STAGES[stage]["params"] if isinstance(entry, dict)]
    assert [list(entry) for entry in files] == [["recipes/${item.recipe}.yaml"]]
    return set(files[0]["recipes/${item.recipe}.yaml"])


@pytest.mark.parametrize("stage", CODE)
def test_params_are_the_keys_read(stage: str) -> None:
    """A stage that declares more would run again for nothing, one that declares less, too late."""
    # Not runtime, which changes no result, nor blend, which a recipe with networks does not have.
    untracked = {"runtime", *({"blend"} - {stage})}
    read = {key for key in keys_read(stage) if key.partition(".")[0] not in untracked}
    whole = {key for key in keys_declared(stage) if "." not in key}
    needed = {key.partition(".")[0] if key.partition(".")[0] in whole else key for key in read}
    assert keys_declared(stage) == needed


@pytest.mark.parametrize(("stage", "of"), OF_BLENDS.items())
def test_an_ensemble_runs_through_the_same_stages(stage: str, of: str) -> None:
    """But for what stands in no file of an ensemble: the sections it takes from its members."""
    mine, theirs = STAGES[stage], STAGES[of]
    assert mine["matrix"] == {"recipe": "${blends}"}
    others = mine.keys() - {"matrix", "params"}
    assert {key: mine[key] for key in others} == {key: theirs[key] for key in others}
    inherited = {"download", "split", "split.by", "split.folds", "train"}
    own = {"blend"} if "recipe.blend" in text_of(of) else set()
    assert keys_declared(stage) == keys_declared(of) - inherited | own
    assert ("folds" in mine["params"]) == ("folds" in theirs["params"])


@pytest.mark.parametrize("stage", CODE)
def test_folds_are_declared_where_they_are_read(stage: str) -> None:
    front = (ROOT / "pipeline/__main__.py").read_text()
    body = front.split(f"def {stage}(")[1].split("\n\n\n")[0]
    assert ("_folds(" in body) == ("folds" in STAGES[stage]["params"])


def test_outs_are_where_paths_says() -> None:
    recipe, fold = "${item.recipe}", "${item.fold}"
    paths = Paths.of(recipe)
    declared = {
        next(iter(out)) if isinstance(out, dict) else out
        for stage in STAGES.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    known = {str(getattr(paths, name)) for name in vars(Paths) if not name.startswith("_")
             if isinstance(getattr(paths, name), Path)}  # fmt: skip
    known |= {str(getattr(paths, name)) for name in ("raw", "samples", "submission", "kept", "oof")}
    known |= {str(paths.blending), str(Paths.of("${item.blend}").member(recipe))}
    for name in (
        "model",
        "history",
        "run_metrics",
        "oof_levels",
        "counts",
        "measures",
        "overlays",
    ):
        known.add(str(getattr(paths, name)(fold)))
    tables = ("images", "folds", "groups", "views", "thresholds")
    known |= {str(paths.evaluation / f"{name}.csv") for name in tables}
    assert declared <= known, declared - known


@pytest.mark.parametrize("stage", CODE)
def test_commands_go_through_the_front_door(stage: str) -> None:
    fold = " --fold ${item.fold}" if "fold" in STAGES[stage]["matrix"] else ""
    assert STAGES[stage]["cmd"] == f"python -m pipeline {stage} ${{item.recipe}}{fold}"


def loads(verb: str) -> str:
    """All the text that a verb's import brings in, of this project."""
    return "\n".join(path.read_text() for path in closure(files_of(verb)))


@pytest.mark.parametrize(
    "verb", ["download", "split", "tune", "encode", "submit", "score", "report", "status"]
)
def test_torch_stays_out_of_what_does_not_compute(verb: str) -> None:
    assert not re.search(r"^\s*(import|from) torch\b", loads(verb), re.M)


@pytest.mark.parametrize(
    "verb", ["train", "validate", "predict", "encode", "export", "predict_folder"]
)
def test_computing_needs_neither_dvc_nor_kaggle(verb: str) -> None:
    assert not re.search(r"^\s*(import|from) (dvc|kaggle)", loads(verb), re.M)


@pytest.mark.parametrize("verb", sorted(VERBS - {"report", "preview", "compare"}))
def test_matplotlib_stays_out_of_what_draws_nothing(verb: str) -> None:
    """Importing it takes longer than tuning."""
    assert not re.search(r"^\s*(import|from) (matplotlib|jinja2)\b", loads(verb), re.M)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pipeline.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'pandas', 'pydantic', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert re.search(rf"^    {verb.replace('_', '-')}\s", done.stdout, re.M), verb


def test_the_sample_is_a_program_of_its_own() -> None:
    for path in MODULES:
        assert not re.search(r"^\s*(import|from) sample\b", path.read_text(), re.M), path


def test_compiled_code_calls_no_compiled_code_of_another_file() -> None:
    """numba's cache would go on with the old code of that file."""
    found = 0
    for path in MODULES:
        tree = ast.parse(path.read_text())
        foreign = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline")
            for alias in node.names
        } - {"UInt8", "Float32", "Mask"}  # types, not code
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


@pytest.mark.parametrize(
    ("verb", "pages"),
    [
        ("report", "templates/*"),
        ("preview", "*.html"),
        ("compare", "*.html"),
        ("support", "*.css"),
    ],
)
def test_templates_are_installed(verb: str, pages: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folder = ROOT / "pipeline" / verb
    patterns = settings["tool"]["setuptools"]["package-data"][f"pipeline.{verb}"]
    listed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert listed == set(folder.glob(pages))
    others = {path for path in folder.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert listed == others
