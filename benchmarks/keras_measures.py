"""Dice and accuracy as Keras means them: over batches, at network size, of probabilities.

    python benchmarks/keras_measures.py posit-unet-128 --fold 0 --batch 32

The measures of Posit's article on Carvana (and of the lab's curves): `dice` is (2 sum(p y) + 1) /
(sum(p) + sum(y) + 1) over all pixels of a batch, `binary_accuracy` the share of pixels whose true
value *equals* the decided one, so that a soft pixel of a mask's edge is never right; beside it
the same with true values cut at 0.5. Both are means over batches, of the images held out.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.networks import model
from pipeline.paths import Paths, recipe_file
from pipeline.recipe import read
from pipeline.train.data import Decoder


@torch.inference_mode()
def main() -> None:
    """Print the measures of one fold's network on the images it holds out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    paths = Paths.of(given.recipe)
    train = read.load(recipe_file(given.recipe)).train
    network = model.load(paths.model(given.fold))
    rows = samples.held_out(samples.read(paths.samples), given.fold)
    images = Decoder(rows, Archives(paths.raw), train.size, train.resize, train.target.resize)
    found = []
    for start in range(0, len(rows), given.batch):
        pairs = [images[i] for i in range(start, min(start + given.batch, len(rows)))]
        pixels, truth = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        p, y = torch.sigmoid(network(pixels)), truth / 255
        dice = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        decided = (p > 0.5).float()
        equal, cut = (decided == y).float().mean(), (decided == (y > 0.5)).float().mean()
        found.append([dice.item(), equal.item(), cut.item()])
    dice, equal, cut = np.mean(found, axis=0)
    print(
        f"{given.recipe}, fold {given.fold}, {len(rows)} images in batches of {given.batch}: dice "
        f"{dice:.4f}, binary_accuracy {equal:.4f} ({cut:.4f} with masks cut at 0.5)"
    )


if __name__ == "__main__":
    main()
