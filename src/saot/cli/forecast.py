"""What is left of a run: what its stages were expected to take, corrected by what they took so far.

Nothing here loads torch, since the command line sets how its threads wait before that.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saot.label import ExpectedStage


@dataclass
class _Heard:
    done: int
    total: int
    began: float
    first: int  # done when it was first heard
    last: float


@dataclass
class Forecast:
    """Accumulates what is told of stages, and says how long the rest will take.

    Attributes:
        clock: Seconds, from anywhere.
    """

    clock: Callable[[], float] = time.monotonic
    _expected: dict[str, "ExpectedStage"] = field(default_factory=dict)
    _heard: dict[str, _Heard] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = 0.0
    _last: float = 0.0

    def __post_init__(self) -> None:
        self._began = self._last = self.clock()

    def expect(self, stages: Sequence["ExpectedStage"]) -> None:
        """Hear of the stages to come."""
        with self._lock:
            self._expected |= {one.title: one for one in stages}

    def hear(self, stage: str, done: int, total: int) -> None:
        """That `done` of `total` units of a stage are done."""
        with self._lock:
            now = self.clock()
            known = self._heard.get(stage)
            if known is None:
                fresh = done <= 1  # else it goes on from where an earlier process stopped
                if not fresh:
                    self._began += now - self._last  # time of no unit that was told
                self._heard[stage] = _Heard(done, total, self._last if fresh else now, 0 if fresh else done, now)
            else:
                known.done, known.total, known.last = done, total, now
            self._last = now

    def stage_left(self, stage: str) -> float | None:
        """Seconds that a stage still takes; None where nothing tells."""
        with self._lock:
            return self._stage_left(stage)

    def whole_left(self) -> float | None:
        """Seconds that the whole run still takes; None where nothing was expected or nothing measured yet."""
        with self._lock:
            measured = {title: one for title, one in self._heard.items() if one.last > one.began}
            if not self._expected or not measured:
                return None
            here = max((self._expected[title].phase for title in self._heard if title in self._expected), default=0)
            left = 0.0
            for title, known in self._heard.items():
                own, one = self._stage_left(title), self._expected.get(title)
                if own is None and one is not None:
                    own = (known.total - known.done) * one.seconds * self._pace(title)
                left += own or 0.0
            for title, one in self._expected.items():
                if title not in self._heard and one.phase >= here:
                    left += one.units * one.seconds * self._pace(title)
            busy = sum(one.last - one.began for one in measured.values())
            return left * max(self._last - self._began, 1e-9) / busy  # stages side by side share the clock

    def _stage_left(self, stage: str) -> float | None:
        known = self._heard.get(stage)
        if known is None or known.done <= known.first:
            return None
        pace = (known.last - known.began) / (known.done - known.first)
        return max(0.0, (known.total - known.done) * pace - (self.clock() - known.last))

    def _pace(self, title: str) -> float:
        """How many times the expected seconds a stage takes here: by stages of its kind, else by all, else as is."""
        kind, alike, others = title.split(": ")[-1].split()[0], [0.0, 0.0], [0.0, 0.0]
        for name, one in self._heard.items():
            if name in self._expected and one.done > one.first:
                wanted = (one.done - one.first) * self._expected[name].seconds
                for sums in (others, alike) if name.split(": ")[-1].split()[0] == kind else (others,):
                    sums[0] += one.last - one.began
                    sums[1] += wanted
        for took, wanted in (alike, others):
            if wanted > 0:
                return took / wanted
        return 1.0
