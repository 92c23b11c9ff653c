"""A Ray of one process, and a backbone that writes down what it is asked."""

import hashlib
import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cloudpickle  # what Ray packs with

from saot.features import FeatureSettings
from saot.features.filterbank import FilterBank
from saot.tables import ALL_WINGS


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class FakeRay:
    """Tasks are done when somebody waits for them; what travels is pickled.

    Attributes:
        last_first: Whether the task that was begun last ends first.
        most: Tasks that were under way at once.
        dies: Numbers of tasks that their workers die of.
        machines: What each has.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, *machines: dict[str, float], dies: tuple[int, ...] = ()) -> None:
        self.machines, self.dies = list(machines or ({"CPU": 2},)), dies
        self.tasks: dict[int, tuple] = {}
        self.begun = self.most = 0
        self.last_first = False
        self.asked: list[dict] = []
        self.cancelled: list[int] = []
        self.connected: list[dict] = []
        self.up = False

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **options) -> None:
        self.connected.append(options)
        if options["address"] not in ("local", "here:1"):
            raise ConnectionError("nobody\nis there")
        self.up = True

    def shutdown(self) -> None:
        self.up = False

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": one} for one in self.machines] + [{"Alive": False, "Resources": {}}]

    def cluster_resources(self) -> dict[str, float]:
        return {kind: sum(one.get(kind, 0) for one in self.machines) for kind in ("CPU", "GPU")}

    def put(self, value):
        return pickle.loads(cloudpickle.dumps(value))

    def remote(self, function):
        def begin(*arguments):
            number = self.begun
            self.begun += 1
            self.tasks[number] = (function, cloudpickle.dumps(arguments))
            self.most = max(self.most, len(self.tasks))
            return number

        def options(**asked):
            self.asked.append(asked)
            return SimpleNamespace(remote=begin)

        return SimpleNamespace(options=options)

    def wait(self, names, num_returns, timeout):
        return (names[-1:], names[:-1]) if self.last_first else (names[:1], names[1:])

    def get(self, name):
        function, arguments = self.tasks.pop(name)
        if name in self.dies:
            raise RayError("the worker died\nand left a log")
        return function(*pickle.loads(arguments))

    def cancel(self, name) -> None:
        self.cancelled.append(name)


class Counted(FilterBank):
    """The filter bank, slow, with a line of process and picture in a file for each picture it sees."""

    def __init__(self, settings: FeatureSettings) -> None:
        super().__init__(replace(settings, name="filterbank", weights=None))
        self.log = Path(str(settings.weights))

    def tokens(self, image):
        name = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        with open(self.log, "a") as file:  # one write of one line: whole, whoever else writes
            file.write(f"{os.getpid()} {name}\n")
        time.sleep(0.1)
        return super().tokens(image)


COUNTED = replace(ALL_WINGS, backbones={**ALL_WINGS.backbones, "counted": Counted})


class Deadly:
    """A job whose workers die, each time."""

    folder = None

    def open(self, device: str):
        return lambda chunk: os.kill(os.getpid(), signal.SIGKILL)


def lines(log: Path) -> list[tuple[int, str]]:
    """Process and picture of each time a `Counted` was asked."""
    if not log.exists():
        return []
    whole = log.read_text().rpartition("\n")[0].splitlines()
    return [(int(line.split()[0]), line.split()[1]) for line in whole]
