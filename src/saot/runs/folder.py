"""A run folder: what was asked, what is done, how long it took; safe to kill at any moment."""

import fcntl
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from saot.data import write_atomic
from saot.runs.memory import device_peak_bytes, give_back, peak_bytes, reset_peak
from saot.runs.once import (
    CORE,
    Kept,
    Making,
    Shared,
    code_version,
    identity_of,
    read_kept,
    room_of,
    write_kept,
)
from saot.runs.side import check_stopped
from saot.runs.training import Checkpoint, History

Progress = Callable[[str, int, int], None]
RUN_FORMAT = 2
CHECKPOINT_EVERY = 100  # steps at most between two checkpoints


class Workspace:
    """The files of one run; accumulates what is known of its stages.

    Args:
        root: The run folder; made if missing.
        settings: What is asked, as plain JSON values.
        progress: Called with (stage, done, total).
        shared: Where runs leave for each other what is equal; None shares nothing.

    Raises:
        ValueError: If the folder holds a run with other settings, of another format, or something else entirely.
    """

    def __init__(
        self,
        root: Path,
        settings: Mapping[str, Any],
        progress: Progress | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.root, self.settings, self.progress, self.shared = Path(root), dict(settings), progress, shared
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"expected a folder for the run; {self.root} is a file: choose another --out")
        self.root.mkdir(parents=True, exist_ok=True)
        self._parts: dict[str, Workspace] = {}
        self._writing = threading.Lock()
        self._making: dict[str, threading.RLock] = {}
        self._lock = self._take_lock()
        self._check_settings()

    def close(self) -> None:
        """Let others use the folder."""
        for part in self._parts.values():
            part.close()
        self._lock.close()

    def part(self, name: str, settings: Mapping[str, Any]) -> "Workspace":
        """A run within the run, in `work/parts/NAME`; it is closed with this one, and its records join log.jsonl.

        Args:
            name: Of the part; its stages are told with it.
            settings: What is asked of it.

        Raises:
            ValueError: If the folder holds a part with other settings.
        """
        if name not in self._parts:

            def told(stage: str, done: int, total: int) -> None:
                self.tell(f"{name}: {stage}")(done, total)

            self._parts[name] = Workspace(self.work("parts", name), settings, told)
        return self._parts[name]

    def all_stages(self) -> dict[str, Any]:
        """Time and memory of every stage, those of parts as `NAME: STAGE`."""
        parts = {f"{name}: {k}": v for name, part in self._parts.items() for k, v in part.facts("stages").items()}
        return {**parts, **self.facts("stages")}

    def logs(self) -> dict[str, Path]:
        """The records of every training stage by its name, those of parts as `NAME: STAGE`, in order."""
        found = {}
        for name, part in sorted(self._parts.items()):
            found |= {f"{name}: {stage}": path for stage, path in part.logs().items()}
        own = self.work("log").glob("*.jsonl") if self.work("log").exists() else ()
        return found | {path.stem: path for path in sorted(own)}

    def path(self, *parts: str) -> Path:
        """A file of the run."""
        return self.root.joinpath(*parts)

    def work(self, *parts: str) -> Path:
        """An intermediate file."""
        return self.root.joinpath("work", *parts)

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """The progress callback of one stage."""

        def callback(done: int, total: int) -> None:
            check_stopped()
            if self.progress is not None:
                self.progress(stage, done, total)

        return callback

    def once(
        self,
        name: str,
        identity: str,
        make: Callable[[Making], Kept],
        *,
        title: str = "",
        log: str = "",
        beside: str = "",
        shared: str = "",
    ) -> Kept:
        """What is kept under a name if it was made of the same contents by the same code; else it is made and kept.

        Args:
            name: Of the file, relative to the run folder and without `.safetensors`.
            identity: Of everything it is made of, by `identity_of`; the code of the core and of the maker's room is
                added here.
            make: Makes it; where it is stopped half-way, its checkpoint is there the next time.
            title: Of the stage whose time and memory it costs; empty measures nothing.
            log: Under which a training keeps its records; empty where it has none.
            beside: A folder of files that belong to it, relative to the run folder.
            shared: How the stage is called among runs that leave it for each other; empty shares nothing.
        """
        with self._alone(name):
            identity = identity_of(identity, code_version(*CORE, room_of(make)))
            path, among = self.path(f"{name}.safetensors"), identity_of(shared, identity)
            kept = read_kept(path, identity)
            if kept is None and shared and self.shared is not None:
                stage = self.shared.adopt(among, self.root)
                kept = read_kept(path, identity)
                if kept is not None and stage is not None:
                    with self._writing:
                        self.set_facts("stages", {**self.facts("stages"), title: stage})
            if kept is not None:
                return kept
            making = Making(
                self.checkpoint(f"{Path(name).name}-{identity}"), self.tell(title or name), partial(self.log, log)
            )
            with self.stage(title) if title else nullcontext():
                kept = make(making)
                write_kept(path, kept, identity)
            making.checkpoint.clear()
            if shared and self.shared is not None:
                files = [path, *([self.log_path(log)] if log else [])]
                files += sorted(self.path(beside).glob("*.safetensors")) if beside else []
                self.shared.leave(among, self.root, files, self.facts("stages").get(title))
            return kept

    def _alone(self, name: str) -> threading.RLock:
        """Held while something is made: of two who ask at once the second finds what the first has made."""
        with self._writing:
            return self._making.setdefault(name, threading.RLock())

    def forget(self, name: str) -> None:
        """Delete a folder of files that nothing needs any more, such as "work/said"."""
        shutil.rmtree(self.path(name), ignore_errors=True)

    def checkpoint(self, stage: str, every: int = 100) -> Checkpoint:
        """Where a training stage keeps its state."""
        return Checkpoint(self.work("checkpoints", f"{stage}.pt"), min(every, CHECKPOINT_EVERY))

    @contextmanager
    def stage(self, name: str, *, resumes: bool = True) -> Iterator[None]:
        """Time a stage and measure its peak memory, the device's too; one that goes on after a stop adds up.

        Args:
            name: Of the stage.
            resumes: False counts it anew.
        """
        began = time.perf_counter()
        give_back()
        reset_peak()
        try:
            yield
        finally:
            with self._writing:  # stages may run side by side
                stages = self.facts("stages")
                none = {"seconds": 0.0, "peak_memory_bytes": 0}
                before = stages.get(name, none) if resumes else none
                stages[name] = {
                    "seconds": round(before["seconds"] + time.perf_counter() - began, 3),
                    "peak_memory_bytes": max(before["peak_memory_bytes"], peak_bytes()),
                }
                device = max(before.get("device_memory_bytes", 0), device_peak_bytes())
                stages[name] |= {"device_memory_bytes": device} if device else {}
                self.set_facts("stages", stages)

    def facts(self, name: str) -> dict[str, Any]:
        """What a stage wrote down about itself; empty if nothing."""
        path = self.work("facts", f"{name}.json")
        return json.loads(path.read_text()) if path.exists() else {}

    def set_facts(self, name: str, values: Mapping[str, Any]) -> None:
        """Write down facts of a stage."""
        write_atomic(self.work("facts", f"{name}.json"), json.dumps(values, indent=1).encode())

    def log(self, stage: str, history: History) -> None:
        """Keep the records of a training stage; `write_log` joins them into log.jsonl."""
        lines = [json.dumps({"stage": stage, "step": step, **record}) for step, record in enumerate(history)]
        write_atomic(self.log_path(stage), ("\n".join(lines) + "\n").encode())

    def log_path(self, stage: str) -> Path:
        """Where the records of a training stage are kept."""
        return self.work("log", f"{stage}.jsonl")

    def write_log(self) -> None:
        """log.jsonl: every training record, stage after stage in the order of their names."""
        lines = []
        for stage, path in self.logs().items():
            for line in path.read_text().splitlines(keepends=True):
                lines.append(line if stage == path.stem else _renamed(line, stage))
        write_atomic(self.path("log.jsonl"), "".join(lines).encode())

    def _take_lock(self) -> Any:
        lock = open(self.root / ".lock", "w")  # noqa: SIM115  held as long as the workspace
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ValueError(
                f"another process is working in {self.root}: wait for it or choose another --out"
            ) from error
        return lock

    def _check_settings(self) -> None:
        path = self.work("settings.json")
        if not path.exists():
            others = [entry.name for entry in self.root.iterdir() if entry.name != ".lock"]
            if others and not self.work().exists():
                raise ValueError(
                    f"expected a new or unfinished run folder; {self.root} holds {others[0]!r} but no run of this "
                    "version: choose another --out"
                )
            write_atomic(path, json.dumps(self.settings, indent=1).encode())
            return
        kept = json.loads(path.read_text())
        if kept.get("format") != RUN_FORMAT:
            raise ValueError(
                f"expected a run of format {RUN_FORMAT}; {self.root} has format {kept.get('format')}: choose another "
                "--out, or use the version that made it"
            )
        difference = first_difference(self.settings, kept)
        if difference is not None:
            raise ValueError(
                f"{self.root} holds a run with other settings ({difference}): choose another --out, or give the same "
                "settings to go on"
            )


def _renamed(line: str, stage: str) -> str:
    """A training record under another name of its stage."""
    return json.dumps({**json.loads(line), "stage": stage}) + "\n"


def first_difference(mine: Any, theirs: Any, path: str = "") -> str | None:
    """The first field in which two settings differ, as a phrase; None if they are the same.

    Example:
        >>> first_difference({"seed": 1}, {"seed": 2})
        'seed is 1 now but was 2'
    """
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}):
            found = first_difference(mine.get(key), theirs.get(key), f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    return None if mine == theirs else f"{path} is {mine!r} now but was {theirs!r}"


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically as safetensors."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(contiguous, metadata=dict(metadata or {})))


def load_tensors(path: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of a file, or None if it is missing or damaged: then it is to be made again."""
    if not path.exists():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        return None
