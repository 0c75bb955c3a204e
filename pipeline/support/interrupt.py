"""Signals that ask a long run to save and stop."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Stop:
    """Whether a signal has asked to stop, and how to do it then."""

    def __init__(self) -> None:
        self.signal = 0

    def leave(self) -> NoReturn:
        """End the process as the signal would have: Ctrl-C 130, SIGTERM 143.

        A process of several, stopped by another's signal, ends as by SIGTERM.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        print(
            "stopped, everything saved: run the same command again to go on",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def note_signals() -> Iterator[Stop]:
    """While the block runs, SIGTERM and Ctrl-C are only noted; the second one acts at once.

    Worker processes forked meanwhile outlive the first Ctrl-C too, which a terminal sends to
    all processes; of SIGTERM they take care themselves.
    """
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
