import dataclasses
from pathlib import Path

import pytest

from pipeline.data import samples
from pipeline.data.samples import BINARY, NO_FOLD, Label, Sample
from pipeline.support.errors import UserError


def sample(name: str, group: str, fold: int, split: str = "train") -> Sample:
    return Sample(name, split, group, f"x.zip!{name}.jpg", "", fold, 4, 6, 0.25)  # type: ignore[arg-type]


ROWS = [
    sample("a_01", "a", 0),
    sample("a_02", "a", 0),
    sample("b_01", "b", 1),
    sample("c_01", "c", NO_FOLD, "test"),
]
PETS = (Label("background", 2), Label("pet", 1), Label("border", 3))


def test_the_table_comes_back_as_written(tmp_path: Path) -> None:
    samples.write(tmp_path / "samples.csv", ROWS)
    assert samples.read(tmp_path / "samples.csv") == ROWS
    header = (tmp_path / "samples.csv").read_text().splitlines()[0]
    assert (
        header == "sample_id,split,group,image,mask,labels,fold,height,width,foreground,validation"
    )


def test_labels_come_back_in_the_order_of_their_indices(tmp_path: Path) -> None:
    rows = [ROWS[0], dataclasses.replace(ROWS[2], labels=PETS)]
    samples.write(tmp_path / "samples.csv", rows)
    read = samples.read(tmp_path / "samples.csv")
    assert [row.labels for row in read] == [BINARY, PETS]
    assert read[1].values == (2, 1, 3)


def test_other_classes_than_the_networks_are_refused() -> None:
    pets = dataclasses.replace(ROWS[0], labels=PETS)
    assert ROWS[0].classes == 1 and pets.classes == 3
    samples.check_classes(ROWS, 1, Path("samples.csv"))
    with pytest.raises(UserError, match="train.classes: found 1, .* background, pet, border .a_01"):
        samples.check_classes([*ROWS, pets], 1, Path("samples.csv"))
    with pytest.raises(UserError, match="train.classes: found 3, .* .a_01., expected 1"):
        samples.check_classes(ROWS, 3, Path("samples.csv"))


def test_every_row_has_one_part_in_a_fold() -> None:
    assert samples.training(ROWS, 0) == ROWS[2:3]
    assert samples.held_out(ROWS, 0) == ROWS[:2]
    assert samples.test(ROWS) == ROWS[3:]


def test_two_images_of_one_name_are_refused() -> None:
    twice = dataclasses.replace(ROWS[0], image="train.zip!other/a_01.jpg")
    said = rf"found sample_id a_01 of {ROWS[0].image} and of train.zip!other/a_01.jpg, expected"
    with pytest.raises(UserError, match=said):
        samples.check_no_leak([*ROWS, twice], Path("samples.csv"))


@pytest.mark.parametrize("leak", [sample("a_03", "a", 1), sample("a_03", "a", NO_FOLD, "test")])
def test_a_group_in_two_places_is_a_leak(leak: Sample) -> None:
    with pytest.raises(UserError, match="group a is in fold 0 and in (fold 1|the test set) .a_03"):
        samples.check_no_leak([*ROWS, leak], Path("samples.csv"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("sample_id", "id"), "line 1: found columns id, split"),
        (
            lambda text: text.replace(",4,6,", ",x,6,"),
            "line 2: height: found 'x', expected",
        ),
        (lambda text: text + "half a ro", "line 6: found no line end"),
        (lambda text: text.replace("background=0 ", ""), "line 2: labels: found 'foreground=1', "),
        (lambda text: text.replace("=1", "=one"), "line 2: .*run the split stage"),
        (lambda text: text.replace("a_01,train", "a_01,trian"), "found 'trian', expected train or"),
        (lambda text: text.replace("=1,0,", "=1,1,", 1), "group a is in fold"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, change, said: str) -> None:
    path = tmp_path / "samples.csv"
    samples.write(path, ROWS)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=said):
        samples.read(path)


@pytest.mark.parametrize("name", ["tumor core", "a=b", ""])
def test_a_class_s_name_must_fit_the_table(tmp_path: Path, name: str) -> None:
    labels = (Label("background", 0), Label(name, 1))
    rows = [dataclasses.replace(row, labels=labels) for row in ROWS]
    with pytest.raises(UserError, match="expected one without blanks and ="):
        samples.write(tmp_path / "samples.csv", rows)
    assert not (tmp_path / "samples.csv").exists()


def test_a_missing_table_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run the split stage"):
        samples.read(tmp_path / "samples.csv")
