"""From potentials to plan, marginals and values: plain differentiable functions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .pairs import Pairs, SparsePairs, largest_exponent
from .problem import Problem, Side
from .products import in_full_precision


@dataclass(frozen=True, eq=False)
class Plan:
    """The plan at given potentials.

    Attributes:
        values: Plan on the pairs.
        rows: Row sums (..., n).
        cols: Column sums (..., m).
        mass: Sum (..., 1).
        reference_mass: Mass of the reference measure on the pairs (..., 1).
    """

    values: Tensor
    rows: Tensor
    cols: Tensor
    mass: Tensor
    reference_mass: Tensor


def make_plan(problem: Problem, f: Tensor, g: Tensor) -> Plan:
    """plan_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon), or without a_i b_j for the counting reference."""
    pairs = problem.pairs
    values = plan_values(problem, f, g)
    row_sums = pairs.sum_rows(values)
    return Plan(values, row_sums, pairs.sum_cols(values), row_sums.sum(-1, keepdim=True), _reference_mass(problem))


def plan_values(problem: Problem, f: Tensor, g: Tensor) -> Tensor:
    """The plan on the pairs, differentiable in everything it is made of."""
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    x, y = (_log_scaling(side, v, problem.epsilon) for side, v in ((rows, f), (cols, g)))
    values = _PlanValues.apply(pairs.cost, x, y, problem.epsilon, pairs)
    if not (rows.reference.requires_grad or cols.reference.requires_grad) or weights_are_positive(problem):
        return values
    # a plan is zero where a weight is, but its slope in that weight is not
    padding = pairs.spread_rows(rows.weight == 0) | pairs.spread_cols(cols.weight == 0)
    grain = torch.where(padding, _density(problem, f, g), 0.0)
    return values + grain * pairs.spread_rows(rows.reference) * pairs.spread_cols(cols.reference)


def _log_scaling(side: Side, potential: Tensor, epsilon: Tensor) -> Tensor:
    """Log reference + potential / epsilon, also of tokens without candidates; -inf of padding."""
    if side.whole:
        return side.log_reference + potential / epsilon
    finite = torch.where(potential.isfinite(), potential, 0.0)
    return torch.where(side.weight > 0, side.log_reference + finite / epsilon, -torch.inf)


def weights_are_positive(problem: Problem) -> bool:
    """Whether no token is padding."""
    if problem.rows.whole and problem.cols.whole:
        return True
    return bool((problem.rows.weight > 0).all()) and bool((problem.cols.weight > 0).all())


class _PlanValues(torch.autograd.Function):
    """exp(x_i + y_j - C_ij / epsilon) on the pairs; 0 where there is none. Saves one tensor beside the cost."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, x: Tensor, y: Tensor, epsilon: Tensor, pairs: Pairs) -> Tensor:
        pairs = pairs.with_cost(cost.detach())
        values = pairs.exponentials(x.detach(), y.detach(), -epsilon.detach())
        if pairs.finite is not None:
            values = torch.where(pairs.finite, values, 0.0)
        ctx.save_for_backward(cost, epsilon, values)
        ctx.pairs = pairs
        return values

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        cost, epsilon, values = ctx.saved_tensors
        pairs, needs = ctx.pairs, ctx.needs_input_grad
        bent = grads[0] * values
        x_bar = pairs.sum_rows(bent) if needs[1] else None
        y_bar = pairs.sum_cols(bent) if needs[2] else None
        epsilon_bar = None
        if needs[3]:
            finite_cost = cost if pairs.finite is None else torch.where(pairs.finite, cost, 0.0)
            epsilon_bar = pairs.sum_all(bent * finite_cost) / epsilon.square()
        if not needs[0]:
            return None, x_bar, y_bar, epsilon_bar, None
        scale = -pairs.scalar(epsilon)
        return bent / scale if torch.is_grad_enabled() else bent.div_(scale), x_bar, y_bar, epsilon_bar, None


def _density(problem: Problem, f: Tensor, g: Tensor) -> Tensor:
    """exp((f_i + g_j - C_ij) / epsilon) on the pairs, the plan over its reference; 0 where there is no pair."""
    pairs = problem.pairs
    mask = pairs.spread_rows(f.isfinite()) & pairs.spread_cols(g.isfinite())
    if pairs.finite is not None:
        mask = mask & pairs.finite
    f, g = (torch.where(v.isfinite(), v, 0.0) for v in (f, g))
    exponent = (pairs.spread_rows(f) + pairs.spread_cols(g) - problem.finite_cost) / pairs.scalar(problem.epsilon)
    # a pair without mass must not overflow: its density only shows what a first grain of weight would do
    mask = mask & (exponent.detach() < largest_exponent(f.dtype))
    return torch.where(mask, torch.where(mask, exponent, 0.0).exp(), 0.0)


def primal_value(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> Tensor:
    """<plan, C> + epsilon KL(plan | reference) + tau KL(plan 1 | a) + tau KL(plan^T 1 | b), Eq. (1), (...).

    The first two are <r, f> + <c, g> + epsilon (reference mass - mass), by the form of the plan.
    """
    value = problem.epsilon * (plan.reference_mass - plan.mass)
    for side, sums, potential in ((problem.rows, plan.rows, f), (problem.cols, plan.cols, g)):
        inside = side.inside(potential)
        value = value + (sums * inside).sum(-1, keepdim=True)
        if not problem.balanced:
            missed = _divergence(side, sums, side.log_weight)
            if not side.whole:
                missed = missed + torch.where(~side.active & (side.weight > 0), side.weight, 0.0)
            value = value + problem.tau * missed.sum(-1, keepdim=True)
        if not side.whole:
            first_grain = torch.where(side.weight > 0, 0.0, _own_slope(problem, side, potential))
            value = value + (first_grain * side.weight).sum(-1, keepdim=True)  # zero, but its gradient is not
    return value.squeeze(-1)


def dual_value(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> Tensor:
    """Tau <a, 1 - exp(-f / tau)> + tau <b, 1 - exp(-g / tau)> + epsilon (reference mass - mass), (...).

    Balanced: <a, f> + <b, g> + epsilon (reference mass - mass).
    """
    value = problem.epsilon * (plan.reference_mass - plan.mass)
    for side, potential in ((problem.rows, f), (problem.cols, g)):
        if problem.balanced:
            term = side.weight * side.inside(potential)
        else:
            missing = torch.expm1(-_with_mass(side, potential) / problem.tau)
            missed = side.weight * missing
            term = -problem.tau * (missed if side.whole else torch.where(side.weight > 0, missed, 0.0))
        value = value + term.sum(-1, keepdim=True)
    return value.squeeze(-1)


def duality_gap(problem: Problem, plan: Plan, f: Tensor, g: Tensor) -> Tensor:
    """The difference of the two without cancellation, (...).

    It is tau KL(r | a exp(-f / tau)) + tau KL(c | b exp(-g / tau)), so never negative.

    Balanced: <r - a, f> + <c - b, g>.
    """
    gap = torch.zeros_like(problem.epsilon)
    for side, sums, potential in ((problem.rows, plan.rows, f), (problem.cols, plan.cols, g)):
        inside = side.inside(potential)
        if problem.balanced:
            term = (sums - side.weight) * inside
        else:
            term = problem.tau * _divergence(side, sums, side.log_weight - inside / problem.tau)
        gap = gap + term.sum(-1, keepdim=True)
    return gap.squeeze(-1)


def envelope(problem: Problem, plan: Plan, f: Tensor, g: Tensor, value: Tensor) -> Tensor:
    """`value` with its gradient by the envelope theorem: the dual's at fixed potentials, no adjoint.

    That gradient is a function of the potentials, so its own gradients, the second ones, go through f and g.
    """
    return _Envelope.apply(*problem.tensors, f, g, plan.values.detach(), value.detach(), problem.detach())


class _Envelope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, value, problem = inputs
        ctx.save_for_backward(*tensors)
        ctx.problem = problem
        return value.clone()

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        *tensors, f, g, plan = ctx.saved_tensors
        problem, bar = ctx.problem.with_tensors(*tensors), grads[0].unsqueeze(-1)
        if torch.is_grad_enabled():  # the same plan, with a gradient
            plan = plan_values(problem, f, g)
        pairs, rows, cols = problem.pairs, problem.rows, problem.cols
        row_sums, col_sums = pairs.sum_rows(plan), pairs.sum_cols(plan)
        row_missing, col_missing = _missing(problem, f, g, row_sums, col_sums)
        a_slope, a_tau = _slopes(problem, rows, f, row_missing)
        b_slope, b_tau = _slopes(problem, cols, g, col_missing)
        moved = (row_sums * torch.where(f.isfinite(), f, 0.0)).sum(-1, keepdim=True)
        moved = moved + (col_sums * torch.where(g.isfinite(), g, 0.0)).sum(-1, keepdim=True)
        exponents = (moved - pairs.sum_all(plan * problem.finite_cost)) / problem.epsilon
        epsilon_slope = _reference_mass(problem) - row_sums.sum(-1, keepdim=True) + exponents
        slopes = (a_slope * bar, b_slope * bar, epsilon_slope * bar, (a_tau + b_tau) * bar)
        return (plan * pairs.scalar(bar), *slopes, None, None, None, None, None)


def _missing(problem: Problem, f: Tensor, g: Tensor, row_sums: Tensor, col_sums: Tensor) -> tuple[Tensor, Tensor]:
    """For each token, the other side's reference mass in reach, less what the density makes of it."""
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    exists = _existing(pairs)
    row_reach = pairs.sum_rows(exists * pairs.spread_cols(cols.reference))
    col_reach = pairs.sum_cols(exists * pairs.spread_rows(rows.reference))
    if weights_are_positive(problem):
        return row_reach - row_sums / rows.reference, col_reach - col_sums / cols.reference
    density = _density(problem, f, g)
    row_met = pairs.sum_rows(density * pairs.spread_cols(cols.reference))
    return row_reach - row_met, col_reach - pairs.sum_cols(density * pairs.spread_rows(rows.reference))


def _slopes(problem: Problem, side: Side, potential: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the dual in this side's weights (..., n) and, by this side, in tau (..., 1).

    `missing` is the other side's reference mass in reach, less what the density makes of it.
    """
    slope, tau_slope = _own_slope(problem, side, potential), torch.zeros_like(problem.tau)
    if not problem.balanced:
        exponent = _own_exponent(problem, potential)
        bent = -exponent * torch.exp(exponent)
        tau_slope = (side.weight * (slope / problem.tau - bent)).sum(-1, keepdim=True)
    if problem.reference == "product":
        slope = slope + problem.epsilon * missing
    return slope, tau_slope


def _own_slope(problem: Problem, side: Side, potential: Tensor) -> Tensor:
    """Slope of the dual in this side's weights at a fixed reference measure (..., n)."""
    if problem.balanced:
        return torch.where(potential.isfinite(), potential, 0.0)
    slope = -problem.tau * torch.expm1(_own_exponent(problem, potential))
    return torch.where(potential < torch.inf, slope, problem.tau)  # all of a token without candidates is missed


def _own_exponent(problem: Problem, potential: Tensor) -> Tensor:
    """-f / tau, bounded for padding; 0 where f is infinite."""
    finite = torch.where(potential.isfinite(), potential, 0.0)
    return (-finite / problem.tau).clamp(max=largest_exponent(potential.dtype))


def _with_mass(side: Side, potential: Tensor) -> Tensor:
    """The potential, +inf for a token with weight and no candidate; 0 for the -inf of a zero weight."""
    if side.whole:
        return potential
    outside = torch.where(side.weight > 0, torch.inf, torch.where(potential > -torch.inf, potential, 0.0))
    return torch.where(side.active, potential, outside)


def _divergence(side: Side, sums: Tensor, log_goal: Tensor) -> Tensor:
    """The terms s (q exp(q) - (exp(q) - 1)) of KL(r | s), q = log(r / s), of active tokens; s where r is 0."""
    goal, q = log_goal.exp(), sums.clamp(min=torch.finfo(sums.dtype).tiny).log() - log_goal
    terms = goal * (q * q.exp() - torch.expm1(q)).clamp(min=0)
    return side.inside(torch.where(goal > 0, terms, 0.0))


def _existing(pairs: Pairs) -> Tensor:
    """1 where a pair exists, else 0."""
    return torch.ones_like(pairs.cost) if pairs.finite is None else pairs.finite.to(pairs.cost.dtype)


def _reference_mass(problem: Problem) -> Tensor:
    pairs, rows, cols = problem.pairs, problem.rows, problem.cols
    if isinstance(pairs, SparsePairs) and pairs.finite is None and not cols.reference.requires_grad:
        low, high = cols.reference.aminmax()
        if bool(low == high):  # uniform weights: a count will do
            reach = pairs.as_rows(pairs.support.crow.diff() * low)
            return (reach * rows.reference).sum(-1, keepdim=True)
    spread = pairs.spread_cols(cols.reference)
    reach = pairs.sum_rows(spread if pairs.finite is None else spread * pairs.finite)
    return (reach * rows.reference).sum(-1, keepdim=True)
