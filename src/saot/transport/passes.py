"""Passes over the pairs of a support by machine code, with the extra `fast` (numba), in torch's threads on a CPU.

Each has torch's result to rounding, and none has a gradient. `serves` says where there are any.
"""

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .machine_code import Team, torch_team
from .support import Support

_LEAST = 2**17  # pairs from which it pays to load what was compiled
_ALONE = 2**15  # pairs for each thread at least


@dataclass(frozen=True)
class _Code:
    """Torch's threads, and the addresses of what they are to call."""

    team: Team
    addresses: dict[str, int]


class Pass:
    """One of the compiled passes with its arrays, which can be changed for the next run.

    Attributes:
        sizes: Numbers of rows, columns and pairs, and what the pass needs besides.
        pointers: Addresses of `sizes` and the arrays.
        threads: Most threads that take part.
    """

    def __init__(self, name: str, sizes: tuple[int, ...], addresses: list[int]) -> None:
        code = _machine_code()
        assert code is not None
        self._team, self._address = code.team, code.addresses[name]
        self.sizes = (ctypes.c_int32 * len(sizes))(*sizes)
        self.pointers = (ctypes.c_void_p * (1 + len(addresses)))(ctypes.addressof(self.sizes), *addresses)
        self.threads = max(1, min(torch.get_num_threads(), sizes[2] // _ALONE))

    def run(self) -> None:
        """Have the threads do it; whoever calls holds the arrays until then."""
        self._team.run(self._address, self.pointers, self.threads)


def serves(values: Tensor) -> bool:
    """Whether there is machine code for so many numbers, of this type and on this device."""
    fits = values.dtype == torch.float32 and values.device.type == "cpu" and values.numel() >= _LEAST
    return fits and _machine_code() is not None


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values (nnz,) at each place of an index (nnz,)."""
    out = torch.empty_like(values)
    _run("take", (0, 0, out.numel()), index, values, out)
    return out


def segment_sums(values: Tensor, offsets: Tensor, index: Tensor | None = None) -> Tensor:
    """Sums (s,) of consecutive segments, with offsets (s + 1,), of values (nnz,) or of those at each place of index."""
    out = values.new_empty(offsets.numel() - 1)
    sizes = (out.numel(), 0, values.numel())
    if index is None:
        _run("sums", sizes, offsets, values, out)
    else:
        _run("sums_at", sizes, offsets, index, values, out)
    return out


def exponentials(cost: Tensor, divisor: Tensor, x: Tensor, y: Tensor, support: Support) -> Tensor:
    """exp(x_i + y_j + C_ij / divisor) on the pairs, (nnz,); x is (n,), y (m,) and the divisor one number."""
    out = torch.empty_like(cost)
    sizes = (*support.shape, out.numel())
    _run("exponentials", sizes, support.crow, support.col, cost, x, y, out, divisor)
    return out


def weighted(values: Tensor, x: Tensor, y: Tensor, support: Support) -> Tensor:
    """values_ij (x_i + y_j) on the pairs, (nnz,); x is (n,) and y (m,)."""
    out = torch.empty_like(values)
    _run("weighted", (*support.shape, out.numel()), support.crow, support.col, values, x, y, out)
    return out


def _run(name: str, sizes: tuple[int, ...], *arrays: Tensor) -> None:
    held = [array.contiguous() for array in arrays]
    Pass(name, sizes, [array.data_ptr() for array in held]).run()


@functools.cache
def _machine_code() -> _Code | None:
    """None without numba, or without such threads."""
    team = torch_team()
    if team is None:
        return None
    try:
        from .pass_code import ADDRESSES
    except ImportError:
        return None
    return _Code(team, ADDRESSES)
