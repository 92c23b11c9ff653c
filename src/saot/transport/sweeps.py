"""Whole sweeps of the scaling form by machine code; where there is none torch has to do them."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from .passes import Pass, serves


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

    def __init__(self, rows: HalfSweep, cols: HalfSweep, drift: float) -> None:
        self._n, m, pairs = rows.log_alpha.numel(), cols.log_alpha.numel(), rows.matrix.values().numel()
        self._limit, self._held = ctypes.c_float(drift), [*_arrays(rows), *_arrays(cols)]
        addresses = [ctypes.addressof(self._limit), 0, 0, 0, *(t.data_ptr() for t in self._held)]
        self._pass = Pass("sweeps", (self._n, m, pairs, 0, 0), addresses)
        self._left = (ctypes.c_int32 * self._pass.threads)()  # a word of each thread's own
        self._pass.pointers[4] = ctypes.addressof(self._left)

    def run(self, v: Tensor, count: int) -> tuple[int, Tensor, Tensor]:
        """How many of `count` sweeps from v (m,) kept all scalings in range; u (n,) and v (m,) after those."""
        u, both = v.new_empty(self._n), v.new_empty(2, v.numel())
        both[0] = v
        sizes, pointers = self._pass.sizes, self._pass.pointers
        sizes[3] = count
        pointers[2], pointers[3] = u.data_ptr(), both.data_ptr()
        ctypes.memset(self._left, 0, ctypes.sizeof(self._left))
        self._pass.run()
        done = sizes[4]
        return done, u, both[done % 2]


def sweeps_of(rows: HalfSweep, cols: HalfSweep, drift: float) -> Sweeps | None:
    """The sweeps of a kernel; None where torch has to do them, or is as quick."""
    sparse = rows.matrix.layout == torch.sparse_csr
    return Sweeps(rows, cols, drift) if sparse and serves(rows.matrix.values()) else None


def _arrays(half: HalfSweep) -> list[Tensor]:
    """Offsets, indices, values, log alpha and power."""
    log_alpha = half.log_alpha.flatten().contiguous()
    power = half.power.contiguous() if isinstance(half.power, Tensor) else torch.full_like(log_alpha, half.power)
    return [half.matrix.crow_indices(), half.matrix.col_indices(), half.matrix.values(), log_alpha, power]
