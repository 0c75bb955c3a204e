"""Bring a file to Kaggle's storage: every failure can be repeated, as nothing is submitted yet.

The storage speaks Google's resumable protocol: a PUT of the bytes; an empty PUT with
`Content-Range: bytes */<size>` asks how far it came, and 308 with `Range: bytes=0-<last>` is
the answer while some are missing (https://cloud.google.com/storage/docs/performing-resumable-uploads).
"""

import re
import time
from pathlib import Path
from typing import Never

import requests
from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from pipeline.kaggle.account import Account
from pipeline.kaggle.retry import PASSING, RetryAdapter, RetryPolicy
from pipeline.support.errors import UserError, say

_DONE = (200, 201)


class _Incomplete(Exception):
    """This attempt did not bring the whole file; the message says why."""


class _Expired(_Incomplete):
    """... and the place it was brought to takes no more: begin at a new one."""


def upload(account: Account, slug: str, file: Path, policy: RetryPolicy) -> str:
    """Upload a file of a competition and return the token that stands for it.

    Memory stays flat: the file is read as it is sent.

    Raises:
        UserError: the file is empty, Kaggle refuses, or the connection fails too often.
    """
    status = file.stat()
    if not status.st_size:
        raise UserError(f"{file}: found an empty file, expected a submission; predict again")
    url, token, start = "", "", 0
    failures = 0
    with requests.Session() as session, _progress(file) as bar:
        for scheme in ("http://", "https://"):  # to repeat is for the loop: it knows from where
            session.mount(scheme, RetryAdapter(policy, attempts=1))
        while True:
            try:
                if not url:
                    size, mtime, start = status.st_size, int(status.st_mtime), 0
                    url, token = account.start_upload(slug, file.name, size, mtime)
                elif failures:
                    start = _stored(session, url, status.st_size)
                if start < status.st_size:
                    _send(session, url, file, start, bar)
                return token
            except _Incomplete as error:
                url = "" if isinstance(error, _Expired) else url
                failures += 1
                if failures == policy.attempts:
                    raise UserError(
                        f"{file}: the upload failed {failures} times ({error}); nothing was "
                        "submitted: check the network, run the command again"
                    ) from None
                pause = policy.pause(failures)
                say(f"{file.name}: {error}; goes on in {pause:.0f} s")
                time.sleep(pause)


def _progress(file: Path) -> "tqdm[Never]":
    size = file.stat().st_size
    return tqdm(
        desc=file.name, total=size, unit="B", unit_scale=True, unit_divisor=1024, disable=None
    )


def _send(session: requests.Session, url: str, file: Path, start: int, bar: "tqdm[Never]") -> None:
    """PUT the bytes from `start` on."""
    size = file.stat().st_size
    headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
    bar.reset(total=size)
    bar.update(start)
    with file.open("rb") as stream:
        stream.seek(start)
        body = CallbackIOWrapper(bar.update, stream, "read")
        code = _put(session, url, headers, body).status_code
    if code not in _DONE:
        raise _Incomplete(f"the storage has part of it (answer {code})")


def _stored(session: requests.Session, url: str, size: int) -> int:
    """How many bytes the storage has; all of them: the upload is complete."""
    response = _put(session, url, {"Content-Range": f"bytes */{size}"}, b"")
    if response.status_code in _DONE:
        return size
    match = re.fullmatch(r"bytes=0-(\d+)", response.headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0


def _put(
    session: requests.Session, url: str, headers: dict[str, str], body: object
) -> requests.Response:
    """One PUT: an answer 2xx or 308, or `_Incomplete`."""
    try:
        response = session.put(url, headers=headers, data=body, allow_redirects=False)  # type: ignore[arg-type]
    except requests.RequestException as error:
        raise _Incomplete(f"the connection broke ({type(error).__name__})") from None
    code = response.status_code
    if code in _DONE or code == 308:
        return response
    if code in PASSING or code >= 500:
        raise _Incomplete(f"answer {code} from the storage")
    raise _Expired(f"answer {code} from the storage")
