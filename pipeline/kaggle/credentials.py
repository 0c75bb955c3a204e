"""The user's Kaggle credentials: where they are read, and what is refused before it is sent.

They are looked for where Kaggle's own client looks, in its order: an access token, an older key,
the sign-in of `kaggle auth login`. Its own reading is not used: it takes a pasted newline for
part of a token, passes over a broken file in silence, and prints.
"""

import base64
import dataclasses
import json
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from pipeline.support.errors import UserError, keep_secret, say

TOKENS = "https://www.kaggle.com/settings/api"
WHERE_TO_PUT = (
    f"make a token at {TOKENS} (Generate New Token) and put it in the environment variable "
    "KAGGLE_API_TOKEN or in the file ~/.kaggle/access_token"
)


@dataclasses.dataclass(frozen=True)
class Credentials(requests.auth.AuthBase):
    """An access token, or else a user's name and key, and where they were found.

    It signs a request of `requests`. Neither token nor key is in its `repr`, and no message
    of this process holds them (see `pipeline.support.errors.redact`).
    """

    source: str
    token: str = dataclasses.field(default="", repr=False)
    user: str = ""
    key: str = dataclasses.field(default="", repr=False)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header Authorization."""
        if not self.token:
            return requests.auth.HTTPBasicAuth(self.user, self.key)(request)
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def find() -> Credentials | None:
    """The first credentials there are, but for those of `kaggle auth login`.

    Raises:
        UserError: a file of them cannot be read, or they hold what no credentials hold.
    """
    for source, text in _tokens():
        if token := _clean(text, source):
            return Credentials(source, token=token)
    return find_key()


def none_found() -> UserError:
    """What to say where nothing was found."""
    return UserError(
        f"found no Kaggle credentials: {WHERE_TO_PUT}; an older key works as KAGGLE_USERNAME and "
        f"KAGGLE_KEY or in {settings_file()}"
    )


def login_file() -> Path:
    """What `kaggle auth login` leaves: a token that runs out, and one to renew it with."""
    return Path.home() / ".kaggle/credentials.json"


def _tokens() -> Iterator[tuple[str, str]]:
    """(where, text) of every place of an access token that there is."""
    home = Path.home() / ".kaggle"
    value = os.environ.get("KAGGLE_API_TOKEN", "").strip()
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ and (file := os.environ.get("KAGGLE_API_V1_TOKEN")):
        yield "KAGGLE_API_V1_TOKEN", _read(Path(file))
    if os.path.isfile(value):  # which no token is; unlike pathlib's, it takes any text
        yield f"KAGGLE_API_TOKEN (the file {value})", _read(Path(value))
    elif value:
        yield "KAGGLE_API_TOKEN", value
    for path in (home / "access_token", home / "access_token.txt"):
        if path.is_file():
            yield str(path), _read(path)


def find_key() -> Credentials | None:
    """A user's name and key: each from its variable, or else from kaggle.json."""
    file = settings_file()
    names = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    found = {name: os.environ.get(variable, "").strip() for name, variable in names.items()}
    missing = [name for name in names if not found[name]]
    source = "KAGGLE_KEY" if found["key"] else str(file)
    if missing and file.is_file():
        advice = f"download it anew from {TOKENS} (Create Legacy API Key)"
        content = read_object(file, list(names), advice)
        for name in missing:
            found[name] = content[name].strip()
    if not found["username"] or not found["key"]:
        return None
    places = {name: str(file) if name in missing else names[name] for name in names}
    user, key = (_clean(found[name], places[name]) for name in ("username", "key"))
    keep_secret(base64.b64encode(f"{user}:{key}".encode()).decode())  # as it is sent
    return Credentials(source, user=user, key=key)


def settings_file() -> Path:
    """Where Kaggle's client keeps a name and a key."""
    home = Path.home()
    folder = home / ".kaggle"
    if not folder.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "kaggle")
    return Path(os.environ.get("KAGGLE_CONFIG_DIR") or folder, "kaggle.json")


def read_object(file: Path, fields: Sequence[str], advice: str) -> dict[str, Any]:
    """A JSON object that has at least these `fields`, which are texts.

    Raises:
        UserError: it is none; `advice` says what to do.
    """
    expected = f"expected an object with the texts {' and '.join(fields)}; {advice}"
    try:
        content: Any = json.loads(_read(file))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{file}: {place}: no JSON ({error.msg}), {expected}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: found a {type(content).__name__}, {expected}")
    for name in fields:
        if not isinstance(content.get(name), str):
            raise UserError(f"{file}: found no text {name!r}, {expected}")
    return content


def _read(file: Path) -> str:
    """A file's text, without a byte-order mark; says so if others can read it."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        mode = file.stat().st_mode
    except UnicodeDecodeError:
        raise UserError(f"{file}: found no UTF-8; save it as plain text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected a text") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        say(f"{file}: other users of this machine can read it; run chmod 600 {file}")
    return text


def _clean(text: str, source: str) -> str:
    """Credentials without white space around them, kept out of every message from now on.

    Raises:
        UserError: a character that none have: it would end up in an error of the network's.
    """
    text = text.strip()
    keep_secret(text)
    for number, character in enumerate(text, start=1):
        if not "!" <= character <= "~":
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise UserError(
                f"{source}: character {number} is {name}, expected printable ASCII without "
                "spaces; paste it anew"
            )
    return text
