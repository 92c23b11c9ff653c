"""Made once, kept on disk, and made again where anything it was made from has changed: contents or code."""

import ast
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saot.data import temporary_name, write_atomic
from saot.runs.training import Checkpoint, History

CORE = ("recipes", "transport", "data", "features", "evaluate", "transfer", "decoder", "certify", "runs", "label")
RECORD = "record.json"


@dataclass(frozen=True)
class Kept:
    """What a stage leaves: tensors, and plain values about them.

    Attributes:
        tensors: By name; may be empty.
        facts: JSON values.
        about: JSON values for whoever reads the file by itself.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Making:
    """What a maker may use while it works."""

    checkpoint: Checkpoint
    progress: Callable[[int, int], None]
    log: Callable[[History], None]


def identity_of(*parts: Any) -> str:
    """A name for the content of all these values; equal contents have equal names, on every machine.

    Args:
        parts: Plain values, dataclasses of them, tensors, sequences and mappings, and anything with an `identity`.

    Raises:
        TypeError: If a part is none of these.

    Example:
        >>> identity_of("cost", {"a": 1}) == identity_of("cost", {"a": 1}), len(identity_of())
        (True, 16)
    """
    return hashlib.sha256(json.dumps([_plain(part) for part in parts], sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
        return hashlib.sha256(head + tensor.numpy().tobytes()).hexdigest()
    if hasattr(value, "identity"):
        found = value.identity() if callable(value.identity) else value.identity
        return [type(value).__name__, _plain(found)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
    raise TypeError(f"expected plain values, tensors or something with an identity; got {type(value).__name__}")


_parsing = Lock()


def code_version(*rooms: str) -> str:
    """A name for the code of these rooms of the package; comments and docstrings do not count."""
    with _parsing:  # Python 3.11 fails where two threads parse at once; and once is enough
        return _code_version(*rooms)


@lru_cache(maxsize=32)
def _code_version(*rooms: str) -> str:
    root, found = Path(__file__).resolve().parents[1], hashlib.sha256()
    for room in sorted(set(rooms)):
        place = root / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [root / f"{room}.py"]:
            tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list) and body and _is_text(body[0]):
                    node.body = body[1:] or [ast.Pass()]  # pyright: ignore[reportAttributeAccessIssue]
            found.update(f"{path.relative_to(root).as_posix()} {ast.dump(tree)}".encode())
    return found.hexdigest()[:16]


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def room_of(function: Callable[..., Any]) -> str:
    """The room of the package that a function stands in."""
    parts = (getattr(getattr(function, "func", function), "__module__", "") or "").split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "saot" else "runs"


def write_kept(path: Path, kept: Kept, identity: str = "") -> None:
    """Write what a stage leaves, in one atomic step."""
    contiguous = {name: tensor.contiguous() for name, tensor in kept.tensors.items()}
    about = json.loads(json.dumps({**kept.about, "facts": dict(kept.facts), "identity": identity}))  # as it is read
    said = json.dumps({**about, "check": check_sum(about, contiguous)})
    write_atomic(path, save(contiguous, metadata={"saot": said}))  # one key: several have no order of their own


def read_kept(path: Path, identity: str | None = None) -> Kept | None:
    """What a stage left; None if the file is missing, damaged, or of another identity where one is given."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("saot", "{}"))
            if identity is not None and about.get("identity") != identity:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        check = about.pop("check", None)
        if check is not None and check != check_sum(about, tensors):  # files of earlier versions have none
            return None
        about.pop("identity", None)
        return Kept(tensors, about.pop("facts", {}), about)
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None


def check_sum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of words and tensors, each with its name, type and shape: safetensors itself has none."""
    found = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


@dataclass(frozen=True)
class Shared:
    """A folder beside runs in which they leave for each other what is equal, under its identity."""

    root: Path

    def adopt(self, identity: str, run: Path) -> dict[str, Any] | None:
        """Link the files left under an identity into a run; what is said of their making, or None if there are none."""
        folder = self.root / identity
        if not folder.is_dir():
            return None
        record = json.loads((folder / RECORD).read_text())
        for name in record["files"]:
            _link(folder / name, run / name)
        return record["stage"]

    def leave(self, identity: str, run: Path, files: list[Path], stage: Mapping[str, Any] | None) -> None:
        """Leave files of a run for others, all of them or nothing; what is there already stays."""
        folder = self.root / identity
        if folder.exists():
            return
        unfinished = temporary_name(folder)
        names = [str(path.relative_to(run)) for path in files]
        try:
            for name in names:
                _link(run / name, unfinished / name)
            write_atomic(unfinished / RECORD, json.dumps({"files": names, "stage": stage}, indent=1).encode())
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _link(source: Path, place: Path) -> None:
    """One more name for a file, or a copy where the disk is another; files of a run are replaced, never changed."""
    temporary = temporary_name(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, temporary)
        os.replace(temporary, place)
    except OSError:
        write_atomic(place, source.read_bytes())
    finally:
        with contextlib.suppress(FileNotFoundError):  # gone, unless both were names of one file already
            temporary.unlink()
