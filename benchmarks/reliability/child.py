"""Command lines of saot in forked children that may take so much time and memory, and no more.

A child is a copy of a process that has loaded the libraries, so it costs milliseconds where a fresh one costs seconds.
It calls `saot.cli.main`, which is all that the installed command does, and ends with its exit code; what nobody
catches is printed and ends with 1, as Python does.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 10.0  # of processor time
MEMORY = 2 << 30  # bytes, resident at the most
PATIENCE = 60.0  # of the clock: a child that does not use its processor, such as one that waits for a pipe
ROOM = MEMORY + (1 << 30)  # bytes of addresses beside those of the parent; past them the machine is not filled


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit code; minus the number of the signal that ended it.
        seconds: Of processor time.
        waited: Seconds of the clock.
        memory: Most bytes that were resident.
        said: Standard error and output, the last of it.
        hung: Whether it took longer than it may.
    """

    code: int
    seconds: float
    waited: float
    memory: int
    said: str
    hung: bool


@dataclass
class Children:
    """Children that work side by side; `take` gives back each that has ended.

    Attributes:
        most: How many at once.
        seconds: Of processor time, that one may take.
        patience: Seconds of the clock, that one may take.
        running: By process number: the tag, the folder, and when it was started.
    """

    most: int
    seconds: float = SECONDS
    patience: float = PATIENCE
    running: dict[int, tuple[Any, Path, float]] = field(default_factory=dict)

    def start(self, tag: Any, arguments: list[str], folder: Path, environment: Mapping[str, str], fresh: bool) -> None:
        """Run a command line in a folder, which is its working directory; what it says goes into `said.txt` there."""
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _be_saot(arguments, folder, environment, fresh, round(self.seconds) + 1)
        self.running[child] = tag, folder, time.monotonic()

    def full(self) -> bool:
        """Whether no other may start."""
        return len(self.running) >= self.most

    def take(self) -> tuple[Any, Outcome]:
        """One that has ended, when it has."""
        while True:
            for child, (tag, folder, since) in list(self.running.items()):
                waited = time.monotonic() - since
                ended, status, used = os.wait4(child, os.WNOHANG)
                if not ended and waited > self.patience:
                    os.killpg(child, signal.SIGKILL)
                    ended, status, used = os.wait4(child, 0)
                if ended:
                    del self.running[child]
                    said = (folder / "said.txt").read_bytes()[-20_000:].decode(errors="replace")
                    seconds = used.ru_utime + used.ru_stime
                    code = os.waitstatus_to_exitcode(status)
                    hung = seconds > self.seconds or waited > self.patience
                    return tag, Outcome(code, seconds, waited, used.ru_maxrss * 1024, said, hung)
            time.sleep(0.01)


def _be_saot(arguments: list[str], folder: Path, environment: Mapping[str, str], fresh: bool, limit: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment)
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        resource.setrlimit(resource.RLIMIT_AS, (_addresses() + ROOM,) * 2)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", "saot.cli", *arguments])
        from saot.cli import main

        try:
            main(arguments)
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    except BaseException:  # noqa: BLE001  whatever it is, it is what a user would see
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _addresses() -> int:
    """Bytes of addresses this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def load_libraries() -> None:
    """What a command imports, once for all children, and nothing that starts a thread."""
    import importlib
    import logging
    import pkgutil
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    import saot.cli

    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    for package in (
        "label",
        "match",
        "match.pairs",
        "tables",
        "tables.label",
        "tables.match",
        "adapt",
        "annotate",
        "features",
        "scenes",
    ):
        found = importlib.import_module(f"saot.{package}")
        for module in pkgutil.iter_modules(found.__path__):
            importlib.import_module(f"saot.{package}.{module.name}")
    for name in ("matplotlib.pyplot", "transformers", "accelerate", "PIL.Image"):
        importlib.import_module(name)
    from PIL import Image

    Image.init()
    assert saot.cli
