"""Where dropout draws from: a generator of the step, so that trainings side by side do not disturb each other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_own = threading.local()


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Dropout of this thread draws from this seed; torch's own generators, which accelerators use, begin with it too.

    Afterwards the CPU's generator is as it was.
    """
    before = getattr(_own, "generator", None)
    _own.generator = torch.Generator().manual_seed(seed)
    try:
        if torch.accelerator.is_available():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                yield
        else:
            yield
    finally:
        _own.generator = before


def noise_generator(device: torch.device | str = "cpu") -> torch.Generator | None:
    """The generator of this thread's step on the CPU; None, torch's own, elsewhere or outside a step."""
    return getattr(_own, "generator", None) if torch.device(device).type == "cpu" else None
