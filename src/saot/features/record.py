"""The features of one picture as bytes: a safetensors file, on its own or as a part of a larger file.

Its header holds the picture's name, the provenance, and check sums of header and payload.
"""

import errno
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int64

from saot.features.forms import decoded, described, encoded, from_eight_bits, payload_size
from saot.features.grid import FeatureGrid, Provenance

MAX_HEADER = 1 << 20  # bytes; ours are below 2 kB, a larger number is a damaged length
_GAP = 16  # rows that are read along rather than jumped over


class DamagedFile(ValueError):
    """A feature file that is not what was written."""


@dataclass(frozen=True)
class Place:
    """Where a record lies.

    Attributes:
        file: Number of the open file.
        begin: Its first byte.
        size: Its bytes.
        path: Names the file in errors.
        stamp: Another one where the record may have been written anew.
    """

    file: int
    begin: int
    size: int
    path: Path
    stamp: tuple[int, ...]

    def read(self, count: int, begin: int = 0) -> bytes:
        """Bytes of the record; fewer only where the file has no more."""
        found = os.pread(self.file, count, self.begin + begin)
        while len(found) < count:  # one call may bring less, above 2 GB or when interrupted
            more = os.pread(self.file, count - len(found), self.begin + begin + len(found))
            if not more:
                break
            found += more
        return found

    def damaged(self, why: str = "") -> DamagedFile:
        """The error to raise."""
        return DamagedFile(f"{self.path} is damaged{why}; extract the features again")


@dataclass(frozen=True)
class Header:
    """What a record says of its picture.

    Attributes:
        key: The picture.
        provenance: Of its tokens.
        checksum: Of the payload.
        rows: Tokens.
        dim: Numbers a token.
        start: First byte of the payload.
    """

    key: str
    provenance: Provenance
    checksum: str
    rows: int
    dim: int
    start: int


def open_record(path: Path) -> FileIO:
    """Opened for reading; a pipe or a link to itself in its place is not waited for, and counts as a damaged file."""
    try:
        file = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedFile(f"{path} is a link to itself; remove it and extract the features again") from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedFile(f"{path} is no file; remove it and extract the features again")
    return file


def place_of_file(file: FileIO, path: Path) -> Place:
    """A record that is a whole file."""
    now = os.fstat(file.fileno())
    return Place(file.fileno(), 0, now.st_size, path, (now.st_ino, now.st_size, now.st_mtime_ns))


def written(key: str, features: FeatureGrid) -> tuple[bytes, str]:
    """A record of finite tokens, and the check sum of its payload."""
    form, tokens = features.provenance.form, features.tokens.detach().cpu()
    payload = encoded(form, tokens)
    metadata = {"key": key, "provenance": features.provenance.to_json(), "payload_checksum": checksum(payload)}
    metadata["header_checksum"] = checksum("".join(metadata.values()).encode())
    header = json.dumps({"__metadata__": metadata, **described(form, tokens.shape[0], tokens.shape[1])}).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the payload to 8 bytes
    return struct.pack("<Q", len(header)) + header + payload, metadata["payload_checksum"]


def read_header(place: Place) -> Header:
    """The header, with its length checked against the size of the record.

    Raises:
        DamagedFile: If it is not what was written.
    """
    try:
        (length,) = struct.unpack("<Q", place.read(8))
        if length > min(MAX_HEADER, place.size):
            raise ValueError("length of the header")
        values = json.loads(place.read(length, 8))
        metadata = values.pop("__metadata__")
        parts = (metadata["key"], metadata["provenance"], metadata["payload_checksum"])
        if checksum("".join(parts).encode()) != metadata["header_checksum"]:
            raise ValueError("check sum of the header")
        provenance = Provenance.from_json(metadata["provenance"])
        rows, dim = provenance.patch_grid.height * provenance.patch_grid.width, provenance.dim
        size = payload_size(provenance.form, rows, dim)
        if values != described(provenance.form, rows, dim) or place.size != 8 + length + size:
            raise ValueError("shape")
        return Header(metadata["key"], provenance, metadata["payload_checksum"], rows, dim, 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise place.damaged() from error


def read_payload(place: Place, header: Header) -> bytes:
    """The tokens' bytes, whole and as they were written.

    Raises:
        DamagedFile: If they are not.
    """
    payload = place.read(payload_size(header.provenance.form, header.rows, header.dim), header.start)
    if checksum(payload) != header.checksum:
        raise place.damaged(": its check sum differs")
    return payload


def read_features(place: Place, header: Header) -> FeatureGrid:
    """All tokens in float32, after a check of the payload.

    Raises:
        DamagedFile: If it is not what was written.
    """
    found = decoded(header.provenance.form, read_payload(place, header), header.rows, header.dim)
    tokens = torch.from_numpy(found.astype(np.float32))
    return FeatureGrid(tokens=tokens, grid=header.provenance.patch_grid, provenance=header.provenance)


def read_rows(place: Place, header: Header, distinct: Int64[np.ndarray, " k"]) -> Float16[np.ndarray, "k d"]:
    """Some tokens, reading only those; the payload is not checked.

    Args:
        place: Of the record.
        header: Of the record.
        distinct: Sorted token numbers in range, none twice.

    Raises:
        DamagedFile: If the record is cut short.
    """
    eight, start = header.provenance.form == "int8", header.start
    steps = _numbers(place, "<f2", start, header.dim) if eight else np.empty(0, np.float16)
    start += 2 * header.dim if eight else 0
    kind = np.dtype(np.int8 if eight else "<f2")
    found = np.empty((len(distinct), header.dim), kind)
    for first, last in _runs(distinct):
        begin, count = int(distinct[first]), int(distinct[last - 1] - distinct[first]) + 1
        chunk = _numbers(place, kind, start + begin * header.dim * kind.itemsize, count * header.dim)
        found[first:last] = chunk.reshape(-1, header.dim)[distinct[first:last] - begin]
    return from_eight_bits(found, steps) if eight else found.astype(np.float16, copy=False)


def _numbers(place: Place, kind: "np.dtype | str", begin: int, count: int) -> np.ndarray:
    kind = np.dtype(kind)
    found = place.read(count * kind.itemsize, begin)
    if len(found) != count * kind.itemsize:
        raise DamagedFile(f"{place.path} is cut short; extract the features again")
    return np.frombuffer(found, kind)


def checksum(payload: bytes) -> str:
    """BLAKE2b of 16 bytes, as hexadecimal digits."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of positions over which sorted, distinct `numbers` leave out few: a gap is read over, not jumped."""
    breaks = np.flatnonzero(np.diff(numbers) > _GAP) + 1
    edges = [0, *breaks.tolist(), len(numbers)] if len(numbers) else [0]
    yield from pairwise(edges)
