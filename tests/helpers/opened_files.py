"""Which files a process opens, by any way Python knows."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_listening: list[list[Path]] = []


def _heard(event: str, arguments: tuple) -> None:
    if event == "open" and _listening and isinstance(arguments[0], str | bytes):
        for seen in _listening:
            seen.append(Path(os.path.abspath(os.fsdecode(arguments[0]))))


sys.addaudithook(_heard)  # a hook stays for good; it does nothing while nobody listens


@contextmanager
def opened_below(*folders: Path) -> Iterator[list[Path]]:
    """The files below these folders that are opened while it is open, in their order, once it is closed."""
    seen: list[Path] = []
    found: list[Path] = []
    _listening.append(seen)
    try:
        yield found
    finally:
        _listening.remove(seen)
        found += [path for path in seen if path.is_file() and any(folder in path.parents for folder in folders)]
