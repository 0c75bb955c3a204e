import dataclasses
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import by_group, classes_of, write_tiny_pets

from pipeline.augmentation import Augmentation
from pipeline.data.archives import Archives
from pipeline.data.images import soft_target
from pipeline.data.samples import Sample
from pipeline.recipe.schema import Augment
from pipeline.sources import oxford_pets
from pipeline.split import split
from pipeline.support.errors import UserError
from pipeline.train import data
from pipeline.train.data import (
    Decoder,
    Share,
    Shuffle,
    TrainingSet,
    load_batches,
    prefer_foreground,
)

SIZE = (32, 64)


@pytest.fixture
def rows(rows: list[Sample]) -> list[Sample]:
    return rows[:8]


def training_set(rows: list[Sample], archives: Archives) -> TrainingSet:
    ranges = Augment(
        hflip=0.5, vflip=0, affine=1, shift=0.1, scale=0.1, keep_aspect=False, rotate=5,
        border="mirror",
        color=0.5, color_like="torchvision", lighten=0, brightness=0.2, contrast=0.2,
        saturation=0.2, hue=0.1, triple=False,
    )  # fmt: skip
    return TrainingSet(rows, Decoder(rows, archives, SIZE, "area"), Augmentation(ranges))


def shuffle(
    rows: int, batch_size: int, seed: int, accumulate: int = 1, process: int = 0, processes: int = 1
) -> Shuffle:
    share = Share(process, processes, processes)
    return Shuffle(rows, batch_size, seed, accumulate=accumulate, share=share)


def test_rows_are_found_among_more_images(rows, archives) -> None:
    """Those held out lie in the cache too, and are not what is drawn."""
    decoder = Decoder(rows, archives, SIZE, "area")
    still = Augment(
        hflip=0, vflip=0, affine=0, shift=0.1, scale=0.1, keep_aspect=False, rotate=5,
        border="mirror", color=0,
        color_like="torchvision", lighten=0, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1,
        triple=False,
    )  # fmt: skip
    made = TrainingSet(rows[2::2], decoder, Augmentation(still))
    for index, place in enumerate(range(2, len(rows), 2)):
        image, target, found = made[index, 0]
        assert found == index
        np.testing.assert_array_equal(image, decoder[place][0])
        np.testing.assert_array_equal(target, decoder[place][1])


def test_a_draw_is_an_image_and_its_soft_target(rows, archives) -> None:
    image, target, index = training_set(rows, archives)[3, 0]
    assert index == 3
    assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
    assert target.shape == SIZE and target.dtype == np.uint8


def test_workers_change_no_pixel(rows, archives) -> None:
    def epoch(workers: int) -> list[torch.Tensor]:
        batches = shuffle(len(rows), 3, seed=4)
        loader = load_batches(training_set(rows, archives), batches, workers, pin=False)
        return [part for batch in loader for part in batch]

    for one, other in zip(epoch(0), epoch(min(2, len(os.sched_getaffinity(0)))), strict=True):
        assert torch.equal(one, other)


def test_workers_start_where_opencv_has_threads(rows, archives) -> None:
    """In a forked process those threads are gone, and whoever waits for them waits forever."""
    cv2.setNumThreads(2)
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1500, 1500))  # large enough to share
    loader = load_batches(training_set(rows, archives), shuffle(len(rows), 3, seed=4), 1, pin=False)
    loader.timeout = 60
    assert len(list(loader)) == len(rows) // 3


def test_a_small_dev_shm_is_told_before_workers_start(
    rows, archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    some = training_set(rows, archives), shuffle(len(rows), 4, seed=1)
    needed = r"runtime.workers: 2 processes with 4 batches ready each need 0 MB of /dev/shm, which"
    with pytest.raises(UserError, match=needed.replace("0 MB", r"\d+ MB")):
        load_batches(*some, 2, pin=False)
    assert load_batches(*some, 0, pin=False)


def test_an_epoch_draws_every_row_at_most_once() -> None:
    batches = shuffle(10, 3, seed=1)
    drawn = [index for batch in batches for index, _ in batch]
    assert len(drawn) == len(set(drawn)) == 9 and len(batches) == 3
    assert [len(batch) for batch in batches] == [3, 3, 3]


def test_epochs_differ_and_repeat_by_seed() -> None:
    batches, again = shuffle(50, 5, seed=1), shuffle(50, 5, seed=1)
    first = list(batches)
    assert first == list(again)
    batches.epoch = 1
    second = list(batches)
    assert second != first
    seeds = [seed for batch in [*first, *second] for _, seed in batch]
    assert len(set(seeds)) == len(seeds), "an augmentation seed came up twice"


def test_fewer_rows_than_a_batch_make_one_batch() -> None:
    assert [len(batch) for batch in shuffle(2, 8, seed=1)] == [2]


def test_an_epoch_is_whole_steps() -> None:
    batches = shuffle(11, 2, seed=1, accumulate=2)
    assert batches.steps == 2 and [len(batch) for batch in batches] == [2, 2, 2, 2]
    large = [draw for batch in shuffle(11, 4, seed=1) for draw in batch]
    assert [draw for batch in batches for draw in batch] == large
    few = shuffle(5, 2, seed=1, accumulate=9)
    assert (few.accumulate, few.steps) == (2, 1), "as many as there are"


def test_an_epoch_goes_on_from_any_batch() -> None:
    batches = shuffle(10, 2, seed=1)
    whole = list(batches)
    batches.first = 3
    assert list(batches) == whole[3:] and len(batches) == 2


def test_processes_share_every_batch() -> None:
    parts = [list(shuffle(9, 4, seed=1, process=p, processes=2)) for p in (0, 1)]
    whole = list(shuffle(9, 4, seed=1))
    assert [sorted([*a, *b]) for a, b in zip(*parts, strict=True)] == [sorted(b) for b in whole]


def test_rows_with_foreground_come_up_more_often(rows) -> None:
    shares = [0.0, 0.1, 0.3, 0.0]
    some = [dataclasses.replace(row, foreground=s) for row, s in zip(rows, shares, strict=False)]
    chances = prefer_foreground(some, 0.2)
    np.testing.assert_allclose(chances, [0.05, 0.25, 0.65, 0.05])
    many = np.repeat(chances, 500) / 500
    batches = Shuffle(2000, 10, 1, chances=many)
    drawn = [index // 500 for batch in batches for index, _ in batch]
    found = np.bincount(drawn, minlength=4) / len(drawn)
    assert len(drawn) == 2000 and np.abs(found - chances).max() < 0.04
    first = list(batches)
    assert first == list(Shuffle(2000, 10, 1, chances=many))
    batches.epoch = 1
    assert first != list(batches)
    halves = [
        list(Shuffle(2000, 10, 1, chances=many, share=Share(process, 2, 2))) for process in (0, 1)
    ]
    assert [a[0] for a in first] == [half[0] for half in halves[0]]
    assert [a[1] for a in first] == [half[0] for half in halves[1]]


def test_without_foreground_all_rows_are_alike(rows) -> None:
    empty = [dataclasses.replace(row, foreground=0.0) for row in rows]
    np.testing.assert_allclose(prefer_foreground(empty, 0.2), 1 / len(rows))


def test_pets_have_targets_of_three_classes_cached_or_not(tmp_path: Path) -> None:
    archives = Archives(write_tiny_pets(tmp_path / "raw"))
    pets = split(oxford_pets.read_entries(archives), archives, by_group(2))
    decoder = Decoder(pets, archives, SIZE, "area")
    on_disk = data.on_disk(tmp_path / "work", decoder)
    kinds = decoder, data.in_ram(decoder), on_disk
    for position in range(len(pets)):
        pictures = [kind[position] for kind in kinds]
        for image, target in pictures:
            assert target.shape == (*SIZE, 3)
            np.testing.assert_array_equal(image, pictures[0][0])
            np.testing.assert_array_equal(target, soft_target(classes_of(position), SIZE, 3))
    archives.close()
