"""Pictures in chunks over processes that may die: how large a chunk is, how many are under way, what an error becomes.

Nothing here knows Ray. What a process is asked to do is a `Job`, which travels to it, opens what it needs there once,
and then answers chunk after chunk. Every job leaves whole files or gives counts, so that a chunk may be begun again.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from saot.data import sentence_of, write_atomic
from saot.runs import code_version

CHUNK = 128  # pictures at most: what travels stays small, and a worker that waits for its next chunk costs 40 ms
FIRST = 4  # pictures, as long as nobody knows how long one takes
SECONDS = 10.0  # that a chunk is meant to take: what is told of progress comes as often
CODE = ("data", "features", "evaluate", "decoder", "label", "report", "deploy")  # that answers depend on
MARKER = ".everywhere-"  # beginning of the name of a file by which a process knows the folder that is shared
LOOKS = (0.5, 2.0, 5.0, 0.0)  # seconds between looks for it: a file server may tell of it late
STALE = 30 * 24 * 3600  # seconds after which a marker belongs to a command that was killed

Work = Callable[[Any], Any]


@runtime_checkable
class Job(Protocol):
    """What a process is to do; it travels there by pickle."""

    @property
    def folder(self) -> Path | None:
        """Where files are written, which all processes have to share; None if none are."""
        ...

    def open(self, device: str) -> Work:
        """What answers a chunk, once everything that it needs is open."""
        ...


@dataclass(frozen=True)
class Order:
    """A job with all that a process has to make sure of before it begins.

    Attributes:
        job: What is to be done.
        token: Of this order and no other.
        device: Where networks run.
        here: The folder the command was given in, from which relative paths lead.
        code: Of the version that gave the order.
    """

    job: Job
    token: str
    device: str
    here: str
    code: str

    @classmethod
    def of(cls, job: Job, device: str) -> "Order":
        """A job as this process orders it."""
        return cls(job, secrets.token_hex(8), device, os.getcwd(), code_version(*CODE))

    @property
    def marker(self) -> Path | None:
        """The file that is there as long as the order stands, where files are written."""
        return None if self.job.folder is None else self.job.folder / f"{MARKER}{self.token}"


@dataclass(frozen=True)
class Told:
    """An error of the work itself, as a sentence.

    Attributes:
        kind: "value", "file", "memory" or "device".
        sentence: For whoever gave the command.
        number: Of the error of a file, or None.
    """

    kind: str
    sentence: str
    number: int | None = None

    @classmethod
    def of(cls, error: Exception) -> "Told | None":
        """What is told of an error; None if it is a mistake of the program, for which there is no sentence."""
        if isinstance(error, OSError):
            return cls("file", sentence_of(error), error.errno)
        if isinstance(error, ValueError | FloatingPointError):
            return cls("value", str(error))
        if isinstance(error, MemoryError):
            return cls("memory", sentence_of(error))
        if isinstance(error, RuntimeError) and "out of memory" in str(error).lower():
            return cls("device", sentence_of(error))
        return None

    def error(self) -> Exception:
        """The error to raise where the command was given."""
        if self.kind != "file":
            return {"value": ValueError, "memory": MemoryError, "device": RuntimeError}[self.kind](self.sentence)
        found = OSError(self.sentence)
        found.errno = self.number
        return found


@dataclass(frozen=True)
class Answer:
    """What a process says of a chunk.

    Attributes:
        value: What the job gives for it.
        seconds: That it took, without opening.
        told: The error that ended it, or None.
    """

    value: Any = None
    seconds: float = 0.0
    told: Told | None = None


_OPEN: dict[str, Work] = {}  # by token: what this process has open


def work(order: Order, chunk: Any) -> Answer:
    """The answer of this process; what an order needs is opened at its first chunk, and stays open."""
    try:
        if order.token not in _OPEN:
            _OPEN.clear()
            _OPEN[order.token] = _opened(order)
        began = time.monotonic()
        value = _OPEN[order.token](chunk)
        return Answer(value, time.monotonic() - began)
    except Exception as error:
        told = Told.of(error)
        if told is None:
            raise
        return Answer(told=told)


def ready() -> str:
    """This process has loaded what it needs for any order; the version of its code."""
    return code_version(*CODE)


def _opened(order: Order) -> Work:
    name = socket.gethostname()
    if code_version(*CODE) != order.code:
        raise ValueError(f"expected the same version of saot on all machines; {name} has another: install it there")
    try:
        os.chdir(order.here)
    except OSError as error:
        raise ValueError(
            f"expected the folder {order.here}, in which the command was given, on all machines; {name} has none: "
            "give the command in a folder that all share"
        ) from error
    if order.marker is not None and not _is_there(order.marker):
        raise ValueError(
            f"expected {order.marker.parent} to be one folder for all machines; {name} sees another there: choose an "
            "--out on a disk that they share"
        )
    torch.set_num_threads(1)
    return order.job.open(order.device)


def _is_there(path: Path) -> bool:
    for wait in LOOKS:
        if path.exists():
            return True
        time.sleep(wait)
    return path.exists()


@contextlib.contextmanager
def standing(order: Order) -> Iterator[None]:
    """The marker of an order is there, and those of commands that were killed long ago are not."""
    if order.marker is None:
        yield
        return
    for left in order.marker.parent.glob(f"{MARKER}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    write_atomic(order.marker, b"")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            order.marker.unlink()


@runtime_checkable
class Pool(Protocol):
    """Processes that answer chunks."""

    def room(self) -> int:
        """How many chunks may be under way now, at least 1."""
        ...

    def begin(self, chunk: Any) -> Hashable:
        """Have a chunk answered; a name for it."""
        ...

    def ended(self, under_way: list[Any]) -> list[Any]:
        """Those that have ended, after a moment at most; may be none."""
        ...

    def answer(self, name: Any) -> Answer:
        """Of a chunk that has ended.

        Raises:
            ValueError: If processes died of it.
        """
        ...

    def stop(self, under_way: list[Any]) -> None:
        """Nobody waits for these any more."""
        ...


def spread(pool: Pool, numbers: Sequence[int], chunk_of: Callable[[list[int]], Any]) -> Iterator[tuple[list[int], Any]]:
    """Numbers in chunks and what the job gives for them, as they come; no more is held than what is under way.

    A chunk has at most 128 pictures, is meant to take ten seconds at the pace of those before, and is smaller towards
    the end, so that all processes end together.

    Args:
        pool: Processes.
        numbers: Of all pictures, in the order in which they are begun.
        chunk_of: What travels to a process for some numbers.

    Raises:
        ValueError, OSError: The first that a process tells of; nothing new is begun then.
    """
    under_way: dict[Any, list[int]] = {}
    size, place = FIRST, 0
    try:
        while place < len(numbers) or under_way:
            room = pool.room()
            while place < len(numbers) and len(under_way) < room:
                chunk = list(numbers[place : place + max(1, min(size, (len(numbers) - place) // room))])
                under_way[pool.begin(chunk_of(chunk))] = chunk
                place += len(chunk)
            for name in pool.ended(list(under_way)):
                chunk = under_way.pop(name)
                answer = pool.answer(name)
                if answer.told is not None:
                    raise answer.told.error()
                size = chunk_size(answer.seconds / len(chunk))
                yield chunk, answer.value
    finally:
        pool.stop(list(under_way))


def chunk_size(pace: float) -> int:
    """Pictures of a chunk where one takes so many seconds.

    Example:
        >>> [chunk_size(pace) for pace in (0.0, 0.1, 1.0, 60.0)]
        [128, 100, 10, 1]
    """
    return CHUNK if pace * CHUNK <= SECONDS else max(1, int(SECONDS / pace))
