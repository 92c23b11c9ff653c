"""The row and the column update on a GPU: one launch each, with nothing between them and nothing to wait for."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .pairs import Pairs, SparsePairs
from .problem import Problem, Side
from .triton_kernels import HalfUpdate, has_triton, update_side
from .updates import LogUpdates, State


@dataclass(frozen=True, eq=False)
class _Updated(State):
    """Potentials, with the log scalings (tokens,) that the same launch wrote for the other side's update."""

    scalings: Tensor | None = None


class TritonUpdates:
    """`LogUpdates` without gradients, for one sparse problem or the blocks of one support: two launches a sweep.

    The costs are read as they are, in row order and in column order; no kernel is stored. The members of a block
    diagonal share the launches, each with its own epsilon and p.
    """

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.pairs, SparsePairs)
        self.problem, pairs, s = problem, problem.pairs, problem.pairs.support
        cost = pairs.cost.detach().contiguous()
        self._rows = _half(problem, problem.rows, cost, s.crow, s.col)
        self._cols = _half(problem, problem.cols, pairs.in_columns(cost), s.ccol, s.trow)

    @functools.cached_property
    def log(self) -> LogUpdates:
        """The same updates by torch's operations."""
        return LogUpdates(self.problem)

    def sweeps(self, y: State, count: int) -> tuple[State, State]:
        """f and g after `count` times f from g and g from f, at least once."""
        (f, x), (g, after) = (half.log_ratio.new_empty(2, half.log_ratio.numel()) for half in (self._rows, self._cols))
        scalings = self._scalings(y)
        for _ in range(count):
            update_side(self._rows, scalings, f, x)
            update_side(self._cols, x, g, after)
            scalings = after
        pairs = self.problem.pairs
        return _Updated(pairs.as_rows(f), scalings=x), _Updated(pairs.as_cols(g), scalings=after)

    def f(self, x: State) -> Tensor:
        """The potentials (..., n) themselves; 0 for tokens that take no part."""
        return x.values

    def g(self, y: State) -> Tensor:
        """The potentials (..., m) themselves; 0 for tokens that take no part."""
        return y.values

    def _scalings(self, y: State) -> Tensor:
        """Log scalings (m,), made anew of potentials that come from elsewhere."""
        if isinstance(y, _Updated) and y.scalings is not None:
            return y.scalings
        return self.problem.cols.scale(y.values, self.problem.epsilon).flatten()


def _half(problem: Problem, side: Side, costs: Tensor, offsets: Tensor, index: Tensor) -> HalfUpdate:
    reference = side.inside(side.log_reference, -torch.inf)
    vectors = (v.detach().flatten().contiguous() for v in (reference, side.log_ratio, problem.epsilon, problem.damping))
    return HalfUpdate(costs, offsets, index, *vectors)


def has_fused_updates(pairs: Pairs) -> bool:
    """Whether `TritonUpdates` serve these pairs where they are."""
    return isinstance(pairs, SparsePairs) and has_triton(pairs.cost.device)
