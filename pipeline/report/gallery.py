"""The gallery: held-out images with their masks as they would be submitted.

They are drawn from kept levels by the decision of the tune stage, so the score beside a mask is
that of the mask. No network runs.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np

from pipeline.data.archives import Archives
from pipeline.data.images import decode_image, read_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import judge
from pipeline.evaluation.decision import Decision
from pipeline.levels import scale
from pipeline.levels.kept import Image
from pipeline.paths import Paths
from pipeline.report.results import Results
from pipeline.support import concurrency, pages
from pipeline.support.arrays import UInt8
from pipeline.support.pictures import Layers, draw_class_layers, draw_layers, encode_jpeg

Kind = Literal["worst", "random"]

_IMAGES, _RANDOM = 56, 14  # at most, if they fit
_ROOM = 3_400_000  # bytes for them, of a page that has to stay below 5 MB
_SUSPECTS = 20
_THUMB, _QUALITY = 400, 70  # pixels, of JPEG: browsers put that into a PDF as it is, WebP not


@dataclasses.dataclass(frozen=True)
class Card:
    """One image: what is known of it (`values`, by name), and its pictures as data URIs.

    `whole` and `window` are layers, see `pipeline.support.pictures`; `thumb` is a small photograph.
    """

    sample_id: str
    kind: Kind
    values: dict[str, Any]
    thumb: str
    whole: dict[str, str]
    window: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return sum(map(len, (self.thumb, *self.whole.values(), *self.window.values())))


def draw(results: Results, paths: Paths) -> list[Card]:
    """Draw the images that tables name, suspects, some at random, and the lowest while they fit.

    Returns:
        The cards, the lowest Dice first.
    """
    values = results.tables["images"].set_index("sample_id").to_dict("index")
    for measures in results.held_out.measures:
        values[measures.sample_id]["boundary"] = measures.boundary
    kinds = _choose(results)
    rows = {row.sample_id: row for row in results.held_out.rows}
    decision = None if results.several_classes else Decision.read(paths.metrics)
    archives = Archives(paths.raw)

    def card(image: Image) -> Card:
        name, row = image.sample_id, rows[image.sample_id]
        known = {str(key): value for key, value in values[name].items()}
        return _card(row, image.levels(), decision, archives, kinds[name], known)

    cards, size = [], 0
    threads = concurrency.cores()
    for one in concurrency.ordered(card, _levels(results, paths, list(kinds)), threads):
        size += one.size
        if size > _ROOM:
            break
        cards.append(one)
    return sorted(cards, key=lambda one: (one.values["dice"], one.sample_id))


def _choose(results: Results) -> dict[str, Kind]:
    """Which images to draw, the most wanted first."""
    images = results.tables["images"].sort_values("dice", kind="stable")
    tables = (results.tables[name].sort_values("dice") for name in ("folds", "groups", "views"))
    named = [name for table in tables for name in table["worst_image"][:_SUSPECTS]]
    suspects = [] if results.several_classes else results.suspects()[:_SUSPECTS]
    wanted = [*named, *(one.sample_id for one in suspects)]
    others = [name for name in images["sample_id"][_IMAGES - _RANDOM :] if name not in set(wanted)]
    drawn = np.random.default_rng(0).permutation(len(others))[:_RANDOM]  # not by their scores
    kinds: dict[str, Kind] = dict.fromkeys(wanted, "worst")
    kinds |= dict.fromkeys((others[index] for index in drawn), "random")
    lowest = [name for name in images["sample_id"] if name not in kinds]
    kinds |= dict.fromkeys(lowest[: max(0, _IMAGES - len(kinds))], "worst")
    return kinds


def _levels(results: Results, paths: Paths, names: Sequence[str]) -> Iterator[Image]:
    """The kept levels of these images, in this order."""
    by_fold: dict[int, list[Sample]] = {}
    for row in results.held_out.rows:
        by_fold.setdefault(row.fold, []).append(row)
    fold_of = {row.sample_id: row.fold for row in results.held_out.rows}
    kept = {fold: judge.open_levels(paths, fold, rows) for fold, rows in by_fold.items()}
    for name in names:
        yield from kept[fold_of[name]].some([name])


def _card(
    row: Sample,
    levels: UInt8,
    decision: Decision | None,
    archives: Archives,
    kind: Kind,
    values: dict[str, Any],
) -> Card:
    image = decode_image(archives.read(row.image), row.size, row.image)
    truth = read_mask(archives, row)
    if decision is None:  # several classes
        whole, window = draw_class_layers(image, scale.decide(levels, row.size), truth)
    else:
        whole, window = draw_layers(image, decision.mask(levels, row.size), truth > 0)
    thumb = pages.data_uri(_thumb(image), "jpeg")
    return Card(row.sample_id, kind, values, thumb, _embedded(whole), _embedded(window))


def _thumb(image: UInt8) -> bytes:
    height, width = image.shape[:2]
    if width > _THUMB:
        size = (_THUMB, max(1, round(height * _THUMB / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return encode_jpeg(image, _QUALITY)


def _embedded(layers: Layers) -> dict[str, str]:
    return {
        name: pages.data_uri(data, "webp" if name == "photograph" else "png")
        for name, data in dataclasses.asdict(layers).items()
    }
