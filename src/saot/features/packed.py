"""A store packed into few files: shards of records one behind the other, and one index that finds each of them.

The index holds numbers alone, 36 bytes a picture in columns sorted by the hash of its name; names stand in the records.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from saot.data import Fingerprints
from saot.features.record import DamagedFile, Place, open_record

INDEX = "packed.index"
_MAGIC = b"SAOTIDX1"
_SUM = 16  # bytes of the check sum at the end of an index
COLUMNS = (("names", "<u8"), ("sources", "<u8"), ("offsets", "<u8"), ("lengths", "<u8"), ("shards", "<u4"))
_ENTRY = sum(np.dtype(kind).itemsize for _, kind in COLUMNS)
_LONGEST = 1 << 28  # bytes of the head of an index; ours name some hundred shards
_READ = 1 << 24  # bytes of a shard that are checked at a time


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        name: Of the file.
        size: Its bytes.
        checksum: BLAKE2b of all of them.
    """

    name: str
    size: int
    checksum: str


@dataclass(frozen=True, eq=False)
class Index:
    """Where each picture's record lies; the columns are sorted by the first.

    Attributes:
        about: JSON values: `key`, of the store, and `made_of`, a name for what was packed.
        shards: The files.
        columns: `names` and `sources`, hashes of a picture's name and of its content's fingerprint; `offsets` and
            `lengths`, bytes in the shard of number `shards`.
    """

    about: dict[str, Any]
    shards: tuple[Shard, ...]
    columns: dict[str, Shaped[np.ndarray, " n"]]

    def __len__(self) -> int:
        return len(self.columns["names"])

    def find(self, name: int) -> int | None:
        """The entry of a picture by the hash of its name; None if there is none."""
        names = self.columns["names"]
        entry = int(np.searchsorted(names, np.uint64(name)))
        return entry if entry < len(names) and int(names[entry]) == name else None

    def find_all(self, names: Sequence[int]) -> tuple[Bool[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Whether each picture is there, and its entry; of one that is not any entry."""
        asked, names_here = np.array(names, np.uint64), self.columns["names"]
        if not len(self):
            return np.zeros(len(asked), bool), np.zeros(len(asked), np.int64)
        entries = np.searchsorted(names_here, asked).clip(max=len(self) - 1)
        return names_here[entries] == asked, entries.astype(np.int64)


def hashed(text: str) -> int:
    """The hash of a name, as it stands in an index and in the name of a file."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def index_bytes(index: Index) -> bytes:
    """The file of an index; its columns may come in any order, and are sorted here."""
    order = np.argsort(index.columns["names"], kind="stable")
    head = json.dumps(
        {"about": index.about, "shards": [vars(one) for one in index.shards], "count": len(index)}, sort_keys=True
    ).encode()
    head += b" " * (-len(head) % 8)
    parts = [_MAGIC, struct.pack("<Q", len(head)), head]
    parts += [np.ascontiguousarray(index.columns[name][order], kind).tobytes() for name, kind in COLUMNS]
    data = b"".join(parts)
    return data + hashlib.blake2b(data, digest_size=_SUM).digest()


def read_index(path: Path) -> Index:
    """An index, after a check of the whole file.

    Raises:
        DamagedFile: If it is not what was written.
    """
    try:
        with open_record(path) as file:
            size = os.fstat(file.fileno()).st_size
            magic, length = struct.unpack("<8sQ", file.read(16))
            if magic != _MAGIC or length > min(_LONGEST, size):
                raise ValueError("no index")
            head = json.loads(os.pread(file.fileno(), length, 16))
            begin, count = 16 + length, head["count"]
            if size != begin + count * _ENTRY + _SUM:
                raise ValueError("size")
            file.seek(0)
            data = file.readall()
        if hashlib.blake2b(memoryview(data)[:-_SUM], digest_size=_SUM).digest() != data[-_SUM:]:
            raise ValueError("check sum")
        columns = {}
        for name, kind in COLUMNS:
            columns[name] = np.frombuffer(data, kind, count, begin)
            begin += columns[name].nbytes
        return Index(head["about"], tuple(Shard(**one) for one in head["shards"]), columns)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DamagedFile(
            f"{path}, the index of a packed store, is damaged; give the same saot compact command again into another "
            "folder, or remove the index to extract the features again"
        ) from error


class Packed:
    """The records of a packed store, read by random access; files stay open.

    Args:
        root: Folder with an index and its shards.
        index: Of `read_index`.
    """

    def __init__(self, root: Path, index: Index) -> None:
        self.root, self.index = root, index
        self._files: dict[int, FileIO] = {}
        self._whole: dict[int, bool] = {}

    def __del__(self) -> None:
        for file in self._files.values():
            file.close()

    def place(self, entry: int) -> Place:
        """Where a record lies.

        Raises:
            DamagedFile: If its shard is missing.
        """
        columns, number = self.index.columns, int(self.index.columns["shards"][entry])
        path = self.shard_of(entry)
        if number not in self._files:
            try:
                file = open_record(path)
            except OSError as error:
                raise DamagedFile(
                    f"{path}, a part of a packed store, cannot be read; put it back, or extract the features again"
                ) from error
            if self._files.setdefault(number, file) is not file:  # another thread was faster
                file.close()
        begin, size = int(columns["offsets"][entry]), int(columns["lengths"][entry])
        return Place(self._files[number].fileno(), begin, size, path, (number, begin))

    def is_of(self, entry: int, fingerprint: str) -> bool:
        """Whether a record is of a picture of this content, by the index alone."""
        return int(self.index.columns["sources"][entry]) == hashed(fingerprint)

    def shard_of(self, entry: int) -> Path:
        """The file in which a record lies."""
        return self.root / self.index.shards[int(self.index.columns["shards"][entry])].name

    def is_whole(self, entry: int, seen: Fingerprints | None = None) -> bool:
        """Whether the shard of a record is as it was written; looked at once, and read only if nothing is known of it.

        Args:
            entry: Of the record.
            seen: Remembers which shards were found whole.
        """
        number = int(self.index.columns["shards"][entry])
        if number not in self._whole:
            shard = self.index.shards[number]
            path = self.root / shard.name
            found = None if seen is None else seen.known(path)
            if found != shard.checksum:
                found = file_checksum(path) if path.is_file() and path.stat().st_size == shard.size else None
                if found == shard.checksum and seen is not None:
                    seen.note(path, shard.checksum)
            self._whole[number] = found == shard.checksum
        return self._whole[number]

    def places(self) -> Iterator[tuple[int, Place]]:
        """Hash of the name and place of every record, in the order in which they lie; not of shards that are gone."""
        columns = self.index.columns
        for entry in np.lexsort((columns["offsets"], columns["shards"])).tolist():
            try:
                yield int(columns["names"][entry]), self.place(entry)
            except DamagedFile:
                continue


def open_packed(root: Path) -> Packed | None:
    """The packed part of a store, or None if it has none.

    Raises:
        DamagedFile: If its index is damaged.
    """
    path = root / INDEX
    return Packed(root, read_index(path)) if os.path.lexists(path) else None


def file_checksum(path: Path) -> str:
    """BLAKE2b of a file, as in `Shard`."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(_READ):
            found.update(part)
    return found.hexdigest()
