import collections
import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAIN_CARS, gif, tiny_mask

from pipeline import samples
from pipeline.archives import Archives
from pipeline.errors import UserError
from pipeline.samples import NO_FOLD, Sample
from pipeline.sources import carvana
from pipeline.split import assign_folds, split


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
    rows = split(carvana.read_entries(archives), archives, folds=3, seed=0)
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
    rows = split(entries, archives, folds=2, seed=0)
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
    with pytest.raises(UserError, match=f"{stem}_mask.gif: found 63x96 .* expected 64x96"):
        split(carvana.read_entries(archives), archives, folds=2, seed=0)
    archives.close()
