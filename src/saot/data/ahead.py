"""Work done ahead of whoever waits for it: pictures decoded while the device computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    make: Callable[[T], R],
    items: Iterable[T],
    *,
    depth: int = 4,
    workers: int = 1,
    name: Callable[[T], str] = str,
    begin: Callable[[], None] | None = None,
) -> Iterator[R]:
    """What `make` gives for each item, in order, made in background threads at most `depth` items ahead.

    Items are drawn in the caller's thread, one by one. A caller that stops early waits for what has begun, no more.

    Args:
        make: Called in a background thread.
        items: What it is called with.
        depth: How many results may be under way or waiting, at least 1.
        workers: Threads.
        name: What an item is called, for errors.
        begin: Called once in each thread, before its first item.

    Raises:
        ValueError: Where an item's result was due, if making it failed and the error did not name the item; an error
            that names it, `OSError` and those that are not about the item (such as `MemoryError`) come as they are.

    Example:
        >>> list(ahead(len, ["a", "bcd"], depth=2))
        [1, 3]
    """
    if depth < 1 or workers < 1:
        raise ValueError(f"expected depth and workers of at least 1; got {depth} and {workers}")
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(workers, "saot-ahead", begin or _nothing)
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) >= depth:
                yield _result(*waiting.popleft(), name)
        while waiting:
            yield _result(*waiting.popleft(), name)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Ahead(Generic[T]):
    """The same values as `make`, the next ones made ahead in other threads while the caller works.

    Args:
        make: A number to its value, and nothing else; called in several threads where there are several workers.
        last: No value is made beyond this number.
        workers: Threads, and how many values are made ahead.
    """

    def __init__(self, make: Callable[[int], T], last: int, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker; got {workers}")
        self._make, self._last, self._workers = make, last, workers
        self._pool = ThreadPoolExecutor(workers, "saot-ahead")
        self._waiting: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        """Value number `number`; those behind it are on their way."""
        wanted = range(number + 1, min(number + self._workers, self._last) + 1)
        for other in [one for one in self._waiting if one != number and one not in wanted]:
            self._waiting.pop(other).cancel()  # the caller has gone elsewhere
        ready = self._waiting.pop(number, None)
        value = self._make(number) if ready is None else ready.result()
        for other in wanted:
            if other not in self._waiting:
                self._waiting[other] = self._pool.submit(self._make, other)
        return value

    def close(self) -> None:
        """Make no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _nothing() -> None:
    return None


def _result(item: T, future: "Future[R]", name: Callable[[T], str]) -> R:
    with naming(name(item)):
        return future.result()


@contextmanager
def naming(picture: str) -> Iterator[None]:
    """Errors about a picture name it.

    Raises:
        ValueError: In place of an error that does not name it; `OSError` and those that are not about a picture, such
            as `MemoryError`, come as they are.

    Example:
        >>> with naming("a.png"):
        ...     raise KeyError("no room")
        Traceback (most recent call last):
        ValueError: picture a.png: 'no room'
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError):
        raise
    except Exception as error:
        if picture in str(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"picture {picture}: {first}") from error
