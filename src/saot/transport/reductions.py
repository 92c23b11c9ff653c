"""The loop's one need: log-sum-exps of (g - C) / epsilon by row and of (f - C) / epsilon by column.

`LogReduction` evaluates them as written and carries gradients, `FirstGrainReduction` those of zero weights
too. `KernelReduction` gives the same numbers, without gradients, by a stored kernel times a vector.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .pairs import DensePairs, Pairs, SparsePairs
from .products import csr, csr_transposed, has_sparse_kernels

_MIN_PAIRS = 4096  # below this a log-sum-exp costs no more than its overhead
_MAX_ABSORPTIONS = 8


@runtime_checkable
class Reduction(Protocol):
    """What a solver loop asks for; x (..., n) and y (..., m) are log scalings, -inf without mass."""

    def rows(self, y: Tensor) -> Tensor:
        """Log sum_j exp(y_j - C_ij / epsilon), (..., n)."""
        ...

    def cols(self, x: Tensor) -> Tensor:
        """Log sum_i exp(x_i - C_ij / epsilon), (..., m)."""
        ...


class LogReduction:
    """The log domain, each row and column stabilised by its own maximum: any range, any device, gradients."""

    def __init__(self, pairs: Pairs, log_kernel: Tensor) -> None:
        self.pairs, self.log_kernel = pairs, log_kernel
        self._columns: Tensor | None = None  # the kernel in column order, made when first asked for

    def rows(self, y: Tensor) -> Tensor:
        """Log sum_j exp(y_j - C_ij / epsilon), (..., n)."""
        return self.pairs.lse_rows(self.log_kernel, y)

    def cols(self, x: Tensor) -> Tensor:
        """Log sum_i exp(x_i - C_ij / epsilon), (..., m)."""
        if self._columns is None:
            self._columns = self.pairs.in_columns(self.log_kernel)
        return self.pairs.lse_cols(self._columns, x)


class FirstGrainReduction:
    """`LogReduction` where weights of zero have a gradient too: what the first grain of weight would change.

    log b_j has no slope at b_j = 0, but a sum of b_j exp(...) has one; it is added by a term of value zero.
    """

    def __init__(self, log: LogReduction, a: Tensor, b: Tensor, damping: Tensor) -> None:
        self.log, self.a, self.b, self.damping = log, a, b, damping
        self._row_lse: Tensor | None = None
        self._col_lse: Tensor | None = None

    def rows(self, y: Tensor) -> Tensor:
        """Log sum_j exp(y_j - C_ij / epsilon), (..., n)."""
        out, pairs = self.log.rows(y), self.log.pairs
        self._row_lse = out.detach()
        if self._col_lse is None:
            return out
        grain = pairs.spread_rows(_inverse(self._row_lse)) + pairs.spread_cols(self._scaling(self.b, self._col_lse))
        return out + pairs.sum_rows((self.log.log_kernel.detach() + grain).exp() * pairs.spread_cols(self.b))

    def cols(self, x: Tensor) -> Tensor:
        """Log sum_i exp(x_i - C_ij / epsilon), (..., m)."""
        out, pairs = self.log.cols(x), self.log.pairs
        self._col_lse = out.detach()
        if self._row_lse is None:
            return out
        grain = pairs.spread_rows(self._scaling(self.a, self._row_lse)) + pairs.spread_cols(_inverse(self._col_lse))
        return out + pairs.sum_cols((self.log.log_kernel.detach() + grain).exp() * pairs.spread_rows(self.a))

    def _scaling(self, weight: Tensor, lse: Tensor) -> Tensor:
        """Potential / epsilon of the tokens of weight zero; -inf for the others."""
        return torch.where((weight == 0) & (lse > -torch.inf), -self.damping.detach() * lse, -torch.inf)


def _inverse(lse: Tensor) -> Tensor:
    return torch.where(lse > -torch.inf, -lse, -torch.inf)


class KernelReduction:
    """The scaling form with absorption, for one problem.

    Stores K_ij = exp(s_i + t_j - C_ij / epsilon - top) for the scalings s, t at the time, so that
    log sum_j exp(y_j - C_ij / epsilon) = log(K exp(y - t))_i - s_i + top. This is exact to rounding if

    1. K's row sums are about 1 at most, and no row or column sum of K that carries mass is below `floor`;
    2. no scaling is further than `drift` from the one absorbed.

    exp(2 drift) * tiny / floor then bounds what the underflow of one pair can take from a sum, relatively:
    3e-12 in float32, 1e-120 in float64. Where 2 fails, s and t are absorbed anew; where 1 fails, that pass is
    done in the log domain; after 8 absorptions every pass that still fails is.
    """

    def __init__(self, log: LogReduction, x_active: Tensor, y_active: Tensor) -> None:
        self.log = log
        self._x_active, self._y_active = x_active, y_active
        single = log.log_kernel.dtype == torch.float32
        self._drift, self._floor = (12.0, 1e-16) if single else (100.0, 1e-100)
        self._x: Tensor | None = None  # the scalings and row sums last seen
        self._y: Tensor | None = None
        self._row_lse: Tensor | None = None
        self._kernel: _Kernel | None = None
        self._absorptions = 0

    def rows(self, y: Tensor) -> Tensor:
        """Log sum_j exp(y_j - C_ij / epsilon), (n,)."""
        self._y = y
        kernel = self._kernel
        if kernel is None or self._far(y - kernel.t, self._y_active):
            kernel = self._absorb()
        if kernel is None:
            self._row_lse = self.log.rows(y)
        else:
            self._row_lse = (kernel.by_row @ (y - kernel.t).exp()).log() - kernel.s + kernel.top
        return self._row_lse

    def cols(self, x: Tensor) -> Tensor:
        """Log sum_i exp(x_i - C_ij / epsilon), (m,)."""
        self._x = x
        kernel = self._kernel
        if kernel is None or self._far(x - kernel.s, self._x_active):
            kernel = self._absorb()
        if kernel is None:
            return self.log.cols(x)
        return (kernel.by_col @ (x - kernel.s).exp()).log() - kernel.t + kernel.top

    def _far(self, change: Tensor, active: Tensor) -> bool:
        return not bool(torch.where(active, change, 0.0).abs().max() <= self._drift)

    def _absorb(self) -> "_Kernel | None":
        """The kernel at the scalings last seen, or None where it would not be exact."""
        if self._x is None or self._y is None or self._row_lse is None or self._absorptions >= _MAX_ABSORPTIONS:
            return None
        self._absorptions += 1
        pairs, row, col = self.log.pairs, self._x_active, self._y_active
        top = torch.where(row, self._x + self._row_lse, -torch.inf).max()
        # a scaling of -inf stays: its kernel row is zero, and a pass finds nothing in it
        values = (self.log.log_kernel + pairs.spread_rows(self._x - top) + pairs.spread_cols(self._y)).exp()
        s, t = torch.where(row, self._x, 0.0), torch.where(col, self._y, 0.0)
        if isinstance(pairs, SparsePairs):
            kernel = _Kernel(csr(values, pairs.support), csr_transposed(values, pairs.support), s, t, top)
        else:
            kernel = _Kernel(values, values.mT, s, t, top)
        row_sums, col_sums = kernel.by_row @ torch.ones_like(t), kernel.by_col @ torch.ones_like(s)
        low = torch.minimum(torch.where(row, row_sums, 1.0).min(), torch.where(col, col_sums, 1.0).min())
        safe = bool(low >= self._floor) and bool(row_sums.max() < 1 / self._floor)
        self._kernel = kernel if safe else None
        return self._kernel


@dataclass(frozen=True, eq=False)
class _Kernel:
    by_row: Tensor
    by_col: Tensor
    s: Tensor
    t: Tensor
    top: Tensor


def has_fast_path(pairs: Pairs) -> bool:
    """Whether `KernelReduction` pays for a problem of this size on this device."""
    count = pairs.cost.shape[-2:].numel() if isinstance(pairs, DensePairs) else pairs.cost.numel()
    fast = isinstance(pairs, DensePairs) or has_sparse_kernels(pairs.cost.device)
    return pairs.cost.device.type == "cpu" and count >= _MIN_PAIRS and fast
