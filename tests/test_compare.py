"""Two recipes compared image by image, on one page that asks nothing of the network."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_recipe, write_yaml
from pages import Opened
from playwright.sync_api import Browser
from test_blend import FOLDS, SIZES, project

from pipeline.__main__ import main
from pipeline.compare import stage as compare
from pipeline.data import samples
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read

__all__ = ["project"]  # the fixture


def table(differences: list[float], groups: list[str]) -> pd.DataFrame:
    second = 0.5 + np.array(differences)
    views = [f"{i % 2:02d}" for i in range(len(groups))]
    found = pd.DataFrame({"sample_id": range(len(groups)), "group": groups, "view": views})
    for name in ("dice", "distance", "near"):
        found[f"a_{name}"], found[f"b_{name}"] = 0.5, second
    return found


def test_a_difference_is_paired_and_its_interval_is_over_groups() -> None:
    groups = [f"g{i // 4}" for i in range(40)]
    all_better = compare.difference(table([0.01] * 40, groups), "dice")
    assert (all_better.first, all_better.second) == (0.5, pytest.approx(0.51))
    assert all_better.low == pytest.approx(0.01) == all_better.high
    assert all_better.verdict.startswith("better by 0.010000")
    assert compare.difference(table([0.01] * 40, groups), "distance").verdict.startswith("worse")
    assert compare.difference(table([-0.01] * 40, groups), "dice").verdict.startswith("worse by")
    mixed = compare.difference(table([0.01, -0.01] * 20, groups), "dice")
    assert mixed.verdict == "no difference beyond chance"
    one_group = [0.2] * 4 + [0.0] * 36
    assert compare.difference(table(one_group, groups), "dice").low == 0, "images of one car"
    assert compare.difference(table([0.1] * 40, ["a"] * 40), "dice").verdict.startswith("one group")


def test_wins_are_counted_by_image() -> None:
    found = compare.count_wins(table([0.1, -0.1, 0.1, 0.0], ["a", "a", "b", "b"]), "view")
    assert found["images"].tolist() == [2, 2]
    assert found["b_wins"].tolist() == [2, 0] and found["a_wins"].tolist() == [0, 1]
    assert found["difference"].tolist() == pytest.approx([0.1, -0.05])


def test_settings_that_differ_are_found_at_any_depth(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    first = read.load(write_yaml(tmp_path / "recipes/a.yaml", recipe))
    assert compare.settings_that_differ(first, first) == []
    recipe["train"]["augment"]["hflip"] = 0.25
    recipe["validate"]["tta"] = "none"
    second = read.load(write_yaml(tmp_path / "recipes/b.yaml", recipe))
    assert compare.settings_that_differ(first, second) == [
        ("train.augment.hflip", "0.5", "0.25"), ("validate.tta", "hflip", "none"),
    ]  # fmt: skip


def test_the_page_says_who_wins_and_shows_where(
    project: Path, capsys: pytest.CaptureFixture[str], browser: Browser
) -> None:
    for name in SIZES:
        main(["tune", name])
    main(["compare", "good", "other"])
    said = capsys.readouterr().out
    path = Paths.comparison("good", "other")
    assert str(path) in said and "other against good:" in said and "12 images" in said
    dices = [json.loads(Paths.of(name).metrics.read_text())["dice"] for name in SIZES]
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            opened = Opened(browser, project / path, width, scheme)
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
            assert not opened.printed_over()
            cells = opened.page.locator("tbody >> nth=0 >> tr >> nth=0 >> td").all_inner_texts()
            assert cells[:2] == [f"{value:.5f}" for value in dices], "as tune has them"
            assert opened.page.locator("section img").count() == 4 * 12
            assert opened.page.locator("section img").evaluate_all(
                "all => all.every(one => one.complete && one.naturalWidth > 0)"
            )
            opened.page.emulate_media(media="print")
            assert not opened.printed_over()
            assert width == 400 or not opened.cut_off(), "paper does not scroll"
            opened.context.close()
            assert opened.problems == []
    text = path.read_text()
    assert "only A" in text and "None: the code" in text
    moved = [
        float(one.replace("−", "-")) for one in re.findall(r", ([+−][\d.]+)</span></h3>", text)
    ]
    assert [abs(one) for one in moved] == sorted(map(abs, moved), reverse=True) and moved
    assert len(text) < 5e6


def test_one_recipe_at_two_times(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side comes from git and DVC's cache: as it was committed, or as an experiment."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    main(["tune", "good"])
    paths = Paths.of("good")
    then = json.loads(paths.metrics.read_text())["dice"]
    git("init", "-q")
    outs = [paths.samples, paths.metrics, *(paths.oof_levels(fold) for fold in FOLDS)]
    dvc = str(Path(sys.executable).with_name("dvc"))
    for command in (("init", "-q"), ("config", "core.analytics", "false"), ("add", "-q", *outs)):
        subprocess.run([dvc, *map(str, command)], check=True)
    git("add", "recipes", ".dvc", *(f"{path}.dvc" for path in outs))
    git("commit", "-qm", "then")
    git("update-ref", "refs/exps/ab/cd/bold-name", "HEAD")
    shutil.copy(recipe_file("good"), recipe_file("newer"))  # not there at that time
    recipe = tiny_recipe()
    recipe["tune"]["threshold"] = 0.25
    write_yaml(recipe_file("good"), recipe)
    main(["tune", "good"])
    now = json.loads(paths.metrics.read_text())["dice"]
    for revision in ("HEAD", "bold-name"):
        main(["compare", "good", f"good@{revision}"])
        assert f"good@{revision} against good: " in capsys.readouterr().out
        text = Paths.comparison("good", f"good@{revision}").read_text()
        assert f"<td>{now:.5f}</td><td>{then:.5f}</td>" in text
        assert re.search(r"tune\.threshold</th><td>0\.25</td><td>auto</td>", text)
    with pytest.raises(SystemExit, match="@nowhere: no revision .*experiments: bold-name"):
        main(["compare", "good", "good@nowhere"])
    paths.metrics.with_suffix(".json.dvc").unlink()
    git("add", "-A", "eval")
    git("commit", "-qm", "without metrics")
    with pytest.raises(SystemExit, match="eval/good/metrics.json of that revision cannot"):
        main(["compare", "good", "good@HEAD"])


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def test_a_recipe_against_itself_is_no_difference(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tune", "good"])
    main(["compare", "good", "good", "--fold", "1"])
    assert "good against good: no difference beyond chance, 6 images" in capsys.readouterr().out


def test_other_folds_are_no_hindrance(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each image is out of fold on both sides, whichever fold that was."""
    main(["tune", "good"])
    places = {name: Path("swapped", name) for name in ("samples", "oof", "evaluation")}
    swapped, good = Paths.of("good", places), Paths.of("good")
    rows = samples.read(good.samples)
    swapped.samples.parent.mkdir()
    samples.write(
        swapped.samples,
        [dataclasses.replace(r, fold=1 - r.fold) if r.split == "train" else r for r in rows],
    )
    for fold in FOLDS:
        target = swapped.oof_levels(1 - fold)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(good.oof_levels(fold).resolve())
    swapped.evaluation.symlink_to(good.evaluation.resolve())
    a = compare.Side.open("good", recipe_file("good"), good)
    b = compare.Side.open("swapped", recipe_file("good"), swapped)
    match = compare.Match(a, b, compare._pairs(a, b, None))
    found = pd.DataFrame(compare._measure(match))
    assert len(found) == 12 and (found["a_dice"] == found["b_dice"]).all()


def test_what_cannot_be_compared_is_one_line(project: Path) -> None:
    with pytest.raises(SystemExit, match="recipes/god.yaml"):
        main(["compare", "god", "other"])
    with pytest.raises(SystemExit, match="run the tune stage first"):
        main(["compare", "good", "recipes/other.yaml"])
    for name in SIZES:
        main(["tune", name])
    with pytest.raises(SystemExit, match="found no held-out image that both have"):
        main(["compare", "good", "other", "--fold", "7"])
    with pytest.raises(SystemExit, match="git for-each-ref .* not a git repository"):
        main(["compare", "good", "good@nowhere"])
