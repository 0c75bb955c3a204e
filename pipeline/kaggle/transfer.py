"""Fetch one file over HTTP: whole and right, or an error and what did arrive kept.

The kaggle client writes straight under the final name, compares lengths only, and resumes
behind whatever lies there. Here a file grows under a name of its own, is continued only where
the server proves that it still is the same object, and is checked before it gets its name.
"""

import contextlib
import dataclasses
import math
import mimetypes
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pydantic
import requests
import urllib3
from tqdm import tqdm

from pipeline.kaggle import integrity
from pipeline.kaggle.integrity import Expected
from pipeline.kaggle.retry import RetryPolicy
from pipeline.support import files
from pipeline.support.errors import UserError, say
from pipeline.support.files import write_text

_CHUNK = 1 << 18  # bytes asked of the connection at a time; it gives what has arrived
_PAGES = ("text/html", "application/json", "text/xml", "application/xml", "application/xhtml+xml")
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<error")
_WHOLE_BUT_WRONG = 2  # times a file may be so: it is fetched once more, not for ever


class Interrupted(Exception):
    """The transfer stopped for a reason that may pass; the message says which."""


class Corrupt(Exception):
    """What arrived is not the file; the message says how that was noticed."""


@dataclasses.dataclass(frozen=True)
class Offer:
    """A file a server will send.

    `listed` is its size in bytes as the listing says it (not proven to be what is sent).
    `open` asks for the file anew, at a fresh address, with further headers of the request, and
    returns the answer (200 or 206) with its body unread. It raises `Interrupted` for failures
    worth another try, `Corrupt` for ones worth a new beginning, `UserError` for the rest.
    """

    name: str
    listed: int | None
    open: Callable[[dict[str, str]], requests.Response]


class _Remote(pydantic.BaseModel):
    """What an answer's header says of the file; kept beside its bytes, to go on later.

    `validator` is a strong ETag, else Last-Modified: equal means the same bytes.
    """

    name: str
    validator: str | None
    expected: Expected

    @property
    def is_provable(self) -> bool:
        """Whether a later answer can prove to be about the same object."""
        return bool(self.validator or self.expected.md5 or self.expected.crc32c)


def fetch(offer: Offer, part: Path, policy: RetryPolicy) -> str:
    """Fetch a file to `part`, going on from what an earlier run left there.

    Returns:
        The name it should get: the offer's, or that with `.zip` when the server packed it.

    Raises:
        UserError: the connection failed too often, the bytes stay wrong, the disk is full.
    """
    failures, corrupt, most = 0, 0, _size(part)
    while True:
        began = time.monotonic()
        try:
            remote = _receive(offer, part, policy)
            _check(part, remote)
            return remote.name
        except Corrupt as error:
            part.unlink(missing_ok=True)
            corrupt += 1
            reason = str(error)
            if corrupt == _WHOLE_BUT_WRONG:
                raise UserError(
                    f"{offer.name}: wrong bytes arrived twice ({error}); nothing of it was kept; "
                    "check for a proxy that changes downloads, or run the command again later"
                ) from None
        except Interrupted as error:
            # Progress earns new tries: a connection that breaks every minute still ends. One that
            # brings a byte a minute does not.
            earned = policy.slowest * (time.monotonic() - began)
            failures = 1 if _size(part) - most > earned else failures + 1
            most = max(most, _size(part))
            reason = str(error)
            if failures >= policy.attempts:
                raise UserError(
                    f"{offer.name}: the transfer broke {failures} times at byte {_size(part):,} "
                    f"({error}); what arrived is kept: check the network, run the command again"
                ) from None
        pause = policy.pause(max(failures, 1))
        say(f"{offer.name}: {reason}; goes on in {pause:.0f} s")
        time.sleep(pause)


def clear(part: Path) -> None:
    """Remove what lies at `part` and what was noted about it."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def missing_bytes(offer: Offer, part: Path) -> int:
    """How many of the listed bytes are not at `part` yet; 0 when no size is listed."""
    return max((offer.listed or 0) - _size(part), 0)


def _receive(offer: Offer, part: Path, policy: RetryPolicy) -> _Remote:
    """Bring `part` to its full length; return what the server says it should be."""
    before = _recorded(part)
    # Of a file that is complete the last byte is asked for again: the server then says whether
    # it still is this object.
    have = min(_size(part), (before.expected.length or 1) - 1) if before else 0
    with contextlib.closing(offer.open(_rest(have, before))) as response:
        _check_kind(response, offer.name, before is not None)
        if before and response.status_code == 206:
            remote = before
            _check_range(response, have, remote)
            os.truncate(part, have)
        else:  # the whole file: nothing was here, or it changed, or the server has no ranges
            remote, have = _announced(response, offer), 0
            if _is_here(part, remote.expected):
                return remote
            part.unlink(missing_ok=True)  # not emptied: it may be a link to another's file
            write_text(_note(part), remote.model_dump_json())
        files.check_space(part.parent, (remote.expected.length or 0) - have, offer.name)
        _append(_pieces(response, policy, _limit(remote, offer) - have), part, have, remote)
    return remote


def _recorded(part: Path) -> _Remote | None:
    """Of which object the bytes of `part` are, if that can be proven again."""
    try:
        remote = _Remote.model_validate_json(_note(part).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    fits = 0 < _size(part) <= (remote.expected.length or 0)
    return remote if remote.is_provable and fits else None


def _rest(have: int, before: _Remote | None) -> dict[str, str]:
    """Headers that ask for the bytes that are missing (RFC 9110, 14.2 and 13.1.5)."""
    if before is None:
        return {}
    condition = {"If-Range": before.validator} if before.validator else {}
    return {"Range": f"bytes={have}-", **condition}


def _announced(response: requests.Response, offer: Offer) -> _Remote:
    """Read an answer's header."""
    header = response.headers
    served = unquote(urlsplit(response.url).path.rsplit("/", 1)[-1])
    name = served if served == f"{offer.name}.zip" else offer.name
    hashes = _hashes(response)
    said = header.get("Content-Length", "")
    length = int(said) if said.isdecimal() else None
    if not name.lower().endswith(".zip") and not hashes and offer.listed is not None:
        if length not in {None, offer.listed}:
            raise Corrupt(f"{length:,} bytes are to come, the listing says {offer.listed:,}")
        length = offer.listed  # nothing else could show a missing end, or another file
    etag = header.get("ETag", "")
    validator = etag if etag.startswith('"') else header.get("Last-Modified")
    expected = Expected(length, hashes.get("md5"), hashes.get("crc32c"))
    return _Remote(name=name, validator=validator, expected=expected)


def _hashes(response: requests.Response) -> dict[str, str]:
    """The header x-goog-hash: base64 by algorithm, of the whole object also in a 206."""
    found = re.findall(r"(md5|crc32c)=([A-Za-z0-9+/]+=*)", response.headers.get("x-goog-hash", ""))
    return dict(found)


def _is_here(part: Path, expected: Expected) -> bool:
    """Whether the bytes are here already, from wherever: the server's hash shows it."""
    if _size(part) != expected.length or not (expected.md5 or expected.crc32c):
        return False
    return not integrity.flaw(part, "", expected)


def _check_kind(response: requests.Response, name: str, asked_for_rest: bool) -> None:
    """A login page or an error in place of the file is no file, whatever its status.

    Raises:
        Corrupt: a part of it that was not asked for.
        UserError: the answer is a page, an error, or compressed on its way.
    """
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in _PAGES and kind != mimetypes.guess_type(name)[0]:
        raise _page(name, f"a page of type {kind}")
    if response.status_code == 206 and not asked_for_rest:
        raise Corrupt("answer 206: a part of the file, which was not asked for")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(
            f"{name}: sent with Content-Encoding {response.headers['Content-Encoding']!r}, which "
            "was not asked for and hides the file's length; look for a proxy that compresses"
        )


def _page(name: str, found: str) -> UserError:
    return UserError(
        f"{name}: found {found} instead of the file; sign in where your network asks for it (open "
        "any page in a browser), then run the command again"
    )


def _check_range(response: requests.Response, have: int, remote: _Remote) -> None:
    """Refuse a 206 that is not exactly the rest of this object: it would make a splice.

    Raises:
        Corrupt: other bytes than those from `have` on, or another object's.
    """
    found = response.headers.get("Content-Range", "")
    length = remote.expected.length
    if found not in {f"bytes {have}-{(length or 0) - 1}/{total}" for total in (length, "*")}:
        raise Corrupt(f"asked for bytes {have}- of {length}, found Content-Range {found!r}")
    etag = response.headers.get("ETag", remote.validator)
    if (remote.validator or "").startswith('"') and etag != remote.validator:
        raise Corrupt(f"the file changed on the server: ETag {remote.validator}, now {etag}")
    for name, value in _hashes(response).items():
        if getattr(remote.expected, name) not in {None, value}:
            raise Corrupt(f"the file changed on the server: {name} is now {value}")


def _limit(remote: _Remote, offer: Offer) -> float:
    """Bytes that the whole file cannot have; one listed smaller may have been packed anew."""
    if remote.expected.length is not None:
        return remote.expected.length + 1
    return math.inf if offer.listed is None else 2 * offer.listed + _CHUNK


def _append(pieces: Iterator[bytes], part: Path, have: int, remote: _Remote) -> None:
    """Write the answer's body behind the first `have` bytes of `part`."""
    length = remote.expected.length
    goal = "" if length is None else f" of {length:,}"
    say(f"{remote.name}: from byte {have:,}{goal}")
    bar = tqdm(
        desc=remote.name, total=length, initial=have, unit="B", unit_scale=True,
        unit_divisor=1024, disable=None,
    )  # fmt: skip
    with bar, files.explained(part, "what arrived is kept"), part.open("ab") as stream:
        for piece in pieces:
            stream.write(piece)
            bar.update(len(piece))
    if length is not None and _size(part) < length:
        raise Interrupted(f"the connection closed at byte {_size(part):,} of {length:,}")
    if length is not None and _size(part) > length:
        raise Corrupt(f"found {_size(part):,} bytes, expected {length:,}")


def _pieces(response: requests.Response, policy: RetryPolicy, limit: float) -> Iterator[bytes]:
    """The body as it arrives: every byte received is handed on before a failure is raised."""
    began, came, total = time.monotonic(), 0, 0
    try:
        while piece := response.raw.read1(_CHUNK, decode_content=False):
            yield piece
            came, total = came + len(piece), total + len(piece)
            if total > limit:
                raise Corrupt(f"it goes on behind byte {total:,}")
            if (seconds := time.monotonic() - began) > policy.window:
                if came < policy.slowest * seconds:
                    raise Interrupted(f"it brought {came:,} bytes in {seconds:.0f} s")
                began, came = time.monotonic(), 0
    except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
        raise Interrupted(f"the connection broke ({type(error).__name__})") from None


def _check(part: Path, remote: _Remote) -> None:
    """Raise unless the file that arrived is provably the one announced."""
    with part.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith(_PAGE_STARTS) and not remote.name.endswith((".html", ".xml")):
        part.unlink()
        raise _page(remote.name, "a web page")
    if problem := integrity.flaw(part, remote.name, remote.expected, arrived=True):
        raise Corrupt(problem)
    if remote.expected == Expected() and not remote.name.lower().endswith(".zip"):
        part.unlink()
        raise UserError(
            f"{remote.name}: came without length and hash, so nothing shows that it is whole; "
            "download it in a browser and put it in the folder PIPELINE_DATA names"
        )


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
