"""What was read stays in memory while there is room."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Sized(Protocol):
    """An array or a tensor."""

    @property
    def nbytes(self) -> int: ...


R = TypeVar("R", bound=Sized)
BUDGET = 64 * 2**20


class Remembered(Generic[R]):
    """A reader by number that keeps what it has read; what was not asked for longest goes first.

    Args:
        read: Number to array. What it gives must not be changed.
        budget: Bytes of all that is kept; one array is kept in any case.

    Example:
        >>> import numpy as np
        >>> read = Remembered(lambda number: np.full(4, number, np.uint8), budget=8)
        >>> read(3) is read(3)
        True
    """

    def __init__(self, read: Callable[[int], R], budget: int = BUDGET) -> None:
        self.read, self.budget = read, budget
        self.kept: OrderedDict[int, R] = OrderedDict()
        self.size, self.lock = 0, Lock()

    def __reduce__(self) -> tuple[type["Remembered[R]"], tuple[Any, int]]:
        return Remembered, (self.read, self.budget)  # another process begins with none

    def __call__(self, index: int) -> R:
        """What is kept under a number, else what is read."""
        with self.lock:
            if index in self.kept:
                self.kept.move_to_end(index)
                return self.kept[index]
        found = self.read(index)
        with self.lock:
            if index not in self.kept:
                self.kept[index] = found
                self.size += found.nbytes
            while self.size > self.budget and len(self.kept) > 1:
                self.size -= self.kept.popitem(last=False)[1].nbytes
        return found
