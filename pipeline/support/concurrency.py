"""Work in threads, in order and never far ahead."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
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


def mapped(function: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """Yield `function` of each item, in order, computed by `threads` threads (at least one).

    At most twice as many items as threads are taken ahead. What the function raises is raised
    here.
    """
    threads = max(1, threads)
    pool, waiting = ThreadPoolExecutor(threads, "mapped"), deque[Future[T]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
