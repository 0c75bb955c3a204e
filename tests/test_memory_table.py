"""benchmarks/memory.py counts what a recipe takes without running it, and the docs tell it."""

import importlib.util
import re

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.recipe import read

NUMBER = re.compile(r"\d+\.?\d*")
spec = importlib.util.spec_from_file_location("memory", ROOT / "benchmarks/memory.py")
assert spec and spec.loader
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)


def test_what_is_alive_is_counted_once_and_no_longer() -> None:
    with FakeTensorMode(), memory.Alive() as alive:
        layer = nn.Linear(10, 10, bias=False)
        inputs = torch.ones(5, 10)
        assert alive.now == 4 * (100 + 50)
        same = inputs.view(50)
        hidden = layer(inputs)
        assert alive.now == 4 * (100 + 50 + 50)
        del inputs, same
        assert alive.now == 4 * (100 + 50 + 50), "backward needs the inputs"
        hidden.sum().backward()
        del hidden
        assert alive.now == 4 * (100 + 100), "weights and gradients"
    assert alive.peak > alive.now


@pytest.mark.parametrize("name", memory.names())
def test_every_recipe_trains_and_predicts_on_fake_tensors_as_the_docs_say(name: str) -> None:
    """All phases at their own sizes and batches: shapes, types, bytes."""
    recipe = read.load(ROOT / f"recipes/{name}.yaml")
    counted = [memory.count(recipe, phase) for phase in recipe.train.phases]
    classes = (recipe.train.classes,) if recipe.train.classes > 1 else ()
    for phase, one in zip(recipe.train.phases, counted, strict=True):
        assert one.logits == ((phase.batch_size, *classes, *phase.size), torch.bfloat16)
        assert one.levels == ((recipe.runtime.batch_size, *classes, *phase.size), torch.uint8)
        kept = 8 * one.parameters  # weights and gradients at least
        assert one.training > kept and one.prediction < one.training * recipe.runtime.batch_size
    (line,) = [line for line in memory.DOCS.read_text().splitlines() if f"| `{name}` |" in line]
    row, _ = memory.row_of(name, recipe, counted)
    told = [cell.strip() for cell in line.strip("|").split("|")]
    renew = f"{line}: now {row}; renew the table with python benchmarks/memory.py --write"
    for old, new in zip(told, row, strict=True):
        assert NUMBER.sub("", old) == NUMBER.sub("", new), renew
        there, here = ([float(n) for n in NUMBER.findall(cell)] for cell in (old, new))
        assert here == pytest.approx(there, rel=0.05, abs=0.011), renew
