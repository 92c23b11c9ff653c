"""Check sums of files, remembered from one start to the next: a file that has not changed is not read again."""

import contextlib
import json
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from saot.data.files import FULL, full_disk_error, lock_file, sha256_file

SETTLED_NS = 2_000_000_000  # a file changed less long ago may change again within one tick of its clock
SAVE_EVERY = 256  # files
LARGEST = 2**33  # bytes of the file, thirty million lines; a larger one is not ours, and passed over
LONGEST = 2**16  # bytes of a line; what is longer is not ours

State = tuple[int, int, int]  # size in bytes, time of last change of content and of anything, ns
Entry = tuple[str, State, str]  # absolute path, its state, and what is known of it


class Fingerprints:
    """SHA-256 of files by path, size and times of change; accumulates, and is kept in a file if it is given one.

    A file is read again when its size, its modification time or its change time (mtime and ctime, ns) is another one.
    So what goes unnoticed is a content of the same size put in place without either time moving: that takes a clock
    that was set back, a disk written to from below, or a file system without ctime and a mtime that was put back.

    Several processes may keep theirs in one file: each adds whole lines under a lock, and of two lines about a path the
    later one counts. A line that was cut short by a kill, or is not as it was written by its check sum, is passed over,
    and its file read again. The file may be deleted.

    Args:
        path: JSON lines `[path, size, mtime, ctime, sha256, crc32 of what stands before]`, and with `path#reader` and
            "HEIGHTxWIDTH" instead; need not exist. None remembers within the process alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, tuple[State, str]] = {}
        self._new: dict[str, tuple[State, str]] = {}
        with contextlib.suppress(OSError):
            if path is None or not path.is_file() or path.stat().st_size > LARGEST:
                return
            with open(path, "rb") as file:
                while line := file.readline(LONGEST):
                    with contextlib.suppress(ValueError, TypeError, RecursionError):
                        said, _, check = line.strip().rpartition(b", ")
                        if int(check.removesuffix(b"]")) == zlib.crc32(said + b"]"):
                            name, *state, digest = json.loads(said + b"]")
                            self._known[name] = (state[0], state[1], state[2]), digest

    def sha256(self, path: str | Path) -> str:
        """SHA-256 of the bytes of a file, as 64 hexadecimal digits.

        Raises:
            OSError: If it cannot be read.
        """
        before = _state(path)
        known = self._said(path, before)
        if known is not None:
            return known
        digest = sha256_file(path)
        if time.time_ns() - max(before[1:]) > SETTLED_NS:
            self._keep(path, before, digest)
        return digest

    def measured(self, path: Path, read: Callable[[Path], tuple[int, int]]) -> tuple[int, int]:
        """What `read` says of a file, height and width, asked again only where the file has changed.

        Raises:
            ValueError: If it cannot be read.
        """
        name = f"{os.path.abspath(path)}#{read.__name__}"
        state = _state_of_file(path)
        kept = self._known.get(name)
        if state is not None and kept is not None and kept[0] == state:
            height, width = kept[1].split("x")
            return int(height), int(width)
        height, width = read(path)
        if state is not None and time.time_ns() - max(state[1:]) > SETTLED_NS:
            self._keep_as(name, state, f"{height}x{width}")
        return height, width

    def known(self, path: str | Path) -> str | None:
        """What is remembered of a file as it is now; None if nothing is, or there is no file to be had."""
        try:
            return self._said(path, _state(path))
        except OSError:
            return None

    def note(self, path: str | Path, digest: str) -> None:
        """Remember a file that this process has just written, or read and found whole, by a check sum of its own.

        Raises:
            OSError: If there is no such file.
        """
        self._keep(path, _state(path), digest)

    def some(self, paths: Iterable[str | Path]) -> list[Entry]:
        """What is remembered of some files, for `adopt` in another process; nobody asks how they are now."""
        names = (os.path.abspath(path) for path in paths)
        return [(name, *self._known[name]) for name in names if name in self._known]

    def adopt(self, entries: Iterable[Entry]) -> None:
        """Know what another process knows; it is not saved here."""
        self._known |= {name: (state, said) for name, state, said in entries}

    def drain(self) -> list[Entry]:
        """What is new since this was last asked, for `add` in another process, which saves it."""
        new, self._new = self._new, {}
        return [(name, *found) for name, found in new.items()]

    def add(self, entries: Iterable[Entry]) -> None:
        """Remember what another process found out."""
        for entry in entries:
            self._keep_as(*entry)

    def _said(self, path: str | Path, state: State) -> str | None:
        kept = self._known.get(os.path.abspath(path))
        return kept[1] if kept is not None and kept[0] == state else None

    def _keep(self, path: str | Path, state: State, digest: str) -> None:
        self._keep_as(os.path.abspath(path), state, digest)

    def _keep_as(self, name: str, state: State, said: str) -> None:
        self._known[name] = self._new[name] = (state, said)
        if len(self._new) >= SAVE_EVERY and self.path is not None and self.path.parent.is_dir():
            self.save()

    def save(self) -> None:
        """Add what is new to the file.

        Raises:
            OSError: If it cannot be written; a full disk is told in one sentence.
        """
        new, self._new = self._new, {}
        if self.path is None or not new:
            return
        said = ([name, *state, digest] for name, (state, digest) in new.items())
        lines = "".join(f"{json.dumps([*one, _check(one)])}\n" for one in said).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as file:
                lock_file(file, wait=True)  # without locks a line may be cut, and is passed over
                end = file.seek(0, os.SEEK_END)
                cut = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"  # a killed process left half a line
                file.write(b"\n" * cut + lines)
        except OSError as error:
            if error.errno in FULL:
                raise full_disk_error(self.path, len(lines), error.errno) from error
            raise


def _check(said: Sequence[object]) -> int:
    return zlib.crc32(json.dumps(said).encode())


def _state(path: str | Path) -> State:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _state_of_file(path: Path) -> State | None:
    """The same, or None where there is no plain file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None
