"""Fetch one file over HTTP: whole and right, or an error and what did arrive kept.

The kaggle client writes straight under the final name, compares lengths only, and resumes
behind whatever lies there. Here a file grows in a folder of its own, is continued only where
the server proves that it still is the same object, and is checked before it gets its name.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from pipeline.kaggle import receipts
from pipeline.kaggle.remote import (
    Interrupted,
    Offer,
    Remote,
    Spoilt,
    announced,
    check_range,
    refuse_page,
    rest,
)
from pipeline.kaggle.retry import RetryPolicy
from pipeline.support import files
from pipeline.support.errors import UserError

_CHUNK = 1 << 18  # bytes asked of the connection at a time; it gives what has arrived
_COMPLETE_TWICE = 2  # a file that arrives whole but wrong is fetched once more, not for ever


def fetch(offer: Offer, folder: Path, policy: RetryPolicy) -> tuple[Path, str]:
    """Fetch a file into `folder`, going on from what an earlier run left there.

    Returns:
        The path of the checked file in `folder`, and the name it should get: the offer's, or
        that with `.zip` added when the server packed it.

    Raises:
        UserError: the connection failed too often, the bytes stay wrong, the disk is full.
    """
    part = folder / f"{offer.name}.part"
    failures, spoilt, most = 0, 0, _size(part)
    while True:
        try:
            remote = _receive(offer, part)
            _check(part, remote)
            return part, remote.name
        except Spoilt as error:
            part.unlink(missing_ok=True)
            spoilt += 1
            reason = str(error)
            if spoilt == _COMPLETE_TWICE:
                raise UserError(
                    f"{offer.name}: wrong bytes arrived twice ({error}); nothing of it was kept; "
                    "check for a proxy that changes downloads, or run the command again later"
                ) from None
        except Interrupted as error:
            # Progress earns new tries: a connection that breaks every minute still ends.
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            reason = str(error)
            if failures >= policy.attempts:
                raise UserError(
                    f"{offer.name}: the transfer broke {failures} times at byte {_size(part):,} "
                    f"({error}); what arrived is kept: check the network, run the command again"
                ) from None
        pause = policy.pause(max(failures, 1))
        print(f"{offer.name}: {reason}; goes on in {pause:.0f} s", file=sys.stderr)
        time.sleep(pause)


def forget(part: Path) -> None:
    """Remove what was noted about a file that has been moved to its place."""
    _identity(part).unlink(missing_ok=True)


def abandon(folder: Path, name: str) -> None:
    """Remove what an earlier run left of a file that has come another way."""
    part = folder / f"{name}.part"
    part.unlink(missing_ok=True)
    forget(part)


def missing_bytes(offer: Offer, folder: Path) -> int:
    """How many of the listed bytes are not in `folder` yet; 0 when no size is listed."""
    return max((offer.listed or 0) - _size(folder / f"{offer.name}.part"), 0)


def _receive(offer: Offer, part: Path) -> Remote:
    """Bring `part` to its full length; return what the server says it should be."""
    before = _recorded(part)
    have = _size(part) if before else 0
    if before and have == before.expected.length:
        return before
    with contextlib.closing(offer.open(rest(have, before))) as response:
        refuse_page(response, offer.name)
        if before and response.status_code == 206:
            remote = before
            check_range(response, have, remote)
        else:  # the whole file: nothing was here, or it changed, or the server has no ranges
            remote, have = announced(response, offer), 0
            _begin(part, remote)
        files.check_space(part.parent, (remote.expected.length or 0) - have, offer.name)
        _append(response, part, have, remote)
    return remote


def _recorded(part: Path) -> Remote | None:
    """Of which object the bytes of `part` are, if that can be proven again."""
    try:
        remote = Remote.read(_identity(part))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    expected = remote.expected
    is_provable = remote.validator or expected.md5 or expected.crc32c
    fits = expected.length is not None and 0 < _size(part) <= expected.length
    return remote if is_provable and fits else None


def _begin(part: Path, remote: Remote) -> None:
    """Empty `part`, then record of which object its bytes will be: in this order."""
    part.write_bytes(b"")
    remote.write(_identity(part))


def _append(response: requests.Response, part: Path, have: int, remote: Remote) -> None:
    """Write the answer's body behind the first `have` bytes of `part`."""
    length = remote.expected.length
    goal = "" if length is None else f" of {length:,}"
    print(f"{remote.name}: from byte {have:,}{goal}", file=sys.stderr)
    bar = tqdm(
        desc=remote.name, total=length, initial=have, unit="B", unit_scale=True,
        unit_divisor=1024, disable=None,
    )  # fmt: skip
    with bar, files.explained(part, "what arrived is kept"), part.open("ab") as stream:
        for piece in _pieces(response):
            stream.write(piece)
            bar.update(len(piece))
    if length is not None and _size(part) < length:
        raise Interrupted(f"the connection closed at byte {_size(part):,} of {length:,}")
    if length is not None and _size(part) > length:
        raise Spoilt(f"found {_size(part):,} bytes, expected {length:,}")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives: every byte received is handed on before a failure is raised."""
    try:
        if response.headers.get("Content-Type", "").startswith("application/json"):
            yield response.content  # the client has read it already, looking for an error
            return
        while piece := response.raw.read1(_CHUNK, decode_content=False):
            yield piece
    except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
        raise Interrupted(f"the connection broke ({type(error).__name__})") from None


def _check(part: Path, remote: Remote) -> None:
    """Raise unless the file that arrived is provably the one announced."""
    with part.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) and not remote.name.endswith(".html"):
        part.unlink()
        raise UserError(
            f"{remote.name}: found a web page instead of the file; sign in where your network "
            "asks for it (open any page in a browser), then run the command again"
        )
    if problem := receipts.flaw(part, remote.expected):
        raise Spoilt(problem)
    if remote.expected == receipts.Expected(None, None, None, False):
        part.unlink()
        raise UserError(
            f"{remote.name}: came without length and hash, so nothing shows that it is whole; "
            "download it in a browser and put it in the folder PIPELINE_DATA names"
        )


def _identity(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
