import collections
import dataclasses
import itertools
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import (
    TRAIN_CARS,
    VIEWS,
    by_group,
    gif,
    tiny_image,
    tiny_mask,
    tiny_recipe,
    write_tiny_brains,
)

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import BadImageError
from pipeline.data.samples import NO_FOLD, Sample
from pipeline.paths import Paths
from pipeline.recipe.schema import ByGroupOnce, ByImage, FirstImages, NameOrder, Recipe, Split
from pipeline.sources import brain_mri, carvana
from pipeline.split import assign_folds, run, split, straddling
from pipeline.support.errors import UserError


def cut(raw: Path, how: Split) -> list[Sample]:
    archives = Archives(raw)
    rows = split(carvana.read_entries(archives), archives, how)
    archives.close()
    samples.check_no_leak(rows, Path("samples.csv"))
    return rows


def folds_of(rows: list[Sample]) -> dict[str, int]:
    return {row.sample_id: row.fold for row in rows if row.split == "train"}


def by_image(**changes: object) -> ByImage:
    values = {"source": "carvana", "by": "image", "folds": 3, "fraction": 1, "seed": 0}
    return ByImage(**{"validation": "none"} | values | changes)


def cars(count: int) -> list[Sample]:
    """Cars of 16 views with spread-out sizes."""
    shares = np.random.default_rng(0).uniform(0.1, 0.4, count)
    return [
        Sample(f"{car:03d}_{view:02d}", "train", f"{car:03d}", "", "", NO_FOLD, 1, 1, share)
        for car, share in enumerate(shares)
        for view in range(1, 17)
    ]


def test_rows_are_measured_and_cars_stay_together(raw: Path) -> None:
    archives = Archives(raw)
    rows = split(carvana.read_entries(archives), archives, by_group(3))
    archives.close()
    samples.check_no_leak(rows, Path("samples.csv"))
    assert rows[0].size == (64, 96)
    assert rows[0].foreground == pytest.approx(tiny_mask(0).mean())
    assert collections.Counter(row.fold for row in rows) == {0: 4, 1: 4, 2: 4, NO_FOLD: 4}


def test_a_car_in_both_sets_is_refused(raw: Path, tmp_path: Path) -> None:
    archives = Archives(raw)
    entries = [
        dataclasses.replace(entry, group=TRAIN_CARS[0]) if entry.split == "test" else entry
        for entry in carvana.read_entries(archives)
    ]
    rows = split(entries, archives, by_group(2))
    archives.close()
    with pytest.raises(UserError, match=f"group {TRAIN_CARS[0]} is in fold . and in the test set"):
        samples.write(tmp_path / "samples.csv", rows)


def test_folds_are_balanced_in_images_and_size() -> None:
    rows = cars(80)
    fold_of = assign_folds(rows, folds=5, seed=1)
    count = collections.Counter(fold_of.values())
    assert set(count) == set(range(5)) and max(count.values()) - min(count.values()) <= 3
    means = [np.mean([r.foreground for r in rows if fold_of[r.group] == f]) for f in range(5)]
    assert max(means) - min(means) < 0.02


def test_folds_follow_the_seed() -> None:
    rows = cars(40)
    assert assign_folds(rows, 5, seed=1) == assign_folds(rows, 5, seed=1)
    assert assign_folds(rows, 5, seed=1) != assign_folds(rows, 5, seed=2)


def test_every_fold_gets_a_car_when_there_are_few() -> None:
    for count in (5, 6, 8):
        assert set(assign_folds(cars(count), 5, seed=1).values()) == set(range(5))


def test_fewer_cars_than_folds_are_refused() -> None:
    with pytest.raises(UserError, match="found 5 folds for 4 groups"):
        assign_folds(cars(4), 5, seed=1)


def test_a_mask_of_another_size_is_refused(raw: Path) -> None:
    stem = f"{TRAIN_CARS[0]}_01"
    with zipfile.ZipFile(raw / "train_masks.zip") as old:
        members = {name: old.read(name) for name in old.namelist()}
    members[f"train_masks/{stem}_mask.gif"] = gif(tiny_mask(0)[:-1])
    with zipfile.ZipFile(raw / "train_masks.zip", "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    archives = Archives(raw)
    said = f"{stem}_mask.gif: found 63x96 .* expected 64x96 as its image .*{stem}.jpg has; replace"
    with pytest.raises(UserError, match=said):
        split(carvana.read_entries(archives), archives, by_group(2))
    archives.close()


def test_a_mask_that_is_not_there_is_no_matter_of_running_again(raw: Path) -> None:
    archives = Archives(raw)
    entry, *others = carvana.read_entries(archives)
    entry = dataclasses.replace(entry, mask="train_masks.zip!gone.gif")
    with pytest.raises(UserError, match="its mask train_masks.zip!gone.gif is not there") as raised:
        split([entry, *others], archives, by_group(2))
    archives.close()
    assert entry.image in str(raised.value) and "again" not in str(raised.value)


def test_a_png_cut_short_is_found(raw: Path) -> None:
    """By the split, not hours later by the training."""
    whole = cv2.imencode(".png", tiny_image(tiny_mask(0), 0))[1].tobytes()
    archives = Archives(raw)
    entry, *others = carvana.read_entries(archives)
    entry = dataclasses.replace(entry, image="cut.png")
    for data in (whole[: len(whole) // 2], whole[:-12], whole[:60]):
        (raw / "cut.png").write_bytes(data)
        with pytest.raises(BadImageError, match="cut.png: .*no readable picture"):
            split([entry, *others], archives, by_group(2))
    (raw / "cut.png").write_bytes(whole)
    split([entry, *others], archives, by_group(2))
    archives.close()


@pytest.mark.parametrize("content", ["nothing", "a top folder"])
def test_where_no_image_was_found_that_is_said(raw: Path, tmp_path: Path, content: str) -> None:
    paths = Paths.of("tiny", {"raw": tmp_path / "brains", "samples": tmp_path / "samples.csv"})
    write_tiny_brains(paths.raw, leave_out=".tif")
    if content == "a top folder":
        with zipfile.ZipFile(paths.raw / brain_mri.ARCHIVE, "a") as archive:
            archive.writestr("mine/a.TIFF", b"")
    recipe = Recipe.model_validate(tiny_recipe())
    how = recipe.split.model_copy(update={"source": "brain_mri"})
    with pytest.raises(UserError, match="brain_mri found no training image") as raised:
        run(recipe.model_copy(update={"split": how}), paths)
    assert f"{brain_mri.ARCHIVE} (kaggle_3m/data.csv" in str(raised.value)
    assert "folds" not in str(raised.value)


def test_images_fall_into_folds_whatever_their_car(raw: Path) -> None:
    rows = cut(raw, by_image())
    folds = folds_of(rows)
    assert collections.Counter(folds.values()) == {0: 4, 1: 4, 2: 4}
    split_cars = [car for car in TRAIN_CARS if len({folds[f"{car}_{v}"] for v in VIEWS}) > 1]
    assert len(split_cars) > 1
    entries = carvana.read_entries(Archives(raw))
    assert straddling(entries, rows) == len(split_cars)
    assert straddling(entries, cut(raw, by_group(3))) == 0
    assert folds == folds_of(cut(raw, by_image()))
    assert folds != folds_of(cut(raw, by_image(seed=1)))
    assert all(row.group == row.sample_id for row in rows if row.split == "train")


def test_a_fraction_of_images_or_of_whole_cars_is_used(raw: Path) -> None:
    assert len(folds_of(cut(raw, by_image(fraction=0.5)))) == 6
    some = by_group(2).model_copy(update={"fraction": 0.5})
    rows = [row for row in cut(raw, some) if row.split == "train"]
    assert set(collections.Counter(row.group for row in rows).values()) == {2}
    assert len({row.group for row in rows}) == 3
    other = cut(raw, some.model_copy(update={"seed": 1}))
    assert {row.group for row in other} != {row.group for row in cut(raw, some)}
    assert len([row for row in cut(raw, some) if row.split == "test"]) == 4


def test_some_cars_are_held_out_once(raw: Path) -> None:
    once = ByGroupOnce(
        source="carvana", by="group-once", folds=1, held_out=0.3, fraction=1,
        validation="none", seed=0,
    )  # fmt: skip
    rows = cut(raw, once)
    held_out = {row.group for row in samples.held_out(rows, 0)}
    training = {row.group for row in samples.training(rows, 0)}
    assert len(held_out) == 2 and len(training) == 4 and not held_out & training
    with pytest.raises(UserError, match="found 2 folds for 1 groups"):
        cut(raw, once.model_copy(update={"fraction": 0.01}))


def test_the_first_images_are_trained_on_and_the_next_held_out(raw: Path) -> None:
    first = FirstImages(
        source="carvana", by="first-images", folds=1, training=7, held_out=3, validation="none"
    )
    rows = cut(raw, first)
    names = [f"{car}_{view}" for car in TRAIN_CARS for view in VIEWS]
    assert [row.sample_id for row in samples.training(rows, 0)] == names[:7]
    assert [row.sample_id for row in samples.held_out(rows, 0)] == names[7:10]
    assert straddling(carvana.read_entries(Archives(raw)), rows) == 1
    with pytest.raises(UserError, match="split.training: found 7 and 6 held out, but there are 12"):
        cut(raw, first.model_copy(update={"held_out": 6}))


NAMES = [f"{car}_{view}" for car in TRAIN_CARS for view in VIEWS]


def parts(rows: list[Sample], fold: int) -> tuple[list[str], ...]:
    """The names that a fold trains on, chooses by and holds out: together all that are used."""
    kinds = samples.training, samples.validation, samples.held_out
    found = tuple([row.sample_id for row in kind(rows, fold)] for kind in kinds)
    used = [row.sample_id for row in rows if row.split == "train"]
    assert sorted(itertools.chain(*found)) == sorted(used)
    return found


def test_the_last_images_are_held_out_and_the_last_of_the_others_set_apart(raw: Path) -> None:
    order = NameOrder(source="carvana", by="name-order", folds=1, held_out=0.25, validation=0.2)
    assert parts(cut(raw, order), 0) == (NAMES[:7], NAMES[7:9], NAMES[9:])
    none = order.model_copy(update={"validation": "none"})
    assert parts(cut(raw, none), 0) == (NAMES[:9], [], NAMES[9:])
    with pytest.raises(UserError, match="found 2 folds for 12 groups"):
        cut(raw, order.model_copy(update={"held_out": 0.99}))
    first = FirstImages(
        source="carvana", by="first-images", folds=1, training=8, held_out=2, validation=0.25
    )
    assert parts(cut(raw, first), 0) == (NAMES[:6], NAMES[6:8], NAMES[8:10])


def test_whole_groups_are_set_apart_and_no_fold_trains_on_them(raw: Path) -> None:
    how = by_group(3).model_copy(update={"validation": 0.34})
    rows = cut(raw, how)
    apart = {row.group for row in rows if row.validation}
    assert len(apart) == 2
    for fold in range(3):
        training, chosen_by, held_out = parts(rows, fold)
        assert not {name[:-3] for name in training} & apart
        assert {name[:-3] for name in chosen_by} == apart - {name[:-3] for name in held_out}
    assert rows == cut(raw, how), "drawn once"
    few = cut(raw, how.model_copy(update={"validation": 0.01}))
    assert all(samples.validation(few, fold) for fold in range(3)), "every fold has one of two"
    assert folds_of(rows) == folds_of(cut(raw, by_group(3))), "folds are what they were"
    with pytest.raises(UserError, match="split.validation: found 0.9, which leaves 1 of 6 groups"):
        cut(raw, how.model_copy(update={"validation": 0.9}))


def test_fewer_images_than_folds_are_refused(raw: Path) -> None:
    with pytest.raises(UserError, match="found 3 folds for 2 groups"):
        cut(raw, by_image(fraction=0.2))


def test_a_car_never_held_out_may_not_be_a_test_car_either() -> None:
    rows = cars(1)[:1]
    rows.append(dataclasses.replace(rows[0], sample_id="x", split="test"))
    with pytest.raises(UserError, match="group 000 is in no fold and in the test set"):
        samples.check_no_leak(rows, Path("samples.csv"))


def test_a_test_image_without_a_header_has_the_size_of_its_group(raw: Path) -> None:
    """It is left to the predict stage, which says what becomes of it."""
    with zipfile.ZipFile(raw / "test.zip") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    bad = next(iter(members))
    with zipfile.ZipFile(raw / "test.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, b"" if name == bad else data)
    archives = Archives(raw)
    rows = split(carvana.read_entries(archives), archives, by_group(2))
    archives.close()
    found = {row.image.rpartition("!")[2]: row.size for row in rows if row.split == "test"}
    assert found[bad] == (64, 96) and set(found.values()) == {(64, 96)}


def test_a_training_image_without_a_header_is_refused(raw: Path) -> None:
    with zipfile.ZipFile(raw / "train.zip", "w") as archive:
        for car in TRAIN_CARS:
            for view in VIEWS:
                archive.writestr(f"train/{car}_{view}.jpg", b"")
    archives = Archives(raw)
    with pytest.raises(BadImageError, match=r"train.zip!train/.*jpg"):
        split(carvana.read_entries(archives), archives, by_group(2))
    archives.close()
