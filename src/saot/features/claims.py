"""Which of several processes makes which file of a store."""

import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import IO

from saot.data import lock_byte, unlock_byte

_LOOK = 0.1  # seconds between two looks at what other processes make
_PATIENCE = 600.0  # seconds without a new file, after which one that another process claims is made all the same


class Claims:
    """Which process makes which file of a store: a byte of the file `.claims` for each, locked while it is made.

    A lock ends with its process, so that what a killed one was making is made by the next. Where the file system has
    no locks nothing is claimed: processes begin at different places, and seldom make a file twice.

    Args:
        root: The store; None where it lies in no file system, and so has no locks.
    """

    def __init__(self, root: Path | None) -> None:
        self._root, self._none, self._spread = root, False, False
        self._file: IO[bytes] | None = None
        self._since = time.monotonic()

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def start(self, count: int) -> int:
        """Where in a list of so many this process begins, far from the others of its launch; a matter of speed alone.

        What RANK and WORLD_SIZE say decides nothing else: a shell may have inherited them from another launch.
        """
        try:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        except (KeyError, ValueError):
            return 0
        return rank * count // world if 0 <= rank < world else 0

    def take(self, name: str) -> bool:
        """Whether this process is to make the file, now."""
        if self._spread:
            return True
        if self._root is None:
            self._none = True
            return False
        if self._file is None:
            self._file = open(self._root / ".claims", "ab")  # noqa: SIM115  held until the end
        got = lock_byte(self._file, place_of(name))
        self._none |= got == "none"
        return got == "held" or (got == "taken" and time.monotonic() - self._since > _PATIENCE)

    def give_back(self, name: str) -> None:
        """The file is made."""
        self._since = time.monotonic()
        if self._file is not None and not self._none:
            unlock_byte(self._file, place_of(name))

    def rest(self, left: list[int], before: int) -> list[int]:
        """What this process looks at next: what it did not take of `before` numbers, after a moment if that was all."""
        if self._none and not self._spread:
            self._spread = True
            start = secrets.randbelow(len(left))
            return left[start:] + left[:start]
        if len(left) < before:
            self._since = time.monotonic()
        elif left:
            time.sleep(_LOOK)
        return left


def place_of(name: str) -> int:
    """The byte that stands for a file."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 2  # some file systems sign it
