"""How far a plan is from the solution: what Newton's step on the dual would move of it.

A sweep that changes little need not be near the solution: where tau is many times epsilon, or transport is balanced,
an error between weakly linked parts shrinks by next to nothing a sweep. Newton's step sees all such directions at
once. At the potentials f and g the slopes of the dual are what the marginals miss,

    s_i - r_i with s_i = a_i exp(-f_i / tau),    t_j - c_j with t_j = b_j exp(-g_j / tau)    (balanced: s = a, t = b),

and the step y solves [diag(p r + (1 - p) s), p P; p P^T, diag(p c + (1 - p) t)] y = p epsilon (s - r, t - c), with P
the plan and r, c its marginals. To first order the plan is off by P_ij (y_i + y_j) / epsilon; a constant moved
between f and g does not enter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .balanced import connected_parts, project_out
from .conjugate import conjugate_gradients
from .implicit import plan_maps
from .pairs import Pairs
from .plan import Plan, make_plan, plan_values
from .problem import Problem, Side

_TOL = 1e-3  # of the right-hand side
_MAX_ITER = 1000
_STEEP = 300.0  # of an exponent: what no plan survives
_WAY = 30.0  # pairs that mass passes on its way from part to part


@dataclass(frozen=True, eq=False)
class PlanError:
    """How far a plan is from the solution, in L1 over its mass.

    Attributes:
        distance: To first order, (...); infinite where it cannot be found.
        rounding: What rounding of potentials and costs in the problem's own type is worth, (...).
    """

    distance: Tensor
    rounding: Tensor


@torch.no_grad()
def plan_error(problem: Problem, f: Tensor, g: Tensor, enough: float = 0.0) -> PlanError:
    """The error of the plan that the problem's own type makes of f (..., n) and g (..., m); found in float64.

    Args:
        problem: As it is solved.
        f: Potentials of rows.
        g: Of columns.
        enough: A bound of the distance will do where it is at most this: it needs no pass over the pairs.
    """
    own, unit = (problem.detach(), f, g), torch.finfo(f.dtype).eps
    problem, f, g = problem.detach().double(), f.double(), g.double()
    pairs, plan = problem.pairs, make_plan(problem, f, g)
    *step, missed, unfinished = _newton_step(problem, plan, f, g)
    size = (plan.rows * problem.rows.inside(f).abs()).sum(-1) + (plan.cols * problem.cols.inside(g).abs()).sum(-1)
    size = size + pairs.sum_all((plan.values * problem.finite_cost).abs()).squeeze(-1)
    rounding = unit / 2 * size / (problem.epsilon * plan.mass).squeeze(-1)
    # where parts are linked by next to no mass, a step cannot mend what the marginals miss; it has to go that way
    way = _WAY * missed / plan.mass.squeeze(-1).sqrt()
    moved = _most_moved(plan, *step) + 4 * rounding + 8 * unit + way
    within = (moved <= enough) & ~unfinished
    if not bool(within.all()):  # a member does not feel what its neighbours need
        moved = torch.where(within, moved, _moved(plan.values, plan_values(*own), pairs, *step) + way)
    known = moved.isfinite() & ~unfinished
    distance = torch.where(problem.rows.active.any(-1), torch.where(known, moved, torch.inf), 0.0)
    return PlanError(distance, rounding)


def _newton_step(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The step y / epsilon, (..., n) and (..., m); what it leaves of the slopes, (...), and where it has no end."""
    p = problem.damping
    s, t = (goal(problem, side, v) for side, v in ((problem.rows, f), (problem.cols, g)))
    root_r, root_c = ((p * sums + (1 - p) * want).sqrt() for sums, want in ((plan.rows, s), (plan.cols, t)))
    inverse_r, inverse_c = (torch.where(root > 0, 1 / root, 0.0) for root in (root_r, root_c))
    along_rows, along_cols = plan_maps(plan.values, problem.pairs)

    def forward(v: Tensor) -> Tensor:
        return along_rows(v * inverse_c) * inverse_r

    def backward(u: Tensor) -> Tensor:
        return along_cols(u * inverse_r) * inverse_c

    row_slope, col_slope = (s - plan.rows) * inverse_r, (t - plan.cols) * inverse_c
    parts = connected_parts(problem) if problem.balanced else None

    def project(u: Tensor) -> Tensor:
        return u if parts is None else project_out(u, root_r, parts)

    right = project(row_slope - p * forward(col_slope))
    u, left, unfinished = conjugate_gradients(
        lambda u: u - p.square() * forward(backward(u)), right, project, _TOL, _MAX_ITER
    )
    v = col_slope - p * backward(u)
    missed = torch.where(left > 1.001 * _TOL, left * torch.linalg.vector_norm(right, dim=-1), 0.0)
    return p * u * inverse_r, p * v * inverse_c, missed, unfinished  # epsilon itself cancels


def _moved(values: Tensor, found: Tensor, pairs: Pairs, row_step: Tensor, col_step: Tensor) -> Tensor:
    """|P (1 + y_i + y_j) - found|_1 over the mass of `found`, the plan in the problem's own type, (...)."""
    step = pairs.spread_rows(row_step) + pairs.spread_cols(col_step)
    grown = torch.where(step > 0, step.clamp(max=_STEEP).exp(), 1 + step)  # a pair without mass may be to gain some
    return (pairs.sum_all((values * grown - found).abs()) / pairs.sum_all(found)).squeeze(-1)


def _most_moved(plan: Plan, row_step: Tensor, col_step: Tensor) -> Tensor:
    """A bound of |P (1 + y_i + y_j) - P|_1 over the mass of P, of the tokens' own sums alone, (...).

    exp(x) - 1 <= x exp(x), and what is moved between both sides does not enter.
    """
    mean = (plan.rows * row_step).sum(-1, keepdim=True) / plan.mass
    rows, cols = (row_step - mean).abs(), (col_step + mean).abs()
    most = (rows.amax(-1) + cols.amax(-1)).exp()
    return most * ((plan.rows * rows).sum(-1) + (plan.cols * cols).sum(-1)) / plan.mass.squeeze(-1)


def goal(problem: Problem, side: Side, potential: Tensor) -> Tensor:
    """What a marginal is at the solution, a exp(-f / tau) or balanced a, of tokens that take part; else 0."""
    weight = side.inside(side.weight)
    return weight if problem.balanced else weight * torch.exp(-side.inside(potential) / problem.tau)
