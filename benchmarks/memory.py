"""How much memory each recipe's training takes, counted without running it: no GPU is needed.

    python benchmarks/memory.py [--recipe NAME ...]              a table, as in docs/training.md
    python benchmarks/memory.py --recipe carvana --device cuda   beside it, what a GPU really took

Counted are the parameters with their gradients, the optimizer's two moments and the moving
average (float32), and what forward keeps for backward, by fake tensors: torch computes shapes,
types and strides, and allocates nothing. Convolutions' workspaces and the allocator's slack come
on top: a tenth more, by experience elsewhere. Every phase is counted; the largest is told.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.networks import model  # noqa: E402
from pipeline.recipe import read  # noqa: E402
from pipeline.recipe.schema import Phase, Train  # noqa: E402
from pipeline.train.loss import entropy_dice  # noqa: E402

GIGABYTE = 1e9
CARDS = (24, 40, 80)  # GB
SLACK = 1.1  # workspaces and the allocator's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="*", help="names; all that are there unless given")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: run, too")
    args = parser.parse_args()
    names = args.recipe or sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    measured = " measured GB |" if args.device == "cuda" else ""
    print(f"| recipe | phase | batch | M parameters | states GB | kept GB | fits in |{measured}")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |" + (" ---: |" if measured else ""))
    for name in names:
        settings = read.load(ROOT / "recipes" / f"{name}.yaml").train
        phase = max(settings.phases, key=lambda one: one.batch_size * one.size[0] * one.size[1])
        states, kept, count = count_bytes(settings, phase)
        total = SLACK * (states + kept)
        fits = [f"{card}" for card in CARDS if total < card * GIGABYTE]
        row = (
            f"| `{name}` | {phase.size[0]}x{phase.size[1]} | {phase.batch_size} | "
            f"{count / 1e6:.1f} | {states / GIGABYTE:.2f} | {kept / GIGABYTE:.2f} | "
            f"{f'{fits[0]} GB' if fits else f'none of {CARDS} GB: lower batch_size'} |"
        )
        if measured:
            row += f" {run(settings, phase) / GIGABYTE:.2f} |"
        print(row, flush=True)


def count_bytes(settings: Train, phase: Phase) -> tuple[int, int, int]:
    """Bytes of the states and of what backward needs, and the number of parameters.

    The batch is counted whole: what BatchNorm and the loss keep does not grow with it alone.
    """
    network = model.for_training(settings, 0, "none").train()
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        kept_for_backward() as kept,
        torch.autocast("cpu", torch.bfloat16),
    ):
        step(network, settings, phase, "cpu")
    parameters = model.parameters(network)
    copies = 4 + (settings.weights.ema != "none")  # weights, gradients, two moments; average
    if settings.optimizer.name in ("sgd", "rmsprop"):
        copies -= 1
    return copies * 4 * parameters, sum(kept.values()), parameters


@contextlib.contextmanager
def kept_for_backward() -> Iterator[dict[int, int]]:
    """The bytes of each storage that autograd keeps, the network's own parameters left out."""
    found: dict[int, int] = {}
    alive = []  # a storage's id stands for another one once it is gone

    def pack(value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, torch.nn.Parameter):
            storage = value.untyped_storage()
            alive.append(storage)
            found[storage._cdata] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield found


def step(network: torch.nn.Module, settings: Train, phase: Phase, device: str) -> torch.Tensor:
    """The loss of one batch of zeros, as a training computes it."""
    batch, (height, width) = phase.batch_size, phase.size
    images = torch.zeros(batch, height, width, 3, dtype=torch.uint8, device=device)
    logits = network(images)
    return entropy_dice(logits, torch.zeros_like(logits, dtype=torch.float32), settings.loss).total


def run(settings: Train, phase: Phase) -> int:
    """The most bytes that tensors took on the GPU in three real steps."""
    network = model.for_training(settings, 0, "none").cuda().train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            loss = step(network, settings, phase, "cuda")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
