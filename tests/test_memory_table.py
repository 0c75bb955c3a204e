"""benchmarks/memory.py counts what a training keeps without running it."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

spec = importlib.util.spec_from_file_location("memory", ROOT / "benchmarks/memory.py")
assert spec and spec.loader
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)


def test_what_backward_keeps_is_counted_once() -> None:
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    images = torch.zeros(2, 3, 16, 16)
    with memory.kept_for_backward() as kept:
        torch.relu(convolution(images)).square().sum()
    inputs, outputs = 2 * 3 * 16 * 16, 2 * 8 * 16 * 16
    assert sum(kept.values()) == 4 * (inputs + outputs), "relu's output serves the square as well"


def test_the_table_has_a_row_a_recipe() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/memory.py", "--recipe", "sample"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    row = done.stdout.splitlines()[-1].split("|")
    assert row[1].strip() == "`sample`" and row[-2].strip() == "24 GB"
    states, kept = float(row[5]), float(row[6])
    assert states == pytest.approx(4 * 5 * float(row[4]) / 1000, abs=0.03) and kept > 0
