"""What looks wrong in a finished submission, without knowing the truth. Nothing is changed.

Test images show the same kind of thing as the training images, from the same views, so a
mask whose size or number of parts the training set never saw deserves a look.
"""

import csv
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.data.archives import base_name
from pipeline.data.samples import Sample
from pipeline.evaluation import breakdown
from pipeline.masks import parts, runs
from pipeline.support.errors import UserError
from pipeline.support.files import written_whole

Kind = Literal["unreadable", "empty", "full", "area", "parts", "folds"]
KINDS: tuple[Kind, ...] = ("unreadable", "empty", "full", "area", "parts", "folds")

# Robust standard deviations from the view's median area; beyond 5 a normal distribution has
# one in two million.
_FAR = 5.0
_LEAST_SPREAD = 0.01  # of areas, relative: less is the precision of drawing masks by hand
_MOST_DISPUTED = 12  # images on whose pixels the folds' networks disagree most
NOTES = ("img", "area", "disagreement", "error")
COLUMNS = ("img", "view", "foreground", "parts", "disagreement", "reasons")


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """What prediction knows of an image.

    `area` in pixels at full size, `disagreement` the share of pixels (0..1) on which
    the folds' networks decide differently, `error` why it could not be read, or empty.
    """

    area: int
    disagreement: float
    error: str


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
    """Read `masks.csv` of the predict stage, by image name.

    Raises:
        UserError: it is missing, has other columns or an unreadable row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != NOTES:
                raise ValueError(f"found columns {reader.fieldnames}, expected {list(NOTES)}")
            return {
                row["img"]: Note(
                    int(row["area"]), float(row["disagreement"]), str(row["error"])
                )
                for row in reader
            }
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}; run the predict stage") from None


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
    ranked = sorted(notes, key=lambda name: -notes[name].disagreement)[:_MOST_DISPUTED]
    rank = {name: i for i, name in enumerate(ranked, start=1) if notes[name].disagreement > 0}
    findings, shares = [], {}
    for name, text in rows:
        if name not in samples or name not in notes:
            raise UserError(f"masks.csv: no row {name!r}, which the submission has; predict again")
        row, note = samples[name], notes[name]
        found = parts.measure(runs.read(text, row.height, row.width), row.width)
        share = found.area / (row.height * row.width)
        shares[row.sample_id] = share
        view = view_of[row.sample_id]
        view = view if view in expected.median else ""
        reasons = list(_reasons(share, found.count, view, note, rank.get(name, 0), expected))
        if reasons:
            findings.append(
                Finding(row, view, share, found.count, note.disagreement, tuple(reasons))
            )
    return sorted(findings, key=_gravity), shares


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


def write(path: Path, findings: Sequence[Finding]) -> None:
    """Write all findings as CSV, in one step."""
    with written_whole(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in findings:
            reasons = "; ".join(reason.text for reason in one.reasons)
            values = (f"{one.share:.6f}", one.parts, f"{one.disagreement:.6f}", reasons)
            writer.writerow((base_name(one.row.image), one.view, *values))


def _reasons(
    share: float, count: int, view: str, note: Note, rank: int, expected: Usual
) -> Iterable[Reason]:
    if note.error:
        yield Reason("unreadable", 1, f"unreadable, left empty: {note.error}")
        return
    if share in (0, 1):
        kind: Kind = "full" if share else "empty"
        yield Reason(kind, 1, f"the mask is {kind}")
        return
    median = expected.median.get(view, 0.0)
    away = abs(share / median - 1) / expected.spread if median else 0.0
    if away > _FAR:
        where = f"of view {view}" if view else "of the training masks"
        text = f"covers {share:.1%}, the median {where} is {median:.1%} ({away:.0f} deviations)"
        yield Reason("area", away, text)
    if count > expected.parts:
        text = f"{count} parts, no out-of-fold mask has more than {expected.parts}"
        yield Reason("parts", count, text)
    if rank:
        text = f"folds disagree on {note.disagreement:.2%} of the pixels (number {rank})"
        yield Reason("folds", note.disagreement, text)


def _gravity(finding: Finding) -> tuple[int, float]:
    first = finding.reasons[0]
    return KINDS.index(first.kind), -first.weight


def _compare(view: str, training: np.ndarray, test: np.ndarray) -> ViewShare:
    difference = 0.0
    if min(len(training), len(test)) > 1:
        error = np.sqrt(training.var(ddof=1) / len(training) + test.var(ddof=1) / len(test))
        difference = float((test.mean() - training.mean()) / error) if error else 0.0
    return ViewShare(view, float(training.mean()), float(test.mean()), difference)
