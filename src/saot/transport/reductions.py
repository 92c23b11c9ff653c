"""The loop's one need: log-sum-exps of (g - C) / epsilon by row and of (f - C) / epsilon by column.

`LogReduction` evaluates them as written and carries gradients, `FirstGrainReduction` those of zero weights
too.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .pairs import Pairs, largest_exponent


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
        most = largest_exponent(out.dtype)
        grain = pairs.spread_rows(_inverse(self._row_lse)) + pairs.spread_cols(self._scaling(self.b, self._col_lse))
        return out + pairs.sum_rows(
            (self.log.log_kernel.detach() + grain).clamp(max=most).exp() * pairs.spread_cols(self.b)
        )

    def cols(self, x: Tensor) -> Tensor:
        """Log sum_i exp(x_i - C_ij / epsilon), (..., m)."""
        out, pairs = self.log.cols(x), self.log.pairs
        self._col_lse = out.detach()
        if self._row_lse is None:
            return out
        most = largest_exponent(out.dtype)
        grain = pairs.spread_rows(self._scaling(self.a, self._row_lse)) + pairs.spread_cols(_inverse(self._col_lse))
        return out + pairs.sum_cols(
            (self.log.log_kernel.detach() + grain).clamp(max=most).exp() * pairs.spread_rows(self.a)
        )

    def _scaling(self, weight: Tensor, lse: Tensor) -> Tensor:
        """Potential / epsilon of the tokens of weight zero; -inf for the others."""
        return torch.where((weight == 0) & (lse > -torch.inf), -self.damping.detach() * lse, -torch.inf)


def _inverse(lse: Tensor) -> Tensor:
    return torch.where(lse > -torch.inf, -lse, -torch.inf)
