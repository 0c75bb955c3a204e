"""`pipeline export`: ONNX files that say what the networks say, of pictures of any size."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT, by_group, run_verb, tiny_recipe, write_tiny_archives, write_yaml
from numpy.typing import NDArray

from pipeline import export
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import resize_image
from pipeline.data.samples import Label
from pipeline.evaluation.decision import Decision
from pipeline.networks import model
from pipeline.networks.model import Description
from pipeline.recipe.schema import Resize
from pipeline.sources import carvana
from pipeline.split import split
from pipeline.support.files import write_text

PAGE = (ROOT / "docs/own-data.md").read_text()
EXAMPLE = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "onnxruntime" in b)
NETWORK = {
    "architecture": "Unet", "encoder": "tu-test_resnet", "decoder_channels": [8] * 5,
    "pixel_unshuffle": 2,
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folds' networks, never trained, with archives and a threshold."""
    write_tiny_archives(tmp_path / "data/sample/raw")
    write_yaml(tmp_path / "recipes/sample.yaml", tiny_recipe())
    archives = Archives(tmp_path / "data/sample/raw")
    rows = split(carvana.read_entries(archives), archives, by_group(2))
    samples.write(tmp_path / "data/sample/samples.csv", rows)
    write_text(tmp_path / "eval/sample/metrics.json", json.dumps(Decision(120).as_metrics()))
    for fold in (0, 1):
        description = Description(NETWORK, (64, 64), "area", (0.5,) * 3, (0.25,) * 3, 1, fold)
        save(tmp_path / f"runs/sample/fold{fold}/model.pt", description)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path: Path, description: Description) -> None:
    torch.manual_seed(description.fold)
    network = model.build(description, "none")
    model.save(path, network, network.state_dict())


def test_one_file_of_all_folds_does_what_the_pipeline_does(project: Path) -> None:
    """And the docs' example makes with it the mask that predict-folder makes."""
    done = run_verb("export", "sample", "--average", at=project)
    assert done.returncode == 0, done.stderr
    assert "exports/sample/average.onnx" in done.stdout and "checked on 8 pictures" in done.stdout
    assert "(batch, height, width, 3) uint8 RGB" in done.stdout
    session = onnxruntime.InferenceSession(project / "exports/sample/average.onnx")
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[3], given.type) == ("images", 3, "tensor(uint8)")
    assert (result.name, len(result.shape), result.type) == ("probabilities", 3, "tensor(float)")
    about = session.get_modelmeta().custom_metadata_map
    assert about["recipe"] == "sample" and about["folds"] == "0 1"
    assert float(about["threshold"]) == 120 / 256
    assert json.loads(about["classes"]) == ["background", "foreground"]
    two = np.random.default_rng(0).integers(0, 256, (2, 70, 91, 3), np.uint8)
    both = session.run(None, {"images": two})[0]
    np.testing.assert_array_equal(both[1], session.run(None, {"images": two[1:]})[0][0])

    archives = Archives(project / "data/sample/raw")
    (project / "photos").mkdir()
    image = cv2.imdecode(np.frombuffer(archives.read("train.zip!train/aa0000000000_01.jpg"),
                                       np.uint8), cv2.IMREAD_COLOR)  # fmt: skip
    cv2.imwrite(str(project / "photos/car.png"), image)
    example = EXAMPLE.replace("photos/car.jpg", "photos/car.png")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['torch'] = None\n{example}"],
        cwd=project, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_verb("predict-folder", "sample", "--images", "photos", "--out", "out", at=project)
    assert done.returncode == 0, done.stderr
    mask, expected = (
        cv2.imread(str(project / name), -1) for name in ("mask.png", "out/masks/car.png")
    )
    assert 0.02 < (expected > 0).mean() < 0.98
    assert (mask != expected).mean() < 1e-3


def test_several_classes_and_a_file_that_is_wrong(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"architecture": "cnn", "widths": [4]}
    zeros = (0.0,) * 3
    description = Description(network, (40, 50), "linear", zeros, (1.0,) * 3, 3, 0, min_max=True)
    save(project / "runs/sample/fold0/model.pt", description)
    table = project / "data/sample/samples.csv"
    labels = "background=0 car=1 wheel=2"
    table.write_text(table.read_text().replace("background=0 foreground=1", labels))
    assert samples.read(table)[0].labels[1] == Label("car", 1)
    done = run_verb("export", "sample", "--fold", "0", at=project)
    assert done.returncode == 0, done.stderr
    path = project / "exports/sample/fold0.onnx"
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    assert about["threshold"] == "" and json.loads(about["classes"])[1:] == ["car", "wheel"]
    said = session.run(None, {"images": np.zeros((1, 21, 33, 3), np.uint8)})[0]
    assert said.shape == (1, 3, 21, 33) and np.abs(said.sum(1) - 1).max() < 0.03
    # A file of another network is found out, and nothing of it stays.
    other = path.read_bytes()
    save(project / "runs/sample/fold0/model.pt", dataclasses.replace(description, fold=1))
    monkeypatch.setattr(export, "write", lambda path, *_: path.write_bytes(other))
    done = run_verb("export", "sample", "--fold", "0", at=project)
    assert done.returncode == 1 and "fold0.onnx: removed, it is not what" in done.stderr
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("resize", ["linear", "area", "nearest"])
@pytest.mark.parametrize(
    ("found", "wanted"),
    [((64, 96), (32, 48)), ((70, 91), (32, 64)), ((20, 30), (32, 64)), ((20, 91), (32, 64)),
     ((32, 64), (32, 64)), ((97, 131), (33, 33)), ((1, 3), (32, 32))],
)  # fmt: skip
def test_pictures_shrink_and_grow_as_opencv_does_it(
    resize: Resize, found: tuple[int, int], wanted: tuple[int, int]
) -> None:
    description = Description({}, wanted, resize, (0.0,) * 3, (1.0,) * 3, 1, 0)
    whole = export.Whole([model.Segmenter(torch.nn.Identity(), description)], flip=False)
    image = np.random.default_rng(1).integers(0, 256, (*found, 3), np.uint8)
    small = whole._small(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    expected = resize_image(image, wanted, resize)
    different: NDArray[np.float32] = np.abs(small.numpy() - expected)
    # Sums of areas are rounded from floats whose last bits differ.
    assert different.max() <= (resize == "area") and (different > 0).mean() < 0.005


def leave_out_the_threshold(folder: Path) -> None:
    (folder / "eval/sample/metrics.json").unlink()


def leave_out_the_pictures(folder: Path) -> None:
    (folder / "data/sample/raw/train.zip").unlink()


def leave_out_the_networks(folder: Path) -> None:
    for path in folder.glob("runs/sample/*/model.pt"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (leave_out_the_threshold, "metrics.json: no such file; run the tune stage first"),
        (leave_out_the_pictures, "train.zip: missing"),
        (leave_out_the_networks, "found no fold<k>/model.pt"),
    ],
)
def test_what_is_missing_is_named(project: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(project)
    done = run_verb("export", "sample", at=project)
    assert done.returncode == 1 and said in done.stderr
    assert not (project / "exports").exists()


def test_a_package_that_is_missing_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = run_verb("export", "sample", at=project)
    assert done.returncode == 1
    assert "needs the package onnxruntime" in done.stderr and ".[export]" in done.stderr
