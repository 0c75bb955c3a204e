from pathlib import Path

import pytest
import yaml
from conftest import ROOT, write_yaml

from pipeline import params
from pipeline.errors import UserError
from pipeline.settings.base import Section

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def recipe() -> dict:
    return yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())


def refusal(tmp_path: Path, content: object) -> str:
    path = write_yaml(tmp_path / "mine.yaml", content)
    with pytest.raises(UserError) as caught:
        params.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_values_arrive_as_written(tmp_path: Path) -> None:
    content = recipe()
    content["train"]["epochs"] = 7
    loaded = params.load(write_yaml(tmp_path / "mine.yaml", content))
    assert loaded.train.epochs == 7
    assert loaded.train.size == tuple(content["train"]["size"])


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        params.load(RECIPES[0]).train.epochs = 3  # type: ignore[misc]


def test_no_value_has_a_default() -> None:
    """A default in code could change a result without a trace in the YAML."""
    for section in all_sections(Section):
        assert all(field.is_required() for field in section.model_fields.values()), section


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
    content["train"]["epoch"] = content["train"].pop("epochs")
    message = refusal(tmp_path, content)
    assert "train.epochs: missing" in message
    assert "train.epoch: unknown key; did you mean 'epochs'?" in message


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("train", "epochs"), 0, "train.epochs: found 0; Input should be greater than or"),
        (("train", "epochs"), "many", "train.epochs: found 'many'"),
        (("train", "size"), [0, 128], "train.size.0: found 0; Input should be greater than or"),
        (("train", "optimiser", "learning_rate"), -1, "train.optimiser.learning_rate: found -1"),
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
    tmp_path: Path, keys: tuple[str, ...], value: object, said: str
) -> None:
    content = recipe()
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    assert said in refusal(tmp_path, content)


def test_an_unknown_recipe_lists_those_there(tmp_path: Path) -> None:
    write_yaml(tmp_path / "mine.yaml", recipe())
    with pytest.raises(UserError, match=r"other\.yaml: no such file; there are: mine\.yaml"):
        params.load(tmp_path / "other.yaml")


@pytest.mark.parametrize("text", ["train: [", "a: 1\na: 2\n", "\x00", "- 1\n", ""])
def test_what_is_no_recipe_at_all_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml: "):
        params.load(path)


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1, which PyYAML reads, takes 1e-4 for text; DVC reads YAML 1.2."""
    text = (ROOT / "recipes/sample.yaml").read_text()
    rate = f"learning_rate: {recipe()['train']['optimiser']['learning_rate']}"
    assert rate in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(rate, "learning_rate: 1e-4"))
    assert params.load(path).train.optimiser.learning_rate == 1e-4


@pytest.mark.parametrize("folds", [[5], [-1], [0, 0], [], "all"])
def test_folds_the_recipe_does_not_have_are_refused(tmp_path: Path, folds: object) -> None:
    path = write_yaml(tmp_path / "params.yaml", {"recipes": ["sample"], "folds": folds})
    with pytest.raises(UserError, match="folds"):
        params.load_folds(path, available=5)


def test_folds_are_read(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "params.yaml", {"recipes": ["sample"], "folds": [3, 1]})
    assert params.load_folds(path, available=5) == (3, 1)


def test_a_key_of_another_choice_is_not_suggested_to_itself(tmp_path: Path) -> None:
    content = recipe()
    content["train"]["optimiser"] |= {"momentum": 0.9}
    content["train"]["tta"] = "none"
    message = refusal(tmp_path, content)
    assert "train.optimiser.momentum: a key of another section or choice; remove it" in message
    assert "train.tta: a key of another section or choice; remove it" in message
