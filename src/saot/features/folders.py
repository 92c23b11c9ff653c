"""Where the files of a store lie: in a folder, or below an address of fsspec such as s3://bucket/features.

A store asks few things of its place: text and whole records are put there in one step, found by their names, and read
in parts. An address travels as a `Path`, which keeps s3://bucket/features as s3:/bucket/features.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saot.data import address_of, write_atomic
from saot.features.record import MAX_HEADER, DamagedFile, Place, open_record, place_of_file

STALE_SECONDS = 3600  # a temporary file that old belongs to a process that was killed
ENDING = ".safetensors"
_HASHED = re.compile(r"-[0-9a-f]{16}\.safetensors$")  # a file of one picture
_HEAD = 4096  # bytes that are fetched at once when a record is opened; a header is below 2 kB


@runtime_checkable
class Folder(Protocol):
    """Where the files of a store lie."""

    @property
    def shared(self) -> bool:
        """Whether they are in a file system, with locks, times and states by which they are known again."""
        ...

    def text(self, name: str) -> str | None:
        """What stands in a small file; None if there is none.

        Raises:
            ValueError: If it is too large.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Put a file there in one step.

        Raises:
            OSError: If it cannot be written.
        """
        ...

    def names(self) -> Iterator[str]:
        """Names of the files of single pictures, in any order."""
        ...

    def sizes(self) -> Callable[[str], int | None]:
        """What tells the bytes of a file by its name; None of one that is missing."""
        ...

    def record(self, name: str, key: str) -> contextlib.AbstractContextManager[Place]:
        """The record that is this file, open; of the picture `key`.

        Raises:
            ValueError: If there is none.
        """
        ...

    def sweep(self) -> None:
        """Remove what killed processes left behind."""
        ...


def folder_of(root: Path) -> Folder:
    """The place of a store.

    Raises:
        ValueError: If what its address needs is not installed.
    """
    address = address_of(root)
    return LocalFolder(root) if address is None else _remote(address)


@dataclass(frozen=True)
class LocalFolder:
    """A folder of a file system; see `Folder`.

    Attributes:
        root: Its path.
        shared: See `Folder`.
    """

    root: Path
    shared: bool = True

    def text(self, name: str) -> str | None:
        """See `Folder`.

        Where a file system in user space (FUSE) replaces a file that is open, there is none of that name for a moment;
        so a file that was there a moment ago is looked for again.
        """
        path = self.root / name
        if not path.is_file():
            return None
        for wait in (0.05, 0.2, 1.0, 5.0, None):
            try:
                if path.stat().st_size > MAX_HEADER:
                    raise ValueError("its size")
                return path.read_text()
            except FileNotFoundError:
                if wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError

    def write(self, name: str, data: bytes) -> None:
        """See `Folder`."""
        write_atomic(self.root / name, data)

    def names(self) -> Iterator[str]:
        """See `Folder`."""
        with os.scandir(self.root) as found:
            yield from (entry.name for entry in found if _HASHED.search(entry.name))

    def sizes(self) -> Callable[[str], int | None]:
        """See `Folder`."""
        root = str(self.root)

        def size(name: str) -> int | None:
            try:
                return os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                return None

        return size

    @contextlib.contextmanager
    def record(self, name: str, key: str) -> Iterator[Place]:
        """See `Folder`."""
        path = self.root / name
        try:
            file = open_record(path)
        except FileNotFoundError as error:
            raise _missing(self.root, key) from error
        with file:
            yield place_of_file(file, path)

    def sweep(self) -> None:
        """See `Folder`."""
        for path in self.root.glob(f"*{ENDING}.tmp-*"):
            try:
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process was faster


@dataclass(frozen=True)
class FetchedPlace(Place):
    """A record that is fetched in parts.

    Attributes:
        fetch: Bytes from one place up to another.
        head: Its first bytes.
    """

    fetch: Callable[[int, int], bytes] = field(kw_only=True)
    head: bytes = field(kw_only=True)

    def read(self, count: int, begin: int = 0) -> bytes:
        """See `Place`."""
        end = min(begin + count, self.size)
        return self.head[begin:end] if end <= len(self.head) else self.fetch(begin, end)


@dataclass(frozen=True)
class RemoteFolder:
    """What lies below an address of fsspec; see `Folder`. Its objects are put whole, and checked by whoever keeps them.

    Attributes:
        files: The file system of fsspec.
        root: The address as this file system has it.
        address: As the user has it.
        shared: See `Folder`.
    """

    files: Any
    root: str
    address: str
    shared: bool = False

    def text(self, name: str) -> str | None:
        """See `Folder`."""
        with self._told():
            try:
                if self.files.info(self._at(name))["size"] > MAX_HEADER:
                    raise ValueError("its size")
                return self.files.cat_file(self._at(name)).decode()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """See `Folder`."""
        try:
            with self._told():
                self.files.pipe_file(self._at(name), data)
        except FileNotFoundError as error:
            raise OSError(f"{self.address} has no bucket to lie in: make it, or check the address") from error

    def names(self) -> Iterator[str]:
        """See `Folder`."""
        yield from (name for name in self._listed() if _HASHED.search(name))

    def sizes(self) -> Callable[[str], int | None]:
        """See `Folder`."""
        return self._listed().get

    @contextlib.contextmanager
    def record(self, name: str, key: str) -> Iterator[Place]:
        """See `Folder`."""
        where = self._at(name)

        def fetch(begin: int, end: int) -> bytes:
            try:
                with self._told():
                    return self.files.cat_file(where, start=begin, end=end)
            except FileNotFoundError as error:
                raise DamagedFile(f"{self.address}/{name} has vanished; extract the features again") from error

        try:
            with self._told():
                about = self.files.info(where)
        except FileNotFoundError as error:
            raise _missing(self.address, key) from error
        size = int(about["size"])
        stamp = (size, hash(str(about.get("ETag") or about.get("LastModified") or about.get("created"))))
        head = fetch(0, min(_HEAD, size)) if size else b""
        yield FetchedPlace(-1, 0, size, Path(f"{self.address}/{name}"), stamp, fetch=fetch, head=head)

    def sweep(self) -> None:
        """Nothing is left behind: an object that was not put whole is not there."""

    def _listed(self) -> dict[str, int]:
        """Names of all files, and their bytes."""
        with self._told():
            try:
                found = self.files.ls(self.root, detail=True)
            except FileNotFoundError:
                return {}
        return {one["name"].rpartition("/")[2]: int(one["size"]) for one in found if one["type"] == "file"}

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the file system, each of which has its own, as one sentence."""
        try:
            yield
        except (FileNotFoundError, ValueError):
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise OSError(f"{self.address} cannot be used ({reason}): check address, rights and network") from error


def _missing(root: "Path | str", key: str) -> ValueError:
    return ValueError(f"the store {root} has no features of {key}; run saot extract on that picture")


def _remote(address: str) -> RemoteFolder:
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(address, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"expected an address that fsspec knows; {address} needs more ({error}): install it, for s3:// as `pip "
            "install s3fs`"
        ) from error
    return RemoteFolder(files, str(root).rstrip("/"), address)
