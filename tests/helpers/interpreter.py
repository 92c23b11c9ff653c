"""Whether Triton interprets its kernels in this process: it settles that at its first import."""

import pytest
import torch

from saot.transport import triton_kernels
from saot.transport.triton_kernels import has_triton

CPU = torch.device("cpu")
INTERPRETED = has_triton(CPU)
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_under_the_interpreter")
compiled = pytest.mark.skipif(INTERPRETED, reason="Triton interprets here")


def count_launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched from now on."""
    names, plain = [], triton_kernels._launch

    def launch(function, *arguments, **flags):
        names.append(function.__name__)
        return plain(function, *arguments, **flags)

    monkeypatch.setattr(triton_kernels, "_launch", launch)
    return names
