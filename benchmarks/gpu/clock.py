"""Time and bandwidth of a device, and the seconds that a run on it may take."""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


class Clock:
    """Milliseconds of work on a device: CUDA events, or the wall clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def measure(self, work: Callable[[], object], times: int = 1) -> float:
        """Of one call, the mean of `times` in a row."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            for _ in range(times):
                work()
            return 1e3 * (time.perf_counter() - began) / times
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begin.record()
        for _ in range(times):
            work()
        end.record()
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / times

    def median(self, work: Callable[[], object], repeats: int, times: int = 1) -> float:
        """After one call that is not counted."""
        work()
        return statistics.median(self.measure(work, times) for _ in range(repeats))

    def wall_median(self, work: Callable[[], object], repeats: int) -> float:
        """The same by the wall clock, for work that waits for its own device."""

        def timed() -> float:
            began = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - began)

        timed()
        return statistics.median(timed() for _ in range(repeats))


class Budget:
    """Seconds since a run began, and what was not begun because they were over."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._began = seconds, time.perf_counter()
        self.left_out: list[str] = []

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._began

    def allows(self, name: str) -> bool:
        """Whether there is time for one thing more; if not, its name is kept."""
        if self.spent < self.seconds:
            return True
        self.left_out.append(name)
        return False


def bandwidths(clock: Clock, repeats: int, elements: int) -> dict[str, float]:
    """GB/s of reading (a sum) and of a triad a = b + 2 c, far beyond any cache."""
    a, b, c = (torch.ones(elements, device=clock.device) for _ in range(3))
    read = clock.median(lambda: b.sum(), repeats)
    triad = clock.median(lambda: torch.add(b, c, alpha=2.0, out=a), repeats)
    return {"read": 4e-6 * elements / read, "triad": 12e-6 * elements / triad}


def machine(device: torch.device) -> dict[str, Any]:
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()}), interpreted"
    return {
        "device": name,
        "capability": list(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }
