"""Whole sweeps of the scaling form by machine code, with the extra `fast` (numba); None where torch has to do them."""

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .machine_code import Team, torch_team

_LEAST = 2**17  # pairs from which it pays to load what was compiled
_ALONE = 2**15  # pairs for each thread at least


@dataclass(frozen=True, eq=False)
class HalfSweep:
    """What one side's update u_i = alpha_i (sum_j K_ij v_j)^power needs.

    Attributes:
        matrix: K, as CSR.
        log_alpha: -inf for tokens that take no part.
        power: One number, or one for each token, flat.
    """

    matrix: Tensor
    log_alpha: Tensor
    power: float | Tensor


class Sweeps:
    """Sweeps of one kernel, whose scalings are to stay within exp(+-drift)."""

    def __init__(self, code: tuple[Team, int], rows: HalfSweep, cols: HalfSweep, drift: float) -> None:
        self._team, self._address = code
        n, m, pairs = rows.log_alpha.numel(), cols.log_alpha.numel(), rows.matrix.values().numel()
        self._threads, self._n = max(1, min(torch.get_num_threads(), pairs // _ALONE)), n
        self._sizes = (ctypes.c_int32 * 6)(0, self._threads, n, m, pairs, 0)
        self._limit, self._left = ctypes.c_float(drift), (ctypes.c_int32 * self._threads)()
        self._held = [*_arrays(rows, self._threads), *_arrays(cols, self._threads)]
        own = [ctypes.addressof(self._sizes), ctypes.addressof(self._limit), 0, 0, ctypes.addressof(self._left)]
        pointers = [*own, *(t.data_ptr() for t in self._held)]
        self._pointers = (ctypes.c_void_p * len(pointers))(*pointers)

    def run(self, v: Tensor, count: int) -> tuple[int, Tensor, Tensor]:
        """How many of `count` sweeps from v (m,) kept all scalings in range; u (n,) and v (m,) after those."""
        u, both = v.new_empty(self._n), v.new_empty(2, v.numel())
        both[0] = v
        self._sizes[0] = count
        self._pointers[2], self._pointers[3] = u.data_ptr(), both.data_ptr()
        ctypes.memset(self._left, 0, ctypes.sizeof(self._left))
        self._team.run(self._address, self._pointers, self._threads)
        done = self._sizes[5]
        return done, u, both[done % 2]


def sweeps_of(rows: HalfSweep, cols: HalfSweep, drift: float) -> Sweeps | None:
    """The sweeps of a kernel; None where torch has to do them, or is as quick."""
    values = rows.matrix.values() if rows.matrix.layout == torch.sparse_csr else None
    if values is None or values.dtype != torch.float32 or values.device.type != "cpu" or values.numel() < _LEAST:
        return None
    code = _machine_code()
    return None if code is None else Sweeps(code, rows, cols, drift)


@functools.cache
def _machine_code() -> tuple[Team, int] | None:
    """Torch's threads and the address of what they are to call; None without numba or without such threads."""
    team = torch_team()
    if team is None:
        return None
    try:
        from .sweep_code import ADDRESS
    except ImportError:
        return None
    return team, ADDRESS


def _arrays(half: HalfSweep, parts: int) -> list[Tensor]:
    """Edges between which each part's rows lie, of about as many pairs; offsets, indices, values, log alpha, power."""
    offsets, index, values = half.matrix.crow_indices(), half.matrix.col_indices(), half.matrix.values()
    log_alpha = half.log_alpha.flatten().contiguous()
    edges = torch.searchsorted(offsets, torch.arange(parts + 1, dtype=torch.int32) * (values.numel() // parts))
    edges[0], edges[-1] = 0, log_alpha.numel()
    power = half.power.contiguous() if isinstance(half.power, Tensor) else torch.full_like(log_alpha, half.power)
    return [edges.int(), offsets, index, values, log_alpha, power]
