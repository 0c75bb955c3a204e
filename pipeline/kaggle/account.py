"""What an account can ask of Kaggle, and what its answers mean in a user's words.

The requests and their fields are those of `kagglesdk`, Kaggle's own package; they are the same in
0.1.37 and 0.1.38. Its way of sending them is not used, see `_Http`; what its client does with
files neither, see `pipeline.kaggle.transfer` and `pipeline.kaggle.upload`.
"""

import contextlib
import dataclasses
import datetime
import difflib
import functools
import json
import os
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
import urllib3
from requests.exceptions import ChunkedEncodingError

from pipeline.kaggle import credentials
from pipeline.kaggle.credentials import TOKENS, WHERE_TO_PUT, Credentials
from pipeline.kaggle.retry import (
    PASSING,
    RefusedRedirect,
    RetryAdapter,
    RetryPolicy,
    is_refused_tls,
)
from pipeline.kaggle.transfer import Corrupt, Interrupted, Offer
from pipeline.support.errors import UserError, keep_secret

_SITE = "https://www.kaggle.com"
_PAGE = 100  # files or submissions a request; the service allows 200
_PAGES = 1000  # a server that names ever more pages would never let us end
_NAMED = 8  # files a message lists
_LINE = 500  # characters of a server's words in a message
_LARGEST = 64 << 20  # bytes of an answer, files apart; a page of a listing has some kilobytes


class Refused(UserError):
    """Kaggle answered, and the answer is no; `code` is the HTTP status, or the body's own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Unconfirmed(Exception):
    """A submission was asked for and no usable reply came: Kaggle may have it or not."""


@dataclasses.dataclass(frozen=True)
class Submission:
    """A submission as Kaggle tells of it.

    Scores are Kaggle's text, empty while there is none; `date` is UTC, ISO 8601.
    """

    ref: int
    date: str
    description: str
    status: Literal["PENDING", "COMPLETE", "ERROR"]
    public: str
    private: str
    error: str


@contextlib.contextmanager
def connect(policy: RetryPolicy) -> Iterator["Account"]:
    """Sign in with the user's credentials and yield their account.

    Raises:
        UserError: no credentials, or ones that Kaggle does not know.
    """
    with _sessions(policy) as (api, storage):
        http = _Http(api, policy)
        http.credentials, name = _sign_in(http)
        yield Account(http, storage, f"{name} ({http.credentials.source})")


@contextlib.contextmanager
def _sessions(policy: RetryPolicy) -> Iterator[tuple[requests.Session, requests.Session]]:
    """One session for Kaggle, one for the storage, which must not see credentials."""
    with requests.Session() as api, requests.Session() as storage:
        for session in (api, storage):
            session.headers.update({"User-Agent": "", "Accept-Encoding": "identity"})
            for scheme in ("http://", "https://"):
                session.mount(scheme, RetryAdapter(policy))
        submits = _Http.address("competitions.CompetitionApiService", "CreateSubmission")
        api.mount(submits, RetryAdapter(policy, attempts=1))
        yield api, storage


class _Answer(requests.HTTPError):
    """An answer that is no: its HTTP status, or the code in its body, and its words."""

    def __init__(self, response: requests.Response, body: Any = None) -> None:
        body = body if isinstance(body, dict) else {}
        inner = body.get("error")
        said = [body.get("message"), inner.get("message") if isinstance(inner, dict) else None]
        words = next((text for text in said if isinstance(text, str) and text), response.reason)
        line = " ".join(str(words or "no reason").split())
        super().__init__(line[:_LINE], response=response)
        code = body.get("code")
        is_told = response.status_code < 300 and isinstance(code, int)
        self.code: int = code if is_told else response.status_code


class _Http:
    """How the service clients of `kagglesdk` send their requests: its `KaggleHttpClient`.

    That one is not used: it waits for ever, looks for credentials by itself, follows a redirect
    of the call that submits, and loses the status of an answer with an empty body.
    """

    def __init__(self, session: requests.Session, policy: RetryPolicy) -> None:
        self._session = session
        self._policy = policy
        self.credentials: Credentials | None = None

    @staticmethod
    def address(service: str, method: str) -> str:
        """Where a method is called."""
        # As the kaggle client does it; its other values are of Kaggle's own developers.
        is_local = os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST"
        base = "http://localhost/api" if is_local else "https://api.kaggle.com"
        return f"{base}/v1/{service}/{method}"

    def call(self, service: str, method: str, request: Any, kind: Any) -> Any:
        """Call a method; return its answer as an object of this `kind`.

        For a file that is the `requests.Response` itself, body unread, a redirect not followed.

        Raises:
            requests.RequestException: no answer, or (`_Answer`) a refusal.
            ValueError: an answer that is no JSON, or not of that kind.
        """
        is_file = kind.__name__ in {"HttpRedirect", "FileDownload"}
        response = self._session.post(
            self.address(service, method), json=type(request).to_dict(request),
            auth=self.credentials, stream=True, allow_redirects=False,
        )  # fmt: skip
        what = response.headers.get("Content-Type", "unknown type")
        is_json = "application/json" in what
        if is_file and (response.is_redirect or (response.ok and not is_json)):
            return response
        text = self._read(response)
        body = _parsed(text) if is_json else None
        code = body.get("code") if isinstance(body, dict) else None
        if response.status_code >= 300 or (isinstance(code, int) and code >= 400):
            raise _Answer(response, body)
        if not is_json or is_file:
            raise ValueError(f"found a page of type {what} instead of Kaggle's answer")
        try:
            return kind.from_json(text)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"found an unknown {error}") from None

    def _read(self, response: requests.Response) -> str:
        """The body of an answer, which must end: no answer of Kaggle's takes minutes."""
        end = time.monotonic() + self._policy.window
        body = bytearray()
        with response:
            try:
                while piece := response.raw.read1(1 << 16, decode_content=True):
                    body += piece
                    if time.monotonic() > end or len(body) > _LARGEST:
                        raise requests.Timeout("it does not end", request=response.request)
            except urllib3.exceptions.HTTPError as error:
                raise ChunkedEncodingError(error, request=response.request) from None
        return body.decode("utf-8", "replace")


def _parsed(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return None  # an empty body, say: the status tells enough


def _sign_in(http: _Http) -> tuple[Credentials, str]:
    """The user's credentials, and the name of the account.

    Raises:
        UserError: there are none, or Kaggle does not know them.
    """
    found = credentials.find() or _signed_in(http)
    if found is None:
        raise credentials.none_found()
    if found.user or not found.token:
        return found, found.user
    from kagglesdk.security.services.oauth_service import OAuthClient
    from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

    request = IntrospectTokenRequest()
    request.token = found.token
    asked = _Asked("Kaggle", TOKENS, "the token", found.source)
    try:
        answer = asked.of(lambda: OAuthClient(http).introspect_token(request))
        if answer.active and answer.username:
            return found, str(answer.username)
    except Refused as error:
        if error.code not in {400, 403, 404}:
            raise
    key = credentials.find_key()
    hidden = f"; it also hides the key of {key.source}" if key else ""
    raise UserError(
        f"{found.source}: Kaggle does not know this token (expired, revoked or mistyped){hidden}: "
        f"remove it, or {WHERE_TO_PUT}"
    )


def _signed_in(http: _Http) -> Credentials | None:
    """What `kaggle auth login` left here, renewed by Kaggle where it has run out."""
    from kagglesdk.kaggle_creds import KaggleCredentials
    from kagglesdk.users.services.account_service import AccountClient

    file = credentials.login_file()
    if not file.is_file():
        return None
    again = "run kaggle auth login again"
    renewing = credentials.read_object(file, ["refresh_token"], again)["refresh_token"]
    if not renewing:
        raise UserError(f"{file}: found an empty refresh_token; {again}")
    keep_secret(renewing)
    users = types.SimpleNamespace(account_client=AccountClient(http))
    asked = _Asked("Kaggle", TOKENS, "the file", f"{file} ({again})")
    try:
        left = KaggleCredentials.load(types.SimpleNamespace(users=users))
    except (ValueError, TypeError) as error:  # the time the token runs out
        raise UserError(f"{file}: {error}; {again}") from None

    def valid() -> str:
        # By itself the package sends a token for half an hour after it has run out.
        ends = left._access_token_expiration
        if ends and ends < datetime.datetime.now(datetime.UTC):
            left.refresh_access_token()
        return str(left.get_access_token())

    token = asked.of(valid)
    keep_secret(token)
    return Credentials(str(file), token=token, user=left.get_username() or "the user")


class Account:
    """What a signed-in user can ask of Kaggle."""

    def __init__(self, http: _Http, storage: requests.Session, who: str) -> None:
        from kagglesdk.competitions.services import competition_api_service as competitions
        from kagglesdk.datasets.services import dataset_api_service as datasets

        self._types = {**vars(datasets), **vars(competitions)}
        self._competitions = competitions.CompetitionApiClient(http)
        self._datasets = datasets.DatasetApiClient(http)
        self._storage = storage
        self._who = who

    def files(self, slug: str, names: Sequence[str], optional: Sequence[str]) -> list[Offer]:
        """Offers of a competition's files: the optional ones that it has, then all `names`.

        Raises:
            UserError: there is no such competition or file.
        """
        request = self._new("ListDataFiles", competition_name=slug, page_size=_PAGE)
        pages = self._pages(self._competitions.list_data_files, request, slug)
        sizes = {file.name: file.total_bytes for page in pages for file in page.files}
        for name in names:
            if name not in sizes:
                raise UserError(
                    f"{slug}: found no file {name!r}, expected {_some(name, sizes)}; correct "
                    "download.files in the recipe"
                )
        offered = [name for name in optional if name in sizes]
        return [Offer(name, sizes[name], self._opener(slug, name)) for name in [*offered, *names]]

    def _opener(self, slug: str, name: str) -> Callable[[dict[str, str]], requests.Response]:
        request = self._new("DownloadDataFile", competition_name=slug, file_name=name)
        call = functools.partial(self._competitions.download_data_file, request)
        return functools.partial(self._open, call, self._asked(name, slug))

    def dataset(self, slug: str) -> Offer:
        """The offer of a whole data set, `owner/name`: one zip."""
        owner, name = slug.split("/")
        request = self._new("DownloadDataset", owner_slug=owner, dataset_slug=name)
        page = f"{_SITE}/datasets/{slug}"
        asked = _Asked(slug, page, "download.slug in the recipe", self._who)
        call = functools.partial(self._datasets.download_dataset, request)
        return Offer(f"{name}.zip", None, functools.partial(self._open, call, asked))

    def _open(
        self, call: Callable[[], requests.Response], asked: "_Asked", headers: dict[str, str]
    ) -> requests.Response:
        """The answer with a file's body unread; `headers` go to the storage only."""
        answer: requests.Response = asked.of(call)
        if answer.next is None:
            return answer  # no storage in between; the caller looks whether it is a file
        answer.close()
        try:
            response = self._storage.get(str(answer.next.url), headers=headers, stream=True)
        except requests.RequestException as error:
            raise asked.explained(error) from None
        status = response.status_code
        if status in PASSING:  # for all the adapter's tries
            response.close()
            raise asked.explained(_Answer(response))
        if status not in {200, 206}:
            response.close()  # not from Kaggle: the signed address ran out, or so
            kind = Corrupt if status == 416 else Interrupted
            raise kind(f"answer {status} from the storage")
        return response

    def submissions(self, slug: str) -> Iterator[Submission]:
        """The account's submissions to a competition, newest first."""
        request = self._new("ListSubmissions", competition_name=slug, page_size=_PAGE, page=1)
        for page in self._pages(self._competitions.list_submissions, request, slug):
            if not page.submissions:
                return
            yield from map(_submission, page.submissions)

    def submission(self, slug: str, ref: int) -> Submission:
        """One submission as it is now.

        Raises:
            Refused: among others where there is none of this number, or it is another's.
        """
        request = self._new("GetSubmission", ref=ref)
        asked = self._asked(f"submission {ref}", slug, "ref in the ledger")
        return _submission(asked.of(lambda: self._competitions.get_submission(request)))

    def start_upload(self, slug: str, name: str, size: int, mtime: int) -> tuple[str, str]:
        """Ask for a place to upload a file to; return its address and the file's token."""
        request = self._new(
            "StartSubmissionUpload", competition_name=slug, file_name=name,
            content_length=size, last_modified_epoch_seconds=mtime,
        )  # fmt: skip
        call = functools.partial(self._competitions.start_submission_upload, request)
        answer = self._asked(name, slug).of(call)
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
            if not isinstance(error, _Answer):
                raise Unconfirmed(f"no answer, {type(error).__name__}") from None
            if error.code < 400 or error.code == 408 or error.code >= 500:
                raise Unconfirmed(f"answer {error.code}") from None
            raise self._asked("the submission", slug).explained(error) from None
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

    def _pages(self, call: Callable[[Any], Any], request: Any, slug: str) -> Iterator[Any]:
        """All pages of a listing."""
        asked = self._asked(slug, slug)
        for _ in range(_PAGES):
            page = asked.of(lambda: call(request))
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
            if hasattr(request, "page"):  # of submissions Kaggle's client sends its number, too
                request.page += 1
        raise UserError(
            f"{slug}: Kaggle's listing does not end after {_PAGES:,} pages; try again later"
        )

    def _asked(
        self, subject: str, slug: str, setting: str = "download.slug in the recipe"
    ) -> "_Asked":
        return _Asked(subject, f"{_SITE}/competitions/{slug}/rules", setting, self._who)


def _some(wanted: str, names: Iterable[str]) -> str:
    """The names most like the wanted one: a competition may have thousands."""
    known = sorted(names)
    like = difflib.get_close_matches(wanted, known, _NAMED, cutoff=0)
    more = f" or another of its {len(known):,} files" if len(known) > _NAMED else ""
    return (f"one of {', '.join(sorted(like))}" if like else "some; it has none") + more


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


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What was asked of Kaggle: the words its failure is told in.

    `subject` starts the message (a file, a competition), `page` is where a browser shows it,
    `setting` names what the user can correct, `who` asked.
    """

    subject: str
    page: str
    setting: str
    who: str

    def of(self, call: Callable[[], Any]) -> Any:
        """Make a call that may be made twice; its failure becomes a `UserError`."""
        try:
            try:
                return call()
            except ChunkedEncodingError:
                return call()  # the body broke: urllib3's rule ends with the header
        except requests.RequestException as error:
            raise self.explained(error) from None
        except ValueError as error:  # no JSON, or a value this client does not know
            raise UserError(
                f"{self.subject}: Kaggle's answer cannot be read ({error}); update the client "
                "(pip install -U kagglesdk); on a network with a login page, sign in first"
            ) from None

    def explained(self, error: requests.RequestException) -> UserError:
        """The one line a user needs: what was refused, in Kaggle's words, and what to do."""
        if not isinstance(error, _Answer):
            return UserError(f"{self.subject}: {_no_answer(error)}")
        told = f"Kaggle answered {error.code} ({error})"
        return Refused(f"{self.subject}: {told}; {self._advice(error.code, error)}", error.code)

    def _advice(self, code: int, error: _Answer) -> str:
        if code < 400:
            return "no redirect is followed here: sign in where your network asks for it"
        if code == 401:
            return f"it does not accept the credentials of {self.who}: {WHERE_TO_PUT}"
        if code == 403:
            return (
                f"open {self.page} in a browser, sign in as {self.who}, accept the "
                "rules or terms there (no program can do that), then run the command again"
            )
        if code == 404:
            return f"there is nothing of that name: check {self.setting}"
        after = error.response.headers.get("Retry-After") if error.response is not None else None
        if code == 429:
            wait = f"{after} s" if after else "some minutes"
            return f"too many requests: wait {wait}, then run the command again"
        if code >= 500:
            wait = f"in {after} s" if after else "later"
            return f"Kaggle is out of order: try again {wait} (https://status.kaggle.com)"
        return "put right what it names, or wait where it says so, then run the command again"


def _no_answer(error: requests.RequestException) -> str:
    host = urlsplit(str(error.request.url)).hostname if error.request is not None else None
    if isinstance(error, RefusedRedirect):
        return str(error)
    if isinstance(error, requests.exceptions.SSLError) and is_refused_tls(error):
        return (
            f"{host}: the certificate is not accepted; behind a proxy that reads along, set "
            "REQUESTS_CA_BUNDLE to its certificate"
        )
    return (
        f"no answer from {host or 'Kaggle'} ({type(error).__name__}); check the network and the "
        "variables https_proxy and no_proxy, then run the command again"
    )
