import datetime
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, one_phase, write_yaml

from pipeline.recipe import read
from pipeline.recipe.schema import Recipe, Run, Section
from pipeline.support.errors import UserError

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


LOSS = dict(bce=1, dice=1, smooth=[1, 1], dice_of="image", boundary=0, boundary_width=1)


def recipe() -> dict:
    return yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())


def refusal(tmp_path: Path, content: object) -> str:
    path = write_yaml(tmp_path / "mine.yaml", content)
    with pytest.raises(UserError) as caught:
        read.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_values_arrive_as_written(tmp_path: Path) -> None:
    content = recipe()
    one_phase(content, epochs=7)
    loaded = read.load(write_yaml(tmp_path / "mine.yaml", content))
    assert loaded.train.epochs == 7
    assert loaded.train.size == tuple(content["train"]["phases"][0]["size"])


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read.load(RECIPES[0]).train.seed = 3  # type: ignore[misc]


def test_no_value_has_a_default() -> None:
    """A default in code could change a result without a trace in the YAML."""
    for section in all_sections(Section):
        fields = {**section.model_fields}
        if section is Recipe:
            del fields["blend"]  # a file has this section, or those it stands for
        if section is Run:
            del fields["blends"]  # which dvc.yaml cannot be read without
        assert all(field.is_required() for field in fields.values()), section


def all_sections(base: type[Section]) -> list[type[Section]]:
    found = base.__subclasses__()
    return found + [deeper for section in found for deeper in all_sections(section)]


def test_every_key_is_needed(tmp_path: Path) -> None:
    for section, values in recipe().items():
        for key in values:
            content = recipe()
            del content[section][key]
            assert refusal(tmp_path, content).startswith(f"{section}.{key}: missing")


def test_a_misspelt_key_is_named_with_the_right_one(tmp_path: Path) -> None:
    content = recipe()
    phase = content["train"]["phases"][0]
    phase["epoch"] = phase.pop("epochs")
    message = refusal(tmp_path, content)
    assert "train.phases.0.epochs: missing" in message
    assert "train.phases.0.epoch: unknown key; did you mean 'epochs'?" in message


PHASE = ("train", "phases", 0)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ((*PHASE, "epochs"), 0, "train.phases.0.epochs: found 0; Input should be greater than or"),
        ((*PHASE, "epochs"), "many", "train.phases.0.epochs: found 'many'"),
        ((*PHASE, "size"), [0, 128], "train.phases.0.size.0: found 0; Input should be"),
        ((*PHASE, "learning_rate"), -1, "train.phases.0.learning_rate: found -1"),
        (("train", "augment", "hflip"), 1.5, "train.augment.hflip: found 1.5"),
        (("train", "model", "architecture"), "UNet", "train.model.architecture: found 'UNet'; exp"),
        (("split", "folds"), 1, "split.folds: found 1"),
        (("tune", "threshold"), 1.2, "tune.threshold: found 1.2"),
        (("validate", "tta"), "flip", "validate.tta: found 'flip'; Input should be 'none'"),
        (("runtime", "precision"), "fp8", "runtime.precision: found 'fp8'"),
        (("download", "kind"), "ftp", "download.kind: found 'ftp'; expected one of 'synthetic'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(
    tmp_path: Path, keys: tuple[str | int, ...], value: object, said: str
) -> None:
    content = recipe()
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    assert said in refusal(tmp_path, content)


def test_a_section_s_error_says_nothing_of_what_else_could_stand_there(tmp_path: Path) -> None:
    content = recipe()
    source = {"name": "folders", "mask_ending": "", "group": "^(.+", "classes": {"a": 0, "b": 1}}
    content["split"]["source"] = source
    message = refusal(tmp_path, content)
    assert "split.source.group: found '^(.+'; expected none or a regular expression" in message
    assert "valid string" not in message and "split.source: found" not in message
    path = tmp_path / "params.yaml"
    path.write_text("recipes: [sample]\nblends: []\nfolds: [0.0]\n")
    with pytest.raises(UserError, match=r"folds\.0: found 0\.0; Input") as raised:
        read.load_folds(path, 5)
    assert "at least 1" not in str(raised.value)


TRUE_FOR_NUMBER, TEXT_FOR_NUMBER = "found True; Input should be", "found '8'; Input should be"
INFINITE, REPEATED = "Input should be a finite number", "each may stand in the list once"


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("download.train_cars", True, TRUE_FOR_NUMBER),
        ("split.folds", 5.0, "found 5.0; Input should be a valid integer"),
        ("split.fraction", True, TRUE_FOR_NUMBER),
        ("split.source", 5, "found 5; Input should be a valid string"),
        ("train.model.encoder", 18, "found 18; Input should be a valid string"),
        ("train.model.decoder_channels.1", "8", TEXT_FOR_NUMBER),
        ("train.model.decoder_channels.1", True, TRUE_FOR_NUMBER),
        ("train.phases.0.size", 160, "found 160; expected a list"),
        ("train.phases.0.size.0", "8", TEXT_FOR_NUMBER),
        ("train.phases.0.epochs", True, TRUE_FOR_NUMBER),
        ("train.phases.0.epochs", datetime.date(2017, 2, 3), "found datetime.date(2017, 2, 3)"),
        ("train.phases.0.epochs", None, "found None; Input should be a valid integer"),
        ("train.phases.0.batch_size", "8", TEXT_FOR_NUMBER),
        ("train.sync_batchnorm", 1, "found 1; Input should be a valid boolean"),
        ("train.phases.0.learning_rate", "8", TEXT_FOR_NUMBER),
        ("train.optimizer", "adamw", "found 'adamw'; expected a section with its keys"),
        ("train.gradient.clip", True, "found True; Input should be 'none', or Input should be a"),
        ("train.weights.init_from", True, "found True; Input should be a valid string"),
        ("train.augment.brightness", "8", TEXT_FOR_NUMBER),
        ("train.augment.brightness.0", True, TRUE_FOR_NUMBER),
        ("train.seed", 1.0, "found 1.0; Input should be a valid integer"),
        ("tune.threshold", True, "found True; Input should be 'auto', or Input should be a valid"),
        ("encode.compression", 2.0, "found 2.0; Input should be a valid integer"),
        ("runtime.compile", "yes", "found 'yes'; Input should be a valid boolean"),
        ("runtime", ["cpu"], "found ['cpu']; expected a section with its keys"),
        ("train.phases.0.learning_rate", math.inf, INFINITE),
        ("train.normalization.mean.2", math.nan, INFINITE),
        ("train.augment.rotate", math.nan, INFINITE),
        ("train.augment.contrast.1", math.inf, INFINITE),
        ("train.gradient.clip", math.inf, INFINITE),
        ("runtime.checkpoint_seconds", math.inf, INFINITE),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_no_value(
    tmp_path: Path, keys: str, value: object, said: str
) -> None:
    assert_refused(tmp_path, keys, value, said)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("download.train_cars", 10**12, "less than or equal to 100000"),
        ("train.classes", 2, "foreground and background are one class: write 1, or 3 and more"),
        ("train.classes", 257, "less than or equal to 256"),
        ("train.phases.0.size", [128], "missing; the list is too short"),
        ("train.phases.0.size", [128, 128, 3], "at most 2 items"),
        ("train.phases.0.size.1", 40_000, "less than or equal to 32766"),
        ("train.model.encoder", "", "should match pattern"),
        ("train.model.decoder_channels", [64, 32], "List should have at least 5 items"),
        ("train.model.decoder_channels.4", 0, "greater than or equal to 1"),
        ("train.model", {"architecture": "cnn", "weights": "he", "widths": []}, "at least 1 item"),
        ("train.normalization.mean", [124, 116, 104], "found 124; Input should be less than or"),
        ("train.normalization.std.0", 58.4, "less than or equal to 1"),
        ("train.normalization.std.0", 0, "greater than or equal to 0.001"),
        ("train.phases.0.epochs", 10**400, "less than or equal to 1000000000"),
        ("train.phases.0.learning_rate", 10**400, "should be a valid number"),
        ("train.phases.0.learning_rate", 0, "greater than 0"),
        ("train.phases.0.schedule.warm_up", 0, "greater than 0"),
        ("train.phases.0.schedule.warm_up", 1, "less than 1"),
        ("train.loss", LOSS | {"bce": 0, "dice": 0}, "both 0"),
        ("train.loss.smooth", [1, 0], "greater than 0"),
        ("train.loss.boundary_width", 0, "greater than or equal to 1"),
        ("train.weights.keep", "some", "Input should be 'last', 'best' or 'all'"),
        ("train.validation.every", 0, "greater than or equal to 1"),
        ("train.phases", [], "at least 1 item"),
        ("train.validation.patience", 0, "greater than or equal to 1"),
        ("train.augment.contrast", [0.7, 0.5], "the first factor may not be above the second"),
        ("train.augment.contrast", [0.7], "train.augment.contrast.1: missing; the list is too"),
        ("train.seed", 2**32, "less than 4294967296"),
        ("validate.worst", -1, "greater than or equal to 0"),
        ("tune.bootstrap", 10**9, "less than or equal to 100000"),
        ("runtime.threads", 10**6, "less than or equal to 1024"),
        ("runtime.devices", 0, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_value_that_no_stage_could_use_is_refused(
    tmp_path: Path, keys: str, value: object, said: str
) -> None:
    assert_refused(tmp_path, keys, value, said)


def assert_refused(tmp_path: Path, keys: str, value: object, said: str) -> None:
    content = recipe()
    content["train"]["augment"] |= {"contrast": [0.5, 0.7], "brightness": [0.5, 0.7]}
    *places, last = (int(key) if key.isdigit() else key for key in keys.split("."))
    section: Any = content
    for key in places:
        section = section[key]
    assert read.load(write_yaml(tmp_path / "mine.yaml", content)), "right but for one value"
    section[last] = value
    message = refusal(tmp_path, content)
    assert keys in message and said in message, message
    assert len(message) < 250, "a long value is cut"


@pytest.mark.parametrize(
    ("files", "optional", "said"),
    [
        ([], [], "download.files: found []; List should have at least 1 item"),
        (["a.zip", "a.zip"], [], f"download.files: found ['a.zip', 'a.zip']; {REPEATED}"),
        (["a.zip"], ["b.jpg", "b.jpg"], f"['b.jpg', 'b.jpg']; {REPEATED}"),
        (["a.zip"], ["a.zip"], "a.zip stands in files and in optional_files"),
        ([".."], [], "download.files.0: found '..'; String should match pattern"),
        (["a/b.zip"], [], "download.files.0: found 'a/b.zip'; String should match pattern"),
    ],
)
def test_files_to_fetch_stand_once(
    tmp_path: Path, files: list[str], optional: list[str], said: str
) -> None:
    where = {"kind": "competition", "slug": "any", "files": files, "optional_files": optional}
    assert said in refusal(tmp_path, recipe() | {"download": where})


@pytest.mark.parametrize("name", ["carvanna", "sample_cars"])  # the latter draws, and reads nothing
def test_a_source_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, name: str) -> None:
    content = recipe()
    content["split"]["source"] = name
    message = refusal(tmp_path, content)
    assert f"split.source: found '{name}', but there is no pipeline/sources/{name}.py" in message
    there = set(message.rpartition("there are: ")[2].split(", "))
    assert {"brain_mri", "carvana", "oxford_pets"} <= there and "sample_cars" not in there


def test_folders_need_their_settings(tmp_path: Path) -> None:
    content = recipe()
    content["split"]["source"] = "folders"
    assert "split.source: found 'folders' alone, expected a section" in refusal(tmp_path, content)


@pytest.mark.parametrize("names", [[], ["recipes/big.yaml"], [5], "big"])
def test_a_blend_names_its_recipes(tmp_path: Path, names: object) -> None:
    content = recipe() | {"blend": {"recipes": names, "weights": "auto"}}
    for section in ("download", "split", "train"):
        del content[section]
    said = refusal(tmp_path, content)
    assert f"blend.recipes: found {names!r}, expected a list of recipes' names" in said


@pytest.mark.parametrize(
    ("other", "said"),
    [("nope", "/nope.yaml; expected one of ['big', 'none']"), ("mine", "which is this recipe")],
)
def test_the_recipe_to_start_from_is_another_one(tmp_path: Path, other: str, said: str) -> None:
    content = recipe()
    write_yaml(tmp_path / "big.yaml", content)
    content["train"]["weights"]["init_from"] = other
    assert f"train.weights.init_from: found '{other}', " in refusal(tmp_path, content)
    assert said in refusal(tmp_path, content)
    content["train"]["weights"]["init_from"] = "big"
    assert read.load(write_yaml(tmp_path / "mine.yaml", content))


def test_whole_numbers_stand_for_real_ones_and_lists_for_tuples(tmp_path: Path) -> None:
    content = recipe()
    content["train"]["optimizer"]["weight_decay"] = 0
    content["train"]["augment"]["contrast"] = [1, 2]
    train = read.load(write_yaml(tmp_path / "mine.yaml", content)).train
    assert isinstance(train.optimizer.weight_decay, float)
    assert train.augment.contrast == (1.0, 2.0)


def test_validating_loads_neither_torch_nor_a_source() -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.recipe import read;"
        "read.load(Path('recipes/carvana.yaml'));"
        "found = {'torch', 'segmentation_models_pytorch', 'pipeline.sources'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_recipe_lists_those_there(tmp_path: Path) -> None:
    write_yaml(tmp_path / "mine.yaml", recipe())
    with pytest.raises(UserError, match=r"other\.yaml: no such file; there are: mine\.yaml"):
        read.load(tmp_path / "other.yaml")


@pytest.mark.parametrize("text", [
    "train: [", "a: 1\na: 2\n", "\x00", "- 1\n", "", "1: 2", "2017-02-03: 1", "true: {}",
    "a: 2017-02-30", f"a: {'9' * 5000}", "[" * 3000, "? [a]\n: 1", "a: &a [*a]", "? \"a\\nb\"\n: 1",
    "a: !!python/object:os.system x", "train: &t {model: *t}",
])  # fmt: skip
def test_what_is_no_recipe_at_all_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml: ") as caught:
        read.load(path)
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    text = (ROOT / "recipes/sample.yaml").read_text()
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  sampler:"))
    lines.insert(at + 4, "  sampler: 3")
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines) + "\n")
    line = lines.index("  sampler: 3") + 1
    with pytest.raises(UserError, match=f"mine.yaml: line {line}: key 'sampler' stands twice"):
        read.load(path)


@pytest.mark.parametrize("text", ["a: [1,\n", "a: 1\n  b: 2\n", "a: !x 1", "\x00"])
def test_what_is_no_yaml_is_said_of_the_file_and_not_of_a_string(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read.load(tmp_path / "mine.yaml")
    assert "unicode string" not in str(caught.value) and "http" not in str(caught.value)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read.load(tmp_path)


@pytest.mark.parametrize("recipes", [[], ["sample", "sample"], "sample", [1]])
def test_recipes_to_run_are_named_once(tmp_path: Path, recipes: object) -> None:
    path = write_yaml(tmp_path / "params.yaml", {"recipes": recipes, "folds": [0]})
    with pytest.raises(UserError, match="recipes"):
        read.load_folds(path, available=5)


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1, which PyYAML reads, takes 1e-4 for text; DVC reads YAML 1.2."""
    text = (ROOT / "recipes/sample.yaml").read_text()
    rate = f"learning_rate: {recipe()['train']['phases'][0]['learning_rate']}"
    assert rate in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(rate, "learning_rate: 1e-4"))
    assert read.load(path).train.phases[0].learning_rate == 1e-4


@pytest.mark.parametrize("folds", [[5], [-1], [0, 0], [], "all", [True], ["0"], [0.0]])
def test_folds_the_recipe_does_not_have_are_refused(tmp_path: Path, folds: object) -> None:
    path = write_yaml(tmp_path / "params.yaml", {"recipes": ["sample"], "folds": folds})
    with pytest.raises(UserError, match="folds"):
        read.load_folds(path, available=5)


def test_folds_are_read(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "params.yaml", {"recipes": ["sample"], "folds": [3, 1]})
    assert read.load_folds(path, available=5) == (3, 1)


def test_a_key_of_another_choice_is_not_suggested_to_itself(tmp_path: Path) -> None:
    content = recipe()
    content["train"]["optimizer"] |= {"momentum": 0.9}
    content["train"]["tta"] = "none"
    message = refusal(tmp_path, content)
    assert "train.optimizer.momentum: a key of another section or choice; remove it" in message
    assert "train.tta: a key of another section or choice; remove it" in message


def test_a_network_that_cannot_be_deterministic_on_a_gpu_is_refused(tmp_path: Path) -> None:
    content = recipe()
    content["train"]["model"] = {
        "architecture": "PSPNet", "encoder": "resnet18", "weights": "none", "pixel_unshuffle": 1,
    }  # fmt: skip
    content["runtime"]["deterministic"] = True
    message = refusal(tmp_path, content)
    assert "runtime.deterministic is true, which PSPNet cannot be on a GPU" in message
    content["runtime"]["accelerator"] = "cpu"
    assert read.load(write_yaml(tmp_path / "mine.yaml", content))


def test_the_dice_of_a_batch_is_refused_where_devices_share_it(tmp_path: Path) -> None:
    content = recipe()
    content["train"]["loss"] = LOSS | {"dice_of": "batch"}
    assert read.load(write_yaml(tmp_path / "mine.yaml", content))
    for name in ("devices", "nodes"):
        content["runtime"] |= {"devices": 1, "nodes": 1, name: 2}
        message = refusal(tmp_path, content)
        assert "train.loss.dice_of is batch, but each of 2 devices sees its own part" in message
