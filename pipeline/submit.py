"""Command: check a recipe's submission, send it to Kaggle once, wait for the score.

    pipeline submit <recipe> -m "message"     send and wait (--no-wait: do not)
    pipeline submit <recipe> --check-only     check, send nothing
    pipeline submit --list                    the ledger, pending scores renewed

It is no stage: `dvc repro` never submits. The same bytes are not sent twice: their hash stands
in `submissions/ledger.csv` before Kaggle is asked, and in the description there. If no
reply comes, the file is sent again only if Kaggle's list still lacks it after ten minutes.
"""

import datetime
import json
import sys
from pathlib import Path

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import base_name
from pipeline.kaggle import delivery, ledger
from pipeline.kaggle.account import connect
from pipeline.kaggle.ledger import Row
from pipeline.kaggle.retry import RetryPolicy
from pipeline.masks import submission
from pipeline.paths import LEDGER, Paths, recipe_file
from pipeline.recipe import read
from pipeline.recipe.schema import Competition, Recipe
from pipeline.support import workspace
from pipeline.support.errors import UserError
from pipeline.support.files import only_process


def prepare(recipe: Recipe, paths: Paths, message: str) -> tuple[str, Path, Row]:
    """Check everything that can be checked here.

    Returns:
        The competition's slug, the file, and the row for the ledger.

    Raises:
        UserError: the recipe is not for a competition, Kaggle would refuse the file, the file
            is out of date, or it was submitted before.
    """
    slug, file = _slug(recipe, paths.recipe), paths.submission_file
    summary = _check_file(paths)
    workspace.require_current(f"predict@{paths.recipe}")
    row = _row(paths, message)
    delivery.unanswered(row, LEDGER)
    print(
        f"{file}: {summary.rows:,} rows, {summary.empty_rows:,} of them empty; foreground "
        f"{summary.mean_share:.1%} on average, {summary.lowest_share:.1%} to "
        f"{summary.highest_share:.1%}"
    )
    return slug, file, row


def submit(slug: str, file: Path, row: Row, wait: bool, policy: RetryPolicy) -> Row:
    """Send a checked file, once, and return its row with the scores if they were waited for.

    Raises:
        UserError: Kaggle refuses it, has had it before, or cannot score it.
    """
    with (
        only_process(Paths.of(row.recipe).work / "submit"),
        connect(policy) as account,
    ):
        row = delivery.send(account, slug, file, row, LEDGER, policy)
        print(f"{file}: submission {row.ref} at {delivery.page(slug)}")
        if not wait:
            return row
        print("waiting for the score", flush=True)
        return delivery.scored(account, slug, row, LEDGER, policy)


def refresh(rows: list[Row], policy: RetryPolicy) -> list[Row]:
    """Ask Kaggle about every row that has no score yet; return all rows as they are now."""
    open_rows = [row for row in rows if row.status in {ledger.PENDING, ledger.UNCONFIRMED}]
    slugs = _slugs({row.recipe for row in open_rows})
    open_rows = [row for row in open_rows if row.recipe in slugs]
    if not open_rows:
        return rows
    with connect(policy) as account:
        for row in open_rows:
            slug = slugs[row.recipe]
            there = account.submission(slug, int(row.ref)) if row.ref else None
            if there := there or delivery.find(account, slug, row):
                delivery.confirm(row, there, LEDGER)
    return ledger.read(LEDGER)


def _slugs(names: set[str]) -> dict[str, str]:
    """The competition of each recipe; says which recipe names none any more."""
    slugs = {}
    for name in sorted(names):
        try:
            slugs[name] = _slug(read.load(recipe_file(name)), name)
        except UserError as error:
            print(f"{name}: its open submissions are not looked up: {error}", file=sys.stderr)
    return slugs


def _slug(recipe: Recipe, name: str) -> str:
    """The competition a recipe is for."""
    if not isinstance(recipe.download, Competition):
        raise UserError(
            f"{recipe_file(name)}: download.kind: found {recipe.download.kind!r}, expected "
            "'competition': only a competition takes submissions"
        )
    return recipe.download.slug


def _check_file(paths: Paths) -> submission.Summary:
    """Check the file against the sample submission and the sizes of the images."""
    table = paths.samples
    sizes = {base_name(row.image): row.size for row in samples.test(samples.read(table))}
    if not sizes:
        raise UserError(
            f"{table}: found no test images, so there is no submission; expected those of a "
            "competition: check the recipe's download.files"
        )
    return submission.check(paths.submission_file, mask_rows.find_sample(paths.raw), sizes)


def _row(paths: Paths, message: str) -> Row:
    path, name = paths.metrics, paths.recipe
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        threshold, dice = str(metrics["threshold"]), str(metrics["dice"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro tune@{name}") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {error!r}; run dvc repro tune@{name} again") from None
    sha256 = ledger.sha256(paths.submission_file)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Row(
        now,
        name,
        sha256,
        workspace.commit(LEDGER),
        threshold,
        dice,
        "",
        ledger.UNCONFIRMED,
        "",
        "",
        message,
    )


def _print_scores(row: Row) -> None:
    print(f"out-of-fold  {ledger.shown(row.dice)}   at threshold {row.threshold}")
    for name, score in (("public", row.public), ("private", row.private)):
        gap = ledger.gap(score, row.dice)
        print(f"{name:<11}  {ledger.shown(score)}   {gap} against out-of-fold")


def run(recipe: Recipe, paths: Paths, message: str, check_only: bool, wait: bool) -> None:
    """Check the recipe's submission; unless `check_only`, send it and, if asked, `wait`."""
    slug, file, row = prepare(recipe, paths, message)
    if not check_only:
        row = submit(slug, file, row, wait, RetryPolicy())
        if wait:
            _print_scores(row)


def show_ledger(path: Path) -> None:
    """Print the ledger, after asking Kaggle for the scores that were still pending."""
    rows = ledger.read(path)
    try:
        rows = refresh(rows, RetryPolicy())
    finally:  # what is known is shown also when Kaggle cannot be asked
        print(ledger.table(rows))
