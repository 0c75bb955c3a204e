"""Kaggle's refusals and a network's failures in a user's words."""

import dataclasses
from typing import Any
from urllib.parse import urlsplit

import requests

from pipeline.support.errors import UserError

TOKENS = "https://www.kaggle.com/settings/api"
WHERE_TO_PUT = (
    f"make a token at {TOKENS} (Generate New Token) and put it in the environment variable "
    "KAGGLE_API_TOKEN or in the file ~/.kaggle/access_token"
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked of Kaggle: the words its failure is told in.

    `subject` starts the message (a file, a competition), `page` is where a browser shows it,
    `setting` names what the user can correct, `credentials` who asked.
    """

    subject: str
    page: str
    setting: str
    credentials: str


def status(error: requests.RequestException) -> int | None:
    """The HTTP status of a refusal, or the code in its body; None: there was no answer."""
    if error.response is None:
        return None
    code = _body(error.response).get("code")
    if error.response.status_code < 400 and isinstance(code, int):
        return code
    return error.response.status_code


def words(error: requests.RequestException) -> str:
    """Kaggle's own text, or the error's without its address (which may carry a signature)."""
    if error.response is not None:
        body = _body(error.response)
        inner = body.get("error")
        for place in (body, inner if isinstance(inner, dict) else {}):
            if isinstance(place.get("message"), str) and place["message"]:
                return " ".join(place["message"].split())
    return " ".join(str(error).split(" for url:")[0].split()) or type(error).__name__


def explained(error: requests.RequestException, request: Request) -> UserError:
    """The one line a user needs: what was refused, in Kaggle's words, and what to do."""
    code = status(error)
    if code is None:
        return UserError(f"{request.subject}: {_no_answer(error)}")
    return UserError(
        f"{request.subject}: Kaggle answered {code} ({words(error)}); "
        f"{_advice(code, error, request)}"
    )


def _advice(code: int, error: requests.RequestException, request: Request) -> str:
    if code == 401:
        return f"it does not accept the credentials of {request.credentials}: {WHERE_TO_PUT}"
    if code == 403:
        return (
            f"open {request.page} in a browser, sign in as {request.credentials}, accept the "
            "rules or terms there (no program can do that), then run the command again"
        )
    if code == 404:
        return f"there is nothing of that name: check {request.setting}"
    if code == 429:
        after = error.response.headers.get("Retry-After") if error.response is not None else None
        wait = f"{after} s" if after else "some minutes"
        return f"too many requests: wait {wait}, then run the command again"
    if code >= 500:
        return "Kaggle is out of order: try again later (https://status.kaggle.com)"
    return "put right what it names, or wait where it says so, then run the command again"


def _no_answer(error: requests.RequestException) -> str:
    host = urlsplit(str(error.request.url)).hostname if error.request is not None else None
    if isinstance(error, requests.exceptions.SSLError):
        return (
            f"{host}: the certificate is not accepted; behind a proxy that reads along, set "
            "REQUESTS_CA_BUNDLE to its certificate"
        )
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "found a page instead of Kaggle's answer; sign in where your network asks for it"
    return (
        f"no answer from {host or 'Kaggle'} ({type(error).__name__}); check the network and the "
        "variables https_proxy and no_proxy, then run the command again"
    )


def _body(response: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer, or an empty one."""
    try:
        body = response.json()
    except (requests.RequestException, RuntimeError):  # no JSON; or a body already let go
        return {}
    return body if isinstance(body, dict) else {}
