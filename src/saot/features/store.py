"""Features on disk: one atomic file a picture, so that going on is making what is missing.

A file is plain safetensors: the tensor `tokens` in half precision, and in its header the picture's name, the
provenance and check sums of payload and header. Nothing is memory-mapped, so the memory a run needs does not
grow with the number of pictures it has read.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int
from torch import Tensor

from saot.data import Fingerprints, ImageSet, PatchGrid, write_atomic
from saot.features.base import Backbone, token_count
from saot.features.claims import Claims
from saot.features.flow import Picture, extract_each
from saot.features.grid import FeatureGrid, FeatureKey, Provenance

_MAX_HEADER = 1 << 20  # bytes; ours are below 2 kB, a larger number is a damaged length
_GAP = 16  # rows that are read along rather than jumped over
_STALE_SECONDS = 3600  # a temporary file that old belongs to a process that was killed


class DamagedFile(ValueError):
    """A feature file that is not what was written."""


@dataclass(frozen=True)
class _Header:
    key: str
    provenance: Provenance
    checksum: str
    rows: int
    dim: int
    start: int  # first byte of the payload


@dataclass(frozen=True)
class StoreSize:
    """How much disk the features of pictures take.

    Attributes:
        pictures: How many are missing.
        missing: Bytes of those, tokens x width x 2 a picture; a file's header, below 2 kB, is not counted.
        there: Bytes of the files of the other pictures.
    """

    pictures: int
    missing: int
    there: int

    def __add__(self, other: "StoreSize") -> "StoreSize":
        """Of two sets of pictures together."""
        return StoreSize(self.pictures + other.pictures, self.missing + other.missing, self.there + other.there)


def check_room(root: Path, size: StoreSize, free: int | None = None) -> str:
    """One sentence about what a store will take, for the user.

    Args:
        root: Where the store is to lie; need not exist.
        size: What is there and what is missing.
        free: Free bytes of the disk; None asks it. A quota is not known.

    Raises:
        ValueError: If the disk has not room for what is missing.

    Example:
        >>> check_room(Path("store"), StoreSize(2, 10_000_000, 0), free=1_000_000_000)
        'the features of 2 pictures take 10.0 MB more in store, of which 1.0 GB are free; 0.0 kB are there'
        >>> check_room(Path("store"), StoreSize(2, 10_000_000, 0), free=1_000_000)
        Traceback (most recent call last):
        ValueError: expected 10.0 MB free for the features of 2 pictures in store; got 1.0 MB: free some space, choose \
another folder for the store, or take fewer pictures or a smaller size
    """
    if free is None:
        place = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(place).free
    if size.missing > free:
        raise ValueError(
            f"expected {_bytes(size.missing)} free for the features of {size.pictures:,} pictures in {root}; got "
            f"{_bytes(free)}: free some space, choose another folder for the store, or take fewer pictures or a "
            "smaller size"
        )
    return (
        f"the features of {size.pictures:,} pictures take {_bytes(size.missing)} more in {root}, of which "
        f"{_bytes(free)} are free; {_bytes(size.there)} are there"
    )


class FeatureStore:
    """A folder of features that were all made in the same way.

    Args:
        root: Folder; made if it does not exist.
        key: How the features are made (`backbone.key`). None opens a store that exists.

    Raises:
        ValueError: If the store was made otherwise (names the field), or does not exist and no key is given.
    """

    def __init__(self, root: str | Path, key: FeatureKey | None = None) -> None:
        self.root = Path(root)
        path = self.root / "store.json"
        if not path.is_file():
            if key is None:
                raise ValueError(
                    f"expected a feature store at {self.root}, found no store.json; run saot extract first"
                )
            write_atomic(path, (key.to_json() + "\n").encode())
        try:
            self.key = FeatureKey.from_json(_text_of(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged; delete {self.root} and extract the features again") from error
        if key is not None:
            self._require(key, "this run")
        self._headers: dict[str, tuple[tuple[int, int, int], _Header]] = {}  # by name, as long as the file is the same

    def size(self, backbone: Backbone, *sets: ImageSet) -> StoreSize:
        """What the features of these pictures take on the disk, before any is made; one in several sets counts once.

        Files that are there count as they are, without a look inside. Where the input size hangs on the picture's, the
        head of each missing picture's file is read.

        Raises:
            ValueError: If a picture cannot be read.
        """
        lengths: dict[tuple[int, int], int] = {}
        fixed = "x" in backbone.key.size  # HEIGHTxWIDTH, whatever the picture
        places = {key: (images, number) for images in sets for number, key in enumerate(images.keys)}
        pictures = missing = there = 0
        for key, (images, number) in places.items():
            try:
                there += self._path(key).lstat().st_size
                continue
            except FileNotFoundError:
                pictures += 1
            shape = (1, 1) if fixed else images.size(number)
            if shape not in lengths:
                lengths[shape] = token_count(backbone, shape) * backbone.dim * torch.float16.itemsize
            missing += lengths[shape]
        return StoreSize(pictures, missing, there)

    def ensure(
        self,
        images: ImageSet,
        backbone: Backbone,
        progress: Callable[[int, int], None] | None = None,
        seen: Fingerprints | None = None,
    ) -> int:
        """Make the features that are missing, damaged or of a picture that has changed.

        Several processes may do so at once, whoever started them: each makes what no other is making, and all of them
        come back when everything is there. The network is used only if something is to be made.

        Args:
            images: Pictures.
            backbone: Must have the store's key.
            progress: Called with (done, total), whoever has made them.
            seen: Remembers which files were found whole, so that only their headers are read; None reads all of each.

        Returns:
            How many files this process has made.

        Raises:
            ValueError: If the backbone is not the store's, or tokens are not finite in half precision.
            OSError: If a file cannot be written, as on a full disk.
        """
        self._require(backbone.key, "the backbone")
        self._sweep()
        before = {path.name for path in self.root.glob("*.safetensors")}
        prints: dict[int, str] = {}  # of what others make, which is looked at again and again
        made = done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, len(images))

        with Claims(self.root) as claims:

            def missing(numbers: Iterable[int], others: list[int]) -> Iterator[Picture]:
                for number in numbers:
                    key, path = images.keys[number], self._path(images.keys[number])
                    fingerprint = prints[number] if number in prints else images.fingerprint(number)
                    whole = partial(self._is_whole, key, fingerprint, seen, path.name not in before)
                    if whole():
                        tell()
                    elif not claims.take(path.name):
                        others.append(number)
                        prints[number] = fingerprint
                    elif whole():  # made in between
                        claims.give_back(path.name)
                        tell()
                    else:
                        yield Picture(key, partial(images.image, number), fingerprint)

            start = claims.start(len(images))
            left = [*range(start, len(images)), *range(start)]
            while left:
                others: list[int] = []
                for one in extract_each(backbone, missing(left, others)):
                    checksum = self.write(one.picture.name, one.features)
                    path = self._path(one.picture.name)
                    claims.give_back(path.name)
                    if seen is not None:
                        seen.note(path, checksum)
                    made += 1
                    tell()
                left = claims.rest(others, len(left))
        return made

    def write(self, key: str, features: FeatureGrid) -> str:
        """Put the features of one picture into the store, in one step; the check sum of its tokens.

        Raises:
            ValueError: If they were made otherwise than the store's, or are not finite in half precision.
        """
        self._require(features.provenance.key, f"the features of {key}")
        tokens = features.tokens.detach().to("cpu", torch.float16).contiguous()
        if not torch.isfinite(tokens).all():
            raise ValueError(
                f"the features of {key} are not finite in half precision; use l2_norm, or check the weights "
                "and the picture"
            )
        payload = tokens.numpy().astype("<f2", copy=False).tobytes()
        metadata = {
            "key": key,
            "provenance": features.provenance.to_json(),
            "payload_checksum": _checksum(payload),
        }
        metadata["header_checksum"] = _checksum("".join(metadata.values()).encode())
        description = _describe(tokens.shape[0], tokens.shape[1])
        header = json.dumps({"__metadata__": metadata, "tokens": description}).encode()
        header += b" " * (-len(header) % 8)  # the format aligns the payload to 8 bytes
        write_atomic(self._path(key), struct.pack("<Q", len(header)) + header + payload)
        return metadata["payload_checksum"]

    def read(self, key: str) -> FeatureGrid:
        """All tokens of a picture, in float32, after a check of the whole file.

        Raises:
            ValueError: If they are missing, damaged, or were made otherwise.
        """
        with self._open(key) as file:
            header = self._header(file, key)
            payload = _payload(file, header, self._path(key))
        tokens = torch.from_numpy(np.frombuffer(payload, "<f2").reshape(header.rows, header.dim).astype(np.float32))
        return FeatureGrid(tokens=tokens, grid=header.provenance.patch_grid, provenance=header.provenance)

    def rows(self, key: str, indices: Int[Tensor, " k"]) -> Float16[Tensor, "k d"]:
        """Some tokens of a picture, reading only those from disk; the payload is not checked.

        Args:
            key: Picture.
            indices: Token numbers, in any order, repeats allowed.

        Raises:
            ValueError: If the picture is missing, its file cut short or made otherwise, or an index out of
                range.
        """
        with self._open(key) as file:
            header = self._header(file, key)
            wanted = indices.cpu().numpy().astype(np.int64)
            if len(wanted) and not 0 <= wanted.min() <= wanted.max() < header.rows:
                raise ValueError(
                    f"{key} has tokens 0 to {header.rows - 1}, but {wanted.min()} to {wanted.max()} were "
                    "asked for; check that the indices are of this picture"
                )
            distinct, inverse = np.unique(wanted, return_inverse=True)
            found = np.empty((len(distinct), header.dim), "<f2")
            width = 2 * header.dim
            for first, last in _runs(distinct):
                begin, count = int(distinct[first]), int(distinct[last - 1] - distinct[first]) + 1
                chunk = os.pread(file.fileno(), count * width, header.start + begin * width)
                if len(chunk) != count * width:
                    raise DamagedFile(f"{self._path(key)} is cut short; extract the features again")
                found[first:last] = np.frombuffer(chunk, "<f2").reshape(-1, header.dim)[distinct[first:last] - begin]
        return torch.from_numpy(found[inverse].astype(np.float16, copy=False))

    def provenance(self, key: str) -> Provenance:
        """Where the features of a picture came from; reads the header alone."""
        with self._open(key) as file:
            return self._header(file, key).provenance

    def grid(self, key: str) -> PatchGrid:
        """How a picture lies under its tokens; reads the header alone."""
        return self.provenance(key).patch_grid

    def keys(self) -> tuple[str, ...]:
        """Names of the pictures in the store, sorted; damaged files are left out."""
        return tuple(sorted(self.grids()))

    def grids(self) -> dict[str, PatchGrid]:
        """Token grid of every picture in the store, by its name; headers alone, damaged files left out."""
        found = {}
        for path in self.root.glob("*.safetensors"):
            try:
                with _open_file(path) as file:
                    header = _parse_header(file, path)
            except (OSError, DamagedFile):
                continue
            if self._path(header.key) == path and header.provenance.key == self.key:
                found[header.key] = header.provenance.patch_grid
        return found

    def _is_whole(self, key: str, fingerprint: str, seen: Fingerprints | None = None, fresh: bool = False) -> bool:
        """Whether the picture's file exists, is undamaged, and of this content and key.

        Of a `fresh` one, put in place whole by another process a moment ago, the header is read alone.
        """
        path = self._path(key)
        try:
            with self._open(key) as file:
                header = self._header(file, key)
                if header.provenance.source != fingerprint:
                    return False
                if seen is None or seen.known(path) != header.checksum:
                    if not fresh:
                        _payload(file, header, path)
                    if seen is not None:
                        seen.note(path, header.checksum)
        except ValueError:
            return False
        return True

    def _path(self, key: str) -> Path:
        """File of a picture: a readable part, and a hash that keeps names apart."""
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", key)[-80:].strip(".")
        return self.root / f"{readable}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.safetensors"

    def _open(self, key: str) -> FileIO:
        try:
            return _open_file(self._path(key))
        except FileNotFoundError as error:
            raise ValueError(
                f"the store {self.root} has no features of {key}; run saot extract on that picture"
            ) from error

    def _header(self, file: FileIO, key: str) -> _Header:
        now = os.fstat(file.fileno())
        stamp = now.st_ino, now.st_size, now.st_mtime_ns
        if key in self._headers and self._headers[key][0] == stamp:
            return self._headers[key][1]
        header = _parse_header(file, self._path(key))
        if header.key != key:
            raise DamagedFile(f"{self._path(key)} holds the features of {header.key}, not of {key}; extract them again")
        self._require(header.provenance.key, f"the file of {key}")
        self._headers[key] = stamp, header
        return header

    def _require(self, key: FeatureKey, what: str) -> None:
        """Raise if `key` is not the store's, naming the field."""
        if names := self.key.differences(key):
            mine, theirs = getattr(self.key, names[0]), getattr(key, names[0])
            raise ValueError(
                f"{what} has {names[0]} {theirs!r}, but the features in {self.root} were made with "
                f"{names[0]} {mine!r}; give the same settings as before or another folder"
            )

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in self.root.glob("*.safetensors.tmp-*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process was faster


def _bytes(count: int) -> str:
    """A number of bytes for people."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if count >= pair[0]), (1e3, "kB"))
    return f"{count / scale:,.1f} {unit}"


def _text_of(path: Path) -> str:
    """What stands in a small file that several processes may be putting in place at once.

    Where a file system in user space (FUSE) replaces a file that is open, there is none of that name for a moment.
    """
    for wait in (0.05, 0.2, 1.0, 5.0, None):
        try:
            if path.stat().st_size > _MAX_HEADER:
                raise ValueError("its size")
            return path.read_text()
        except FileNotFoundError:
            if wait is None:
                raise
            time.sleep(wait)
    raise AssertionError


def _open_file(path: Path) -> FileIO:
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


def _parse_header(file: FileIO, path: Path) -> _Header:
    """Header of an open feature file, with its length checked against the size of the file."""
    try:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, 0))
        if length > min(_MAX_HEADER, size):
            raise ValueError("length of the header")
        values = json.loads(os.pread(file.fileno(), length, 8))
        metadata, tokens = values["__metadata__"], values["tokens"]
        parts = (metadata["key"], metadata["provenance"], metadata["payload_checksum"])
        if _checksum("".join(parts).encode()) != metadata["header_checksum"]:
            raise ValueError("check sum of the header")
        provenance = Provenance.from_json(metadata["provenance"])
        rows, dim = provenance.patch_grid.height * provenance.patch_grid.width, provenance.dim
        if tokens != _describe(rows, dim) or size != 8 + length + 2 * rows * dim:
            raise ValueError("shape")
        return _Header(metadata["key"], provenance, metadata["payload_checksum"], rows, dim, 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise DamagedFile(f"{path} is damaged; extract the features again") from error


def _payload(file: FileIO, header: _Header, path: Path) -> bytes:
    """The tokens' bytes, whole and as they were written."""
    size = 2 * header.rows * header.dim
    payload = os.pread(file.fileno(), size, header.start)
    while len(payload) < size:  # one call may bring less, above 2 GB or when interrupted
        more = os.pread(file.fileno(), size - len(payload), header.start + len(payload))
        if not more:
            break
        payload += more
    if _checksum(payload) != header.checksum:
        raise DamagedFile(f"{path} is damaged: its check sum differs; extract the features again")
    return payload


def _describe(rows: int, dim: int) -> dict[str, object]:
    """What the safetensors header says of the tokens."""
    return {"dtype": "F16", "shape": [rows, dim], "data_offsets": [0, 2 * rows * dim]}


def _checksum(payload: bytes) -> str:
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of positions over which sorted, distinct `numbers` leave out few: a gap is read over, not jumped."""
    breaks = np.flatnonzero(np.diff(numbers) > _GAP) + 1
    edges = [0, *breaks.tolist(), len(numbers)] if len(numbers) else [0]
    yield from pairwise(edges)
