"""Stage `report`: one page about a recipe's results, and a list of what to look at.

The page is a single file that asks nothing of the network. The submission is read, never
changed. `--show NAME` puts any test image on the page, beside those that are listed and drawn.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.data import rows as mask_rows
from pipeline.data.archives import Archives, base_name
from pipeline.data.images import read_image
from pipeline.data.samples import Sample
from pipeline.masks import rle
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.report import gallery, page, sanity
from pipeline.report.page import Submission, TestImage
from pipeline.report.results import Results
from pipeline.support import files
from pipeline.support.errors import UserError
from pipeline.support.pictures import encode_jpeg, outline

_FINDINGS, _RANDOM = 18, 6  # test images on the page: listed ones, and some drawn at random
_WIDTH, _QUALITY = 640, 70  # pixels, of JPEG


def run(recipe: Recipe, paths: Paths, folds: Sequence[int], show: Sequence[str] = ()) -> None:
    """Write the report of one recipe; `show` names test images to put on it, too."""
    results = Results.read(recipe, paths, folds)
    submission = _look(results, paths, show)
    sanity.write(paths.sanity, submission.findings if submission else [])
    cards = gallery.draw(results, paths)
    text = page.render(results, cards, submission)
    files.write_text(paths.report, text)
    if submission:
        print(_told(submission))
    print(f"report:     {paths.report} ({len(text) / 1e6:.1f} MB)")
    if submission:
        print(f"submission: {paths.submission_file}")


def _told(submission: Submission) -> str:
    if not submission.findings:
        return f"none of the {submission.rows} submitted masks is unusual"
    return f"{len(submission.findings)} of {submission.rows} submitted masks deserve a look"


def _look(results: Results, paths: Paths, show: Sequence[str]) -> Submission | None:
    """Check the submission, and draw what is shown of it; None without test images."""
    test = {base_name(row.image): row for row in results.samples if row.split == "test"}
    training = [row for row in results.samples if row.split == "train"]
    notes = sanity.read_notes(paths.submission_masks)
    asked = _asked(show, test, paths)
    if not test:
        return None
    most_parts = max((one.parts for one in results.held_out.measures), default=0)
    expected = sanity.usual(training, most_parts)
    rows = mask_rows.read_rows(paths.submission_file)
    findings, shares = sanity.examine(rows, list(test.values()), notes, expected)
    listed = {
        base_name(one.row.image): [reason.text for reason in one.reasons]
        for one in sanity.in_turn(findings, _FINDINGS)
    }
    others = [name for name in test if name not in listed]
    drawn = np.random.default_rng(0).permutation(len(others))[:_RANDOM]
    some = [others[index] for index in sorted(drawn)]
    pictures = dict(_drawn({*listed, *some, *asked}, test, paths))
    kinds = collections.Counter(reason.kind for one in findings for reason in one.reasons)

    def shown(names: Sequence[str]) -> list[TestImage]:
        return [TestImage(name, listed.get(name, []), pictures.get(name, b"")) for name in names]

    return Submission(
        rows=len(shares),
        findings=findings,
        kinds={kind: kinds[kind] for kind in sanity.KINDS},
        views=sanity.compare_views(training, list(test.values()), shares),
        listed=shown(list(listed)),
        drawn=shown(some),
        asked=shown(asked),
    )


def _asked(show: Sequence[str], test: Mapping[str, Sample], paths: Paths) -> list[str]:
    """The names of the files of the test images asked for, by sample or by file."""
    names = {row.sample_id: name for name, row in test.items()} | {name: name for name in test}
    for name in show:
        if name not in names:
            raise UserError(
                f"--show: found {name!r}, expected the name of one of the {len(test)} test images "
                f"in {paths.samples}"
            )
    return list(dict.fromkeys(names[name] for name in show))


def _drawn(
    wanted: set[str], test: Mapping[str, Sample], paths: Paths
) -> Iterator[tuple[str, bytes]]:
    """The pictures of the test images wanted; one that cannot be read has none."""
    archives, notes = Archives(paths.raw), sanity.read_notes(paths.submission_masks)
    for name, text in mask_rows.read_rows(paths.submission_file):
        if name in wanted and not notes[name].error:
            row = test[name]
            image = read_image(archives, row)
            drawn = outline(image, rle.decode(text, *row.size), _WIDTH)
            yield name, encode_jpeg(drawn, _QUALITY)
