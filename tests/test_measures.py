from pathlib import Path

import numpy as np

from pipeline.evaluation import measures
from pipeline.masks import runs
from pipeline.metrics.dice import count_levels, dice


def test_an_image_is_measured_at_half(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros((60, 90), bool)
    truth[10:40, 20:70] = True
    levels = np.where(truth, 250, 3).astype(np.uint8)
    levels[10:14, 20:30] = generator.integers(13, 128, (4, 10))  # missed
    levels[50:53, 80:84] = generator.integers(128, 243, (3, 4))  # a speck of its own
    at_half = levels >= 128
    counts = count_levels(levels, truth)
    found = measures.measure("a", counts, runs.of_mask(at_half), runs.of_mask(truth), 90)
    whole = at_half.copy()
    whole[50:53, 80:84] = False
    assert found.dice == dice(at_half, truth)
    assert found.dice_largest == dice(whole, truth) > found.dice
    assert (found.predicted, found.true, found.parts) == (1472, 1500, 2)
    assert found.uncertain == (40 + 12) / 5400
    measures.write(tmp_path / "images.csv", [found])
    (again,) = measures.read(tmp_path / "images.csv")
    assert abs(again.uncertain - found.uncertain) < 1e-6
    assert (again.dice, again.dice_largest, again.parts) == (found.dice, found.dice_largest, 2)
