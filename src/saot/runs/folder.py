"""A run folder: what was asked, what is done, how long it took; safe to kill at any moment."""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from saot.data import as_written, check_place, lock_file, read_record, write_atomic, write_tail
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
BEGIN_ANEW = "put it back from a copy, or delete the run folder and give the same command again"
CHECKPOINT_EVERY = 100  # steps at most between two checkpoints


class Workspace:
    """The files of one run; accumulates what is known of its stages.

    Args:
        root: The run folder; made if missing.
        settings: What is asked, as plain JSON values.
        progress: Called with (stage, done, total).
        shared: Where runs leave for each other what is equal; None shares nothing.
        later: Names of settings that may be None at first and be given later; what hangs on them is made then.

    Raises:
        ValueError: If the folder holds a run with other settings in which something was trained, one of another format,
            or something else entirely. Then nothing is left behind.
    """

    def __init__(
        self,
        root: Path,
        settings: Mapping[str, Any],
        progress: Progress | None = None,
        shared: Shared | None = None,
        later: Collection[str] = (),
    ) -> None:
        self.root, self.settings, self.progress, self.shared = Path(root), dict(settings), progress, shared
        self._later = later
        check_place(self.root)
        self._new = [one for one in (self.root, *self.root.parents) if not one.exists()]  # the deepest first
        self.root.mkdir(parents=True, exist_ok=True)
        self._parts: dict[str, Workspace] = {}
        self._above: tuple[Workspace, str] | None = None  # the run that this one is a part of, and its name there
        self._logged: dict[str, int] | None = None  # records of each stage that log.jsonl holds
        self._log_bytes = 0
        self._writing = threading.Lock()
        self._making: dict[str, threading.RLock] = {}
        self._lock = self._take_lock()
        try:
            self._check_settings()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use the folder; where nothing was made in it, it is as it was before."""
        for part in self._parts.values():
            part.close()
        try:
            self._leave_no_trace()
        finally:
            self._lock.close()

    def _leave_no_trace(self) -> None:
        """Remove what a run writes down before it makes anything, if there is nothing else; only what is ours."""
        lock, kept = self.root / ".lock", self.work("settings.json")
        if not kept.exists():  # refused: there is no run here
            lock.unlink(missing_ok=True)
        elif all(one == lock or one in _preliminary(self.root) for one in self.root.rglob("*") if not one.is_dir()):
            for one in (*_preliminary(self.root), lock):
                one.unlink(missing_ok=True)
            ours = (self.work(), self.path("features"))
            folders = [one for top in ours for one in (top, *top.rglob("*")) if one.is_dir()]
            for one in sorted(folders, key=lambda folder: -len(folder.parts)):
                one.rmdir()
        else:
            return
        with contextlib.suppress(OSError):  # somebody else has put something there
            for one in self._new:
                one.rmdir()

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

            self._parts[name] = Workspace(self.work("parts", name), settings, told, later=self._later)
            self._parts[name]._above = (self, name)
        return self._parts[name]

    def all_stages(self) -> dict[str, Any]:
        """Time and memory of every stage, those of parts as `NAME: STAGE`."""
        parts = {f"{name}: {k}": v for name, part in self._parts.items() for k, v in part._stages().items()}
        return {**parts, **self._stages()}

    def _stages(self) -> dict[str, Any]:
        """Time and memory of the stages of this run alone.

        Raises:
            ValueError: If the record of them is damaged.
        """
        found = self.facts("stages")
        with as_written(self.work("facts", "stages.json"), BEGIN_ANEW):
            for name, one in found.items():
                numbers = (one["seconds"], one["peak_memory_bytes"], one.get("device_memory_bytes", 0))
                if any(not isinstance(number, int | float) for number in numbers):
                    raise TypeError(f"{name} has {numbers}, which are not all numbers")
        return found

    def logs(self) -> dict[str, Path]:
        """The records of every training stage by its name, those of parts as `NAME: STAGE`, in order.

        Raises:
            ValueError: If something else than a file is in the place of one, such as a pipe.
        """
        found = {}
        for name, part in sorted(self._parts.items()):
            found |= {f"{name}: {stage}": path for stage, path in part.logs().items()}
        own = sorted(self.work("log").glob("*.jsonl"))
        for path in own:
            if not path.is_file():
                raise ValueError(f"expected the file {path}; it is no file: {BEGIN_ANEW}")
        return found | {path.stem: path for path in own}

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
                self.checkpoint(f"{Path(name).name}-{identity}", log=log),
                self.tell(title or name),
                partial(self.log, log),
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

    def checkpoint(self, stage: str, every: int = 100, log: str = "") -> Checkpoint:
        """Where a training stage keeps its state; under `log`, where that is given, log.jsonl grows with it."""
        told = partial(self._grow_log, log) if log else None
        return Checkpoint(self.work("checkpoints", f"{stage}.pt"), min(every, CHECKPOINT_EVERY), told)

    @contextmanager
    def stage(self, name: str, *, resumes: bool = True) -> Iterator[None]:
        """Time a stage and measure its peak memory, the device's too; one that goes on after a stop adds up.

        Args:
            name: Of the stage.
            resumes: False counts it anew.

        Raises:
            ValueError: If the record of the stages before is damaged.
        """
        self._stages()
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
        return read_record(path, BEGIN_ANEW) if path.exists() else {}

    def set_facts(self, name: str, values: Mapping[str, Any]) -> None:
        """Write down facts of a stage."""
        write_atomic(self.work("facts", f"{name}.json"), json.dumps(values, indent=1).encode())

    def log(self, stage: str, history: History) -> None:
        """Keep the records of a training stage; `write_log` joins them into log.jsonl."""
        write_atomic(self.log_path(stage), _lines(stage, history))
        self._grow_log(stage, history)

    def _grow_log(self, stage: str, history: History) -> None:
        """Add to log.jsonl the records of a stage that it does not have yet, in the order in which they come."""
        if self._above is not None:
            run, name = self._above
            run._grow_log(f"{name}: {stage}", history)
            return
        path = self.path("log.jsonl")
        with self._writing:
            if self._logged is None:
                self._logged, self._log_bytes = _counted(path)
            added = _lines(stage, history, self._logged.get(stage, 0))
            if added:
                write_tail(path, self._log_bytes, added)
                self._logged[stage] = len(history)
                self._log_bytes += len(added)

    def log_path(self, stage: str) -> Path:
        """Where the records of a training stage are kept."""
        return self.work("log", f"{stage}.jsonl")

    def write_log(self) -> None:
        """log.jsonl: every training record, stage after stage in the order of their names; until then it only grows."""
        lines = []
        for stage, path in self.logs().items():
            for line in path.read_text().splitlines(keepends=True):
                lines.append(line if stage == path.stem else _renamed(line, stage))
        with self._writing:
            write_atomic(self.path("log.jsonl"), "".join(lines).encode())
            self._logged = None

    def _take_lock(self) -> Any:
        path = self.root / ".lock"
        while True:
            lock = open(path, "w")  # noqa: SIM115  held as long as the workspace
            try:
                got = lock_file(lock)
            except OSError:
                lock.close()
                raise
            if got == "taken":
                lock.close()
                raise ValueError(f"another process is working in {self.root}: wait for it or choose another --out")
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    break
            lock.close()  # of a process that has taken it away meanwhile
        if got == "none":
            logging.getLogger(__name__).warning(
                "note: the file system of %s has no locks, so nothing keeps a second process out of this folder: start "
                "one alone in it",
                self.root,
            )
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
        kept = read_record(path, BEGIN_ANEW)
        if kept.get("format") != RUN_FORMAT:
            raise ValueError(
                f"expected a run of format {RUN_FORMAT}; {self.root} has format {kept.get('format')}: choose another "
                "--out, or use the version that made it"
            )
        added = {name for name in self._later if kept.get(name) is None}
        difference = first_difference(self.settings, {**kept, **{name: self.settings.get(name) for name in added}})
        if difference is not None and self.trained():
            raise ValueError(
                f"{self.root} holds a run with other settings ({difference}): choose another --out, or give the same "
                "settings to go on"
            )
        if difference is not None:
            self._begin_anew()
        if first_difference(self.settings, kept) is not None:
            write_atomic(path, json.dumps(self.settings, indent=1).encode())

    def trained(self) -> bool:
        """Whether anything in the folder took a training; a state that was kept half-way counts."""
        places = (self.root, *self.work("parts").glob("*"))
        found = ("*.safetensors", "work/models/*.safetensors", "work/scores/*.safetensors", "work/checkpoints/*.pt")
        return self.path("run.json").exists() or any(any(place.glob(one)) for place in places for one in found)

    def _begin_anew(self) -> None:
        """Forget what was written down and drawn; what is known of files, and features that fit, are of use again."""
        for one in (self.path("points.csv"), self.path("log.jsonl"), *self.work().iterdir()):
            if one.is_dir():
                shutil.rmtree(one)
            elif one.name != "fingerprints.jsonl":
                one.unlink(missing_ok=True)


def _preliminary(root: Path) -> list[Path]:
    """Files of a run that are there before anything has been made."""
    work = root / "work"
    return [work / "settings.json", work / "fingerprints.jsonl", work / "facts" / "stages.json"]


def _lines(stage: str, history: History, first: int = 0) -> bytes:
    """The records of a stage from one step on, a JSON object a line."""
    lines = [json.dumps({"stage": stage, "step": step, **one}) for step, one in enumerate(history[first:], first)]
    return "".join(f"{line}\n" for line in lines).encode()


def _counted(path: Path) -> tuple[dict[str, int], int]:
    """How many records of each stage a log holds, and its bytes up to the last whole line."""
    found: dict[str, int] = {}
    size = 0
    if path.is_file():
        with open(path, "rb") as file:
            for line in file:
                try:
                    stage = json.loads(line)["stage"]
                except (ValueError, KeyError, TypeError):
                    break  # cut short by a kill
                if not line.endswith(b"\n"):
                    break
                found[stage], size = found.get(stage, 0) + 1, size + len(line)
    return found, size


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
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        return None
