"""From potentials to plan, marginals and values: plain differentiable functions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .pairs import Pairs
from .problem import Problem, Side


@dataclass(frozen=True, eq=False)
class Plan:
    """The plan at given potentials.

    Attributes:
        values: Plan on the pairs.
        density: Plan over reference, exp((f_i + g_j - C_ij) / epsilon); 0 where there is no pair.
        rows: Row sums (..., n).
        cols: Column sums (..., m).
        mass: Sum (..., 1).
        reference_mass: Mass of the reference measure on the pairs (..., 1).
    """

    values: Tensor
    density: Tensor
    rows: Tensor
    cols: Tensor
    mass: Tensor
    reference_mass: Tensor


def make_plan(problem: Problem, f: Tensor, g: Tensor) -> Plan:
    """plan_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon), or without a_i b_j for the counting reference."""
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    mask = _pair_mask(problem, f, g)
    f, g = (torch.where(v.isfinite(), v, 0.0) for v in (f, g))
    cost = pairs.cost if pairs.finite is None else torch.where(pairs.finite, pairs.cost, 0.0)
    exponent = (pairs.spread_rows(f) + pairs.spread_cols(g) - cost) / pairs.scalar(problem.epsilon)
    density = exponent.exp()
    if mask is not None:
        # a pair without mass must not overflow: its density only shows what a first grain of weight would do
        mask = mask & (exponent.detach() < torch.finfo(f.dtype).max ** 0.5)
        density = torch.where(mask, torch.where(mask, exponent, 0.0).exp(), 0.0)
    values = density * pairs.spread_rows(rows.reference) * pairs.spread_cols(cols.reference)
    row_sums = pairs.sum_rows(values)
    return Plan(
        values,
        density,
        row_sums,
        pairs.sum_cols(values),
        row_sums.sum(-1, keepdim=True),
        _reference_mass(problem),
    )


def primal_value(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> Tensor:
    """<plan, C> + epsilon KL(plan | reference) + tau KL(plan 1 | a) + tau KL(plan^T 1 | b), Eq. (1), (...).

    The first two are <r, f> + <c, g> + epsilon (reference mass - mass), by the form of the plan.
    """
    value = problem.epsilon * (plan.reference_mass - plan.mass)
    for side, sums, potential in ((problem.rows, plan.rows, f), (problem.cols, plan.cols, g)):
        inside = torch.where(side.active, potential, 0.0)
        value = value + (sums * inside).sum(-1, keepdim=True)
        if not problem.balanced:
            value = value + problem.tau * _divergence(side, sums).sum(-1, keepdim=True)
        first_grain = torch.where(side.weight > 0, 0.0, _own_slope(problem, side, potential.detach()))
        value = value + (first_grain * side.weight).sum(-1, keepdim=True)  # zero, but its gradient is not
    return value.squeeze(-1)


def dual_value(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> Tensor:
    """Tau <a, 1 - exp(-f / tau)> + tau <b, 1 - exp(-g / tau)> + epsilon (reference mass - mass), (...).

    Balanced: <a, f> + <b, g> + epsilon (reference mass - mass).
    """
    value = problem.epsilon * (plan.reference_mass - plan.mass)
    for side, potential in ((problem.rows, f), (problem.cols, g)):
        if problem.balanced:
            term = side.weight * torch.where(side.active, potential, 0.0)
        else:
            term = -problem.tau * side.weight * torch.expm1(-_with_mass(side, potential) / problem.tau)
        value = value + term.sum(-1, keepdim=True)
    return value.squeeze(-1)


def duality_gap(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> Tensor:
    """The difference of the two without cancellation, (...).

    It is tau KL(r | a exp(-f / tau)) + tau KL(c | b exp(-g / tau)), so never negative.

    Balanced: <r - a, f> + <c - b, g>.
    """
    gap = torch.zeros_like(problem.epsilon)
    for side, sums, potential in ((problem.rows, plan.rows, f), (problem.cols, plan.cols, g)):
        inside = torch.where(side.active, potential, 0.0)
        if problem.balanced:
            term = (sums - side.weight) * inside
        else:
            goal = torch.where(side.active, side.weight * torch.exp(-inside / problem.tau), 0.0)
            carried = side.active & (sums > 0) & (goal > 0)
            log = torch.where(carried, sums, 1.0).log() - torch.where(carried, goal, 1.0).log()
            # KL(r | s) = s (q exp(q) - (exp(q) - 1)) with q = log(r / s)
            kl = torch.where(carried, goal * (log * log.exp() - torch.expm1(log)).clamp(min=0), goal)
            term = problem.tau * kl
        gap = gap + term.sum(-1, keepdim=True)
    return gap.squeeze(-1)


def envelope(problem: Problem, plan: Plan, f: Tensor, g: Tensor, value: Tensor) -> Tensor:
    """`value` with its gradient by the envelope theorem: the dual's at fixed potentials, no adjoint."""
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    cost = pairs.cost if pairs.finite is None else torch.where(pairs.finite, pairs.cost, 0.0)
    with torch.no_grad():
        row_mass = pairs.sum_rows((_existing(pairs) - plan.density) * pairs.spread_cols(cols.reference))
        col_mass = pairs.sum_cols((_existing(pairs) - plan.density) * pairs.spread_rows(rows.reference))
        a_slope, a_tau = _slopes(problem, rows, f, row_mass)
        b_slope, b_tau = _slopes(problem, cols, g, col_mass)
        moved = (plan.rows * torch.where(rows.active, f, 0.0)).sum(-1, keepdim=True)
        moved = moved + (plan.cols * torch.where(cols.active, g, 0.0)).sum(-1, keepdim=True)
        exponents = (moved - pairs.sum_all(plan.values * cost)) / problem.epsilon
        epsilon_slope = plan.reference_mass - plan.mass + exponents
        plan_values = plan.values.detach()
    linear = pairs.sum_all(plan_values * cost) + epsilon_slope * problem.epsilon + (a_tau + b_tau) * problem.tau
    linear = linear + (a_slope * rows.weight).sum(-1, keepdim=True) + (b_slope * cols.weight).sum(-1, keepdim=True)
    return value.detach() + (linear - linear.detach()).squeeze(-1)


def _slopes(problem: Problem, side: Side, potential: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the dual in this side's weights (..., n) and, by this side, in tau (..., 1).

    `missing` is the other side's reference mass in reach, less what the density makes of it.
    """
    slope, tau_slope = _own_slope(problem, side, potential), torch.zeros_like(problem.tau)
    if not problem.balanced:
        exponent = _with_mass(side, potential) / problem.tau
        bent = torch.where(side.active, exponent * torch.exp(-exponent), 0.0)
        tau_slope = (side.weight * (slope / problem.tau - bent)).sum(-1, keepdim=True)
    if problem.reference == "product":
        slope = slope + problem.epsilon * missing
    return slope, tau_slope


def _own_slope(problem: Problem, side: Side, potential: Tensor) -> Tensor:
    """Slope of the dual in this side's weights at a fixed reference measure (..., n)."""
    if problem.balanced:
        return torch.where(potential.isfinite(), potential, 0.0)
    return -problem.tau.detach() * torch.expm1(-_with_mass(side, potential) / problem.tau.detach())


def _with_mass(side: Side, potential: Tensor) -> Tensor:
    """The potential, +inf for a token with weight and no candidate; 0 for the -inf of a zero weight."""
    outside = torch.where(side.weight > 0, torch.inf, torch.where(potential > -torch.inf, potential, 0.0))
    return torch.where(side.active, potential, outside)


def _divergence(side: Side, sums: Tensor) -> Tensor:
    """The terms r log(r / a) - r + a of KL(r | a)."""
    carried = side.active & (sums > 0)
    r, a = torch.where(carried, sums, 1.0), torch.where(carried, side.weight, 1.0)
    return torch.where(carried, r * (r.log() - a.log()) - r, 0.0) + torch.where(side.weight > 0, side.weight, 0.0)


def _existing(pairs: Pairs) -> Tensor:
    """1 where a pair exists, else 0."""
    return torch.ones_like(pairs.cost) if pairs.finite is None else pairs.finite.to(pairs.cost.dtype)


def _reference_mass(problem: Problem) -> Tensor:
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    spread = pairs.spread_cols(cols.reference)
    reach = pairs.sum_rows(spread if pairs.finite is None else spread * pairs.finite)
    return (reach * rows.reference).sum(-1, keepdim=True)


def _pair_mask(problem: Problem, f: Tensor, g: Tensor) -> Tensor | None:
    """Pairs with a finite cost and finite potentials; None where all are."""
    pairs = problem.pairs
    if pairs.finite is None and bool(f.isfinite().all()) and bool(g.isfinite().all()):
        return None if bool(problem.rows.active.all() & problem.cols.active.all()) else _existing(pairs) > 0
    mask = pairs.spread_rows(f.isfinite()) & pairs.spread_cols(g.isfinite())
    return mask if pairs.finite is None else mask & pairs.finite
