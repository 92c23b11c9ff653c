"""The pairs of a problem, dense, on a support, or of many problems on supports: all that differs is in this file.

A solver needs to spread a vector over the pairs, and to sum, maximise or log-sum-exp pairs by row and by
column. Each row and each column is stabilised by its own maximum; an empty one gives -inf.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import passes
from .products import segment_sum, spread, sum_pairs
from .support import Support
from .triton_kernels import has_triton, segment_logsumexp


class _Plain:
    """What is special only where many problems stand in one vector."""

    def as_rows(self, x: Tensor) -> Tensor:
        """A vector of one number a source, as (..., n)."""
        return x

    def as_cols(self, y: Tensor) -> Tensor:
        """A vector of one number a target, as (..., m)."""
        return y

    def extremes(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest number on the pairs, (); of each of many problems, (count, 1)."""
        return v.aminmax() if v.numel() else (v.new_zeros(()), v.new_zeros(()))


@dataclass(frozen=True, eq=False)
class DensePairs(_Plain):
    """A dense (..., n, m) cost; `finite` marks the pairs that exist, or is None where all do.

    v lies on the pairs, x is (..., n), y is (..., m). `spread_rows`, `spread_cols` and `scalar` take x, y and one
    number a problem (..., 1) to the pairs; `sum_`, `max_` and `lse_` pairs to (..., n) by row or (..., m) by column.
    """

    cost: Tensor
    finite: Tensor | None

    def spread_rows(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def spread_cols(self, y: Tensor) -> Tensor:
        return y.unsqueeze(-2)

    def scalar(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def add_rows_(self, v: Tensor, x: Tensor) -> Tensor:
        """v + x, in place and without a gradient."""
        return v.add_(x.unsqueeze(-1))

    def exponentials(self, x: Tensor, y: Tensor, divisor: Tensor) -> Tensor:
        """exp(x_i + y_j + C_ij / divisor) on the pairs, with one divisor a problem (..., 1); without a gradient."""
        return _exponentials(self, x, y, divisor)

    def weighted(self, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """v_ij (x_i + y_j) on the pairs; without a gradient."""
        return _weighted(self, v, x, y)

    def sum_rows(self, v: Tensor) -> Tensor:
        return v.sum(-1)

    def sum_cols(self, v: Tensor) -> Tensor:
        return v.sum(-2)

    def sum_all(self, v: Tensor) -> Tensor:
        return v.sum((-2, -1)).unsqueeze(-1)

    def max_rows(self, v: Tensor) -> Tensor:
        return v.amax(-1)

    def max_cols(self, v: Tensor) -> Tensor:
        return v.amax(-2)

    def lse_rows(self, v: Tensor, y: Tensor) -> Tensor:
        """Log-sum-exp over each row of v + y."""
        return _DenseLogSumExp.apply(v + y.unsqueeze(-2), -1)

    def lse_cols(self, v: Tensor, x: Tensor) -> Tensor:
        """Log-sum-exp over each column of v + x, where v is `in_columns`."""
        return _DenseLogSumExp.apply(v + x.unsqueeze(-1), -2)

    def in_columns(self, v: Tensor) -> Tensor:
        """Pairs in the order that `lse_cols` takes: for dense ones the same."""
        return v

    def with_cost(self, cost: Tensor) -> "DensePairs":
        return replace(self, cost=cost)

    def member(self, index: int) -> "DensePairs":
        """One problem of a batch with one leading dimension."""
        return DensePairs(self.cost[index], None if self.finite is None else self.finite[index])

    def flatten(self) -> "DensePairs":
        """With its leading dimensions made one."""
        n, m = self.cost.shape[-2:]
        finite = None if self.finite is None else self.finite.reshape(-1, n, m)
        return DensePairs(self.cost.reshape(-1, n, m), finite)


@dataclass(frozen=True, eq=False)
class SparsePairs(_Plain):
    """Costs (nnz,) on a support, with the methods of `DensePairs`; a row without pairs has maximum -inf."""

    cost: Tensor
    finite: Tensor | None
    support: Support

    def spread_rows(self, x: Tensor) -> Tensor:
        return spread(x, self.support, cols=False)

    def spread_cols(self, y: Tensor) -> Tensor:
        return spread(y, self.support, cols=True)

    def scalar(self, x: Tensor) -> Tensor:
        return x

    def add_rows_(self, v: Tensor, x: Tensor) -> Tensor:
        if self.support.row_length is None:
            return v.add_(spread(x, self.support, cols=False))
        v.view(-1, self.support.row_length).add_(x.unsqueeze(1))
        return v

    def exponentials(self, x: Tensor, y: Tensor, divisor: Tensor) -> Tensor:
        one = self.scalar(divisor)
        if one.numel() == 1 and passes.serves(self.cost):
            return passes.exponentials(self.cost, one, x.flatten(), y.flatten(), self.support)
        return _exponentials(self, x, y, divisor)

    def weighted(self, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if passes.serves(v):
            return passes.weighted(v, x.flatten(), y.flatten(), self.support)
        return _weighted(self, v, x, y)

    def sum_rows(self, v: Tensor) -> Tensor:
        return sum_pairs(v, self.support, cols=False)

    def sum_cols(self, v: Tensor) -> Tensor:
        return sum_pairs(v, self.support, cols=True)

    def sum_all(self, v: Tensor) -> Tensor:
        return v.sum().unsqueeze(0)

    def max_rows(self, v: Tensor) -> Tensor:
        return _segment_max(v, self.support.crow)

    def max_cols(self, v: Tensor) -> Tensor:
        return _segment_max(v.index_select(0, self.support.perm), self.support.ccol)

    def lse_rows(self, v: Tensor, y: Tensor) -> Tensor:
        s = self.support
        return _segment_logsumexp(v, y, s.crow, s.row, s.col)

    def lse_cols(self, v: Tensor, x: Tensor) -> Tensor:
        s = self.support
        return _segment_logsumexp(v, x, s.ccol, s.tcol, s.trow)

    def in_columns(self, v: Tensor) -> Tensor:
        """Pairs in the order that `lse_cols` takes: column order."""
        return v.index_select(0, self.support.perm)

    def with_cost(self, cost: Tensor) -> "SparsePairs":
        return replace(self, cost=cost)


@dataclass(frozen=True, eq=False)
class BlockPairs(SparsePairs):
    """Many sparse problems at once, the blocks of one support of (count n, count m).

    Costs are (nnz,), one problem's after another's; x is (count, n), y (count, m) and a scalar (count, 1), as in a
    dense batch. A problem of fewer tokens has tokens of weight zero without pairs at its end.

    Attributes:
        numbers: What each problem is called where an error tells of it.
        block: The problem of each pair.
        begins: Where each problem's pairs begin and end, (count + 1,).
    """

    numbers: tuple[int, ...]
    block: Tensor
    begins: Tensor

    @property
    def count(self) -> int:
        """Number of problems."""
        return len(self.numbers)

    def spread_rows(self, x: Tensor) -> Tensor:
        return super().spread_rows(x.flatten())

    def spread_cols(self, y: Tensor) -> Tensor:
        return super().spread_cols(y.flatten())

    def scalar(self, x: Tensor) -> Tensor:
        x = x.squeeze(-1)
        if not x.requires_grad and bool((x == x[0]).all()):
            return x[:1]
        return x.index_select(0, self.block)

    def add_rows_(self, v: Tensor, x: Tensor) -> Tensor:
        return super().add_rows_(v, x.flatten())

    def sum_rows(self, v: Tensor) -> Tensor:
        return self.as_rows(super().sum_rows(v))

    def sum_cols(self, v: Tensor) -> Tensor:
        return self.as_cols(super().sum_cols(v))

    def sum_all(self, v: Tensor) -> Tensor:
        return self.sum_rows(v).sum(-1, keepdim=True)

    def max_rows(self, v: Tensor) -> Tensor:
        return self.as_rows(super().max_rows(v))

    def max_cols(self, v: Tensor) -> Tensor:
        return self.as_cols(super().max_cols(v))

    def lse_rows(self, v: Tensor, y: Tensor) -> Tensor:
        return self.as_rows(super().lse_rows(v, y.flatten()))

    def lse_cols(self, v: Tensor, x: Tensor) -> Tensor:
        return self.as_cols(super().lse_cols(v, x.flatten()))

    def as_rows(self, x: Tensor) -> Tensor:
        return x.view(self.count, -1)

    def as_cols(self, y: Tensor) -> Tensor:
        return y.view(self.count, -1)

    def extremes(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return -_segment_max(-v, self.begins).unsqueeze(-1), _segment_max(v, self.begins).unsqueeze(-1)

    def any_of(self, mask: Tensor) -> Tensor:
        """Whether a pair of each problem is marked, (count,)."""
        return self.max_rows(mask.float()).amax(-1) > 0

    def member(self, index: int) -> SparsePairs:
        """One of the problems, with its tokens of weight zero."""
        s, (n, m) = self.support, (size // self.count for size in self.support.shape)
        begin, end = (int(self.begins[index + i]) for i in (0, 1))
        own, rows, cols = slice(begin, end), index * n, index * m
        support = Support(
            crow=s.crow[rows : rows + n + 1] - begin,
            col=s.col[own] - cols,
            row=s.row[own] - rows,
            ccol=s.ccol[cols : cols + m + 1] - begin,
            trow=s.trow[own] - rows,
            tcol=s.tcol[own] - cols,
            perm=s.perm[own] - begin,
            shape=(n, m),
        )
        return SparsePairs(self.cost[own], None if self.finite is None else self.finite[own], support)

    def flatten(self) -> "BlockPairs":
        """With its leading dimensions made one: it has but one."""
        return self


Pairs = DensePairs | SparsePairs


def _exponentials(pairs: Pairs, x: Tensor, y: Tensor, divisor: Tensor) -> Tensor:
    return pairs.add_rows_(pairs.cost / pairs.scalar(divisor), x).add_(pairs.spread_cols(y)).exp_()


def _weighted(pairs: Pairs, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (pairs.spread_rows(x) + pairs.spread_cols(y)).mul_(v)


class _DenseLogSumExp(torch.autograd.Function):
    """torch.logsumexp, but with a zero gradient instead of NaN where every term is -inf."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, dim: int) -> Tensor:
        out = torch.logsumexp(v.detach(), dim)
        ctx.save_for_backward(v, out)
        ctx.dim = dim
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        v, out = ctx.saved_tensors
        weights = (v - _finite_or_zero(out).unsqueeze(ctx.dim)).exp()
        return grads[0].unsqueeze(ctx.dim) * weights, None


def _segment_logsumexp(v: Tensor, x: Tensor, offsets: Tensor, index: Tensor, other: Tensor) -> Tensor:
    """Log-sum-exp of v + x[other] over the segments of v; `index` is each entry's segment."""
    if has_triton(v.device):
        return _FusedLogSumExp.apply(v, x, offsets, index, other)
    return _SegmentLogSumExp.apply(v + x.index_select(0, other), offsets, index)


class _SegmentLogSumExp(torch.autograd.Function):
    """Log-sum-exp over the segments of v, each stabilised by its own maximum."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, offsets: Tensor, index: Tensor) -> Tensor:
        plain = v.detach()
        top = _finite_or_zero(_segment_max(plain, offsets))
        out = segment_sum((plain - top.index_select(0, index)).exp(), offsets, index).log() + top
        ctx.save_for_backward(v, out, index)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        v, out, index = ctx.saved_tensors
        weights = (v - _finite_or_zero(out).index_select(0, index)).exp()
        return grads[0].index_select(0, index) * weights, None, None


class _FusedLogSumExp(torch.autograd.Function):
    """The same by one kernel, which never writes v + x[other]."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, offsets: Tensor, index: Tensor, other: Tensor) -> Tensor:
        out = segment_logsumexp(v.detach(), offsets, other, x.detach())
        ctx.save_for_backward(v, x, out, index, other)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        v, x, out, index, other = ctx.saved_tensors
        weights = (v + x.index_select(0, other) - _finite_or_zero(out).index_select(0, index)).exp()
        pull = grads[0].index_select(0, index) * weights
        return pull, torch.zeros_like(x).index_add(0, other, pull), None, None, None


def largest_exponent(dtype: torch.dtype) -> float:
    """Where exp is the root of the largest number: what stands in padding may not reach beyond, lest 0 inf be NaN."""
    return math.log(torch.finfo(dtype).max) / 2


def _segment_max(v: Tensor, offsets: Tensor) -> Tensor:
    return torch.segment_reduce(v, "max", offsets=offsets, initial=-torch.inf)


def _finite_or_zero(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)
