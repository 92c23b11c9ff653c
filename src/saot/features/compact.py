"""`saot compact`: the files of a store, one a picture, packed into few that are only read."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from saot.data import Fingerprints, address_of, lock_file, open_atomic, write_atomic
from saot.features.packed import COLUMNS, INDEX, Index, Shard, file_checksum, hashed, index_bytes, read_index
from saot.features.record import DamagedFile, Header, open_record, place_of_file, read_header, read_payload
from saot.features.store import FeatureStore

SHARD = 1 << 32  # bytes after which the next shard begins; few enough to be open at once
_BEGUN = re.compile(r"shard-\d+\.pack|(packed\.index|store\.json)\.tmp-|fingerprints\.jsonl|\.lock")  # kills leave them
LOCK = ".lock"  # held by the process that packs
FINGERPRINTS = "fingerprints.jsonl"  # of `fingerprints_file`
AGAIN = "choose another --out, or remove it"


@dataclass(frozen=True)
class Compacted:
    """What was packed.

    Attributes:
        pictures: In the packed store.
        shards: Its files, without the index.
        size: Bytes of shards and index.
        made: Shards that this call has written; the others were there.
        left_out: Names of files of the store that are damaged or were made otherwise.
    """

    pictures: int
    shards: tuple[Path, ...]
    size: int
    made: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """A record to be packed: where in the store it lies, and a name for it as it is."""

    file: str
    begin: int
    size: int
    state: int


def compact_store(
    root: Path, out: Path, progress: Callable[[int, int], None] | None = None, shard_size: int = SHARD
) -> Compacted:
    """Pack a store into another folder, where `FeatureStore` reads it.

    Nothing there is opened until all of it is written. The same call again after a kill keeps the shards that are done.

    Args:
        root: The store; one with a packed part and files beside it is packed anew.
        out: A folder that is missing, empty, or was begun by this call.
        progress: Called with (done, total), pictures.
        shard_size: Bytes after which the next shard begins.

    Raises:
        ValueError: If it is no store or empty, `out` holds another one, or another process is writing it.
        OSError: If a file cannot be written, as on a full disk.
    """
    root, out = Path(root), Path(out)
    _require_folder(root)
    store = FeatureStore(root)
    if out.resolve() == root.resolve():
        raise ValueError(f"expected another folder for the packed store than {root}; name a new one")
    groups = list(_groups(_records(store), shard_size))
    made_of = _named([store.key.to_json(), *(_identity(group) for group in groups)])
    kept = _kept(out, made_of)
    if kept is None and not groups:
        raise ValueError(f"expected features to pack in {root}; it has none: give the --out of saot extract")
    with _alone(out):
        return _pack(store, out, kept, groups, made_of, progress)


def _require_folder(root: Path) -> None:
    if address_of(root) is not None:
        raise ValueError(f"expected a store in a folder; got {address_of(root)}: copy it to a disk first")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While no other process packs into this folder.

    Raises:
        ValueError: If one does.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "ab") as file:
        if lock_file(file) == "taken":
            raise ValueError(f"another `saot compact` is writing {out}; wait for it to end")
        yield


def _pack(
    store: FeatureStore,
    out: Path,
    kept: Index | None,
    groups: list[list[_Record]],
    made_of: str,
    progress: Callable[[int, int], None] | None,
) -> Compacted:
    """Write what is missing; `kept` is the index of a call that has ended."""
    parts, left_out, made, done = [], [], 0, 0
    total = sum(len(group) for group in groups)
    if kept is None:
        for number, group in enumerate(groups):
            path = out / f"shard-{number:05d}.pack"
            part = _kept_part(path, group, store)
            if part is None:
                part, made = _write_shard(path, group, store), made + 1
            parts.append(part)
            left_out += part.about["left_out"]
            done += len(group)
            if progress is not None:
                progress(done, total)
        kept = _joined(parts, made_of, left_out, store)
        write_atomic(out / INDEX, index_bytes(kept))
    if not (out / "store.json").is_file():
        write_atomic(out / "store.json", (store.key.to_json() + "\n").encode())
    for begun in ("shard-*.pack.part", "shard-*.tmp-*", f"{INDEX}.tmp-*"):
        for path in out.glob(begun):
            path.unlink(missing_ok=True)
    shards = tuple(out / shard.name for shard in kept.shards)
    size = sum(shard.size for shard in kept.shards) + (out / INDEX).stat().st_size
    return Compacted(len(kept), shards, size, made, tuple(kept.about["left_out"]))


def _records(store: FeatureStore) -> Iterator[_Record]:
    """Every record of a store; a file is known by its size and time, one of a packed part by its shard."""
    for path, place in store.places():
        state = place.stamp[-1] if path is not None else 0
        yield _Record(place.path.name, place.begin, place.size, state)


def _groups(records: Iterator[_Record], size: int) -> Iterator[list[_Record]]:
    """Records that make a shard each."""
    group, filled = [], 0
    for record in records:
        group.append(record)
        filled += record.size
        if filled >= size:
            yield group
            group, filled = [], 0
    if group:
        yield group


def _identity(group: list[_Record]) -> str:
    return _named([[one.file, one.begin, one.size, one.state] for one in group])


def _named(parts: list) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _kept(out: Path, made_of: str) -> Index | None:
    """What a call before has written whole; None if there is none.

    Raises:
        ValueError: If the folder holds another store.
    """
    if not out.exists():
        return None
    if (out / INDEX).is_file():
        found = read_index(out / INDEX)
        if found.about["made_of"] != made_of:
            raise ValueError(f"expected a new folder; {out} holds another packed store than is asked for: {AGAIN}")
        sizes = [(out / shard.name).stat().st_size if (out / shard.name).is_file() else -1 for shard in found.shards]
        return found if sizes == [shard.size for shard in found.shards] else None  # else they are written again
    if not out.is_dir() or not all(_BEGUN.match(path.name) for path in out.iterdir()):
        raise ValueError(f"expected a folder that is missing or empty for the packed store; {out} is neither: {AGAIN}")
    return None


def _kept_part(path: Path, group: list[_Record], store: FeatureStore) -> Index | None:
    """The index of a shard that a killed call has finished."""
    part = _part_of(path)
    with contextlib.suppress(DamagedFile):
        found = read_index(part) if part.is_file() else None
        made_of = store.key.to_json(), _identity(group)
        if found is not None and (found.about["key"], found.about["made_of"]) == made_of:
            (shard,) = found.shards
            if path.is_file() and path.stat().st_size == shard.size and file_checksum(path) == shard.checksum:
                return found
    return None


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _write_shard(path: Path, group: list[_Record], store: FeatureStore) -> Index:
    """Write a shard, then its index; each record is checked whole on its way."""
    rows, left_out, place, found = [], [], 0, hashlib.blake2b(digest_size=16)
    with open_atomic(path) as file:
        for record in group:
            try:
                data, header = _sound(record, store)
            except (OSError, DamagedFile):
                left_out.append(record.file)
                continue
            data += b"\0" * (-len(data) % 8)
            rows.append((hashed(header.key), hashed(header.provenance.source), place, record.size, 0))
            file.write(data)
            found.update(data)
            place += len(data)
    numbers = np.array(rows, np.uint64).reshape(-1, len(COLUMNS)).T
    columns = {name: column for (name, _), column in zip(COLUMNS, numbers, strict=True)}
    about = {"key": store.key.to_json(), "made_of": _identity(group), "left_out": left_out}
    part = Index(about, (Shard(path.name, place, found.hexdigest()),), columns)
    write_atomic(_part_of(path), index_bytes(part))
    return read_index(_part_of(path))


def _sound(record: _Record, store: FeatureStore) -> tuple[bytes, Header]:
    """A record's bytes and header, checked.

    Raises:
        DamagedFile: If it is damaged, of another picture, or was made otherwise than the store's.
    """
    path = store.root / record.file
    with open_record(path) as file:
        place = replace(place_of_file(file, path), begin=record.begin, size=record.size)
        header = read_header(place)
        read_payload(place, header)
        alone = record.file.endswith(".safetensors")  # a file that took another's name holds another picture
        misplaced = alone and not record.file.endswith(f"-{hashed(header.key):016x}.safetensors")
        if misplaced or header.provenance.key != store.key:
            raise place.damaged()
        return place.read(record.size), header


def _joined(parts: list[Index], made_of: str, left_out: list[str], store: FeatureStore) -> Index:
    """One index of all shards."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns["shards"] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    about = {"key": store.key.to_json(), "made_of": made_of, "left_out": left_out}
    return Index(about, tuple(shard for part in parts for shard in part.shards), columns)


def compact_stores(
    root: Path, out: Path, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Compacted]:
    """Pack every store below a folder, such as the `--store` of `saot run`, each into the folder of its name.

    What lies beside them goes along: projections, and what is known of the pictures' files.

    Args:
        root: Holds the stores, one a data set, or is one.
        out: As in `compact_store`.
        progress: Called with (store, done, total).

    Raises:
        ValueError: If there is no store, or `out` holds others.
        OSError: If a file cannot be written, as on a full disk.
    """
    root, out = Path(root), Path(out)
    _require_folder(root)
    below = sorted(Path(place) for place, _, files in os.walk(root) if "store.json" in files)
    names = [str(place.relative_to(root)) for place in below if any(True for _ in FeatureStore(place).places())]
    if not names:
        raise ValueError(f"expected a store with features at {root}; there is none: give the --out of saot extract")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"expected a folder outside the store {root} for the packed one; got {out}: name another")
    found = {}
    for name in names:
        tell = None if progress is None else partial(progress, "compact" if name == "." else name)
        found[name] = compact_store(root / name, out / name, tell)
    for path in root.glob("projection-*.safetensors"):
        write_atomic(out / path.name, path.read_bytes())
    if (root / FINGERPRINTS).is_file() and not (out / FINGERPRINTS).is_file():
        with open(root / FINGERPRINTS, "rb") as lines, open_atomic(out / FINGERPRINTS) as file:
            file.writelines(line for line in lines if b'.safetensors"' not in line)
    seen = Fingerprints(out / FINGERPRINTS)
    for name, one in found.items():
        for path, shard in zip(one.shards, read_index(out / name / INDEX).shards, strict=True):
            if one.made and seen.known(path) is None and path.stat().st_size == shard.size:
                seen.note(path, shard.checksum)  # as whole as when it was written
    seen.save()
    return found
