"""One contender in a process of its own: builds its problem, warms up, then does one repeat for each "go".

    python worker.py MODULE:FUNCTION --options JSON

Answers one JSON object a line. Commands: `go` (one timed call), `memory` (one call, its peak over what the process
held before), `peak` (of the process so far), `save PATH` (the answer of the last call as an array), `quit`.
"""

import argparse
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# The others emptied the caches: calls below _QUICK seconds are preceded by untimed ones, for _WARM seconds.
_QUICK, _WARM = 0.5, 0.05


@dataclass(frozen=True)
class Contender:
    """What a worker runs.

    Attributes:
        run: One call. A `dict` as its result is parts of the call and their seconds, by name; "total" is the call.
        answer: The result of a call as an array.
        versions: Of the libraries behind it.
        notes: Whatever else is worth keeping.
    """

    run: Callable[[], Any]
    answer: Callable[[Any], np.ndarray] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def memory_mib(name: str) -> float:
    """A field of /proc/self/status, such as VmRSS or VmHWM, in MiB; NaN where there is no such file."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return float("nan")


def reset_peak() -> None:
    """Let VmHWM begin anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


class Worker:
    """The contender and what its last call gave."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.last: Any = None
        self.seconds = 0.0

    def call(self) -> dict[str, Any]:
        self.last = None
        began = time.perf_counter()
        self.last = self.contender.run()
        self.seconds = time.perf_counter() - began
        if isinstance(self.last, dict):
            return {"seconds": self.last.get("total", self.seconds), "parts": self.last}
        return {"seconds": self.seconds}

    def go(self) -> dict[str, Any]:
        end = time.perf_counter() + _WARM
        while self.seconds < _QUICK:
            self.call()
            if time.perf_counter() >= end:
                break
        return self.call()

    def memory(self) -> dict[str, Any]:
        self.last = None
        gc.collect()
        built = memory_mib("VmHWM")
        reset_peak()
        before = memory_mib("VmRSS")
        self.call()
        peak = memory_mib("VmHWM")
        return {"extra_mib": peak - before, "call_peak_mib": peak, "process_peak_mib": max(built, peak)}

    def peak(self) -> dict[str, Any]:
        return {"timed_peak_mib": memory_mib("VmHWM")}

    def save(self, path: str) -> dict[str, Any]:
        assert self.contender.answer is not None
        np.save(path, self.contender.answer(self.last))
        return {"saved": path}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="MODULE:FUNCTION that makes the contender")
    parser.add_argument("--options", default="{}", help="its arguments, as JSON")
    parser.add_argument("--hide", default="", help="modules to act as if not installed, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    for module in filter(None, arguments.hide.split(",")):
        sys.modules[module] = None  # pyright: ignore[reportArgumentType]  # import then raises ImportError

    def reply(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    module, _, function = arguments.name.partition(":")
    began = time.perf_counter()
    contender = getattr(importlib.import_module(module), function)(**json.loads(arguments.options))
    worker = Worker(contender)
    worker.call()
    reply({"warm": time.perf_counter() - began, "versions": contender.versions, "notes": contender.notes})
    for line in sys.stdin:
        command, *rest = line.split(maxsplit=1)
        if command == "quit":
            break
        reply(getattr(worker, command)(*(text.strip() for text in rest)))


if __name__ == "__main__":
    main()
