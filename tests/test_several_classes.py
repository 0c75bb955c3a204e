"""Three classes from archives to report, where the data set has no test images."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import HEIGHT, PETS, ROOT, WIDTH, classes_of, one_phase, write_tiny_pets, write_yaml
from test_every_recipe import run, smaller

from pipeline.data import samples

LABELS = ("background", "pet", "border")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every stage has run, one fold of three."""
    folder = tmp_path_factory.mktemp("pets")
    recipe = smaller(yaml.safe_load((ROOT / "recipes/oxford-pets.yaml").read_text()))
    one_phase(recipe, epochs=40)
    recipe["train"]["model"]["width"] = 4
    # Scored after each epoch are then the images that are held out, too.
    recipe["split"] |= {"held_out": 0.4, "validation": "none"}
    recipe["train"]["validation"]["patience"] = "none"
    write_yaml(folder / "recipes/tiny.yaml", recipe)
    write_yaml(folder / "params.yaml", {"recipes": ["tiny"], "folds": [0]})
    write_tiny_pets(folder / "data/tiny/raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in ("split", "train", "validate", "tune", "predict", "encode", "report"):
            run(stage)
    return folder


def test_it_learns_and_training_scores_as_tuning_does(finished: Path) -> None:
    metrics = json.loads((finished / "eval/tiny/metrics.json").read_text())
    assert metrics["threshold"] is None
    assert tuple(metrics["classes"]) == LABELS
    assert metrics["accuracy"] > metrics["majority_accuracy"] > 0.5
    trained = json.loads((finished / "runs/tiny/fold0/metrics.json").read_text())
    assert trained["dice"] == pytest.approx(metrics["dice"], abs=1e-6)
    (bare,) = metrics["dice_by_fold"].values()
    assert bare == pytest.approx(metrics["dice"])


def test_counts_are_of_the_true_masks(finished: Path) -> None:
    (row,) = samples.held_out(samples.read(finished / "data/tiny/samples.csv"), 0)
    truth = classes_of(PETS.index(row.sample_id))
    with np.load(finished / "oof/tiny/fold0.npz") as content:
        counts, ids = content["counts"], content["sample_id"].tolist()
    assert ids == [row.sample_id] and counts.shape == (1, 3, 3)
    np.testing.assert_array_equal(counts[0].sum(axis=1), np.bincount(truth.ravel(), minlength=3))
    with (finished / "oof/tiny/fold0-measures.csv").open() as stream:
        (measured,) = csv.DictReader(stream)
    assert float(measured["accuracy"]) == pytest.approx(np.trace(counts[0]) / (HEIGHT * WIDTH))
    assert {f"iou_{name}" for name in LABELS} <= measured.keys()


def test_pictures_say_what_they_show(finished: Path) -> None:
    (overlay,) = (finished / "oof/tiny/fold0-overlays").iterdir()
    assert overlay.name.startswith("worst-01-")
    page = (finished / "eval/tiny/report.html").read_text()
    assert "show each class in its color" in page
    assert all(f">{name}</span>" in page for name in LABELS[1:]), "the colors of pictures"
    assert "Scores by class" in page and '<th scope="row">border</th>' in page
    assert "Gain over 0.5" not in page and 'href="#threshold"' not in page


def test_tables_have_the_headings_the_graph_expects(finished: Path) -> None:
    folder = finished / "eval/tiny"
    assert (folder / "thresholds.csv").read_text() == "threshold,dice\n"
    first = (folder / "folds.csv").read_text().splitlines()[0]
    assert first == "fold,images,dice,accuracy,iou,worst,worst_image"
    assert (folder / "sanity.csv").exists() and (folder / "groups.csv").exists()


def test_there_is_nothing_to_submit(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    run("predict")
    run("encode")
    assert "no test images, so there is no submission" in capsys.readouterr().out
    assert not (finished / "submissions/tiny/submit.csv.gz").exists()


def test_test_images_of_several_classes_are_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished / "data/tiny/samples.csv"
    table = samples.read(path)
    other = dataclasses.replace(
        table[0], sample_id="other", group="other", split="test", mask="", fold=samples.NO_FOLD
    )
    kept = path.read_bytes()
    samples.write(path, [*table, other])
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit, match=r"samples\.csv: found test images of 3 classes \(other\)"):
        run("predict")
    path.write_bytes(kept)


def test_counts_of_one_class_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished / "oof/tiny/fold0.npz"
    kept = path.read_bytes()
    with np.load(path) as content:
        ids = content["sample_id"]
    np.savez(path, sample_id=ids, counts=np.ones((1, 2, 256), np.int64), choices="")
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit, match=r"fold0\.npz: found counts of int64 \(1, 2, 256\)"):
        run("tune")
    path.write_bytes(kept)
