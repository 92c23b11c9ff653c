"""What only balanced transport (tau = inf) needs: a gauge for the potentials, a proof of infeasibility."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .pairs import BlockPairs, DensePairs, Pairs
from .problem import Problem
from .result import TransportError, TransportStatus

_DOUBTFUL = 0.01  # L1 error of the marginals, over the mass, from which a gradient is not to be trusted
_SLACK = 100.0  # rounding errors of a sum of weights, in units of the type's epsilon


@dataclass(frozen=True, eq=False)
class Parts:
    """Connected parts of the graph of pairs that carry mass.

    Attributes:
        rows: Label in [0, n) of each row's part.
        cols: Label of each column's part.
        row_in: Rows that are in a part, if only by a candidate.
        col_in: Columns likewise.
    """

    rows: Tensor
    cols: Tensor
    row_in: Tensor
    col_in: Tensor

    def row_sums(self, x: Tensor) -> Tensor:
        """Sum of x (..., n) over each part, (..., n) by label."""
        return torch.zeros_like(self.rows, dtype=x.dtype).scatter_add(-1, self.rows, x)

    def col_sums(self, y: Tensor) -> Tensor:
        """Sum of y (..., m) over each part, (..., n) by label."""
        return torch.zeros_like(self.rows, dtype=y.dtype).scatter_add(-1, self.cols, y)


def connected_parts(problem: Problem) -> Parts:
    """The parts, by passing the largest row index to and fro until nothing changes.

    A token of weight zero is in a part of its candidates, for its potential alone.
    """
    whole = _one_part(problem)
    if whole is not None:
        return whole
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    with torch.no_grad():
        exists = torch.zeros_like(pairs.cost)
        if pairs.finite is not None:
            exists = torch.where(pairs.finite, 0.0, -torch.inf).to(exists.dtype)
        from_rows = exists + pairs.spread_rows(_gate(rows.active, exists))
        from_cols = exists + pairs.spread_cols(_gate(cols.active, exists))
        label = torch.arange(rows.weight.shape[-1], device=exists.device, dtype=exists.dtype)
        label = label.expand_as(rows.weight)
        while True:
            col_label = pairs.max_cols(from_rows + pairs.spread_rows(label))
            seen = pairs.max_rows(from_cols + pairs.spread_cols(col_label))
            new = torch.where(rows.active, torch.maximum(label, seen), label)
            new = new.gather(-1, new.long())  # a label's own label is of the same part, and further on
            if torch.equal(new, label):
                row_label = torch.where(rows.active, label, seen)
                labels = row_label.clamp(min=0).long(), col_label.clamp(min=0).long()
                return Parts(*labels, row_label >= 0, col_label >= 0)
            label = new


def _one_part(problem: Problem) -> Parts | None:
    """All tokens as one part, where every pair may carry mass; None where that is not so, or not seen at once."""
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    if not isinstance(pairs, DensePairs) or pairs.finite is not None:
        return None
    if not bool((rows.active.any(-1) & cols.active.any(-1)).all()):
        return None
    order = torch.arange(rows.weight.shape[-1], device=rows.weight.device)
    label = torch.where(rows.active, order, 0).amax(-1, keepdim=True)
    labels = label.expand_as(rows.weight), label.expand_as(cols.weight)
    return Parts(*labels, torch.ones_like(rows.active), torch.ones_like(cols.active))


def fix_gauge(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The same plan's potentials with <a, f> = <b, g> on each part: the limit of large tau."""
    parts, rows, cols = connected_parts(problem), problem.rows, problem.cols
    # tokens of weight zero have a say too, if only in the slope of their weight
    row_in, col_in = parts.row_in & f.isfinite(), parts.col_in & g.isfinite()
    a, b = torch.where(row_in, rows.weight, 0.0), torch.where(col_in, cols.weight, 0.0)
    f_in, g_in = torch.where(row_in, f, 0.0), torch.where(col_in, g, 0.0)
    weight = parts.row_sums(a) + parts.col_sums(b)
    excess = parts.row_sums(a * f_in) - parts.col_sums(b * g_in)
    shift = excess / torch.where(weight > 0, weight, 1.0)
    return f - shift.gather(-1, parts.rows), g + shift.gather(-1, parts.cols)


def keep_masses_equal(problem: Problem) -> Problem:
    """The same problem, with the gradients of a and b projected onto what balanced transport allows.

    A plan exists only while both sides of a part weigh the same, so a gradient along a change of one side
    alone has no meaning; it is taken out.
    """
    rows, cols = problem.rows, problem.cols
    if not (rows.weight.requires_grad or cols.weight.requires_grad):
        return problem
    parts = connected_parts(problem)
    inside = parts.row_in, parts.col_in
    if problem.reference == "counting":  # where a zero weight has no finite slope, and so takes no part
        inside = rows.active, cols.active
    row_in, col_in = (mask.to(rows.weight.dtype) for mask in inside)
    count = parts.row_sums(row_in) + parts.col_sums(col_in)
    excess = (parts.row_sums(rows.weight * row_in) - parts.col_sums(cols.weight * col_in)) / count.clamp(min=1)
    excess = excess - excess.detach()
    a = rows.weight - excess.gather(-1, parts.rows) * row_in
    b = cols.weight + excess.gather(-1, parts.cols) * col_in
    return problem.with_tensors(problem.pairs.cost, a, b, problem.epsilon, problem.tau)


def refuse_gradients(
    tensors: Sequence[Tensor], infeasible: Tensor, residual: Tensor, pairs: Pairs
) -> tuple[Tensor, ...]:
    """Tensors (..., any) as they are, for problems (...) of which those without a plan have no implicit gradient.

    There the potentials drift apart for ever: nothing is stationary, and the adjoint system amplifies noise. Where
    nothing is proven but the residual is large, the same may be so, and a warning tells.
    """
    doubtful = (residual > _DOUBTFUL) & ~infeasible
    if not torch.is_grad_enabled() or not bool((infeasible | doubtful).any()):
        return tuple(tensors)
    return _Refuse.apply(infeasible, doubtful, residual, pairs, *tensors)


class _Refuse(torch.autograd.Function):
    """The tensors as they are; on the way back a gradient of an infeasible member raises."""

    @staticmethod
    def forward(
        ctx: Any, infeasible: Tensor, doubtful: Tensor, residual: Tensor, pairs: Pairs, *tensors: Tensor
    ) -> Any:
        ctx.masks = infeasible, doubtful, residual
        ctx.pairs = pairs
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        infeasible, doubtful, residual = ctx.masks
        reached = torch.zeros_like(infeasible)
        for grad in grads:
            if grad is not None:
                nonzero = grad.detach() != 0
                joined = isinstance(ctx.pairs, BlockPairs) and nonzero.ndim == 1  # the costs of all, one after another
                reached = reached | (ctx.pairs.any_of(nonzero) if joined else nonzero.flatten(infeasible.ndim).any(-1))
        if bool((reached & infeasible).any()):
            where = tuple(tuple(int(i) for i in row) for row in torch.nonzero(reached & infeasible))
            if isinstance(ctx.pairs, BlockPairs):
                where = tuple((ctx.pairs.numbers[place],) for (place,) in where)
            raise TransportError(
                "a balanced problem without a plan has no gradient of its solution, for there is none"
                + (f" (problems {list(where[:3])})" if infeasible.ndim else "")
                + '; use a finite tau, a larger support, gradient="unrolled" for that of the sweeps, or leave out '
                "what has not converged",
                TransportStatus.INFEASIBLE,
                where,
            )
        if bool((reached & doubtful).any()):
            warnings.warn(
                f"the gradient of a balanced plan that misses its marginals by {float(residual[doubtful].max()):.1e} "
                'is not that of its sweeps, and may be of any size; raise max_iter, or use gradient="unrolled"',
                stacklevel=2,
            )
        return None, None, None, None, *grads


def project_out(u: Tensor, root: Tensor, parts: Parts) -> Tensor:
    """U (..., n) without its component along root (..., n) on each part."""
    square = parts.row_sums(root.square())
    share = parts.row_sums(u * root) / torch.where(square > 0, square, 1.0)
    return u - root * share.gather(-1, parts.rows)


def infeasible(problem: Problem, f: Tensor, g: Tensor, f_change: Tensor) -> Tensor:
    """Which problems (...) are proven to have no plan with marginals a and b.

    The proof is a set of sources that outweighs all its candidates together, or the same from the targets.
    Where there is no plan, the potentials of such a set drift apart from the rest; so we try the sets {f > t}
    and {change of f > t} for every t, and {g > t}. False means: no proof found.
    """
    if not problem.batch_shape:
        return torch.as_tensor(_infeasible_one(problem, f, g, f_change), device=f.device)
    flat = problem.flatten()
    f, g, f_change = (t.reshape(-1, t.shape[-1]) for t in (f, g, f_change))
    found = [_infeasible_one(flat.member(i), f[i], g[i], f_change[i]) for i in range(f.shape[0])]
    return torch.tensor(found, device=f.device).view(problem.batch_shape)


def _infeasible_one(problem: Problem, f: Tensor, g: Tensor, f_change: Tensor) -> bool:
    rows, cols, pairs = problem.rows, problem.cols, problem.pairs
    if any(bool((~side.active & (side.weight > 0)).any()) for side in (rows, cols)):
        return True
    by_row = [_gate(rows.active, f) + torch.where(rows.active, score, 0.0) for score in (f, f_change)]
    by_col = _gate(cols.active, g) + torch.where(cols.active, g, 0.0)
    a, b = rows.weight.double(), cols.weight.double()
    slack = _SLACK * torch.finfo(f.dtype).eps * max(float(a.sum()), float(b.sum()))
    outweighs = [_outweighs(a, score, b, _masked_max(pairs, score, True), slack) for score in by_row]
    return any(outweighs) or _outweighs(b, by_col, a, _masked_max(pairs, by_col, False), slack)


def _outweighs(weight: Tensor, score: Tensor, other: Tensor, reached: Tensor, slack: float) -> bool:
    """Whether some {score >= t} weighs more than its candidates {reached >= t}."""
    score, order = score.sort(descending=True)
    reached, other_order = reached.sort(descending=True)
    inside = weight[order].cumsum(0)
    outside = torch.cat([inside.new_zeros(1), other[other_order].cumsum(0)])
    count = torch.searchsorted(-reached, -score, right=True)
    return bool(((inside - outside[count] > slack) & (score > -torch.inf)).any())


def _masked_max(pairs: Pairs, score: Tensor, rows: bool) -> Tensor:
    """For each token, the largest score among its candidates on the other side."""
    spread = pairs.spread_rows(score) if rows else pairs.spread_cols(score)
    if isinstance(pairs, DensePairs):
        spread = spread.expand_as(pairs.cost)
    if pairs.finite is not None:
        spread = torch.where(pairs.finite, spread, -torch.inf)
    return pairs.max_cols(spread) if rows else pairs.max_rows(spread)


def _gate(active: Tensor, like: Tensor) -> Tensor:
    return torch.where(active, 0.0, -torch.inf).to(like.dtype)
