"""Features on disk: one atomic file a picture, so that going on is making what is missing.

A file is plain safetensors: the tensor `tokens` in half precision, or in eight bits with `steps`, and in its header the
picture's name, the provenance and check sums of payload and header. Nothing of it is memory-mapped, so the memory a run
needs does not grow with the number of pictures it has read. A store may have a packed part (`saot compact`), which is
only read: what is missing in it, damaged, or of a picture that has changed is made as files beside it, which go first.
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float16, Int
from torch import Tensor

from saot.data import Fingerprints, ImageSet, PatchGrid, address_of
from saot.features.base import Backbone, token_count
from saot.features.claims import Claims
from saot.features.flow import Picture, extract_each
from saot.features.folders import ENDING, folder_of
from saot.features.forms import payload_size
from saot.features.grid import FeatureGrid, FeatureKey, Provenance
from saot.features.packed import hashed, open_packed
from saot.features.record import (
    DamagedFile,
    Header,
    Place,
    read_features,
    read_header,
    read_payload,
    read_rows,
    written,
)

NOT_NAMED: Mapping[str, str] = MappingProxyType({})
_ABOUT = "store.json"
_HEADERS = 1 << 16  # that are remembered; each takes some 2 kB


@dataclass(frozen=True)
class StoreSize:
    """How much disk the features of pictures take.

    Attributes:
        pictures: How many are missing.
        missing: Bytes of those, tokens x width x 2 a picture in half precision; a header, below 2 kB, is not counted.
        there: Bytes of the files of the other pictures, or of their parts of packed ones.
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
    address = address_of(root)
    if address is not None:
        return (
            f"the features of {size.pictures:,} pictures take {_bytes(size.missing)} more in {address}; "
            f"{_bytes(size.there)} are there"
        )
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
        self._folder = folder_of(self.root)
        try:
            said = self._folder.text(_ABOUT)
            if said is None and key is not None:
                self._folder.write(_ABOUT, (key.to_json() + "\n").encode())
                said = self._folder.text(_ABOUT) or key.to_json()  # another process may have been faster
            if said is not None:
                self.key = FeatureKey.from_json(said)
        except (ValueError, TypeError) as error:
            place = f"{self.root / _ABOUT} is damaged"
            raise ValueError(f"{place}; delete {self.root} and extract the features again") from error
        if said is None:
            raise ValueError(f"expected a feature store at {self.root}, found no {_ABOUT}; run saot extract first")
        if key is not None:
            self._require(key, "this run")
        self._headers: dict[str, tuple[tuple[int, ...], Header]] = {}  # by name, as long as the file is the same
        self._settings = self.key.to_json()
        self._packed = open_packed(self.root) if self._folder.shared else None
        self._beside: set[str] = set()  # names of files that go before the packed part
        if self._packed is not None:
            self._require(FeatureKey.from_json(str(self._packed.index.about.get("key"))), "its packed part")
            self._beside = set(self._folder.names())

    def size(self, backbone: Backbone, *sets: ImageSet) -> StoreSize:
        """What the features of these pictures take on the disk, before any is made; one in several sets counts once.

        Files that are there count as they are, without a look inside; of a packed part the index alone is asked. Where
        the input size hangs on the picture's, the head of each missing picture's file is read.

        Raises:
            ValueError: If a picture cannot be read.
        """
        lengths: dict[tuple[int, int], int] = {}
        fixed = "x" in backbone.key.size  # HEIGHTxWIDTH, whatever the picture
        places = {key: (images, number) for images in sets for number, key in enumerate(images.keys)}
        pictures = missing = 0
        there, size_of = self._take_packed(places), self._folder.sizes()
        for key, (images, number) in places.items():
            own = size_of(self._name(key))
            if own is not None:
                there += own
                continue
            pictures += 1
            shape = (1, 1) if fixed else images.size(number)
            if shape not in lengths:
                lengths[shape] = payload_size(backbone.key.form, token_count(backbone, shape), backbone.dim)
            missing += lengths[shape]
        return StoreSize(pictures, missing, there)

    def begin(self, images: ImageSet) -> list[int]:
        """Numbers of all pictures, those without features first; for several processes that `ensure` parts of them.

        What killed processes left behind is removed. No file is opened.
        """
        there = self._begin()
        places = {key: (images, number) for number, key in enumerate(images.keys)}
        self._take_packed(places)
        lacks = [key in places and self._name(key) not in there for key in images.keys]
        return sorted(range(len(images)), key=lambda number: not lacks[number])

    def _begin(self) -> set[str]:
        """Sweep, and look at the folder once; names of the files of single pictures."""
        self._folder.sweep()
        there = set(self._folder.names())
        self._beside |= there if self._packed is not None else set()
        return there

    def _take_packed(self, places: dict[str, tuple[ImageSet, int]]) -> int:
        """Take the pictures of the packed part out of `places`; the bytes of their records."""
        if self._packed is None:
            return 0
        keys, index = list(places), self._packed.index
        there, entries = index.find_all([hashed(key) for key in keys])
        for number in np.flatnonzero(there):
            del places[keys[number]]
        return int(index.columns["lengths"][entries[there]].sum())

    def ensure(
        self,
        images: ImageSet,
        backbone: Backbone,
        progress: Callable[[int, int], None] | None = None,
        seen: Fingerprints | None = None,
        named: Mapping[str, str] = NOT_NAMED,
        only: Sequence[int] | None = None,
    ) -> int:
        """Make the features that are missing, damaged or of a picture that has changed.

        Several processes may do so at once, whoever started them: each makes what no other is making, and all of them
        come back when everything is there. The network is used only if something is to be made.

        Args:
            images: Pictures.
            backbone: Must have the store's key.
            progress: Called with (done, total), whoever has made them.
            seen: Remembers which files were found whole, so that only their headers are read; None reads all of each.
            named: Fingerprints of pictures that the caller has just asked for, by key; of a picture whose features are
                made it is asked again.
            only: Numbers of the pictures that this call is about, after somebody's `begin`: the folder is neither swept
                nor listed, so that there may be many calls. None is all.

        Returns:
            How many files this process has made.

        Raises:
            ValueError: If the backbone is not the store's, or tokens are not finite in half precision.
            OSError: If a file cannot be written, as on a full disk.
        """
        self._require(backbone.key, "the backbone")
        before = self._begin() if only is None else None
        prints: dict[int, str] = {}  # of what others make, which is looked at again and again
        made = done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, len(images) if only is None else len(only))

        with Claims(self.root if self._folder.shared else None) as claims:

            def missing(numbers: Iterable[int], others: list[int]) -> Iterator[Picture]:
                for number in numbers:
                    key, name = images.keys[number], self._name(images.keys[number])
                    fingerprint = prints.get(number) or named.get(key) or images.fingerprint(number)
                    fresh = before is not None and name not in before
                    whole = partial(self._is_whole, key, fingerprint, seen, fresh)
                    if whole():
                        tell()
                    elif not claims.take(name):
                        others.append(number)
                        prints[number] = fingerprint
                    elif whole():  # made in between
                        claims.give_back(name)
                        tell()
                    else:
                        now = images.fingerprint(number) if key in named else fingerprint
                        yield Picture(key, partial(images.image, number), now)

            start = claims.start(len(images))
            left = [*range(start, len(images)), *range(start)] if only is None else list(only)
            while left:
                others: list[int] = []
                for one in extract_each(backbone, missing(left, others)):
                    checksum = self.write(one.picture.name, one.features)
                    path = self._path(one.picture.name)
                    claims.give_back(path.name)
                    if seen is not None and self._folder.shared:
                        seen.note(path, self._said(one.picture.name, one.picture.fingerprint, checksum))
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
        if not torch.isfinite(features.tokens.detach().to(torch.float16)).all():
            raise ValueError(
                f"the features of {key} are not finite in half precision; use l2_norm, or check the weights "
                "and the picture"
            )
        record, checksum = written(key, features)
        path = self._path(key)
        self._folder.write(path.name, record)
        if self._packed is not None:
            self._beside.add(path.name)
        return checksum

    def read(self, key: str) -> FeatureGrid:
        """All tokens of a picture, in float32, after a check of the whole file.

        Raises:
            ValueError: If they are missing, damaged, or were made otherwise.
        """
        with self._open(key) as place:
            return read_features(place, self._header(place, key))

    def rows(self, key: str, indices: Int[Tensor, " k"]) -> Float16[Tensor, "k d"]:
        """Some tokens of a picture, reading only those from disk; the payload is not checked.

        Args:
            key: Picture.
            indices: Token numbers, in any order, repeats allowed.

        Raises:
            ValueError: If the picture is missing, its file cut short or made otherwise, or an index out of
                range.
        """
        with self._open(key) as place:
            header = self._header(place, key)
            wanted = indices.cpu().numpy().astype(np.int64)
            if len(wanted) and not 0 <= wanted.min() <= wanted.max() < header.rows:
                raise ValueError(
                    f"{key} has tokens 0 to {header.rows - 1}, but {wanted.min()} to {wanted.max()} were "
                    "asked for; check that the indices are of this picture"
                )
            distinct, inverse = np.unique(wanted, return_inverse=True)
            found = read_rows(place, header, distinct)
        return torch.from_numpy(found[inverse])

    def provenance(self, key: str) -> Provenance:
        """Where the features of a picture came from; reads the header alone."""
        with self._open(key) as place:
            return self._header(place, key).provenance

    def grid(self, key: str) -> PatchGrid:
        """How a picture lies under its tokens; reads the header alone."""
        return self.provenance(key).patch_grid

    def keys(self) -> tuple[str, ...]:
        """Names of the pictures in the store, sorted; damaged files are left out."""
        return tuple(sorted(self.grids()))

    def grids(self) -> dict[str, PatchGrid]:
        """Token grid of every picture in the store, by its name; headers alone, damaged files left out."""
        found = {}
        for path, place in self.places():
            with contextlib.suppress(DamagedFile):
                header = read_header(place)
                if (path is None or self._path(header.key) == path) and header.provenance.key == self.key:
                    found[header.key] = header.provenance.patch_grid
        return found

    def places(self) -> Iterator[tuple[Path | None, Place]]:
        """Every record: where it lies, and its file where it has one of its own; those that cannot be opened not.

        A place is good until the next one is asked for.
        """
        files = sorted(self._folder.names())
        if self._packed is not None:
            own = {int(name.removesuffix(ENDING)[-16:], 16) for name in files}
            yield from ((None, place) for name, place in self._packed.places() if name not in own)
        for name in files:
            try:
                with self._folder.record(name, name) as place:
                    yield self.root / name, place
            except ValueError:
                continue
            except OSError:
                if not self._folder.shared:  # one that cannot be reached says nothing about its objects
                    raise

    def _is_whole(self, key: str, fingerprint: str, seen: Fingerprints | None = None, fresh: bool = False) -> bool:
        """Whether the picture's record exists, is undamaged, and of this content and key.

        A file that was found whole before, made of this content, and has not changed since is not opened. Of a `fresh`
        one, put in place whole by another process a moment ago, the header is read alone; so is it where the store lies
        at an address.
        """
        path = self._path(key)
        entry = self._entry(key)
        if entry is not None:
            assert self._packed is not None
            if self._packed.is_of(entry, fingerprint) and (
                self._packed.is_whole(entry, seen) or self._is_sound(key, fingerprint)
            ):
                return True
            self._beside.add(path.name)  # of another content, or damaged: what is made now goes first
        known = seen.known(path) if seen is not None and self._folder.shared else None
        checksum = (known or "").partition(":")[0]
        if known == self._said(key, fingerprint, checksum):
            return True
        try:
            with self._open(key) as place:
                header = self._header(place, key)
                if header.provenance.source != fingerprint:
                    return False
                if self._folder.shared:
                    if not fresh and checksum != header.checksum:
                        read_payload(place, header)
                    if seen is not None:
                        seen.note(path, self._said(key, fingerprint, header.checksum))
        except ValueError:
            return False
        return True

    def _said(self, key: str, fingerprint: str, checksum: str) -> str:
        """What is remembered of a file that is whole: the check sum of its tokens, and a hash of what they are of."""
        return f"{checksum}:{hashed(f'{self._settings} {fingerprint} {key}'):016x}"

    def _is_sound(self, key: str, fingerprint: str) -> bool:
        """Whether a record of a shard that is not as it was written is so itself."""
        try:
            with self._open(key) as place:
                header = self._header(place, key)
                read_payload(place, header)
        except ValueError:
            return False
        return header.provenance.source == fingerprint

    def _entry(self, key: str) -> int | None:
        """The picture's entry of the packed part, unless a file of its own goes first."""
        if self._packed is None or (self._beside and self._name(key) in self._beside):
            return None
        return self._packed.index.find(hashed(key))

    def file(self, key: str) -> Path:
        """The file in which the features of a picture lie, or would: their own, or one of the packed part."""
        entry = self._entry(key)
        if entry is None:
            return self._path(key)
        assert self._packed is not None
        return self._packed.shard_of(entry)

    def _path(self, key: str) -> Path:
        """File of a picture."""
        return self.root / self._name(key)

    def _name(self, key: str) -> str:
        """Of a picture's file: a readable part, and a hash that keeps names apart."""
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", key)[-80:].strip(".")
        return f"{readable}-{hashed(key):016x}{ENDING}"

    def _open(self, key: str) -> contextlib.AbstractContextManager[Place]:
        entry = self._entry(key)
        if entry is None:
            return self._folder.record(self._name(key), key)
        assert self._packed is not None
        return contextlib.nullcontext(self._packed.place(entry))

    def _header(self, place: Place, key: str) -> Header:
        if key in self._headers and self._headers[key][0] == place.stamp:
            return self._headers[key][1]
        header = read_header(place)
        if header.key != key:
            raise DamagedFile(f"{place.path} holds the features of {header.key}, not of {key}; extract them again")
        self._require(header.provenance.key, f"the file of {key}")
        if len(self._headers) >= _HEADERS:
            self._headers.clear()
        self._headers[key] = place.stamp, header
        return header

    def _require(self, key: FeatureKey, what: str) -> None:
        """Raise if `key` is not the store's, naming the field."""
        if names := self.key.differences(key):
            mine, theirs = getattr(self.key, names[0]), getattr(key, names[0])
            raise ValueError(
                f"{what} has {names[0]} {theirs!r}, but the features in {self.root} were made with "
                f"{names[0]} {mine!r}; give the same settings as before or another folder"
            )


def _bytes(count: int) -> str:
    """A number of bytes for people."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if count >= pair[0]), (1e3, "kB"))
    return f"{count / scale:,.1f} {unit}"
