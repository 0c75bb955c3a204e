"""Ensembles of recipes: weights from out-of-fold levels, levels blended without any network."""

import dataclasses
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import (
    HEIGHT,
    ROOT,
    TEST_CARS,
    VIEWS,
    WIDTH,
    tiny_mask,
    tiny_recipe,
    write_tiny_archives,
)
from conftest import write_yaml as write
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline import blend
from pipeline.__main__ import main
from pipeline.data import samples
from pipeline.data.rows import read_rows
from pipeline.data.samples import Sample
from pipeline.evaluation import judge, out_of_fold
from pipeline.evaluation.decision import Decision
from pipeline.levels import kept, scale
from pipeline.levels.scale import mix
from pipeline.masks import rle
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import Validate
from pipeline.support import workspace
from pipeline.support.errors import UserError

FOLDS = (0, 1)
SIZES = {"good": (32, 48), "other": (64, 96)}
maps = arrays.arrays(np.uint8, (3, 5))


@given(st.lists(st.tuples(maps, st.integers(0, 9)), min_size=1, max_size=4))
def test_levels_are_averaged_as_probabilities(pairs: list[tuple[np.ndarray, int]]) -> None:
    levels, weights = zip(*pairs, strict=True)
    if not sum(weights):
        return
    mean = sum(weight * (one + 0.5) for one, weight in pairs) / sum(weights)
    np.testing.assert_array_equal(mix(levels, weights, (3, 5)), np.floor(mean + 1e-9))


def test_maps_of_other_sizes_are_brought_to_one() -> None:
    small = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    large = np.full((4, 6), 100, np.uint8)
    found = mix([small, large], [1, 1], (4, 6))
    expected = (scale.full_resolution(small, (4, 6)).astype(int) + 100 + 1) // 2
    np.testing.assert_allclose(found, expected, atol=1)
    classes = mix([np.stack([small, small]), np.stack([large, large])], [1, 3], (4, 6))
    assert classes.shape == (2, 4, 6)


def test_weights_are_compared_on_images_of_all_views() -> None:
    """Each eighth of sixteen views a car would be of two views alone."""
    cars = [f"car{number:03}" for number in range(64)]
    rows = {
        fold: [
            Sample(f"{car}_{view:02}", "train", car, "", "", fold, 1, 1, 0.5)
            for car in cars
            for view in range(16)
        ]
        for fold in (0, 1, 2)
    }
    some = blend.drawn(rows)
    assert some == blend.drawn(rows) and blend.CHOOSING - 3 <= len(some) <= blend.CHOOSING
    assert [row.fold for row in some] == sorted(row.fold for row in some)
    for fold in rows:
        found = [row for row in some if row.fold == fold]
        assert found == sorted(found, key=rows[fold].index)
        assert len({row.sample_id[-2:] for row in found}) == 16
    assert blend.drawn({0: rows[0][:7]}) == rows[0][:7]


class Given:
    """Dice that depends on the weights alone, by fold."""

    def __init__(self, value: Callable[[tuple[int, ...], int], float]) -> None:
        self.folds = np.array([0, 0, 1, 1, 2, 2])
        self._value = value

    def of(self, weights: tuple[int, ...]) -> np.ndarray:
        each = [self._value(weights, fold) for fold in self.folds.tolist()]
        return np.repeat(np.array(each)[:, None], 256, axis=1)


def test_weights_are_chosen_greedily() -> None:
    def value(weights: tuple[int, ...], fold: int) -> float:
        share = np.array(weights) / sum(weights)
        return 1 - float(((share - [0.7, 0.3, 0]) ** 2).sum())

    assert blend.choose(Given(value), 3, ()) == (7, 3, 0)
    assert blend.choose(Given(lambda weights, fold: weights[1] / sum(weights)), 3, ()) == (0, 1, 0)


def test_weights_of_a_fold_do_not_look_at_it() -> None:
    """Fold 0 wants the first member alone, the others the second."""

    def value(weights: tuple[int, ...], fold: int) -> float:
        return weights[0 if fold == 0 else 1] / sum(weights) * (10 if fold == 0 else 1)

    assert blend.choose(Given(value), 2, ()) == (1, 0)
    assert blend.choose(Given(value), 2, (0,)) == (0, 1)
    assert blend.choose(Given(value), 2, (1,)) == (1, 0)


# --- the command


def noisy(row: Sample, name: str) -> np.ndarray:
    """Levels at the network size of a member, whose mistakes are its own."""
    generator = np.random.default_rng([len(name), *row.sample_id.encode()])
    mask = tiny_mask(int(row.group[2:], 16)) if row.split == "train" else tiny_mask(1)
    noise = generator.normal(0, 0.5 if name == "good" else 0.6, (8, 12))
    soft = cv2.resize(mask.astype(np.float32), SIZES[name][::-1], interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(noise, SIZES[name][::-1], interpolation=cv2.INTER_CUBIC)
    return scale.of(np.clip(soft * 0.6 + 0.2 + smooth * 0.35, 0, 1))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two recipes with levels, and a blend of them."""
    monkeypatch.chdir(tmp_path)
    for name in SIZES:
        write(recipe_file(name), tiny_recipe())
        write_tiny_archives(Paths.of(name).raw)
        main(["split", name])
        keep(name)
    recipe = tiny_recipe()
    parts = {key: recipe[key] for key in recipe if key not in ("download", "split", "train")}
    write(recipe_file("both"), parts | {"blend": {"recipes": [*SIZES], "weights": "auto"}})
    write(tmp_path / "params.yaml", {"recipes": [*SIZES], "blends": ["both"], "folds": [*FOLDS]})
    return tmp_path


def keep(name: str) -> None:
    paths = Paths.of(name)
    table = samples.read(paths.samples)
    for folder, rows in [
        *((paths.oof_levels(fold), samples.held_out(table, fold)) for fold in FOLDS),
        (paths.kept, samples.test(table)),
    ]:
        images = (kept.Image.of(row.sample_id, noisy(row, name), 0.01, "") for row in rows)
        kept.write(folder, name, images, len(rows))
    for fold in FOLDS:
        rows = samples.held_out(table, fold)
        judge.judge_fold(paths, fold, rows, 1, Validate(tta="none", worst=1, random=0), "")


def dice(name: str) -> float:
    main(["tune", name])
    return json.loads(Paths.of(name).metrics.read_text())["dice_at_half"]


def test_a_blend_is_tuned_like_any_other(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["blend", "both"])
    assert "fold 1:" in capsys.readouterr().out
    each = {name: dice(name) for name in (*SIZES, "both")}
    assert each["both"] > max(each["good"], each["other"])
    told = json.loads(Paths.of("both").blending.read_text())
    weights = [told["weights"][name] for name in SIZES]
    assert sum(weights) == pytest.approx(1) and set(told["weights_by_fold"]) == {"0", "1"}

    paths, table = Paths.of("both"), samples.read(Paths.of("both").samples)
    for fold in FOLDS:
        rows = samples.held_out(table, fold)
        shares = np.array(told["weights_by_fold"][str(fold)]) * 1000
        for row, image in zip(rows, judge.open_levels(paths, fold, rows).images(), strict=True):
            members = [noisy(row, name) for name in SIZES]
            expected = mix(members, shares.round().astype(int).tolist(), (64, 96))
            assert np.abs(image.levels().astype(int) - expected).max() <= 1
    test = samples.test(table)
    found = kept.Kept.open(paths.kept, [row.sample_id for row in test], "")
    assert [one.shape for one in found.images()] == [(64, 96)] * len(TEST_CARS) * len(VIEWS)
    assert all(0.01 <= one.disagreement < 1 for one in found.images())
    assert out_of_fold.read(paths, FOLDS).counts.sum() == 12 * HEIGHT * WIDTH
    main(["encode", "both"])
    written = dict(read_rows(paths.submission_file))
    decision = Decision.read(paths.metrics)
    for row, image in zip(test, found.images(), strict=True):
        expected = rle.encode(decision.mask(image.levels(), row.size))
        assert written[f"{row.sample_id}.jpg"] == expected
    before = (paths.kept / "chunk-00000.levels").read_bytes()
    main(["blend", "both"])
    assert (paths.kept / "chunk-00000.levels").read_bytes() == before


def test_a_blend_follows_its_first_member_s_archives(project: Path) -> None:
    main(["blend", "both"])
    theirs, own = Paths.of("good").raw, Paths.of("both").raw
    assert sorted(path.name for path in own.iterdir()) == sorted(p.name for p in theirs.iterdir())
    masks = theirs / "train_masks.zip"
    fresh = masks.with_name("fresh.zip")
    with zipfile.ZipFile(masks) as old, zipfile.ZipFile(fresh, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.comment = b"corrected"
    fresh.replace(masks)
    (own / "left.zip").write_bytes(b"of another first member")
    main(["blend", "both"])
    assert (own / masks.name).read_bytes() == masks.read_bytes()
    assert not (own / "left.zip").exists()


def test_one_fold_cannot_check_the_weights(project: Path) -> None:
    main(["blend", "both", "--fold", "0"])
    assert out_of_fold.read(Paths.of("both"), [0]).choices == "the weights of the blend"


def test_weights_can_be_given(project: Path) -> None:
    recipe = tiny_recipe()
    parts = {key: recipe[key] for key in recipe if key not in ("download", "split", "train")}
    write(recipe_file("both"), parts | {"blend": {"recipes": [*SIZES], "weights": [0, 3]}})
    main(["blend", "both"])
    assert out_of_fold.read(Paths.of("both"), FOLDS).choices == ""
    rows = samples.held_out(samples.read(Paths.of("both").samples), 0)
    for row, image in zip(rows, judge.open_levels(Paths.of("both"), 0, rows).images(), strict=True):
        np.testing.assert_array_equal(image.levels(), noisy(row, "other"))


def test_members_that_leak_are_refused(project: Path) -> None:
    path = Paths.of("other").samples
    table = samples.read(path)
    group = table[0].group
    moved = [
        dataclasses.replace(row, fold=1 - row.fold) if row.group == group else row for row in table
    ]
    samples.write(path, moved)
    with pytest.raises(
        SystemExit, match=rf"image .* of group {group} is held out by fold \d, but .* it leaks"
    ):
        main(["blend", "both"])
    assert not Paths.of("both").kept.exists()


def test_it_is_reported_and_submitted_like_any_other(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("blend", "tune", "encode", "report"):
        main([verb, "both"])
    assert "recipes: [good, other]" in Paths.of("both").report.read_text()
    asked: list[str] = []
    monkeypatch.setattr(workspace, "require_current", asked.append)
    main(["submit", "both", "--check-only"])
    assert asked == ["encode-blend@both"] and "4 rows, 0 of them empty" in capsys.readouterr().out
    write(project / "params.yaml", {"recipes": ["good"], "blends": ["both"], "folds": [*FOLDS]})
    with pytest.raises(SystemExit, match="'other' is missing, of which 'both' is made"):
        main(["submit", "both", "--check-only"])


def test_check_knows_what_is_blended(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "both"])
    said = capsys.readouterr().out
    assert "dvc repro runs good, other, both" in said
    assert "of 2 folds dvc repro blends 0, 1" in said


def test_dvc_sees_when_a_blend_is_out_of_date(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what recipes add to it, and by nothing of those that add nothing."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=ignored)
    shutil.copy(ROOT / "dvc.yaml", project)
    third = Paths.of("third")  # no member
    shutil.copytree(Paths.of("good").samples.parent, third.samples.parent)
    for folder in (third.oof, third.kept):
        folder.mkdir(parents=True)
    shutil.copy(recipe_file("good"), recipe_file("third"))
    names = [*SIZES, "third"]
    write(project / "params.yaml", {"recipes": names, "blends": ["both"], "folds": [*FOLDS]})
    members = [f"member@both-{name}" for name in names]
    Repo.init(no_scm=True)

    def repro(*stages: str) -> list[str]:
        return [stage.name for stage in Repo().reproduce(stages, single_item=True)]

    assert repro(*members, "blend@both", "tune-blend@both") == [
        *members, "blend@both", "tune-blend@both",
    ]  # fmt: skip
    assert Paths.of("both").metrics.exists() and not repro(*members, "blend@both")
    (third.kept / "chunk-00000.levels").write_bytes(b"something new")
    assert repro(*members, "blend@both") == ["member@both-third"]
    rows = samples.test(samples.read(Paths.of("good").samples))
    images = (kept.Image.of(row.sample_id, noisy(row, "other"), 0.0, "") for row in rows)
    kept.write(Paths.of("good").kept, "anew", images, len(rows))
    assert repro(*members, "blend@both", "tune-blend@both") == ["member@both-good", "blend@both"]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"recipes": ["good", "both"], "blends": []}, "recipes: found 'both', an ensemble"),
        ({"recipes": ["good"], "blends": ["other"]}, "blends: found 'other', no ensemble"),
        ({"recipes": ["good"], "blends": ["both"]}, "recipes: 'other' is missing, of which 'both'"),
        ({"recipes": ["good"]}, r"blends: missing, which dvc\.yaml reads"),
    ],
)
def test_params_list_ensembles_apart(project: Path, listed: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read.load_blends(write(project / "params.yaml", listed | {"folds": [0]}))


def test_a_blend_has_no_networks(project: Path) -> None:
    for verb in ("train", "validate"):
        with pytest.raises(SystemExit, match="a blend has no networks to .* run pipeline blend"):
            main([verb, "both", "--fold", "0"])
    with pytest.raises(SystemExit, match=r"good\.yaml: found no section blend"):
        main(["blend", "good"])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"recipes": ["good", "nowhere"], "weights": "auto"}, r"nowhere\.yaml: no such file"),
        ({"recipes": ["good"], "weights": "auto"}, r"blend\.recipes: "),
        ({"recipes": ["good", "both"], "weights": "auto"}, "expected recipes that are trained"),
        ({"recipes": ["good", "other"], "weights": [1]}, "a whole number for each recipe"),
        ({"recipes": ["good", "other"], "weights": [0, 0]}, "not all 0"),
        ({"recipes": "good", "weights": "auto"}, "expected a list of recipes"),
    ],
)
def test_a_blend_s_section_is_read_strictly(project: Path, section: dict, said: str) -> None:
    recipe = tiny_recipe()
    parts = {key: recipe[key] for key in recipe if key not in ("download", "split", "train")}
    write(recipe_file("both"), parts | {"blend": section})
    with pytest.raises(UserError, match=said):
        read.load(recipe_file("both"))
