"""Contenders side by side: each in a process of its own, one repeat each in turn, so that noise hits all alike."""

import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_PAUSE = 0.05  # seconds between repeats, for the threads of the one before to stop spinning
FAST_MODULES = ("numba", "faiss", "usearch")  # what the extra [fast] may bring; hidden where torch is to be alone


@dataclass(frozen=True)
class Entry:
    """One contender of a race.

    Attributes:
        title: Its name in the tables.
        make: MODULE:FUNCTION of its factory.
        options: Arguments of the factory.
        peer: Runs in the peers' environment.
        alone: With torch alone, the modules of the extra [fast] hidden.
        repeats: At most so many, for slow ones.
        save: Keep its answer, for the error column.
        memory: Measure the memory of a call, in a fresh process.
        exact: Which exact answer is its own: "sparse", "dense" or "counting".
        base: Is the library of the checkout that `--base` names, run by that checkout's own contender.
    """

    title: str
    make: str
    options: dict[str, Any]
    peer: bool = False
    alone: bool = False
    repeats: int = 10**6
    save: bool = False
    memory: bool = False
    exact: str = ""
    base: bool = False


@dataclass(frozen=True)
class Setting:
    """What all races share."""

    out: Path
    repeats: int
    threads: int
    peers_python: Path | None
    base: Path | None = None  # a checkout of another commit to measure beside this one
    timeout: float = 900.0  # seconds, of a warm-up with its compilation, or of a call

    @property
    def data(self) -> Path:
        """Where the problems lie."""
        folder = self.out / "data"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class NotRun(Exception):
    """Why a contender is missing, in a few words."""


@dataclass
class _Process:
    """A worker and the pipe to it."""

    entry: Entry
    setting: Setting
    tight: bool = False
    popen: Any = field(init=False, default=None)

    def start(self) -> dict[str, Any]:
        """Starts it and gives what it says when it has warmed up."""
        here = _HERE if self.entry.base is False else self._checkout() / "benchmarks" / "transport"
        command = [self._python(), str(here / "worker.py"), self.entry.make]
        command += ["--options", json.dumps(self.entry.options), "--threads", str(self.setting.threads)]
        if self.entry.alone:
            command += ["--hide", ",".join(FAST_MODULES)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=self._environment()
        )
        return self._answer()

    def ask(self, command: str) -> dict[str, Any]:
        """The reply to one command."""
        try:
            self.popen.stdin.write(command.encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError as error:
            raise NotRun(self._reason()) from error
        return self._answer()

    def stop(self) -> None:
        """Ends it."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()

    def _checkout(self) -> Path:
        if self.setting.base is None:
            raise NotRun("no checkout to compare with; see --base")
        return self.setting.base

    def _python(self) -> str:
        if not self.entry.peer:
            return sys.executable
        if self.setting.peers_python is None:
            raise NotRun("no environment for the peers; see --peers-python")
        return str(self.setting.peers_python)

    def _environment(self) -> dict[str, str]:
        threads = str(self.setting.threads)
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", JAX_PLATFORMS="cpu")
        for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
            environment[f"{name}_NUM_THREADS"] = threads
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={threads}"
        environment["CUDA_VISIBLE_DEVICES"] = ""
        if self.entry.base:
            environment["PYTHONPATH"] = str(self._checkout() / "src")
        if self.tight:  # large blocks go back to the system when freed, so that a second call shows its whole need
            environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        return environment

    def _answer(self) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            if not selector.select(self.setting.timeout):
                raise NotRun(f"no answer within {self.setting.timeout:.0f} s")
        line = self.popen.stdout.readline()
        if not line:
            raise NotRun(self._reason())
        return json.loads(line)

    def _reason(self) -> str:
        code = self.popen.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line and not line[0].isspace() and "Error" in line]
        return (errors or lines or [f"ended with code {code}"])[-1][:200]


def with_base(entries: dict[str, Entry], keys: tuple[str, ...], setting: Setting) -> dict[str, Entry]:
    """The contenders, and where there is a checkout to compare with also what these keys are there, as "KEY_base"."""
    if setting.base is None:
        return entries
    others = {
        f"{key}_base": replace(entries[key], title=f"{entries[key].title}, at the base", base=True) for key in keys
    }
    return entries | others


def race(entries: dict[str, Entry], setting: Setting) -> dict[str, dict[str, Any]]:
    """Seconds, parts, answers, memory and versions of each contender, by its key; "reason" where it did not run."""
    outcomes: dict[str, dict[str, Any]] = {key: {"title": entry.title} for key, entry in entries.items()}
    running: dict[str, _Process] = {}
    try:
        for key, entry in entries.items():
            process = _Process(entry, setting)
            running[key] = process
            _attempt(running, outcomes, key, lambda p=process: p.start())
        for repeat in range(setting.repeats):
            for key in [key for key in running if repeat < entries[key].repeats]:
                time.sleep(_PAUSE)
                _attempt(running, outcomes, key, lambda key=key: _collect(outcomes[key], running[key].ask("go")))
            _say(f"  repeat {repeat + 1} of {setting.repeats}")
        for key in list(running):
            _attempt(running, outcomes, key, lambda key=key: running[key].ask("peak"))
        for key in [key for key in running if entries[key].save]:
            path = setting.data / f"answer-{key}.npy"
            _attempt(
                running, outcomes, key, lambda key=key, path=path: {"answer": running[key].ask(f"save {path}")["saved"]}
            )
    finally:
        for process in running.values():
            process.stop()
    for key in [key for key, entry in entries.items() if entry.memory and "reason" not in outcomes[key]]:
        outcomes[key].update(memory_of(entries[key], setting))
    for outcome in outcomes.values():
        if outcome.get("seconds"):
            outcome["best"], outcome["median"] = min(outcome["seconds"]), statistics.median(outcome["seconds"])
    return outcomes


def memory_of(entry: Entry, setting: Setting) -> dict[str, Any]:
    """MiB of one call over what its process held before, in a fresh process that has warmed up; and its notes."""
    process = _Process(entry, setting, tight=True)
    try:
        return {"memory_notes": process.start()["notes"], **process.ask("memory")}
    except NotRun as error:
        return {"memory_reason": str(error)}
    finally:
        process.stop()


def _attempt(running: dict[str, _Process], outcomes: dict[str, dict[str, Any]], key: str, call: Any) -> None:
    try:
        outcomes[key].update(call())
    except NotRun as error:
        outcomes[key]["reason"] = str(error)
        running.pop(key).stop()
        _say(f"  {outcomes[key]['title']}: not run: {error}")


def _collect(outcome: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    collected = {"seconds": [*outcome.get("seconds", []), reply["seconds"]]}
    if "parts" in reply:
        collected["parts"] = [*outcome.get("parts", []), reply["parts"]]
    return collected


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
