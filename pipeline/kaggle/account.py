"""What the project asks of Kaggle, through Kaggle's own client.

Failures become a user's words. What the client itself does with files is not used: see
`pipeline.kaggle.transfer` and `pipeline.kaggle.upload`.

The calls made here are the same in kaggle 2.2.4 and 2.2.5.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import requests

from pipeline.kaggle import answers, client
from pipeline.kaggle.retry import RetryAdapter, RetryPolicy
from pipeline.kaggle.transfer import Corrupt, Interrupted, Offer
from pipeline.support.errors import UserError

_SITE = "https://www.kaggle.com"
_PAGE = 100  # files or submissions a request; the service allows 200

T = TypeVar("T")


class Unconfirmed(Exception):
    """A submission was asked for and no usable reply came: Kaggle may have it or not."""


@dataclasses.dataclass(frozen=True)
class Submission:
    """A submission as Kaggle tells of it; `status` is PENDING, COMPLETE or ERROR.

    Scores are Kaggle's text, empty while there is none; `date` is UTC, ISO 8601.
    """

    ref: int
    date: str
    description: str
    status: str
    public: str
    private: str
    error: str


@contextlib.contextmanager
def connect(policy: RetryPolicy) -> Iterator["Account"]:
    """Sign in with the user's credentials and yield their account.

    Raises:
        UserError: no credentials, or ones that Kaggle does not know.
    """
    adapter = RetryAdapter(policy, once=("/CreateSubmission",))
    api = client.api(adapter)
    credentials = client.sign_in(api)
    with api.build_kaggle_client() as site:
        yield Account(site, adapter, credentials)


class Account:
    """What a signed-in user can ask of Kaggle."""

    def __init__(self, client: Any, adapter: RetryAdapter, credentials: str) -> None:
        from kagglesdk.competitions.types import competition_api_service  # type: ignore[import-untyped]
        from kagglesdk.datasets.types import dataset_api_service  # type: ignore[import-untyped]

        self._types = {**vars(dataset_api_service), **vars(competition_api_service)}
        self._competitions = client.competitions.competition_api_client
        self._datasets = client.datasets.dataset_api_client
        self._adapter = adapter
        self._credentials = credentials

    def files(self, slug: str, names: Sequence[str], optional: Sequence[str]) -> list[Offer]:
        """Offers of a competition's files: the optional ones that it has, then all `names`.

        Raises:
            UserError: there is no such competition or file.
        """
        sizes = dict(self._listing(slug))
        for name in names:
            if name not in sizes:
                raise UserError(
                    f"{slug}: found no file {name!r}, expected one of "
                    f"{', '.join(sorted(sizes))}; correct download.files in the recipe"
                )
        offered = [name for name in optional if name in sizes]
        return [Offer(name, sizes[name], self._opener(slug, name)) for name in [*offered, *names]]

    def _listing(self, slug: str) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every file of a competition."""
        request = self._new("ListDataFiles", competition_name=slug, page_size=_PAGE)
        asked = self._request(slug, slug)
        while True:
            answer = _ask(lambda: self._competitions.list_data_files(request), asked)
            yield from ((file.name, file.total_bytes) for file in answer.files)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def _opener(self, slug: str, name: str) -> Callable[[dict[str, str]], requests.Response]:
        request = self._new("DownloadDataFile", competition_name=slug, file_name=name)
        asked = self._request(name, slug)
        call = functools.partial(self._competitions.download_data_file, request)
        return functools.partial(self._opened, call, asked)

    def dataset(self, slug: str) -> Offer:
        """The offer of a whole data set, `owner/name`: one zip."""
        owner, name = slug.split("/")
        request = self._new("DownloadDataset", owner_slug=owner, dataset_slug=name)
        page = f"{_SITE}/datasets/{slug}"
        asked = answers.Request(slug, page, "download.slug in the recipe", self._credentials)
        call = functools.partial(self._datasets.download_dataset, request)
        return Offer(f"{name}.zip", None, functools.partial(self._opened, call, asked))

    def _opened(
        self, call: Callable[[], Any], asked: answers.Request, headers: dict[str, str]
    ) -> requests.Response:
        """The answer with a file's body unread; `headers` go to the storage only."""
        try:
            with self._adapter.asking(headers):
                response = call()
        except requests.RequestException as error:
            answer = error.response
            tried = answer is None or answer.status_code == 429 or answer.status_code >= 500
            if answer is None or tried or not answer.history:
                raise answers.explained(error, asked) from None
            # From the storage, not from Kaggle: the signed address ran out, or so.
            kind = Corrupt if answer.status_code == 416 else Interrupted
            raise kind(f"answer {answer.status_code} from the storage") from None
        assert isinstance(response, requests.Response), f"the client returned {type(response)}"
        return response

    def submissions(self, slug: str) -> Iterator[Submission]:
        """The account's submissions to a competition, newest first."""
        request = self._new("ListSubmissions", competition_name=slug, page_size=_PAGE, page=1)
        asked = self._request(slug, slug)
        while True:
            answer = _ask(lambda: self._competitions.list_submissions(request), asked)
            yield from map(_submission, answer.submissions)
            if not answer.next_page_token or not answer.submissions:
                return
            request.page_token = answer.next_page_token
            request.page += 1

    def submission(self, slug: str, ref: int) -> Submission:
        """One submission as it is now."""
        request = self._new("GetSubmission", ref=ref)
        asked = self._request(f"submission {ref}", slug)
        return _submission(_ask(lambda: self._competitions.get_submission(request), asked))

    def start_upload(self, slug: str, name: str, size: int, mtime: int) -> tuple[str, str]:
        """Ask for a place to upload a file to; return its address and the file's token."""
        request = self._new(
            "StartSubmissionUpload", competition_name=slug, file_name=name,
            content_length=size, last_modified_epoch_seconds=mtime,
        )  # fmt: skip
        asked = self._request(name, slug)
        answer = _ask(lambda: self._competitions.start_submission_upload(request), asked)
        return answer.create_url, answer.token

    def create_submission(self, slug: str, token: str, description: str) -> int:
        """Submit an uploaded file, asking once; return the submission's number.

        Raises:
            UserError: Kaggle refused.
            Unconfirmed: no usable reply; look into `submissions` before asking again.
        """
        request = self._new(
            "CreateSubmission", competition_name=slug, blob_file_tokens=token,
            submission_description=description,
        )  # fmt: skip
        try:
            answer = self._competitions.create_submission(request)
        except requests.RequestException as error:
            code = answers.status(error)
            if code is None or code == 408 or code >= 500:
                told = f"answer {code}" if code else f"no answer, {type(error).__name__}"
                raise Unconfirmed(told) from None
            raise answers.explained(error, self._request("the submission", slug)) from None
        except ValueError:
            raise Unconfirmed("an answer that is no JSON") from None
        if not answer.ref:
            raise Unconfirmed(answer.message or "an answer without a submission's number")
        return int(answer.ref)

    def _new(self, name: str, **values: object) -> Any:
        """A request object of the client, `Api<name>Request`, with these fields."""
        request = self._types[f"Api{name}Request"]()
        for field, value in values.items():
            setattr(request, field, value)  # the client refuses fields it does not have
        return request

    def _request(self, subject: str, slug: str) -> answers.Request:
        page = f"{_SITE}/competitions/{slug}/rules"
        setting = "download.slug in the recipe"
        return answers.Request(subject, page, setting, self._credentials)


def _ask(call: Callable[[], T], asked: answers.Request) -> T:
    """Make a call of the client; its failure becomes a `UserError`."""
    try:
        return call()
    except requests.RequestException as error:
        raise answers.explained(error, asked) from None
    except (ValueError, KeyError) as error:  # no JSON, or a value this client does not know
        raise UserError(
            f"{asked.subject}: Kaggle's answer cannot be read ({error!r}); update the client "
            "(pip install -U kaggle); on a network with a login page, sign in first"
        ) from None


def _submission(answer: Any) -> Submission:
    return Submission(
        ref=answer.ref,
        date=answer.date.isoformat(timespec="seconds") if answer.date else "",
        description=answer.description or "",
        status=answer.status.name,
        public=answer.public_score or "",
        private=answer.private_score or "",
        error=answer.error_description or "",
    )
