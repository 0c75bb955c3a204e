"""Errors a user can put right, how a command reports them, and what no message may hold.

Every message that is made from the words of another (a library, a server) passes `redact`:
`UserError` does it by itself, `say` does it for a line on the way, `command` for tracebacks.
"""

import functools
import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

HIDDEN = "[hidden]"

# What is secret by its shape, wherever it stands: the query of an address (its signature), a
# name and password in one, the value of an Authorization header, a Kaggle token.
_SHAPES = (
    (re.compile(r"\?[\w.~%-]+=[^\s'\"<>)]*"), f"?{HIDDEN}"),
    (re.compile(r"://[^\s/@'\"]+@"), f"://{HIDDEN}@"),
    (re.compile(r"(Bearer |Authorization\W+\w+ )[\w.~+/=-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\bKGAT_[\w-]+"), HIDDEN),
)
_SHORTEST = 6  # characters; to hide a shorter one would blot out ordinary words
_secrets: set[str] = set()  # of this process: what no shape tells from other text


class UserError(Exception):
    """Something outside the code is wrong: a file, a setting, an account.

    The message is one line that names the file or key, what was found, what was
    expected, and what to do about it. It holds no secret: see `redact`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def keep_secret(value: str) -> None:
    """From now on `redact` hides this text, in this process."""
    if len(value) >= _SHORTEST:
        _secrets.add(value)


def redact(text: str) -> str:
    """Hide signed addresses, credentials by their shape, and what was to be kept secret."""
    for secret in sorted(_secrets, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, HIDDEN)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def say(text: str) -> None:
    """Print a line about the way things go on stderr, at once, without secrets."""
    print(redact(text), file=sys.stderr, flush=True)


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` end the process as a user expects.

    A `UserError` is printed as one line on stderr with exit code 1, Ctrl-C as one line (its own,
    if it has one) with exit code 130 (128 + SIGINT, as shells do). Where what it prints into has
    ended (`| head`), so does it, without a word, with 141 (SIGPIPE). Any other exception is a
    defect of this project and keeps its traceback, but for the secrets in it.
    """

    @functools.wraps(main)
    def run(*arguments: Any) -> None:
        sys.excepthook = _show_defect
        try:
            main(*arguments)
            sys.stdout.flush()  # into a pipe that has ended it fails here, not at the very end
        except UserError as error:
            sys.exit(f"error: {_message(error)}")
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted: run the same command again to go on", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            if not _reader_is_gone():
                raise
            # Or Python says at its end that what is left cannot be written.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    return run


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # no file, as in a notebook
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _show_defect(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _message(error: UserError) -> str:
    """The line the error was raised with, also in a worker process.

    torch's DataLoader hands a worker's error on as the text of its traceback, whose last line
    is `package.module.Class: message`.
    """
    text = str(error).strip()
    if "in DataLoader worker process" not in text.partition("\n")[0]:
        return text
    return text.splitlines()[-1].partition(": ")[2]
