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
from .plan import make_plan, plan_values
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
def plan_error(problem: Problem, f: Tensor, g: Tensor) -> PlanError:
    """The error of the plan that the problem's own type makes of f (..., n) and g (..., m); found in float64."""
    found, unit = plan_values(problem.detach(), f, g), torch.finfo(f.dtype).eps
    problem, f, g = problem.detach().double(), f.double(), g.double()
    pairs, p = problem.pairs, problem.damping
    plan = make_plan(problem, f, g)
    s, t = (goal(problem, side, v) for side, v in ((problem.rows, f), (problem.cols, g)))
    root_r, root_c = ((p * sums + (1 - p) * want).sqrt() for sums, want in ((plan.rows, s), (plan.cols, t)))
    inverse_r, inverse_c = (torch.where(root > 0, 1 / root, 0.0) for root in (root_r, root_c))
    forward, backward = plan_maps(plan.values * pairs.spread_rows(inverse_r) * pairs.spread_cols(inverse_c), pairs)
    row_slope, col_slope = (s - plan.rows) * inverse_r, (t - plan.cols) * inverse_c
    parts = connected_parts(problem) if problem.balanced else None

    def project(u: Tensor) -> Tensor:
        return u if parts is None else project_out(u, root_r, parts)

    right = project(row_slope - p * forward(col_slope))
    u, left, unfinished = conjugate_gradients(
        lambda u: u - p.square() * forward(backward(u)), right, project, _TOL, _MAX_ITER
    )
    v = col_slope - p * backward(u)
    # y / epsilon = p (u, v) / root: epsilon itself cancels
    step = pairs.scalar(p) * (pairs.spread_rows(u * inverse_r) + pairs.spread_cols(v * inverse_c))
    grown = torch.where(step > 0, step.clamp(max=_STEEP).exp(), 1 + step)  # a pair without mass may be to gain some
    moved = (pairs.sum_all((plan.values * grown - found).abs()) / pairs.sum_all(found)).squeeze(-1)
    # where parts are linked by next to no mass, a step cannot mend what the marginals miss; it has to go that way
    missed = left * torch.linalg.vector_norm(right, dim=-1) / plan.mass.squeeze(-1).sqrt()
    moved = moved + torch.where(left > 1.001 * _TOL, _WAY * missed, 0.0)
    known = moved.isfinite() & ~unfinished
    size = (plan.rows * _inside(problem.rows, f).abs()).sum(-1) + (plan.cols * _inside(problem.cols, g).abs()).sum(-1)
    size = size + pairs.sum_all((plan.values * problem.finite_cost).abs()).squeeze(-1)
    return PlanError(
        torch.where(problem.rows.active.any(-1), torch.where(known, moved, torch.inf), 0.0),
        unit / 2 * size / (problem.epsilon * plan.mass).squeeze(-1),
    )


def goal(problem: Problem, side: Side, potential: Tensor) -> Tensor:
    """What a marginal is at the solution, a exp(-f / tau) or balanced a, of tokens that take part; else 0."""
    weight = torch.where(side.active, side.weight, 0.0)
    return weight if problem.balanced else weight * torch.exp(-_inside(side, potential) / problem.tau)


def _inside(side: Side, potential: Tensor) -> Tensor:
    return torch.where(side.active, potential, 0.0)
