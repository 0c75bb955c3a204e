"""Send a submission once, whatever happens on the way, and wait for its score."""

import dataclasses
import datetime
import time
from pathlib import Path

from pipeline.kaggle import ledger
from pipeline.kaggle.account import Account, Submission, Unconfirmed
from pipeline.kaggle.ledger import Row
from pipeline.kaggle.retry import RetryPolicy
from pipeline.kaggle.upload import upload
from pipeline.support.errors import UserError

# Seconds from the request on in which an unconfirmed submission may still show up in the list.
# Kaggle names no bound; a list normally knows within seconds, so ten minutes are ample. Too
# short a time costs a second submission, of a few a day; too long a one costs only waiting.
_ARRIVAL = 600


def send(account: Account, slug: str, file: Path, row: Row, book: Path, policy: RetryPolicy) -> Row:
    """Submit a file unless Kaggle has these bytes; return the row with Kaggle's number.

    To be called by one process at a time.

    Args:
        account: who submits.
        slug: of the competition.
        file: the submission, checked.
        row: about it.
        book: the ledger's path.
        policy: for the upload, and for a submission without reply to be listed.

    Raises:
        UserError: Kaggle refuses the file, has had it before, or may have it and not list it yet.
    """
    if asked := unanswered(row, book):
        if there := _look_for(account, slug, asked, policy):
            return confirm(asked, there, book)  # the answer to that request
        _refuse_early(asked, slug)
    elif there := find(account, slug, row):
        row = confirm(row, there, book)
        raise UserError(
            f"{file}: Kaggle has these bytes already, as submission {row.ref} of {there.date} "
            f"(public {ledger.shown(row.public)}, private {ledger.shown(row.private)}); nothing "
            f"was sent, {book} now lists it"
        )
    token = upload(account, slug, file, policy)
    if ledger.sha256(file) != row.sha256:
        raise UserError(f"{file}: changed while it was sent; nothing was submitted: try again")
    return _create(account, slug, token, row, book, policy)


def unanswered(row: Row, book: Path) -> Row | None:
    """The ledger's row about the same bytes, if they were asked for and no answer came.

    Raises:
        UserError: an answer came: they were submitted.
    """
    other = next((other for other in ledger.read(book) if other.sha256 == row.sha256), None)
    if other and other.status != ledger.UNCONFIRMED:
        raise UserError(
            f"{book}: these bytes (sha256 {row.sha256[:16]}) were submitted on {other.time} "
            f"as {other.ref}: {other.status}, public {ledger.shown(other.public)}, private "
            f"{ledger.shown(other.private)}; nothing was sent"
        )
    return other


def _refuse_early(asked: Row, slug: str) -> None:
    """Refuse to send while a submission that was asked for may still show up in the list."""
    until = ledger.moment(asked) + datetime.timedelta(seconds=_ARRIVAL)
    if datetime.datetime.now(datetime.UTC) < until:
        raise UserError(
            f"{slug}: a submission of these bytes was asked for at {asked.time} and Kaggle has "
            f"neither confirmed nor listed it; nothing was sent now. {_advice(until)}"
        )


def _advice(until: datetime.datetime) -> str:
    return (
        "Run the same command again: it takes the submission over once Kaggle lists it, and "
        f"sends the file anew only after {until:%H:%M:%S} UTC; or look at your submissions there"
    )


def _create(
    account: Account, slug: str, token: str, row: Row, book: Path, policy: RetryPolicy
) -> Row:
    """Ask once for the submission; if the answer is lost, look for it in the list."""
    now = datetime.datetime.now(datetime.UTC)
    row = dataclasses.replace(row, time=now.isoformat(timespec="seconds"))
    ledger.put(book, row)
    try:
        ref = account.create_submission(slug, token, f"{row.tag} {row.message}")
    except UserError:
        ledger.remove(book, row)
        raise
    except Unconfirmed as lost:
        print(f"Kaggle's reply was no confirmation ({lost}); looking whether it has the file")
        if there := _look_for(account, slug, row, policy):
            return confirm(row, there, book)
        raise UserError(
            f"{slug}: Kaggle did not confirm the submission ({lost}) and does not list it yet: "
            f"it may have it or not. {_advice(now + datetime.timedelta(seconds=_ARRIVAL))}"
        ) from None
    row = dataclasses.replace(row, ref=str(ref), status=ledger.PENDING)
    ledger.put(book, row)
    return row


def find(account: Account, slug: str, row: Row) -> Submission | None:
    """The account's submission of these bytes, by the mark in its description."""
    return next((s for s in account.submissions(slug) if row.tag in s.description), None)


def _look_for(account: Account, slug: str, row: Row, policy: RetryPolicy) -> Submission | None:
    """Look until the list has had time to learn of the submission."""
    end = time.monotonic() + policy.confirm
    while True:
        there = find(account, slug, row)
        if there or time.monotonic() >= end:
            return there
        time.sleep(min(policy.poll, policy.confirm))


def confirm(row: Row, there: Submission, book: Path) -> Row:
    """Enter what Kaggle says of the submission into the ledger."""
    row = dataclasses.replace(
        row, ref=str(there.ref), status=there.status, public=there.public, private=there.private
    )
    ledger.put(book, row)
    return row


def scored(account: Account, slug: str, row: Row, book: Path, policy: RetryPolicy) -> Row:
    """Wait until Kaggle has scored the submission; return its row with the scores.

    Raises:
        UserError: it could not be scored (in Kaggle's words), or there is no score for long.
    """
    end = time.monotonic() + policy.score
    while True:
        there = account.submission(slug, int(row.ref))
        if there.status != ledger.PENDING:
            break
        if time.monotonic() >= end:
            raise UserError(
                f"submission {row.ref}: no score after {policy.score / 60:.0f} minutes; it is "
                "submitted: see it later with `python -m pipeline.submit --list`"
            )
        time.sleep(policy.poll)
    row = confirm(row, there, book)
    if there.status == ledger.ERROR:
        raise UserError(
            f"submission {row.ref}: Kaggle could not score it "
            f"({there.error or 'it gives no reason'}); see {page(slug)}"
        )
    return row


def page(slug: str) -> str:
    """Where a browser shows the submissions of the account."""
    return f"https://www.kaggle.com/competitions/{slug}/submissions"
