"""Where the time of a pipeline goes: how long each of its parts waited for another."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Waits:
    """Seconds by name. One thread adds to a name; others may read it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, adding the time until each comes."""
        source = iter(items)
        end = object()
        while True:
            with self.during(name):
                item = next(source, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def add(self, name: str, seconds: float) -> None:
        """Add what was measured elsewhere."""
        self.seconds[name] += seconds  # type: ignore[assignment]

    def share(self, name: str) -> float:
        """Seconds of a name over those since the start."""
        return self.seconds[name] / max(self.elapsed(), 1e-9)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start
