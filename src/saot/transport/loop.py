"""The Sinkhorn loop: one for dense and sparse, balanced and unbalanced, either reference measure."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .accelerate import Accelerator
from .problem import Problem, Side
from .reductions import FirstGrainReduction, LogReduction, Reduction
from .updates import KernelUpdates, LogUpdates, State, Updates, has_fast_path


@dataclass(frozen=True, eq=False)
class Iterate:
    """Where the loop stopped: potentials in cost units, and per problem how it went.

    `f_change` is what one more row update would change, where transport is balanced (else zeros).
    """

    f: Tensor
    g: Tensor
    f_change: Tensor
    residual: Tensor
    iterations: Tensor
    non_finite: Tensor


def iterate(problem: Problem, max_iter: int, tol: float | int, differentiable: bool) -> Iterate:
    """Row and column updates from g = 0 until the residual is within tol, or max_iter of them.

    With a tol, and where no gradient runs through the loop, updates start from where `Accelerator` says. A
    member of a batch stops by itself; without gradients a batch of large problems is solved one by one.
    """
    fast = not differentiable and has_fast_path(problem.pairs) and problem.batch_shape.numel() > 0
    if fast and problem.batch_shape:
        flat = problem.flatten()
        return stack([iterate(flat.member(i), max_iter, tol, False) for i in range(flat.batch_shape[0])], problem)
    updates = KernelUpdates(problem) if fast else LogUpdates(problem, _reduction(problem))
    slow = tol > 0 and not differentiable and Accelerator.is_worth_it(problem)
    accelerator = Accelerator(problem) if slow else None
    end = _loop(problem, updates, max_iter, tol, accelerator)
    return _finish(problem, end, updates.log if isinstance(updates, KernelUpdates) else updates)


def stack(members: list[Iterate], problem: Problem) -> Iterate:
    """The members of a flattened dense batch as one."""
    stacked = {name: torch.stack([getattr(one, name) for one in members]) for name in Iterate.__annotations__}
    return Iterate(**{name: t.unflatten(0, problem.batch_shape) for name, t in stacked.items()})


def _reduction(problem: Problem) -> Reduction:
    log = LogReduction(problem.pairs, problem.log_kernel())
    a, b = problem.rows.weight, problem.cols.weight
    zero = (a.requires_grad and bool((a == 0).any())) or (b.requires_grad and bool((b == 0).any()))
    if zero and problem.reference == "product":
        return FirstGrainReduction(log, a, b, problem.damping)
    return log


def _loop(problem: Problem, updates: Updates, max_iter: int, tol: float | int, pick: Accelerator | None) -> Iterate:
    shape, device = problem.batch_shape, problem.epsilon.device
    f, g = torch.zeros_like(problem.rows.weight), torch.zeros_like(problem.cols.weight)
    done = torch.zeros(shape, dtype=torch.bool, device=device)
    bad = torch.zeros_like(done)
    residual = torch.zeros(shape, dtype=f.dtype, device=device)
    iterations = torch.zeros(shape, dtype=torch.int64, device=device)
    y = State(g)
    x, start = State(f), g
    for step in range(1, max_iter + 1):
        x_old, y_old, x = x, y, updates.rows(y)
        y = updates.cols(x)
        if tol == 0 and step < max_iter:
            iterations = iterations + 1
            continue
        if tol == 0:
            start = updates.g(y_old)
            f, g = _finite_member(updates.f(x_old)), _finite_member(start)
        f_new, g_new = updates.f(x), updates.g(y)
        with torch.no_grad():
            f_change = f_new - f if pick is None else torch.where(pick.continues.unsqueeze(-1), f_new - f, 0.0)
            now = _residual(problem, f_change, g_new - start, f_new, g_new)
            finite = now.isfinite()
        frozen = done | ~finite
        f, g = _keep(frozen, f, f_new), _keep(frozen, g, g_new)
        residual, iterations = torch.where(done, residual, now), torch.where(done, iterations, iterations + 1)
        bad = bad | (~done & ~finite)
        done = frozen | (now <= tol)
        if bool(done.all()):
            break
        start = g if pick is None else pick.next(start, f, g)
        y = y if pick is None and not bool(frozen.any()) else State(start)
    return Iterate(f, g, torch.zeros_like(f), residual, iterations, bad)


def _finite_member(potential: Tensor) -> Tensor:
    """The potentials of each member, or zeros where one has left the range unseen: tol = 0 looks at the end alone."""
    return torch.where(potential.isfinite().all(-1, keepdim=True), potential, 0.0)


def _keep(frozen: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(frozen.unsqueeze(-1), old, new)


def _residual(problem: Problem, f_change: Tensor, g_change: Tensor, f: Tensor, g: Tensor) -> Tensor:
    """Largest change of a potential over (epsilon + the largest potential), of tokens that take part.

    Balanced: the L1 error that the columns had before their update, which no update raises.
    """
    rows, cols, epsilon = problem.rows, problem.cols, problem.epsilon
    g_change = torch.where(cols.active, g_change, 0.0)
    if problem.balanced:
        error = torch.where(cols.active, cols.weight * torch.expm1(-g_change / epsilon).abs(), cols.weight)
        return error.sum(-1) + torch.where(rows.active, 0.0, rows.weight).sum(-1)
    f_change = torch.where(rows.active, f_change, 0.0)
    change = torch.maximum(f_change.abs().amax(-1), g_change.abs().amax(-1))
    f_size, g_size = torch.where(rows.active, f, 0.0), torch.where(cols.active, g, 0.0)
    return change / (epsilon.squeeze(-1) + torch.maximum(f_size.abs().amax(-1), g_size.abs().amax(-1)))


def _finish(problem: Problem, end: Iterate, log: LogUpdates) -> Iterate:
    """What the loop left open: the balanced residual, and tokens that take no part."""
    rows, cols = problem.rows, problem.cols
    if problem.balanced:
        with torch.no_grad():
            end = _balanced_end(problem, end, log)
    if bool(rows.active.all()) and bool(cols.active.all()):
        return end
    f = _outside(rows, log.reduction.rows(cols.scale(end.g, problem.epsilon)), end.f, problem)
    g = _outside(cols, log.reduction.cols(rows.scale(end.f, problem.epsilon)), end.g, problem)
    return replace(end, f=f, g=g)


def _balanced_end(problem: Problem, end: Iterate, log: LogUpdates) -> Iterate:
    """With the L1 error of the marginals after the last column update, and the change of f to come."""
    rows, cols = problem.rows, problem.cols
    change = torch.where(rows.active, log.f(log.rows(State(end.g))) - end.f, 0.0)
    row_error = torch.where(rows.active, rows.weight * torch.expm1(-change / problem.epsilon).abs(), rows.weight)
    col_error = torch.where(cols.active, 0.0, cols.weight)
    now = row_error.sum(-1) + col_error.sum(-1)
    return replace(end, f_change=change, residual=torch.where(now.isfinite(), now, end.residual))


def _outside(side: Side, lse: Tensor, potential: Tensor, problem: Problem) -> Tensor:
    """Potentials of tokens that take no part: what an update gives them, +inf without candidates."""
    candidate = lse > -torch.inf
    value = -problem.damping * problem.epsilon * torch.where(candidate, lse, 0.0)
    if problem.reference == "counting":  # a zero weight pulls its potential down without bound
        value = torch.where(side.weight > 0, value, -torch.inf)
    return torch.where(side.active, potential, torch.where(candidate, value, torch.inf))
