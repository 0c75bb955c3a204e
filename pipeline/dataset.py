"""Samples as torch data sets: decoded, at network size, still uint8.

Pixels stay (H, W, 3) uint8 until they are on the device that computes: a quarter of the bytes
to move, and normalising there costs nothing beside the network.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from pipeline.archives import Archives, DamagedMemberError
from pipeline.augment import Augmentation
from pipeline.images import (
    BadImageError,
    Size,
    decode_image,
    decode_mask,
    resize_image,
    soft_target,
)
from pipeline.samples import Sample

UInt8 = npt.NDArray[np.uint8]
Resize = Literal["linear", "area"]
Draw = tuple[int, int]  # index of a row, seed of its augmentation


class TrainingSet(Dataset[tuple[UInt8, UInt8]]):
    """Augmented images and soft targets, drawn by (index, seed)."""

    def __init__(
        self,
        rows: Sequence[Sample],
        archives: Archives,
        size: Size,
        resize: Resize,
        augment: Augmentation,
    ) -> None:
        self._rows = rows
        self._archives = archives
        self._size = size
        self._resize: Resize = resize
        self._augment = augment
        self._cache: tuple[UInt8, UInt8] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, draw: Draw) -> tuple[UInt8, UInt8]:
        """Image (H, W, 3) and target (H, W), uint8 0..255, at network size."""
        index, seed = draw
        image, target = self._load(index) if self._cache is None else self._cached(index)
        return self._augment(image, target, seed)

    def decode_all(self) -> None:
        """Decode every row once and keep it: 4 bytes a pixel at network size in RAM."""
        height, width = self._size
        images = np.empty((len(self), height, width, 3), np.uint8)
        targets = np.empty((len(self), height, width), np.uint8)

        def decode(index: int) -> None:
            images[index], targets[index] = self._load(index)

        with ThreadPoolExecutor() as pool:
            done = pool.map(decode, range(len(self)))
            for _ in tqdm(done, total=len(self), desc="decode", unit="img"):
                pass
        self._cache = images, targets

    def _cached(self, index: int) -> tuple[UInt8, UInt8]:
        assert self._cache is not None
        return self._cache[0][index], self._cache[1][index]

    def _load(self, index: int) -> tuple[UInt8, UInt8]:
        row = self._rows[index]
        image = decode_image(self._archives.read(row.image), row.size, row.image)
        mask = decode_mask(self._archives.read(row.mask), row.size, row.mask, row.values)
        return resize_image(image, self._size, self._resize), soft_target(mask, self._size, 1)


class Shuffle(Sampler[list[Draw]]):
    """One epoch's batches of draws: a permutation and seeds that follow from (seed, epoch).

    An incomplete last batch is left out (its rows come up in other epochs), unless there
    is no other.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.epoch = 0
        self._rows = rows
        self.batch_size = min(batch_size, rows)
        self._seed = seed

    def __len__(self) -> int:
        return self._rows // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = np.random.default_rng([self._seed, self.epoch])
        order = generator.permutation(self._rows)
        seeds = generator.integers(2**32, size=self._rows)
        draws = list(zip(order.tolist(), seeds.tolist(), strict=True))
        for batch in range(len(self)):
            yield draws[batch * self.batch_size : (batch + 1) * self.batch_size]


class Decoded(NamedTuple):
    """One image for inference: `image` is black and `error` says why if it did not decode."""

    position: int  # of its row
    image: UInt8
    error: str


class ImageSet(Dataset[Decoded]):
    """Images alone, in order, for inference."""

    def __init__(
        self, rows: Sequence[Sample], archives: Archives, size: Size, resize: Resize
    ) -> None:
        self._rows = rows
        self._archives = archives
        self._size = size
        self._resize: Resize = resize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Decoded:
        """Image (H, W, 3) uint8 at network size."""
        row = self._rows[index]
        try:
            image = decode_image(self._archives.read(row.image), row.size, row.image)
        except (BadImageError, DamagedMemberError) as error:
            return Decoded(index, np.zeros((*self._size, 3), np.uint8), str(error))
        return Decoded(index, resize_image(image, self._size, self._resize), "")


def collate(batch: Sequence[Decoded]) -> tuple[list[int], torch.Tensor, list[str]]:
    """Positions, images (B, H, W, 3) uint8, errors."""
    images = torch.from_numpy(np.stack([decoded.image for decoded in batch]))
    return [decoded.position for decoded in batch], images, [decoded.error for decoded in batch]
