"""What looks wrong in a finished submission, without knowing the truth. Nothing is changed.

Test images show the same kind of thing as the training images, from the same views, so a
mask whose size or number of parts the training set never saw deserves a look. What is listed
is what is unusual, not the first so many of anything: nothing unusual makes an empty list.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.archives import base_name
from pipeline.data.samples import Sample
from pipeline.evaluation import breakdown
from pipeline.masks import regions, rle
from pipeline.masks.submission import Note
from pipeline.support import table
from pipeline.support.errors import UserError

Kind = Literal["unreadable", "empty", "full", "area", "parts", "folds"]
KINDS: tuple[Kind, ...] = ("unreadable", "empty", "full", "area", "parts", "folds")

# Robust standard deviations from a median; beyond 5 a normal distribution has one in two million.
FAR = 5.0
_LEAST_SPREAD = 0.01  # of areas, relative: less is the precision of drawing masks by hand
# Disagreement of folds spreads by factors: its logarithm is judged, from one pixel in 100,000 on.
_LEAST_DISAGREEMENT, _LEAST_FACTOR = 1e-5, 1.2


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why an image is listed; `weight` orders the reasons of one kind."""

    kind: Kind
    weight: float
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A listed image: `share` of foreground (0..1), connected parts, and why."""

    row: Sample
    view: str
    share: float
    parts: int
    disagreement: float
    reasons: tuple[Reason, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A finding as `sanity.csv` tells it."""

    img: str
    view: str
    foreground: float = dataclasses.field(metadata=table.cells(digits=6))
    parts: int
    disagreement: float = dataclasses.field(metadata=table.cells(digits=6))
    reasons: str


@dataclasses.dataclass(frozen=True, slots=True)
class ViewShare:
    """Mean share of foreground of one view in both sets; "" stands for all images.

    `difference` is test minus training in standard errors of that difference (0 where one
    of them has too few images to say).
    """

    view: str
    training: float
    test: float
    difference: float


@dataclasses.dataclass(frozen=True)
class Usual:
    """What the training set makes expect: the median share by view, its spread, most parts."""

    median: Mapping[str, float]
    spread: float
    parts: int


def read_notes(path: Path) -> dict[str, Note]:
    """Read `masks.csv` of the encode stage, by image name.

    Raises:
        UserError: it is missing, has other columns or an unreadable row.
    """
    return {note.img: note for note in table.read(path, Note, "run the encode stage")}


def usual(training: Sequence[Sample], most_parts: int) -> Usual:
    """What is usual in the training set; `most_parts` is the most of an out-of-fold mask."""
    views = np.array(breakdown.views(training))
    shares = np.array([row.foreground for row in training])
    median = {str(view): float(np.median(shares[views == view])) for view in set(views)}
    median[""] = float(np.median(shares))  # for test images of views that training lacks
    middle = np.array([median[view] for view in views])
    relative = np.abs(shares / np.maximum(middle, 1e-9) - 1)
    # 1.4826 makes the median deviation of a normal distribution its standard deviation.
    spread = max(_LEAST_SPREAD, 1.4826 * float(np.median(relative)))
    return Usual(median, spread, most_parts)


def examine(
    rows: Iterable[tuple[str, str]],
    test: Sequence[Sample],
    notes: Mapping[str, Note],
    expected: Usual,
) -> tuple[list[Finding], dict[str, float]]:
    """Look at every row (image name, run-length text) of a submission.

    Returns:
        What to look at, the gravest first; and each image's share of foreground, by sample.

    Raises:
        UserError: `notes` are not of this submission.
    """
    view_of = dict(zip((row.sample_id for row in test), breakdown.views(test), strict=True))
    samples = {base_name(row.image): row for row in test}
    disputed = _disputed(notes)
    findings, shares = [], {}
    for name, text in rows:
        if name not in samples or name not in notes:
            raise UserError(
                f"masks.csv: no row {name!r}, which the submission has; run the encode stage again"
            )
        row, note = samples[name], notes[name]
        found = regions.measure(rle.read(text, row.height, row.width), row.width)
        share = found.area / (row.height * row.width)
        shares[row.sample_id] = share
        view = view_of[row.sample_id]
        view = view if view in expected.median else ""
        reasons = list(_reasons(share, found.count, view, note, expected))
        if not note.error and name in disputed:
            reasons.append(disputed[name])
        if reasons:
            findings.append(
                Finding(row, view, share, found.count, note.disagreement, tuple(reasons))
            )
    return sorted(findings, key=_gravity), shares


def deviations(
    values: NDArray[np.float64], groups: NDArray[np.generic], least: float
) -> NDArray[np.float64]:
    """How many robust standard deviations each value lies above the median of its group.

    The deviation is 1.4826 times the median distance from the median, which of a normal
    distribution is the standard deviation and which a few outliers do not move; it is `least`
    or more, so that equal values do not make the smallest difference a large one.
    """
    away = np.zeros(len(values))
    for group in np.unique(groups):
        inside = groups == group
        distance = values[inside] - np.median(values[inside])
        away[inside] = distance / max(least, 1.4826 * float(np.median(np.abs(distance))))
    return away


def _disputed(notes: Mapping[str, Note]) -> dict[str, Reason]:
    """Images on which the folds' networks disagree by far more than on the others."""
    shares = np.array([note.disagreement for note in notes.values()])
    logarithms = np.log(np.maximum(shares, _LEAST_DISAGREEMENT))
    away = deviations(logarithms, np.zeros(len(shares)), float(np.log(_LEAST_FACTOR)))
    usual = float(np.median(shares)) if len(shares) else 0.0
    return {
        name: Reason(
            "folds", note.disagreement,
            f"folds disagree on {note.disagreement:.2%} of the pixels, on {usual:.2%} of the "
            f"median image",
        )
        for (name, note), far in zip(notes.items(), away, strict=True)
        if far > FAR
    }  # fmt: skip


def compare_views(
    training: Sequence[Sample], test: Sequence[Sample], shares: Mapping[str, float]
) -> list[ViewShare]:
    """Compare the mean share of foreground by view; views that only one set has are left out."""
    views = breakdown.views([*training, *test])  # "" for all, unless all have one
    seen = [(view, row.foreground) for view, row in zip(views, training, strict=False)]
    of_test = zip(views[len(training) :], test, strict=True)
    predicted = [(view, shares[row.sample_id]) for view, row in of_test]
    both = {view for view, _ in seen} & {view for view, _ in predicted}
    return [
        _compare(view, *(np.array([s for v, s in some if v == view]) for some in (seen, predicted)))
        for view in sorted(both)
    ]


def in_turn(findings: Sequence[Finding], count: int) -> list[Finding]:
    """The first `count` findings when every kind of (gravest) reason has its turn."""
    kinds = [[one for one in findings if one.reasons[0].kind == kind] for kind in KINDS]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    chosen = [one for one in turns if one is not None][:count]
    return sorted(chosen, key=_gravity)


def write(path: Path, findings: Iterable[Finding]) -> None:
    """Write all findings as CSV, in one step."""
    rows = (
        Row(
            base_name(one.row.image), one.view, one.share, one.parts, one.disagreement,
            "; ".join(reason.text for reason in one.reasons),
        )
        for one in findings
    )  # fmt: skip
    table.write(path, Row, rows)


def _reasons(share: float, count: int, view: str, note: Note, expected: Usual) -> Iterable[Reason]:
    if note.error:
        yield Reason("unreadable", 1, f"unreadable, left empty: {note.error}")
        return
    if share in (0, 1):
        kind: Kind = "full" if share else "empty"
        yield Reason(kind, 1, f"the mask is {kind}")
        return
    median = expected.median.get(view, 0.0)
    away = abs(share / median - 1) / expected.spread if median else 0.0
    if away > FAR:
        where = f"of view {view}" if view else "of the training masks"
        text = f"covers {share:.1%}, the median {where} is {median:.1%} ({away:.0f} deviations)"
        yield Reason("area", away, text)
    if count > expected.parts:
        text = f"{count} parts, no out-of-fold mask has more than {expected.parts}"
        yield Reason("parts", count, text)


def _gravity(finding: Finding) -> tuple[int, float]:
    first = finding.reasons[0]
    return KINDS.index(first.kind), -first.weight


def _compare(view: str, training: np.ndarray, test: np.ndarray) -> ViewShare:
    difference = 0.0
    if min(len(training), len(test)) > 1:
        error = np.sqrt(training.var(ddof=1) / len(training) + test.var(ddof=1) / len(test))
        difference = float((test.mean() - training.mean()) / error) if error else 0.0
    return ViewShare(view, float(training.mean()), float(test.mean()), difference)
