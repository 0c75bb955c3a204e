"""Masks of a stream of images at full resolution, as bits, batch by batch."""

import dataclasses
import itertools
from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.archives import Archives
from pipeline.data.samples import Sample
from pipeline.levels import scale
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.support.progress import Timers

Words = NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Masks:
    """A batch's masks at the images' own sizes.

    `words` holds, for each run of images of one size, their bits as in `mask_bits`. `disagreement`
    and `errors` are as in `Prediction`; of an image with an error the bits mean nothing.
    """

    rows: Sequence[Sample]
    words: list[Words]
    disagreement: list[float]
    errors: list[str]


def masks(
    rows: Sequence[Sample], archives: Archives, predictor: Predictor, level: int, waits: Timers
) -> Generator[Masks, None, None]:
    """Yield the masks of `rows` in order: foreground is what reaches `level`."""
    predictions = predictor.predict(rows, archives, waits)
    while some := list(itertools.islice(predictions, predictor.batch_size)):
        yield Masks(
            [one.row for one in some],
            [
                np.stack([_words(one, level) for one in run])
                for _, run in itertools.groupby(some, lambda one: one.row.size)
            ],
            [one.disagreement for one in some],
            [one.error for one in some],
        )


def _words(one: Prediction, level: int) -> Words:
    bits = np.packbits(scale.decide(one.levels, one.row.size, level), bitorder="little")
    words = np.zeros(-(-bits.size // 8), np.uint64)
    words.view(np.uint8)[: bits.size] = bits
    return words
