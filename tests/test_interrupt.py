import os
import signal

import pytest

from pipeline.support import interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_the_second_acts(number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        with interrupt.note_signals() as stop:
            assert stop.signal == 0
            os.kill(os.getpid(), number)
            assert stop.signal == number and seen == []
            os.kill(os.getpid(), number)
            assert seen == [number]
        os.kill(os.getpid(), number)
        assert seen == [number, number], "as before the block"
    finally:
        signal.signal(number, before)
