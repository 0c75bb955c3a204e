"""Work in threads: in order, and never far ahead."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def ordered(
    function: Callable[[S], T], items: Iterable[S], threads: int, ahead: int | None = None
) -> Generator[T, None, None]:
    """Yield `function` of each item, in order, computed by `threads` threads.

    Args:
        items: taken in the caller's thread, each when there is room for it.
        threads: without any, nothing is computed before it is asked for.
        ahead: the most items that are taken before the result of the first of them is
            yielded; twice the threads if it is left out.

    What the function raises is raised here. No thread outlives the generator.
    """
    if threads < 1:
        yield from map(function, items)
        return
    ahead = 2 * threads if ahead is None else ahead
    pool, waiting = ThreadPoolExecutor(threads, "ordered"), deque[Future[T]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Yield what `items` yields while one thread makes up to `depth` further ones.

    When this generator is closed, so is `items`, once it has made the one it is at.
    """
    end = object()
    made = ordered(lambda _: next(items, end), itertools.repeat(None), 1, depth)
    try:
        for item in made:
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        made.close()  # first: a generator cannot be closed while it runs
        items.close()
