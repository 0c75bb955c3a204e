"""Command: check a recipe's submission, send it to Kaggle once, wait for the score.

    pipeline submit <recipe> -m "message"     send and wait (--no-wait: do not)
    pipeline submit <recipe> --check-only     check, send nothing
    pipeline submit --list                    the ledger, pending scores renewed

It is no stage: `dvc repro` never submits. The same bytes are not sent twice: their hash stands
in `submissions/ledger.csv` before Kaggle is asked, and in the description there, whatever recipe
or clone they come from. If no reply comes, the file is sent again only if Kaggle's list still
lacks it after ten minutes. Run again while a score is awaited, the command goes on waiting.
"""

import dataclasses
import datetime
import json
import time
from pathlib import Path

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import base_name
from pipeline.kaggle import ledger
from pipeline.kaggle.account import Account, Refused, Submission, Unconfirmed, connect
from pipeline.kaggle.ledger import Row, digits
from pipeline.kaggle.retry import RetryPolicy
from pipeline.kaggle.upload import upload
from pipeline.masks import submission
from pipeline.paths import LEDGER, PARAMS, Paths, recipe_file, submitting
from pipeline.recipe import read
from pipeline.recipe.schema import Competition, Recipe
from pipeline.support import files, workspace
from pipeline.support.errors import UserError, say

# Seconds from the request on in which an unconfirmed submission may still show up in the list.
# Kaggle names no bound; a list normally knows within seconds, so ten minutes are ample. Too
# short a time costs a second submission, of a few a day; too long a one costs only waiting.
_ARRIVAL = 600

_SIGN_OF_LIFE = 60.0  # seconds between two lines while a score is awaited


def run(recipe: Recipe, paths: Paths, message: str, check_only: bool, wait: bool) -> None:
    """Check the recipe's submission; unless `check_only`, send it and, if asked, `wait`.

    Raises:
        UserError: see `prepare` and `submit`.
    """
    slug, row = prepare(recipe, paths, message, wait and not check_only)
    if check_only:
        return
    row = submit(slug, paths.submission_file, row, wait, RetryPolicy())
    if wait:
        print(f"out-of-fold  {digits(row.dice)}   at threshold {row.threshold}")
        for name, score in (("public", row.public), ("private", row.private)):
            gap = ledger.gap(score, row.dice)
            print(f"{name:<11}  {digits(score)}   {gap} against out-of-fold")


def prepare(recipe: Recipe, paths: Paths, message: str, wait: bool) -> tuple[str, Row]:
    """Check everything that can be checked here.

    Returns:
        The competition's slug, and the row for the ledger.

    Raises:
        UserError: the recipe is not for a competition, Kaggle would refuse the file, the file
            is out of date, the ledger cannot be written, or the file was submitted before
            (and is not waited for).
    """
    slug, file = _slug(recipe, paths.recipe), paths.submission_file
    _check_message(message)
    files.check_writable(LEDGER.parent)
    summary = _check_file(paths)
    stage = "encode"
    if recipe.blend is not None:
        read.load_blends(PARAMS)  # all members are listed, so DVC knows how old they are
        stage = "encode-blend"
    workspace.require_current(f"{stage}@{paths.recipe}")
    row = _row(paths, message)
    _in_ledger(row, wait)
    print(
        f"{file}: {summary.rows:,} rows, {summary.empty_rows:,} of them empty; foreground "
        f"{summary.mean_share:.1%} on average, {summary.lowest_share:.1%} to "
        f"{summary.highest_share:.1%}"
    )
    return slug, row


def submit(slug: str, file: Path, row: Row, wait: bool, policy: RetryPolicy) -> Row:
    """Send a checked file, once, and return its row with the scores if they were waited for.

    Raises:
        UserError: Kaggle refuses it, has had it before, or cannot score it; another process
            sends to this competition.
    """
    with connect(policy) as account:
        with files.locked(submitting(slug)):  # until it is sent; to wait, others may
            row = _Sender(account, slug, policy).send(file, row, wait)
        print(f"{file}: submission {row.ref} at {_page(slug)}", flush=True)
        return _wait(account, slug, row, policy) if wait else row


def show_ledger(path: Path) -> None:
    """Print the ledger, after asking Kaggle for the scores that were still pending."""
    rows = ledger.read(path)
    try:
        refresh(rows, RetryPolicy())
    finally:  # what is known is shown also when Kaggle cannot be asked
        print(ledger.show(ledger.read(path)))


def refresh(rows: list[Row], policy: RetryPolicy) -> list[Row]:
    """Ask Kaggle about every row that has no score yet; return all rows as they are now.

    What Kaggle does not know, or does not show this account, is said, and stays as it is.
    """
    waiting = [row for row in rows if row.status in {"PENDING", "UNCONFIRMED"}]
    slugs = _slugs({row.recipe for row in waiting})
    waiting = [row for row in waiting if row.recipe in slugs]
    if not waiting:
        return rows
    with connect(policy) as account:
        for row in waiting:
            slug = slugs[row.recipe]
            try:
                there = account.submission(slug, row.ref) if row.ref else None
                there = there or _find(account, slug, row)
            except Refused as error:
                if error.code in {401, 429} or error.code >= 500:
                    raise  # it would be the same with the next one
                say(f"{row.recipe}: {error}")
                continue
            if there:
                _confirm(row, there)
    return ledger.read(LEDGER)


@dataclasses.dataclass(frozen=True)
class _Sender:
    """Sends submissions to a competition, each once; to be used by one process at a time."""

    account: Account
    slug: str
    policy: RetryPolicy

    def send(self, file: Path, row: Row, wait: bool) -> Row:
        """Submit a file unless Kaggle has these bytes; return the row with Kaggle's number.

        Raises:
            UserError: Kaggle refuses the file, has had it before, or may have it and not list
                it yet.
        """
        asked = _in_ledger(row, wait)
        if asked and asked.status == "PENDING":
            print(f"{file}: was submitted at {_time(asked.time)}")
            return asked
        if asked:
            if there := self._look_for(asked):
                return _confirm(asked, there)  # the answer to that request
            self._refuse_early(asked)
        else:
            self._refuse_known(file, row)
        token = upload(self.account, self.slug, file, self.policy)
        if ledger.sha256(file) != row.sha256:
            raise UserError(f"{file}: changed while it was sent; nothing was submitted: try again")
        self._refuse_known(file, row)  # an upload takes minutes, and other machines submit too
        return self._create(token, row)

    def _refuse_known(self, file: Path, row: Row) -> None:
        if there := _find(self.account, self.slug, row):
            row = _confirm(row, there)
            raise UserError(
                f"{file}: Kaggle has these bytes already, as submission {row.ref} of {there.date} "
                f"(public {digits(row.public)}, private {digits(row.private)}); nothing was sent, "
                f"{LEDGER} now lists it"
            )

    def _refuse_early(self, asked: Row) -> None:
        """Refuse to send while what was asked for may still show up in the list."""
        if datetime.datetime.now(datetime.UTC) < asked.time + datetime.timedelta(seconds=_ARRIVAL):
            raise UserError(
                f"{self.slug}: a submission of these bytes was asked for at {_time(asked.time)} "
                "and Kaggle has neither confirmed nor listed it; nothing was sent now. "
                f"{_advice(asked)}"
            )

    def _create(self, token: str, row: Row) -> Row:
        """Ask once for the submission; if the answer is lost, look for it in the list."""
        row = dataclasses.replace(row, time=_now())
        ledger.put(LEDGER, row)
        try:
            ref = self.account.create_submission(self.slug, token, f"{row.tag} {row.message}")
        except UserError:
            ledger.remove(LEDGER, row)
            raise
        except Unconfirmed as lost:
            say(f"Kaggle's reply was no confirmation ({lost}); looking whether it has the file")
            if there := self._look_for(row):
                return _confirm(row, there)
            raise UserError(
                f"{self.slug}: Kaggle did not confirm the submission ({lost}) and does not list "
                f"it yet: it may have it or not. {_advice(row)}"
            ) from None
        row = dataclasses.replace(row, ref=ref, status="PENDING")
        ledger.put(LEDGER, row)
        return row

    def _look_for(self, row: Row) -> Submission | None:
        """Look until the list has had time to learn of the submission."""
        end = time.monotonic() + self.policy.confirm
        while True:
            there = _find(self.account, self.slug, row)
            if there or time.monotonic() >= end:
                return there
            time.sleep(min(self.policy.poll, self.policy.confirm))


def _wait(account: Account, slug: str, row: Row, policy: RetryPolicy) -> Row:
    """Wait until Kaggle has scored the submission; return its row with the scores.

    Raises:
        UserError: it could not be scored (in Kaggle's words), or there is no score for long.
    """
    assert row.ref is not None, f"{row.sha256}: waited for without a number"
    started = said = time.monotonic()
    print("waiting for the score", flush=True)
    while (there := account.submission(slug, row.ref)).status == "PENDING":
        now = time.monotonic()
        if now - started >= policy.score:
            raise UserError(
                f"submission {row.ref}: no score after {policy.score / 60:.0f} minutes; it is "
                "submitted: run the same command again to go on waiting, or see it later with "
                "pipeline submit --list"
            )
        if now - said >= _SIGN_OF_LIFE:
            minutes = f"{(now - started) / 60:.0f} of at most {policy.score / 60:.0f} minutes"
            say(f"submission {row.ref}: no score yet, after {minutes}")
            said = now
        time.sleep(policy.poll)
    row = _confirm(row, there)
    if there.status == "ERROR":
        raise UserError(
            f"submission {row.ref}: Kaggle could not score it "
            f"({there.error or 'it gives no reason'}); see {_page(slug)}"
        )
    return row


def _in_ledger(row: Row, wait: bool) -> Row | None:
    """The ledger's row about the same bytes, of whatever recipe: if they are not done with.

    Raises:
        UserError: they were submitted, and there is nothing to `wait` for.
    """
    other = next((other for other in ledger.read(LEDGER) if other.sha256 == row.sha256), None)
    is_open = {"UNCONFIRMED", "PENDING"} if wait else {"UNCONFIRMED"}
    if other and other.status not in is_open:
        raise UserError(
            f"{LEDGER}: these bytes (sha256 {row.sha256[:16]}) were submitted at "
            f"{_time(other.time)} by recipe {other.recipe} as {other.ref}: {other.status}, public "
            f"{digits(other.public)}, private {digits(other.private)}; nothing was sent"
        )
    return other


def _find(account: Account, slug: str, row: Row) -> Submission | None:
    """The account's submission of these bytes, by the mark in its description."""
    return next((s for s in account.submissions(slug) if row.tag in s.description), None)


def _confirm(row: Row, there: Submission) -> Row:
    """Enter what Kaggle says of the submission into the ledger."""
    row = dataclasses.replace(
        row, ref=there.ref, status=there.status, public=there.public, private=there.private
    )
    ledger.put(LEDGER, row)
    return row


def _advice(asked: Row) -> str:
    until = asked.time + datetime.timedelta(seconds=_ARRIVAL)
    return (
        "Run the same command again: it takes the submission over once Kaggle lists it, and "
        f"sends the file anew only after {until:%H:%M:%S} UTC; or look at your submissions there"
    )


def _page(slug: str) -> str:
    """Where a browser shows the submissions of the account."""
    return f"https://www.kaggle.com/competitions/{slug}/submissions"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _time(when: datetime.datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _slugs(names: set[str]) -> dict[str, str]:
    """The competition of each recipe; says which recipe names none any more."""
    slugs = {}
    for name in sorted(names):
        try:
            slugs[name] = _slug(read.load(recipe_file(name)), name)
        except UserError as error:
            say(f"{name}: its open submissions are not looked up: {error}")
    return slugs


def _slug(recipe: Recipe, name: str) -> str:
    """The competition a recipe is for."""
    if not isinstance(recipe.download, Competition):
        raise UserError(
            f"{recipe_file(name)}: download.kind: found {recipe.download.kind!r}, expected "
            "'competition': only a competition takes submissions"
        )
    return recipe.download.slug


def _check_message(message: str) -> None:
    """Refuse what cannot be sent, nor written down: bytes of a terminal in another encoding."""
    try:
        message.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"-m: found {message!a}, expected text in UTF-8; set the terminal to it (LANG=C.UTF-8) "
            "or write without accents"
        ) from None


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
        threshold, dice = str(metrics["threshold"]), float(metrics["dice"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro tune@{name}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error!r}; run dvc repro tune@{name} again") from None
    return Row(
        time=_now(), recipe=name, sha256=ledger.sha256(paths.submission_file),
        commit=workspace.commit(LEDGER), threshold=threshold, dice=dice, ref=None,
        status="UNCONFIRMED", public="", private="", message=message,
    )  # fmt: skip
