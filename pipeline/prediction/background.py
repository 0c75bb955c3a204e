"""A generator that works ahead in a thread of its own."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Yield what `items` yields, in order, while it makes up to `depth` further ones.

    What `items` raises is raised here. When this generator is closed, so is `items`, once it
    has made the one it is at.
    """
    end = object()
    pool = ThreadPoolExecutor(1, "ahead")  # one thread: calls of next() run in order
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
        items.close()
