"""The Sinkhorn loop: one for dense and sparse, balanced and unbalanced, either reference measure."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import Problem, Side
from .reductions import FirstGrainReduction, KernelReduction, LogReduction, Reduction, has_fast_path


@dataclass(frozen=True, eq=False)
class Iterate:
    """Where the loop stopped: potentials in cost units, and per problem how it went."""

    f: Tensor
    g: Tensor
    f_change: Tensor
    residual: Tensor
    iterations: Tensor
    non_finite: Tensor


def iterate(problem: Problem, max_iter: int, tol: float | int, differentiable: bool) -> Iterate:
    """Row and column updates from g = 0 until the residual is within tol, or max_iter of them.

    A member of a batch stops by itself; without gradients a batch of large problems is solved one by one.
    """
    if differentiable or not has_fast_path(problem.pairs):
        plain = _plain_reduction(problem)
        return _finish(problem, _loop(problem, plain, max_iter, tol), plain)
    if not problem.batch_shape:
        log = LogReduction(problem.pairs, problem.log_kernel())
        fast = KernelReduction(log, problem.rows.active, problem.cols.active)
        return _finish(problem, _loop(problem, fast, max_iter, tol), log)
    flat = problem.flatten()
    members = [iterate(flat.member(i), max_iter, tol, False) for i in range(flat.batch_shape[0])]
    stacked = {name: torch.stack([getattr(one, name) for one in members]) for name in Iterate.__annotations__}
    return Iterate(**{name: t.unflatten(0, problem.batch_shape) for name, t in stacked.items()})


def _plain_reduction(problem: Problem) -> Reduction:
    log = LogReduction(problem.pairs, problem.log_kernel())
    a, b = problem.rows.weight, problem.cols.weight
    zero = (a.requires_grad and bool((a == 0).any())) or (b.requires_grad and bool((b == 0).any()))
    if zero and problem.reference == "product":
        return FirstGrainReduction(log, a, b, problem.damping)
    return log


def _update(side: Side, lse: Tensor, strength: Tensor) -> Tensor:
    """KL-relaxed marginal, f = p epsilon (log(a / reference) - LSE): Eq. (8) for the counting reference.

    For the product reference, which Eq. (1) asks for, log(a / reference) is zero: log a is not damped.
    """
    return strength * (side.log_ratio - torch.where(side.active, lse, 0.0))


def _loop(problem: Problem, reduction: Reduction, max_iter: int, tol: float | int) -> Iterate:
    rows, cols, epsilon = problem.rows, problem.cols, problem.epsilon
    strength = problem.damping * epsilon
    f, g = torch.zeros_like(rows.weight), torch.zeros_like(cols.weight)
    f_change = torch.zeros_like(f)
    shape, device = problem.batch_shape, f.device
    done = torch.zeros(shape, dtype=torch.bool, device=device)
    bad = torch.zeros_like(done)
    residual = torch.zeros(shape, dtype=f.dtype, device=device)
    iterations = torch.zeros(shape, dtype=torch.int64, device=device)
    y, lse = cols.scale(g, epsilon), None
    for step in range(1, max_iter + 1):
        lse = reduction.rows(y) if lse is None else lse
        f_new = _update(rows, lse, strength)
        g_new = _update(cols, reduction.cols(rows.scale(f_new, epsilon)), strength)
        y, lse = cols.scale(g_new, epsilon), None
        last = step == max_iter
        if tol == 0 and not last:
            f, g, iterations = f_new, g_new, iterations + 1
            continue
        with torch.no_grad():
            change = torch.where(rows.active, f_new - f, 0.0)
            now = _potential_residual(problem, change, g_new - g, f_new, g_new)
            finite = now.isfinite()
        if problem.balanced:
            lse = reduction.rows(y)
            now = torch.where(finite, _marginal_residual(problem, f_new, lse), now)
        frozen = done | ~finite
        f, g = _keep(frozen, f, f_new), _keep(frozen, g, g_new)
        f_change = _keep(frozen, f_change, change)
        residual, iterations = torch.where(done, residual, now), torch.where(done, iterations, iterations + 1)
        bad = bad | (~done & ~finite)
        done = frozen | (now <= tol)
        if bool(done.all()):
            break
    return Iterate(f, g, f_change, residual, iterations, bad)


def _keep(frozen: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(frozen.unsqueeze(-1), old, new)


def _potential_residual(problem: Problem, f_change: Tensor, g_change: Tensor, f_new: Tensor, g_new: Tensor) -> Tensor:
    """Largest change of a potential over (epsilon + the largest potential), of tokens that take part."""
    rows, cols = problem.rows.active, problem.cols.active
    g_change = torch.where(cols, g_change, 0.0)
    change = torch.maximum(f_change.abs().amax(-1), g_change.abs().amax(-1))
    f_size, g_size = torch.where(rows, f_new, 0.0), torch.where(cols, g_new, 0.0)
    return change / (problem.epsilon.squeeze(-1) + torch.maximum(f_size.abs().amax(-1), g_size.abs().amax(-1)))


def _marginal_residual(problem: Problem, f: Tensor, lse: Tensor) -> Tensor:
    """L1 error of the marginals after a column update: in the rows and in tokens without candidates."""
    with torch.no_grad():
        rows, cols = problem.rows, problem.cols
        sums = (rows.scale(f, problem.epsilon) + lse).exp()
        row_error = torch.where(rows.active, (sums - rows.weight).abs(), rows.weight)
        col_error = torch.where(cols.active, 0.0, cols.weight)
        return row_error.sum(-1) + col_error.sum(-1)


def _finish(problem: Problem, iterate: Iterate, reduction: Reduction) -> Iterate:
    """Potentials of the tokens that take no part: what an update gives them, +inf without candidates."""
    rows, cols, epsilon = problem.rows, problem.cols, problem.epsilon
    if bool(rows.active.all()) and bool(cols.active.all()):
        return iterate
    f = _outside(rows, reduction.rows(cols.scale(iterate.g, epsilon)), iterate.f, problem)
    g = _outside(cols, reduction.cols(rows.scale(iterate.f, epsilon)), iterate.g, problem)
    return Iterate(f, g, iterate.f_change, iterate.residual, iterate.iterations, iterate.non_finite)


def _outside(side: Side, lse: Tensor, potential: Tensor, problem: Problem) -> Tensor:
    candidate = lse > -torch.inf
    value = -problem.damping * problem.epsilon * torch.where(candidate, lse, 0.0)
    if problem.reference == "counting":  # a zero weight pulls its potential down without bound
        value = torch.where(side.weight > 0, value, -torch.inf)
    return torch.where(side.active, potential, torch.where(candidate, value, torch.inf))
