"""What validate keeps is what the fold's own network says, with its flips, and nothing else."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_recipe, write_tiny_archives, write_yaml

from pipeline.__main__ import main
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.samples import Label
from pipeline.evaluation import judge, out_of_fold
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.support import hardware
from pipeline.support.errors import UserError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A tiny project with a network of random weights for each of two folds."""
    monkeypatch.chdir(tmp_path)
    paths = Paths.of("tiny")
    write_yaml(recipe_file("tiny"), tiny_recipe())
    write_tiny_archives(paths.raw)
    main(["split", "tiny"])
    for fold in (0, 1):
        save(paths, fold)
    return paths


def save(paths: Paths, fold: int, spoil: bool = False) -> model.Segmenter:
    torch.manual_seed(fold)
    network = {"architecture": "cnn", "widths": [4, 4]}
    description = model.Description(network, (32, 64), "area", (0.5,) * 3, (0.1,) * 3, 1, fold)
    built = model.build(description, "none").eval()
    if spoil:
        with torch.no_grad():
            next(built.parameters()).fill_(torch.nan)
    model.save(paths.model(fold), built, built.state_dict())
    return built


def validate(tta: str) -> None:
    recipe = tiny_recipe()
    recipe["validate"]["tta"] = tta
    write_yaml(recipe_file("tiny"), recipe)
    main(["validate", "tiny", "--fold", "1"])


def levels(paths: Paths) -> np.ndarray:
    rows = samples.held_out(samples.read(paths.samples), 1)
    return np.stack([one.levels() for one in judge.open_levels(paths, 1, rows).images()])


@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_levels_are_those_of_the_fold_s_network_and_its_flips(project: Paths, tta: str) -> None:
    validate(tta)
    fabric = hardware.launch("cpu", "32-true", 1, 1, 1)
    network = model.load(project.model(1))
    predictor = Predictor.of({"it": network}, tta, fabric, 4, 0, False)  # type: ignore[arg-type]
    rows = samples.held_out(samples.read(project.samples), 1)
    expected = [one.levels for one in predictor.predict(rows, Archives(project.raw))]
    np.testing.assert_array_equal(levels(project), expected)


def test_flips_make_a_difference(project: Paths) -> None:
    validate("none")
    once = levels(project)
    validate("hflip")
    assert (levels(project) != once).any()


def test_counts_and_the_printed_dice_are_of_what_was_kept(
    project: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    validate("none")
    found = out_of_fold.read(project, [1])
    mean = np.mean([one.dice for one in found.measures])
    assert f"fold 1: out-of-fold Dice {mean:.5f} at 0.5, 6 images" in capsys.readouterr().out
    before = found.counts
    settings = read.load(recipe_file("tiny")).validate_
    again = judge.judge_fold(project, 1, list(found.rows), 1, settings, "")
    np.testing.assert_array_equal([one.counts for one in again], before)


def test_a_held_out_image_that_cannot_be_read_ends_the_stage(project: Paths) -> None:
    row = samples.held_out(samples.read(project.samples), 1)[0]
    name, path = row.image.partition("!")[2], project.raw / "train.zip"
    with zipfile.ZipFile(path) as old:
        members = {member: old.read(member) for member in old.namelist()}
    members[name] = members[name][:-300]
    with zipfile.ZipFile(path, "w") as new:
        for member, content in members.items():
            new.writestr(member, content)
    with pytest.raises(SystemExit, match=rf"{row.sample_id}\.jpg"):
        validate("none")
    assert not project.counts(1).exists() and not project.oof_levels(1).exists()


def test_counts_of_other_levels_do_not_outlive_them(
    project: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate("none")
    before = project.counts(1).read_bytes()
    save(project, 1, spoil=True)
    with pytest.raises(SystemExit, match="NaN"):
        validate("none")
    assert project.counts(1).read_bytes() == before, "of levels that are still there"

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    save(project, 1)
    monkeypatch.setattr(judge, "judge_fold", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        validate("hflip")
    assert project.oof_levels(1).exists()
    assert not project.counts(1).exists() and not project.measures(1).exists()


@pytest.mark.parametrize("of", ["group", "sample_id"])
def test_a_network_that_has_seen_a_held_out_image_is_refused(project: Paths, of: str) -> None:
    """Whatever its fold is called: the table may have been split anew since."""
    row = samples.held_out(samples.read(project.samples), 1)[0]
    network = model.load(project.model(1))
    network.description = dataclasses.replace(network.description, seen=(getattr(row, of),))
    model.save(project.model(1), network, network.state_dict())
    said = f"has been trained on 1 of the groups .* holds out in fold 1, {row.group} for one"
    with pytest.raises(SystemExit, match=said):
        validate("none")


def test_a_network_that_says_nan_is_named_and_leaves_nothing(project: Paths) -> None:
    save(project, 1, spoil=True)
    with pytest.raises(SystemExit, match=r"fold1/model\.pt: .*\.jpg is NaN or infinite"):
        validate("none")
    assert not project.counts(1).exists() and not project.oof_levels(1).exists()


def test_a_network_of_another_fold_is_refused(project: Paths) -> None:
    project.model(1).write_bytes(project.model(0).read_bytes())
    with pytest.raises(SystemExit, match="trained without fold 0, expected fold 1"):
        validate("none")


def test_damaged_levels_are_noticed_and_name_the_stage(project: Paths) -> None:
    validate("none")
    (chunk,) = project.oof_levels(1).glob("*.levels")
    data = bytearray(chunk.read_bytes())
    data[len(data) // 3] ^= 1
    chunk.write_bytes(data)
    rows = samples.held_out(samples.read(project.samples), 1)
    with pytest.raises(UserError, match="run the validate stage of this fold again"):
        judge.open_levels(project, 1, rows)


THREE = (Label("background", 0), Label("pet", 1), Label("border", 2))


def test_a_table_of_other_classes_is_refused(project: Paths) -> None:
    table = samples.read(project.samples)
    samples.write(project.samples, [
        dataclasses.replace(row, labels=THREE) if row.split == "train" else row for row in table
    ])  # fmt: skip
    with pytest.raises(SystemExit, match="found 1, .*expected 3"):
        validate("none")
    assert not project.oof_levels(1).exists()
