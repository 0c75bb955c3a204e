"""Pseudo-labels: test images with a teacher's levels, and no leak through them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_tiny_archives, write_yaml
from training import same_weights, small_recipe

from pipeline.__main__ import main
from pipeline.data import samples
from pipeline.levels import kept
from pipeline.levels.kept import Image, Kept
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.support import hardware
from pipeline.support.errors import UserError
from pipeline.train import checkpoint, pseudo
from pipeline.train.data import Extra, Shuffle

PSEUDO = {"recipe": "teacher", "share": 0.5, "confident": 1.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of fold 0 alone, and a student that has learned from it."""
    folder = tmp_path_factory.mktemp("pseudo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_yaml(recipe_file("teacher"), small_recipe({"batch_size": 3}))
        write_yaml(recipe_file("student"), student())
        for name in ("teacher", "student"):
            write_tiny_archives(Paths.of(name).raw)
            main(["split", name])
            main(["train", name, "--fold", "0"])
    return folder


def student(**changes: object) -> dict:
    runtime = {"checkpoint_seconds": 0, "batch_size": 3}
    return small_recipe(runtime, epochs=2, pseudo=PSEUDO | changes)


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil."""
    shutil.copytree(trained, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def make(recipe: dict | None = None, fold: int = 0) -> pseudo.PseudoLabels:
    path = write_yaml(recipe_file("student"), recipe or student())
    fabric = hardware.launch("cpu", "32-true", 1, 1, 1)
    work = Path("work/student/train-fold0")
    return pseudo.make(read.load(path), Paths.of("student"), fold, 6, fabric, work)


def weights(name: str) -> dict:
    return model.load(Paths.of(name).model(0)).state_dict()


def test_labels_are_what_predict_keeps_of_that_fold(project: Path) -> None:
    """To the byte, whatever the other folds say: they need not even be there."""
    labels = make()
    main(["predict", "teacher", "--fold", "0"])
    ids = [row.sample_id for row in samples.test(samples.read(Paths.of("teacher").samples))]
    theirs = Kept.open(Paths.of("teacher").kept, ids, "")
    assert [one.packed for one in labels.kept.images()] == [one.packed for one in theirs.images()]
    assert [row.sample_id for row in labels.rows] == ids and labels.drawn == 3
    image, target = labels.at((16, 24))[1]
    assert image.shape == (16, 24, 3) and target.shape == (16, 24)
    (second,) = theirs.some(ids[1:2])
    np.testing.assert_array_equal(labels.at(second.shape)[1][1], second.levels())


def test_a_student_of_another_fold_does_not_learn_from_this_teacher(project: Path) -> None:
    with pytest.raises(SystemExit, match=r"train.pseudo.recipe: .* train@teacher-1 first"):
        main(["train", "student", "--fold", "1"])
    shutil.copytree(Paths.of("teacher").run(0), Paths.of("teacher").run(1))
    with pytest.raises(SystemExit, match="trained without fold 0, expected fold 1"):
        main(["train", "student", "--fold", "1"])


def test_a_teacher_that_has_seen_what_is_held_out_is_refused(project: Path) -> None:
    path = Paths.of("student").samples
    swap = {0: 1, 1: 0, samples.NO_FOLD: samples.NO_FOLD}
    rows = samples.read(path)
    samples.write(path, [dataclasses.replace(row, fold=swap[row.fold]) for row in rows])
    with pytest.raises(SystemExit, match=r"train.pseudo.recipe: .* trained on 3 of the 3 groups"):
        main(["train", "student", "--fold", "0"])


def test_what_the_teacher_has_chosen_and_seen_counts_for_the_student(project: Path) -> None:
    path = Paths.of("teacher").model(0)
    teacher = model.load(path)
    teacher.description = dataclasses.replace(
        teacher.description, choices="the epoch", seen=(*teacher.description.seen, "another car")
    )
    model.save(path, teacher, teacher.state_dict())
    main(["train", "student", "--fold", "0"])
    student = model.load(Paths.of("student").model(0)).description
    assert student.choices == "the epoch" and "another car" in student.seen


def test_a_teacher_of_several_classes_and_a_blend_are_refused(project: Path) -> None:
    path = Paths.of("teacher").model(0)
    teacher = model.load(path)
    several = model.build(dataclasses.replace(teacher.description, classes=3), "none")
    model.save(path, several, several.state_dict())
    with pytest.raises(SystemExit, match=r"train.pseudo: found 1 classes, and 3 in runs/teacher"):
        main(["train", "student", "--fold", "0"])
    blend = {"blend": {"recipes": ["teacher", "student"], "weights": "auto"}}
    write_yaml(recipe_file("both"), blend)
    with pytest.raises(UserError, match="pseudo.recipe: found 'both', which blends others and has"):
        make(student(recipe="both"))


def test_the_share_is_of_the_images_trained_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of those held out, of which there are as many in the other tests."""
    rows = samples.read(Paths.of("student").samples)
    gone = next(row.group for row in rows if row.fold == 0)
    samples.write(Paths.of("student").samples, [row for row in rows if row.group != gone])
    asked, made = [], pseudo.make
    monkeypatch.setattr(pseudo, "make", lambda *given: asked.append(given[3]) or made(*given))
    main(["train", "student", "--fold", "0"])
    assert asked == [6]


def test_a_student_learns_something_else(project: Path) -> None:
    with_labels = weights("student")
    write_yaml(
        recipe_file("student"), student() | {"train": student()["train"] | {"pseudo": "none"}}
    )
    main(["train", "student", "--fold", "0"])
    assert any((with_labels[name] != one).any() for name, one in weights("student").items())


def test_a_student_that_is_stopped_ends_like_one_that_is_not(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, saves = weights("student"), iter(range(3))
    save = checkpoint.Checkpointer.save

    def stop(*args: object) -> None:
        save(*args)
        if next(saves, None) is None:
            raise ZeroDivisionError

    Paths.of("student").model(0).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "save", stop)
        with pytest.raises(ZeroDivisionError):
            main(["train", "student", "--fold", "0"])
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "_launch", None)  # labels are there already
        main(["train", "student", "--fold", "0"])
    same_weights(weights("student"), whole)
    assert not list(Path("work/student").iterdir())


def test_damaged_labels_are_made_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (chunk,) = make().kept.chunks
    whole = chunk.path.read_bytes()
    chunk.path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    make()
    assert "damaged" in capsys.readouterr().err
    assert chunk.path.read_bytes() == whole


def test_only_what_the_teacher_is_sure_of_counts(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [0.3, None, 0.1, 0.2]
    monkeypatch.setattr(pseudo, "_unsure", lambda _: iter(shares))
    every = samples.test(samples.read(Paths.of("student").samples))
    chosen = make(student(confident=0.2, share=9))
    assert chosen.rows == every[2:] and chosen.drawn == 54, "again and again"
    with pytest.raises(UserError, match=r"found 0 of 4 test images .* raise confident or share"):
        make(student(confident=0.05))


def test_pixels_between_are_unsure(tmp_path: Path) -> None:
    levels = np.array([[0, 12, 13, 242, 243, 255]], np.uint8)
    images = [Image.of("a", levels, 0.0, ""), Image.of("b", levels, 0.0, "not readable")]
    kept.write(tmp_path / "kept", "key", iter(images), 2)
    found = pseudo._unsure(Kept.open(tmp_path / "kept", ["a", "b"], ""))
    assert list(found) == [pytest.approx(2 / 6), None]


def test_the_recipe_must_be_another_one_that_is_there(project: Path) -> None:
    for name, said in (("student", "which is this recipe; expected another one$"),
                       ("nobody", r"there is no recipes/nobody\.yaml")):  # fmt: skip
        with pytest.raises(UserError, match=f"train.pseudo.recipe: found '{name}', .*{said}"):
            make(student(recipe=name))


def test_extra_rows_come_once_each_before_any_comes_again() -> None:
    batches = Shuffle(10, 4, 1, extra=Extra(7, 5))
    assert len(batches) == 3 and batches.steps == 3, "15 draws in batches of 4"
    plain = Shuffle(10, 5, 1, extra=Extra(7, 5))
    drawn = []
    for plain.epoch in range(7):
        indices = [index for batch in plain for index, _ in batch]
        assert sorted(index for index in indices if index < 10) == list(range(10))
        drawn += sorted(index for index in indices if index >= 10)
        assert indices != sorted(indices), "mixed"
    assert len(drawn) == 35 and {drawn.count(index) for index in range(10, 17)} == {5}
    plain.epoch = 3
    assert list(plain) == list(plain), "follows from seed and epoch"


def test_a_level_counts_as_its_share() -> None:
    levels = np.array([[0, 255], [100, 201]], np.uint8)
    np.testing.assert_array_equal(pseudo.soft_target(levels, (2, 2)), levels)
    assert pseudo.soft_target(levels, (1, 1)).item() == 139
    assert pseudo.soft_target(levels, (4, 6)).shape == (4, 6)
