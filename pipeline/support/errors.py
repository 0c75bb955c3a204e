"""Errors a user can put right, and how a command reports them."""

import functools
import sys
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """Something outside the code is wrong: a file, a setting, an account.

    The message is one line that names the file or key, what was found, what was
    expected, and what to do about it.
    """


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` end the process as a user expects.

    A `UserError` is printed as one line on stderr with exit code 1, Ctrl-C as one line with
    exit code 130 (128 + SIGINT, as shells do). Any other exception is a defect of this
    project and keeps its traceback.
    """

    @functools.wraps(main)
    def run(*arguments: Any) -> None:
        try:
            main(*arguments)
        except UserError as error:
            sys.exit(f"error: {_message(error)}")
        except KeyboardInterrupt:
            print("interrupted: run the same command again to go on", file=sys.stderr)
            sys.exit(130)

    return run


def _message(error: UserError) -> str:
    """The line the error was raised with, also in a worker process.

    torch's DataLoader hands a worker's error on as the text of its traceback, whose last line
    is `package.module.Class: message`.
    """
    text = str(error).strip()
    if "in DataLoader worker process" not in text.partition("\n")[0]:
        return text
    return text.splitlines()[-1].partition(": ")[2]
