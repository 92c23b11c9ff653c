"""The one training loop: steps whose randomness depends on the step alone, so that a killed run ends the same."""

import hashlib
import io
import json
import math
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from saot.data import write_atomic, write_tail
from saot.runs.side import check_stopped

CHECK = b"saot, CRC-32 of the rest "  # begins the comment of a checkpoint's zip archive
PART = 2**20  # bytes read at a time
Progress = Callable[[int, int], None]
History = list[dict[str, float]]


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: a module, an optimiser."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True)
class Mark:
    """How much of the file of records a state speaks of; what stands behind it is of steps that are taken again.

    Attributes:
        steps: Records, one a step.
        size: Bytes.
        check: CRC-32 of these bytes.
    """

    steps: int = 0
    size: int = 0
    check: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stage keeps its state, and how often in steps.

    The records of its steps lie beside the state, in a file that only grows: each is written once, so the bytes of all
    checkpoints are linear in the steps. At each checkpoint the records come first and the state, which says how many of
    them count, comes second. Killed in between, a training finds the state before and writes over what stands behind.

    Attributes:
        path: Of the state.
        every: Steps between two states.
        told: Hears all records so far whenever a state has been kept, or None.
    """

    path: Path
    every: int = 100
    told: Callable[[History], None] | None = None

    @property
    def records(self) -> Path:
        """The file of records: a JSON object a line."""
        return self.path.with_name(f"{self.path.name}.records")

    def resume(self) -> tuple[dict[str, Any] | None, History, Mark]:
        """The last state, the records of its steps, and how much of their file they are.

        A state of an earlier version, which holds its records itself, is taken up too. Nothing but (None, [], Mark())
        where there is none, or where it or its records are damaged: then training starts anew.

        Raises:
            RuntimeError: If memory does not hold the state.
        """
        state = self.load()
        if state is None:
            return None, [], Mark()
        if "history" in state:
            return state, state.pop("history"), Mark()
        if not self.records.is_file():  # nor a pipe, which would be waited for
            return None, [], Mark()
        try:
            mark = Mark(**state.pop("records"))
            with open(self.records, "rb") as file:
                kept = file.read(mark.size)
            history = [json.loads(line) for line in kept.splitlines()]
        except (LookupError, AttributeError, TypeError, ValueError, OSError, RecursionError):
            return None, [], Mark()
        if (len(history), len(kept), zlib.crc32(kept)) != (mark.steps, mark.size, mark.check):
            return None, [], Mark()
        return state, history, mark

    def keep(self, state: Mapping[str, Any], history: History, mark: Mark) -> Mark:
        """Write the records behind `mark` and then the state; how much of the file counts from now on.

        Args:
            state: Whatever the training changes.
            history: All records so far.
            mark: How much of them is written already.

        Raises:
            OSError: If it cannot be written; a full disk is told in one sentence.
        """
        added = "".join(f"{json.dumps(record)}\n" for record in history[mark.steps :]).encode()
        write_tail(self.records, mark.size, added)
        mark = Mark(len(history), mark.size + len(added), zlib.crc32(added, mark.check))
        self.save({"records": asdict(mark), **state})
        if self.told is not None:
            self.told(history)
        return mark

    def load(self) -> dict[str, Any] | None:
        """The last state written, on the CPU; None if there is none or it is damaged, and then training starts anew.

        Tensors and plain values only: nothing else is unpickled.

        Raises:
            RuntimeError: If memory does not hold it.
        """
        if not self.path.is_file():
            return None
        try:
            if not _sound(self.path):
                return None
            state = torch.load(self.path, weights_only=True, map_location="cpu")
            return state if isinstance(state, dict) else None
        except (OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, pickle.UnpicklingError):
            return None
        except RuntimeError as error:
            if "PytorchStreamReader" not in str(error):  # not what a damaged file says
                raise
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write the state in one atomic step.

        Raises:
            OSError: If it cannot be written; a full disk is told in one sentence.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_check(buffer)
        write_atomic(self.path, buffer.getvalue())

    def clear(self) -> None:
        """Forget the state: the stage has written its result."""
        self.path.unlink(missing_ok=True)
        self.records.unlink(missing_ok=True)


def write_check(archive: io.BytesIO) -> None:
    """Give a zip archive without a comment one that holds the check sum of all that stands before."""
    with archive.getbuffer() as data:
        assert data[-2:] == b"\0\0"  # the length of its comment
        comment = CHECK + f"{zlib.crc32(data):08x}".encode()
    archive.seek(-2, io.SEEK_END)
    archive.write(struct.pack("<H", len(comment)) + comment)


def _sound(path: Path) -> bool:
    """Whether a checkpoint is as it was written, by its check sum.

    torch's reader of zip archives does not look at the check sums of their members.
    """
    tail = len(CHECK) + 8
    with open(path, "rb") as file:
        left = file.seek(0, os.SEEK_END) - tail - 2
        if left < 0:
            return False
        file.seek(left)
        length, said = file.read(2), file.read(tail)
        if said[:-8] != CHECK:
            return False
        file.seek(0)
        whole = 0
        while left > 0:
            part = file.read(min(left, PART))
            whole, left = zlib.crc32(part, whole), left - len(part)
    return said[-8:] == f"{zlib.crc32(bytes(2), whole):08x}".encode() and length == struct.pack("<H", tail)


def generator_for(seed: int, *names: object) -> torch.Generator:
    """A generator that depends on the seed and the names alone, the same on every machine.

    Example:
        >>> a, b = generator_for(0, "cost", 3), generator_for(0, "cost", 3)
        >>> bool((torch.rand(2, generator=a) == torch.rand(2, generator=b)).all())
        True
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def cosine_rate(step: int, steps: int, first: float, last: float) -> float:
    """Learning rate of cosine annealing from `first` at step 0 to `last` at the end.

    Example:
        >>> cosine_rate(0, 10, 1.0, 0.0), cosine_rate(5, 10, 1.0, 0.0)
        (1.0, 0.5)
    """
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1)))


def train_steps(
    step: Callable[[int], dict[str, float]],
    steps: int,
    state: Mapping[str, Stateful],
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> History:
    """The records of `step(0)` to `step(steps - 1)`, going on from the last checkpoint where there is one.

    `step` must draw its randomness from its number alone; then an interrupted training ends with the same weights,
    bit for bit, as an undisturbed one.

    Args:
        step: Does one update and returns what is to be logged: numbers by name.
        steps: How many there are in all.
        state: Everything `step` changes, by name; `records` and `history` are no names for it.
        checkpoint: Where to keep it; None keeps nothing.
        progress: Called with (done, steps).
    """
    kept, history, mark = (None, [], Mark()) if checkpoint is None else checkpoint.resume()
    if kept is not None:
        for name, part in state.items():
            part.load_state_dict(kept.pop(name))  # let go at once: large networks are held twice otherwise
    for number in range(len(history), steps):
        check_stopped()
        history.append(step(number))
        done = number + 1
        if checkpoint is not None and done % checkpoint.every == 0:
            mark = checkpoint.keep({name: dict(part.state_dict()) for name, part in state.items()}, history, mark)
        if progress is not None:
            progress(done, steps)
    return history


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, step: int, what: str) -> None:
    """One step of the optimiser down a loss; none where nothing that is trained has a part in it.

    Raises:
        FloatingPointError: If the loss is infinite or NaN.
    """
    check_finite(loss, step, what)
    optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()
        optimizer.step()


def check_finite(loss: torch.Tensor, step: int, what: str) -> None:
    """Stop a training whose loss is not a number, naming the step.

    Raises:
        FloatingPointError: If the loss is infinite or NaN.
    """
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(
            f"expected a finite loss while training {what}; got {float(loss)} at step {step}; lower the learning rate"
        )
