"""Networks made ready for a GPU say what they said before, as far as a CPU can show it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from training import load, run, small_recipe

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_mask
from pipeline.data.samples import Sample
from pipeline.levels import scale
from pipeline.metrics.dice import dice
from pipeline.networks import inference, model
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.support import hardware
from pipeline.support.concurrency import read_ahead

SIZE = (64, 96)
LIBRARY: dict[str, Any] = {"encoder": "tu-test_resnet", "pixel_unshuffle": 1}
NETWORKS: list[dict[str, Any]] = [
    {"architecture": "Unet", "decoder_channels": (16, 8, 8, 8, 8), **LIBRARY},
    {"architecture": "Unet", "decoder_channels": (8,) * 5, **LIBRARY, "pixel_unshuffle": 2},
    {"architecture": "FPN", **LIBRARY},
    {"architecture": "PSPNet", **LIBRARY},
    {"architecture": "unet1024"},
    {"architecture": "cnn", "widths": [4, 4]},
]


@pytest.fixture
def rows(rows: list[Sample]) -> list[Sample]:
    return samples.training(rows, -1)


def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def build(network: dict[str, Any], size: tuple[int, int] = SIZE) -> model.Segmenter:
    """With statistics of BatchNorm that are not those it begins with."""
    torch.manual_seed(0)
    description = model.Description(network, size, "area", (0.5,) * 3, (0.2,) * 3, 1, 0)
    built = model.build(description, "none")
    for layer in norms(built):
        nn.init.uniform_(layer.running_mean, -1, 1)
        nn.init.uniform_(layer.running_var, 0.5, 2)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -1, 1)
    return built.eval()


def norms(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["architecture"])
@torch.inference_mode()
def test_folded_networks_say_the_same(network: dict[str, Any]) -> None:
    size = (128, 192) if network.get("pixel_unshuffle") == 2 else SIZE
    built = build(network, size)
    before = len(norms(built))
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    expected = built(images)
    folded = inference.fold(built)
    assert not norms(folded) and len(norms(built)) == before and not folded.training
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)


class Asking(nn.Module):
    """What it does depends on its input, so it cannot be followed once for all."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1] * (2 if images.shape[0] > 1 else 3)


def test_a_network_that_cannot_be_folded_says_so_and_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = model.Segmenter(Asking(), build({"architecture": "cnn", "widths": [4]}).description)
    same = inference._folded_or_not(network, "runs/x/fold0/model.pt", fabric())
    (line,) = capsys.readouterr().out.splitlines()
    assert same is network
    assert line.startswith("WARNING: runs/x/fold0/model.pt: BatchNorm cannot be folded")
    assert "TraceError" in line and "slower" in line


def predictor(network: nn.Module, batch: int, pad: bool) -> Predictor:
    return Predictor({"it": network}, SIZE, "area", "hflip", fabric(), batch, 0, pad)


def predict(one: Predictor, rows: list[Sample], archives: Archives) -> list[Prediction]:
    """In another thread than this one, as the stage does it."""
    return list(read_ahead(one.predict(rows, archives), 4))


def test_folded_and_padded_a_trained_network_scores_the_same(
    rows: list[Sample], archives: Archives, tmp_path: Path
) -> None:
    recipe = load(tmp_path, small_recipe(epochs=5, size=list(SIZE), learning_rate=0.01))
    weights, _ = run(archives, recipe, tmp_path / "last.pt")
    network = model.for_training(recipe.train, 0, "none").eval()
    network.load_state_dict(weights)
    scores = []
    for one in (predictor(network, 1, False), predictor(inference.fold(network), 5, True)):
        found = predict(one, rows, archives)
        masks = [scale.decide(p.levels, p.row.size) > 0 for p in found]
        truths = [read_mask(archives, row) > 0 for row in rows]
        scores.append([dice(m, t) for m, t in zip(masks, truths, strict=True)])
    assert np.mean(scores[0]) > 0.7
    assert np.mean(scores[1]) == pytest.approx(np.mean(scores[0]), abs=1e-5)


def test_padded_levels_do_not_depend_on_the_size_of_the_last_batch(
    rows: list[Sample], archives: Archives
) -> None:
    seen = []
    network = inference.fold(build(NETWORKS[0]))
    network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    padded = predictor(network, 5, True)
    found = predict(padded, rows, archives)
    assert set(seen) == {5} and len(found) == 12, "batches of 5, 5 and 2"
    for some in (rows[10:], rows[9:], rows[11:]):
        for one, other in zip(predict(padded, some, archives), found[-len(some) :], strict=True):
            np.testing.assert_array_equal(one.levels, other.levels)
            assert one.disagreement == other.disagreement


def test_padding_is_nothing_that_could_be_wrong(rows: list[Sample], archives: Archives) -> None:
    class NoneOfBlack(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[..., 0] / images.amax((1, 2, 3), keepdim=True)[..., 0]

    assert len(predict(predictor(NoneOfBlack(), 5, True), rows, archives)) == 12


def failing(graph: object, inputs: object) -> object:
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize("fails", [False, True], ids=["compiles", "does not"])
def test_a_network_is_compiled_once_for_all_batches(
    fails: bool, rows: list[Sample], archives: Archives, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Before the first batch, and not again for the last one or in another thread."""
    made, compile_ = [], torch.compile

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return failing(graph, inputs) if fails else graph.forward

    monkeypatch.setattr(torch, "compile", lambda net, **how: compile_(net, backend=backend, **how))
    network = inference.fold(build(NETWORKS[0]))
    expected = predict(predictor(network, 5, True), rows, archives)
    ready = inference.compile_for(network, "runs/x/fold0/model.pt", fabric(), 5)
    said = capsys.readouterr().out
    found = predict(predictor(ready, 5, True), rows, archives)
    torch._dynamo.reset()
    assert len(made) == 1 and (ready is network) == fails
    assert ("compiled in" in said) != fails and ("WARNING" in said and "no such" in said) == fails
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.levels, other.levels)


def test_every_one_of_many_networks_is_compiled(
    rows: list[Sample], archives: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After eight that share code, torch goes on without, and only its log says so."""
    made, compile_ = [], torch.compile

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda net, **how: compile_(net, backend=backend, **how))
    network = build(NETWORKS[-1])
    ready = {
        str(number): inference.compile_for(inference.fold(network), "", fabric(), 5)
        for number in range(10)
    }
    list(Predictor(ready, SIZE, "area", "none", fabric(), 5, 0, True).predict(rows, archives))
    torch._dynamo.reset()
    assert len(made) == 10


def test_a_cpu_runs_networks_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    network = build(NETWORKS[0])
    ready = inference.prepare({"it": network}, fabric(), 4, compiled=True)
    assert ready == {"it": network}
    assert capsys.readouterr().out == (
        "runtime.compile: only for a GPU; here networks run as they are\n"
    )
    images = torch.zeros(2)
    assert hardware.Upload(torch.device("cpu"))(images) is images
