"""What is written down of held-out images, and what is refused when it is read again."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data import samples
from pipeline.data.samples import Label, Sample
from pipeline.evaluation import out_of_fold
from pipeline.evaluation.out_of_fold import Judged
from pipeline.metrics import boundary
from pipeline.metrics.dice import count_levels, dice
from pipeline.paths import Paths
from pipeline.support.errors import UserError

SIZE = (60, 90)


def row(sample_id: str, fold: int) -> Sample:
    return Sample(sample_id, "train", sample_id, "", "", fold, *SIZE, 0.3)


def judged(one: Sample) -> Judged:
    generator = np.random.default_rng(0)
    truth = np.zeros(SIZE, np.uint8)
    truth[10:40, 20:70] = 255
    levels = np.where(truth, 250, 3).astype(np.uint8)
    levels[10:14, 20:30] = generator.integers(13, 128, (4, 10))  # missed
    levels[50:53, 80:84] = generator.integers(128, 243, (3, 4))  # a speck of its own
    found = out_of_fold.judge_levels(one, levels, truth)
    at_half, true = levels >= 128, truth > 0
    np.testing.assert_array_equal(found.counts, count_levels(levels, truth))
    assert found.measures is not None
    assert found.dice == found.measures.dice == dice(at_half, true)
    assert found.measures.boundary == boundary.compare(at_half, true).distance > 0.5
    assert (found.measures.area, found.measures.true_area) == (1472, 1500)
    assert found.measures.parts == 2
    assert found.measures.uncertain == (40 + 12) / 5400
    return found


@pytest.fixture
def written(tmp_path: Path) -> Paths:
    """Two folds of two and one images."""
    paths = Paths.of("r", {"samples": tmp_path / "samples.csv", "oof": tmp_path})
    rows = [row("a", 0), row("b", 1), row("c", 0)]
    samples.write(paths.samples, rows)
    out_of_fold.write(paths, 0, [judged(rows[0]), judged(rows[2])], "the epoch")
    out_of_fold.write(paths, 1, [judged(rows[1])])
    return paths


def test_what_is_written_is_read_in_the_order_of_folds(written: Paths) -> None:
    found = out_of_fold.read(written, [1, 0])
    assert [one.sample_id for one in found.rows] == ["b", "a", "c"]
    assert found.folds.tolist() == [1, 0, 0] and found.groups.tolist() == ["b", "a", "c"]
    expected = judged(found.rows[1])
    np.testing.assert_array_equal(found.counts[1], expected.counts)
    assert found.measures[1].dice == expected.dice
    assert found.measures[1].uncertain == pytest.approx(52 / 5400, abs=1e-6)
    assert found.names == ["background", "foreground"]
    assert found.choices == "the epoch", "of one fold is of all"
    (alone,) = out_of_fold.read(written, [1]).rows
    assert alone.sample_id == "b" and out_of_fold.read(written, [1]).choices == ""


def test_several_classes_are_counted_by_class(tmp_path: Path) -> None:
    labels = (Label("background", 0), Label("pet", 1), Label("border", 2))
    one = Sample("a", "train", "a", "", "", 0, *SIZE, 0.3, labels=labels)
    truth = np.random.default_rng(0).integers(3, size=SIZE).astype(np.uint8)
    found = out_of_fold.judge_classes(one, np.where(truth == 2, 1, truth).astype(np.uint8), truth)
    assert found.measures is None and found.counts.shape == (3, 3)
    assert found.counts[2, 1] == (truth == 2).sum() and found.counts[2, 2] == 0
    paths = Paths.of("r", {"samples": tmp_path / "samples.csv", "oof": tmp_path})
    samples.write(paths.samples, [one])
    out_of_fold.write(paths, 0, [found])
    again = out_of_fold.read(paths, [0])
    np.testing.assert_array_equal(again.counts[0], found.counts)
    assert again.names == ["background", "pet", "border"] and not again.measures
    head, line = paths.measures(0).read_text().splitlines()
    assert head.startswith("sample_id,dice,accuracy,iou,dice_background")
    assert float(line.split(",")[1]) == pytest.approx(found.dice)


@pytest.mark.parametrize("place", ["counts", "measures"])
def test_files_that_are_not_of_their_fold_are_refused(written: Paths, place: str) -> None:
    path = getattr(written, place)(0)
    kept = path.read_bytes()
    path.write_bytes(getattr(written, place)(1).read_bytes())
    with pytest.raises(UserError, match=rf"{path.name}: found 1 images that are not the 2 of fo"):
        out_of_fold.read(written, [0])
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: no such file; run the validate stage"):
        out_of_fold.read(written, [0])
    for damaged in (b"", b"no archive", kept[:60], kept[:-3]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{path.name}: .*run the validate stage of this fold"):
            out_of_fold.read(written, [0])


def test_a_fold_that_holds_nothing_out_is_refused(written: Paths) -> None:
    with pytest.raises(UserError, match="found no image that fold 4 holds out"):
        out_of_fold.read(written, [0, 4])


def test_counts_of_another_kind_are_refused(written: Paths) -> None:
    for counts in (np.ones((2, 3, 3), int), np.ones((2, 2, 256)), np.ones((1, 2, 256), int)):
        np.savez(written.counts(0), counts=counts, sample_id=["a", "c"], choices="")
        with pytest.raises(UserError, match=r"fold0\.npz: found counts of \w+ \(.*expected integ"):
            out_of_fold.read(written, [0])
    with written.counts(0).open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(UserError, match=r"fold0\.npz: damaged"):
        out_of_fold.read(written, [0])


def test_any_damaged_byte_of_the_counts_is_one_line(written: Paths) -> None:
    """Read as before, or refused in one line: no traceback, no other counts."""
    path, expected = written.counts(0), out_of_fold.read(written, [0]).counts
    kept, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(kept)
        damaged[generator.integers(len(kept))] ^= generator.integers(1, 256)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(out_of_fold.read(written, [0]).counts, expected)
        except UserError as error:
            refused += 1
            assert "run the validate stage" in str(error) and "\n" not in str(error)
    assert refused > 150
