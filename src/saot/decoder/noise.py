"""Where dropout draws from: a generator of the step, so that trainings side by side do not disturb each other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_own = threading.local()


@contextmanager
def noise(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Dropout draws from this seed: on the CPU by a generator of this thread, elsewhere by torch's own.

    Args:
        seed: Of the step.
        device: Where the network is.
    """
    if torch.device(device).type != "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
        return
    _own.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _own.generator = None


def noise_generator(device: torch.device | str = "cpu") -> torch.Generator | None:
    """The generator of this thread's step on the CPU; None, torch's own, elsewhere or outside a step."""
    return getattr(_own, "generator", None) if torch.device(device).type == "cpu" else None
