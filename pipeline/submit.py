"""Command: check a recipe's submission, send it to Kaggle once, wait for the score.

    python -m pipeline.submit <recipe> -m "message"     send and wait (--no-wait: do not)
    python -m pipeline.submit <recipe> --check-only     check, send nothing
    python -m pipeline.submit --list                    the ledger, pending scores renewed

It is no stage: `dvc repro` never submits. The same bytes are not sent twice: their hash stands
in `submissions/ledger.csv` before Kaggle is asked, and in the description there. If no
reply comes, the file is sent again only if Kaggle's list still lacks it after ten minutes.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

from pipeline import ledger, params, samples, submission, workspace
from pipeline.archives import base_name
from pipeline.errors import UserError, command
from pipeline.files import only_process
from pipeline.ledger import Row
from pipeline.settings.data import Competition
from pipeline.web import delivery, kaggle_site
from pipeline.web.patience import Patience


def prepare(name: str, message: str) -> tuple[str, Path, Row]:
    """Check everything that can be checked here.

    Returns:
        The competition's slug, the file, and the row for the ledger.

    Raises:
        UserError: the recipe is not for a competition, Kaggle would refuse the file, the file
            is out of date, or it was submitted before.
    """
    slug = _slug(name)
    file = Path("submissions", name, "submit.csv.gz")
    summary = _check_file(name, file)
    workspace.require_current(f"predict@{name}")
    row = _row(name, file, message)
    delivery.unanswered(row, ledger.PATH)
    print(
        f"{file}: {summary.rows:,} rows, {summary.empty_rows:,} of them empty; foreground "
        f"{summary.mean_share:.1%} on average, {summary.lowest_share:.1%} to "
        f"{summary.highest_share:.1%}"
    )
    return slug, file, row


def submit(slug: str, file: Path, row: Row, wait: bool, patience: Patience) -> Row:
    """Send a checked file, once, and return its row with the scores if they were waited for.

    Raises:
        UserError: Kaggle refuses it, has had it before, or cannot score it.
    """
    with (
        only_process(Path("work", row.recipe, "submit")),
        kaggle_site.connect(patience) as account,
    ):
        row = delivery.send(account, slug, file, row, ledger.PATH, patience)
        print(f"{file}: submission {row.ref} at {delivery.page(slug)}")
        if not wait:
            return row
        print("waiting for the score", flush=True)
        return delivery.scored(account, slug, row, ledger.PATH, patience)


def refresh(rows: list[Row], patience: Patience) -> list[Row]:
    """Ask Kaggle about every row that has no score yet; return all rows as they are now."""
    open_rows = [row for row in rows if row.status in {ledger.PENDING, ledger.UNCONFIRMED}]
    slugs = _slugs({row.recipe for row in open_rows})
    open_rows = [row for row in open_rows if row.recipe in slugs]
    if not open_rows:
        return rows
    with kaggle_site.connect(patience) as account:
        for row in open_rows:
            slug = slugs[row.recipe]
            there = account.submission(slug, int(row.ref)) if row.ref else None
            if there := there or delivery.find(account, slug, row):
                delivery.confirm(row, there, ledger.PATH)
    return ledger.read(ledger.PATH)


def _slugs(names: set[str]) -> dict[str, str]:
    """The competition of each recipe; says which recipe names none any more."""
    slugs = {}
    for name in sorted(names):
        try:
            slugs[name] = _slug(name)
        except UserError as error:
            print(f"{name}: its open submissions are not looked up: {error}", file=sys.stderr)
    return slugs


def _slug(name: str) -> str:
    """The competition a recipe is for."""
    recipe = params.load(Path("recipes", f"{name}.yaml"))
    if not isinstance(recipe.download, Competition):
        raise UserError(
            f"recipes/{name}.yaml: download.kind: found {recipe.download.kind!r}, expected "
            "'competition': only a competition takes submissions"
        )
    return recipe.download.slug


def _check_file(name: str, file: Path) -> submission.Summary:
    """Check the file against the sample submission and the sizes of the images."""
    raw = Path("data", name, "raw")
    table = Path("data", name, "samples.csv")
    sizes = {base_name(row.image): row.size for row in samples.test(samples.read(table))}
    if not sizes:
        raise UserError(
            f"{table}: found no test images, so there is no submission; expected those of a "
            "competition: check the recipe's download.files"
        )
    return submission.check(file, submission.find_sample(raw), sizes)


def _row(name: str, file: Path, message: str) -> Row:
    path = Path("eval", name, "metrics.json")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        threshold, dice = str(metrics["threshold"]), str(metrics["dice"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro tune@{name}") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {error!r}; run dvc repro tune@{name} again") from None
    sha256 = ledger.sha256(file)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Row(
        now,
        name,
        sha256,
        workspace.commit(ledger.PATH),
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


@command
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="name of a recipe of a competition")
    parser.add_argument("-m", "--message", help="what to remember this submission by")
    parser.add_argument("--check-only", action="store_true", help="check, send nothing")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the score")
    parser.add_argument("--list", action="store_true", help="show the ledger")
    arguments = parser.parse_args()
    if arguments.list:
        _list()
    elif arguments.recipe is None or not (arguments.message or arguments.check_only):
        parser.error('found no recipe or no message; expected: <recipe> -m "message", or --list')
    else:
        slug, file, row = prepare(arguments.recipe, " ".join((arguments.message or "").split()))
        if not arguments.check_only:
            row = submit(slug, file, row, not arguments.no_wait, Patience())
            if not arguments.no_wait:
                _print_scores(row)


def _list() -> None:
    rows = ledger.read(ledger.PATH)
    try:
        rows = refresh(rows, Patience())
    finally:  # what is known is shown also when Kaggle cannot be asked
        print(ledger.table(rows))


if __name__ == "__main__":
    main()
