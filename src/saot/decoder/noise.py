"""Where dropout draws from: a generator of the step, so that trainings side by side do not disturb each other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

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


class Dropout(nn.Dropout):
    """nn.Dropout with the draws of four values from one 64-bit number, on the CPU a third of the time.

    The share that is dropped is rounded to 1 / 65,536.
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Zeros in some places, all others scaled so that the mean stays."""
        if not self.training or input.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(input)
        count = input.numel()
        numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=noise_generator())
        drawn = numbers.view(torch.int16)[:count]
        kept = drawn.view(input.shape) >= round(self.p * 2**16) - 2**15
        return input * (kept / (1.0 - self.p))
