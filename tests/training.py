"""Training runs small enough to be made by the dozen."""

import csv
import json
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from conftest import by_group, one_phase, tiny_recipe, write_yaml
from torch import nn

from pipeline.__main__ import main
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.networks import model
from pipeline.recipe import read
from pipeline.recipe.schema import Recipe
from pipeline.sources import carvana
from pipeline.split import split
from pipeline.support import distributed, hardware
from pipeline.support.interrupt import Stop
from pipeline.support.progress import TensorBoard
from pipeline.train import stage
from pipeline.train.checkpoint import Progress, State
from pipeline.train.data import Cache
from pipeline.train.held_out import HeldOut

CLOCK = {"images_per_second", "waiting", "gpu_memory_gb"}  # columns that no two runs share
SMALL = {"encoder": "tu-test_resnet", "decoder_channels": [16, 8, 8, 8, 8]}  # 0.4 M parameters


def small_recipe(runtime: dict | None = None, **changes: object) -> dict:
    """The tiny recipe with a smaller network; a change to a section of `train` adds to it.

    What a phase has (`size`, `epochs`, ...) changes the only phase.
    """
    recipe = tiny_recipe()
    train = recipe["train"]
    train["model"] |= SMALL
    train["weights"] |= {"ema": "none"}
    recipe["runtime"] |= {"deterministic": True, "cache": "none", **(runtime or {})}
    of_phase = {key: changes.pop(key) for key in [*changes] if key in train["phases"][0]}
    if "warm_up" in changes:
        of_phase["schedule"] = train["phases"][0]["schedule"] | {"warm_up": changes.pop("warm_up")}
    one_phase(recipe, **{"batch_size": 2, **of_phase})
    for key, value in changes.items():
        old = train[key]
        both = isinstance(value, dict) and isinstance(old, dict)
        add = both and value.get("name", old.get("name")) == old.get("name")
        train[key] = {**old, **value} if add else value
    return recipe


def convolutions(description: model.Description) -> model.Segmenter:
    """A network without BatchNorm, the same each time."""
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return model.Segmenter(layers, description)


def load(folder: Path, recipe: dict) -> Recipe:
    return read.load(write_yaml(folder / "small.yaml", recipe))


def run(
    archives: Archives,
    recipe: Recipe,
    last: Path,
    rows: list[Sample] | None = None,
    network: model.Segmenter | None = None,
) -> tuple[State, Progress]:
    """Train fold 0 in this process."""
    rows = rows or split(carvana.read_entries(archives), archives, by_group(2))
    settings, runtime = recipe.train, recipe.runtime
    fabric = hardware.launch("cpu", "32-true", 1, runtime.devices, 1)
    fabric.seed_everything(settings.seed, verbose=False)
    network = network or model.for_training(settings, 0, "none")
    sizes = [phase.size for phase in settings.phases]
    cache = Cache("none", last.parent, rows, archives, settings.resize, sizes)
    held_out = HeldOut(
        samples.held_out(rows, 0), archives, settings.loss, settings.validation.tta, fabric, 16, 0,
        pictures=False, keep=True,
    )  # fmt: skip
    with TensorBoard(None) as board:
        job = stage.Job(
            samples.training(rows, 0), cache, held_out, settings, runtime, fabric, last, Stop(),
            board,
        )  # fmt: skip
        return stage.train(network, job)


def failing(graph: object, inputs: object) -> object:
    """What `torch.compile` takes for a compiler, and is none."""
    raise RuntimeError("no such kernel")


def run_as(
    process: int, port: int, raw: Path, recipe: Recipe, folder: Path, backend: Any = None
) -> None:
    """Train the convolutions as one of two processes that torchrun starts; the first writes."""
    compile_ = torch.compile
    torch.compile = lambda net, **_: compile_(net, backend=backend)  # type: ignore[assignment]
    hardware.compiles = lambda asked, fabric: asked  # type: ignore[attr-defined] # as on a GPU
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(process), "LOCAL_RANK": str(process),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    network = convolutions(model.describe(recipe.train, 0))
    weights, progress = run(Archives(raw), recipe, folder / "last.pt", network=network)
    if process == 0:
        torch.save((weights, progress.history), folder / "done.pt")
    distributed.leave()


class Place:
    """Folders as dvc.yaml has them, with samples and one recipe."""

    def __init__(self, folder: Path, raw: Path, recipe: dict, name: str = "small") -> None:
        self.folder, self.raw, self.name = folder, raw, name
        self.recipe = write_yaml(folder / f"recipes/{name}.yaml", recipe)
        self.samples = folder / f"data/{name}/samples.csv"
        self.work = folder / f"work/{name}"
        self.runs = folder / f"runs/{name}"
        self.said = folder / f"said-{name}.txt"
        archives = Archives(raw)
        samples.write(self.samples, split(carvana.read_entries(archives), archives, by_group(2)))
        archives.close()

    def arguments(self, fold: int) -> list[str]:
        return ["train", self.name, "--fold", str(fold), "--at", f"raw={self.raw}"]

    def start(self, fold: int = 0, **environment: str) -> BaseProcess:
        """Start the train stage in a process that has imported everything already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipeline.train.stage"])
        process = context.Process(
            target=in_place,
            args=(self.folder, self.arguments(fold), self.said, environment),
        )
        process.start()
        return process

    def run(self, fold: int = 0) -> str:
        """Run the train stage to its end; what it printed."""
        process = self.start(fold)
        process.join()
        assert process.exitcode == 0, self.said.read_text()
        return self.said.read_text()

    def weights(self, fold: int = 0) -> dict[str, torch.Tensor]:
        path = self.runs / f"fold{fold}/model.pt"
        return torch.load(path, map_location="cpu", weights_only=True)["weights"]

    def history(self, fold: int = 0) -> list[dict[str, str]]:
        with (self.runs / f"fold{fold}/history.csv").open(newline="") as file:
            return [
                {name: value for name, value in row.items() if name not in CLOCK}
                for row in csv.DictReader(file)
            ]

    def metrics(self, fold: int = 0) -> dict[str, Any]:
        return json.loads((self.runs / f"fold{fold}/metrics.json").read_text())


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal to the last bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def in_place(folder: Path, arguments: list[str], said: Path, environment: dict[str, str]) -> None:
    """Run the pipeline as a command in `folder`; what it prints goes to the end of `said`."""
    os.environ |= environment
    os.chdir(folder)
    with said.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = ["pipeline", *arguments]
    main()
