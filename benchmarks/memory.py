"""How much memory each recipe takes to train and to predict, counted without a GPU.

    python benchmarks/memory.py [--recipe NAME ...]              a table
    python benchmarks/memory.py --write                          that of docs/training.md
    python benchmarks/memory.py --recipe carvana --device cuda   beside it, what a GPU really took

A step of every phase, and a batch of prediction, run on fake tensors: torch works out shapes,
types and strides, and allocates nothing. Counted is the most that is alive at once: weights,
moving average, gradients and moments, what forward keeps and what backward makes. Workspaces of
convolutions and the allocator's slack come on top: a tenth more, by experience elsewhere.
"""

import argparse
import re
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.networks import model  # noqa: E402
from pipeline.networks.predictor import levels_of, probability_of  # noqa: E402
from pipeline.recipe import read  # noqa: E402
from pipeline.recipe.schema import Phase, Recipe, Train  # noqa: E402
from pipeline.train.loss import entropy_dice, shares  # noqa: E402
from pipeline.train.optimization import make_optimizer  # noqa: E402

DOCS = ROOT / "docs/training.md"
CARDS = (24, 40, 80)  # GB
HEADINGS = (
    "recipe", "largest phase", "M parameters", "training GB",
    f"images that fit in {' / '.join(map(str, CARDS))} GB", "prediction GB",
)  # fmt: skip
SLACK = 1.1  # workspaces and the allocator's


class Counted(NamedTuple):
    """What one phase takes, and what comes out of it."""

    parameters: int
    training: int  # bytes alive at once in a step
    lasting: int  # those that remain after it: weights, average, gradients, moments
    prediction: int  # and in a batch of prediction, at this phase's size
    logits: tuple[torch.Size, torch.dtype]
    levels: tuple[torch.Size, torch.dtype]


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operations have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="*", help="names; all that are there unless given")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: run, too")
    parser.add_argument("--write", action="store_true", help="renew the table of docs/training.md")
    args = parser.parse_args(arguments)
    measured = ("measured GB",) if args.device == "cuda" else ()
    lines = [[*HEADINGS, *measured], ["---", "---", *["---:"] * (len(HEADINGS + measured) - 2)]]
    for name in args.recipe or names():
        recipe = read.load(ROOT / f"recipes/{name}.yaml")
        counted = [count(recipe, phase) for phase in recipe.train.phases]
        row, phase = row_of(name, recipe, counted)
        if measured:
            row.append(f"{run(recipe.train, phase) / 1e9:.2f}")
        lines.append(row)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    print(table)
    if args.write:
        DOCS.write_text(re.sub(rf"^\| {HEADINGS[0]} \| {HEADINGS[1]} .*?(?=\n\n)", table,
                               DOCS.read_text(), flags=re.M | re.S))  # fmt: skip


def names() -> list[str]:
    """All recipes that have a network."""
    paths = sorted((ROOT / "recipes").glob("*.yaml"))
    return [path.stem for path in paths if read.load(path).blend is None]


def row_of(name: str, recipe: Recipe, counted: list[Counted]) -> tuple[list[str], Phase]:
    """The row of a recipe whose phases were `counted`, and the phase that takes most."""
    most = max(counted, key=lambda one: one.training)
    phase = recipe.train.phases[counted.index(most)]
    image = (most.training - most.lasting) / phase.batch_size
    fit = [max(0, int((card * 1e9 / SLACK - most.lasting) / image)) for card in CARDS]
    height, width = phase.size
    return [
        f"`{name}`",
        f"{phase.batch_size} of {height}x{width}",
        f"{most.parameters / 1e6:.1f}",
        f"{most.training / 1e9:.2f}",
        " / ".join(map(str, fit)),
        f"{counted[-1].prediction / 1e9:.2f}",
    ], phase


def count(recipe: Recipe, phase: Phase) -> Counted:
    """Train one step and predict one batch of `runtime.batch_size`, on fake tensors."""
    settings = recipe.train
    with torch.device("meta"):
        network = model.for_training(settings, 0, "none")
    with FakeTensorMode(), Alive() as alive:
        make_fake(network)
        numbers = [*network.parameters(), *network.buffers()]
        average = [torch.empty_like(one) for one in numbers if settings.weights.ema != "none"]
        optimizer = optimizer_of(network, settings)
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = step(network, optimizer, settings, phase, "cpu")
        training, lasting = alive.peak, alive.now
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
        del average
        seen = logits.shape, logits.dtype
        del logits
        alive.peak = alive.now
        network.eval()
        images = torch.empty(recipe.runtime.batch_size, *phase.size, 3, dtype=torch.uint8)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            levels = levels_of(probability_of(network(images).float()))
        made = levels.shape, levels.dtype
        return Counted(model.parameters(network), training, lasting, alive.peak, seen, made)


def make_fake(network: nn.Module) -> None:
    """Give a network of torch's meta device fake numbers on the CPU; in a FakeTensorMode."""
    for layer in network.modules():
        for place in (layer._parameters, layer._buffers):
            for name, old in place.items():
                if old is not None:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype)
                    trained = isinstance(old, nn.Parameter)
                    place[name] = nn.Parameter(new) if trained else new


def optimizer_of(network: nn.Module, settings: Train) -> Optimizer:
    """The recipe's, as on a GPU."""
    fused = settings.gradient.clip == "none"
    return make_optimizer(network.parameters(), fused, **settings.optimizer.model_dump())


def step(
    network: nn.Module, optimizer: Optimizer, settings: Train, phase: Phase, device: str
) -> Tensor:
    """One step as a training does it; the logits."""
    size = (phase.batch_size, *phase.size)
    images = torch.empty(*size, 3, dtype=torch.uint8, device=device)
    classes = (settings.classes,) if settings.classes > 1 else ()
    targets = torch.full((*size, *classes), 85, dtype=torch.uint8, device=device)
    logits: Tensor = network(images)
    entropy_dice(logits, shares(targets), settings.loss).total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return logits


def run(settings: Train, phase: Phase) -> int:
    """The most bytes that tensors took on the GPU in three real steps."""
    network = model.for_training(settings, 0, "none").cuda().train()
    optimizer = optimizer_of(network, settings)
    ema = settings.weights.ema != "none"
    average = [torch.empty_like(one) for one in network.parameters() if ema]
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            step(network, optimizer, settings, phase, "cuda")
        optimizer.zero_grad(set_to_none=True)
    del average
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
