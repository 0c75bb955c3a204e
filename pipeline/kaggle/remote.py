"""A file on a server: how to ask for it, and what the answer's header says of it."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from pipeline.kaggle import receipts
from pipeline.support.errors import UserError
from pipeline.support.files import write_text


class Interrupted(Exception):
    """The transfer stopped for a reason that may pass; the message says which."""


class Spoilt(Exception):
    """What arrived is not the file; the message says how that was noticed."""


@dataclasses.dataclass(frozen=True)
class Offer:
    """A file a server will send.

    `listed` is its size in bytes as the listing says it (not proven to be what is sent).
    `open` asks for the file anew, at a fresh address, with further headers of the request, and
    returns the answer (200 or 206) with its body unread. It raises `Interrupted` for failures
    worth another try, `Spoilt` for ones worth a new beginning, `UserError` for the rest.
    """

    name: str
    listed: int | None
    open: Callable[[dict[str, str]], requests.Response]


@dataclasses.dataclass(frozen=True)
class Remote:
    """What an answer's header says of the file."""

    name: str
    validator: str | None  # strong ETag, else Last-Modified: equal means the same bytes
    expected: receipts.Expected

    @classmethod
    def read(cls, path: Path) -> "Remote":
        """What `write` recorded."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**content, "expected": receipts.Expected(**content["expected"])})

    def write(self, path: Path) -> None:
        """Record this for a later run."""
        write_text(path, json.dumps(dataclasses.asdict(self)))


def rest(have: int, before: Remote | None) -> dict[str, str]:
    """Headers that ask for the bytes that are missing (RFC 9110, 14.2 and 13.1.5)."""
    if before is None:
        return {}
    condition = {"If-Range": before.validator} if before.validator else {}
    return {"Range": f"bytes={have}-", **condition}


def announced(response: requests.Response, offer: Offer) -> Remote:
    """Read an answer's header."""
    header = response.headers
    served = unquote(urlsplit(response.url).path.rsplit("/", 1)[-1])
    name = served if served == f"{offer.name}.zip" else offer.name
    is_zip = name.lower().endswith(".zip")
    hashes = _hashes(response)
    length = int(header["Content-Length"]) if "Content-Length" in header else None
    if length is None and not is_zip and not hashes:
        length = offer.listed  # nothing else could show a missing end
    etag = header.get("ETag", "")
    validator = etag if etag.startswith('"') else header.get("Last-Modified")
    expected = receipts.Expected(length, hashes.get("md5"), hashes.get("crc32c"), is_zip)
    return Remote(name, validator, expected)


def _hashes(response: requests.Response) -> dict[str, str]:
    """The header x-goog-hash: base64 by algorithm, of the whole object also in a 206."""
    found = re.findall(r"(md5|crc32c)=([A-Za-z0-9+/]+=*)", response.headers.get("x-goog-hash", ""))
    return dict(found)


def refuse_page(response: requests.Response, name: str) -> None:
    """A login page or an error in place of the file is no file, whatever its status.

    Raises:
        UserError: the answer is a page, an error, or compressed on its way.
    """
    kind = response.headers.get("Content-Type", "").split(";")[0]
    is_answer = kind == "application/json" and not response.history
    if (kind == "text/html" and not name.endswith((".html", ".htm"))) or is_answer:
        raise UserError(
            f"{name}: found a page of type {kind} instead of the file; sign in where your network "
            "asks for it (open any page in a browser), then run the command again"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(
            f"{name}: sent with Content-Encoding {response.headers['Content-Encoding']!r}, which "
            "was not asked for and hides the file's length; look for a proxy that compresses"
        )


def check_range(response: requests.Response, have: int, remote: Remote) -> None:
    """Refuse a 206 that is not exactly the rest of this object: it would make a splice.

    Raises:
        Spoilt: other bytes than those from `have` on, or another object's.
    """
    found = response.headers.get("Content-Range", "")
    length = remote.expected.length
    if found not in {f"bytes {have}-{(length or 0) - 1}/{total}" for total in (length, "*")}:
        raise Spoilt(f"asked for bytes {have}- of {length}, found Content-Range {found!r}")
    etag = response.headers.get("ETag", remote.validator)
    if (remote.validator or "").startswith('"') and etag != remote.validator:
        raise Spoilt(f"the file changed on the server: ETag {remote.validator}, now {etag}")
    for name, value in _hashes(response).items():
        if getattr(remote.expected, name) not in {None, value}:
            raise Spoilt(f"the file changed on the server: {name} is now {value}")
