"""The Sinkhorn loop: one for dense and sparse, balanced and unbalanced, either reference measure."""

from dataclasses import replace

import torch
from torch import Tensor

from .accelerate import Accelerator, Plain
from .gpu_updates import TritonUpdates, has_fused_updates
from .pairs import DensePairs
from .problem import Problem, Side, SolveSettings
from .progress import Progress, stack
from .residual import Residual
from .start import Start
from .updates import KernelUpdates, LogUpdates, State, has_fast_path

Updates = LogUpdates | KernelUpdates | TritonUpdates


def iterate(problem: Problem, settings: SolveSettings, start: Start | None = None) -> Progress:
    """Row and column updates from `start`, or g = 0, until the residual is within tol, or max_iter of them.

    With a tol, and where no gradient runs through the loop, updates start from where `Accelerator` says. A
    member of a batch stops by itself; without gradients a batch of large problems is solved one by one.
    """
    differentiable = settings.gradient == "unrolled" and torch.is_grad_enabled()
    fast = not differentiable and has_fast_path(problem.pairs) and problem.batch_shape.numel() > 0
    if fast and problem.batch_shape and isinstance(problem.pairs, DensePairs):
        flat, starts = problem.flatten(), None if start is None else start.flatten()
        ends = [
            iterate(flat.member(i), settings, None if starts is None else starts.member(i))
            for i in range(flat.batch_shape[0])
        ]
        return stack(ends, problem.batch_shape)
    warm = start is not None
    if start is None:
        start = Start(torch.zeros_like(problem.rows.weight), torch.zeros_like(problem.cols.weight))
    if fast:
        updates = KernelUpdates(problem, State(start.f) if warm else None)
    elif not differentiable and has_fused_updates(problem.pairs):
        updates = TritonUpdates(problem)
    else:
        updates = LogUpdates(problem)
    slow = settings.tol > 0 and not differentiable and Accelerator.is_worth_it(problem)
    residual = Residual(problem, settings)
    starts = Accelerator(problem, warm) if slow else Plain()
    end = sinkhorn(updates, settings, starts, residual, start)
    return _finish(problem, end, residual, updates)


def sinkhorn(
    updates: Updates,
    settings: SolveSettings,
    starts: Accelerator | Plain,
    residual: Residual,
    first: Start,
) -> Progress:
    """The iterations of Eq. (8), with p = tau / (tau + epsilon) and a reference measure r_i r_j. A sweep is

        f_i <- p epsilon (log(a_i / r_i) - LSE_j(log r_j + (g_j - C_ij) / epsilon)),
        g_j <- p epsilon (log(b_j / r_j) - LSE_i(log r_i + (f_i - C_ij) / epsilon)).

    r = 1 ("counting") is Eq. (8) as printed, with u = f / epsilon and v = g / epsilon. For Eq. (1) r_i = a_i and
    r_j = b_j ("product"): then u = log a + f / epsilon, and log a is not damped. `x` and `y` are f and g in the form
    that the updates work on.
    """
    x, y = State(first.f), State(first.g)
    unchecked = settings.max_iter - 1 if settings.tol == 0 else 0  # with tol = 0 the last iteration alone is looked at
    if unchecked > 0:
        x, y = updates.sweeps(y, unchecked)
    start = updates.g(y)
    now = Progress.at(updates.f(x), start, unchecked)
    for sweep in range(unchecked, settings.max_iter):
        x, y = updates.sweeps(y, 1)  # Eq. (8), as above
        f, g = updates.f(x), updates.g(y)
        error = residual.after(sweep + 1, start, f, g)
        now = now.after(f, g, error, settings.tol, residual.stuck)  # members that have ended are frozen
        if bool(now.ended.all()):
            break
        start, y = starts.next(start, y, now)  # from where it is, or accelerated
    return now


def _finish(problem: Problem, end: Progress, residual: Residual, updates: Updates) -> Progress:
    """What the loop left open: the balanced residual, and tokens that take no part."""
    rows, cols = problem.rows, problem.cols
    if problem.balanced:
        with torch.no_grad():
            end = _balanced_end(problem, end, residual, updates.log)
    if rows.whole and cols.whole:
        return end
    log = updates.log
    f = _outside(rows, log.lse_rows(end.g), end.f, problem)
    g = _outside(cols, log.lse_cols(end.f), end.g, problem)
    return replace(end, f=f, g=g)


def _balanced_end(problem: Problem, end: Progress, residual: Residual, log: LogUpdates) -> Progress:
    """With the error of the marginals after the last column update, and the change of f to come."""
    rows = problem.rows
    change = rows.inside(log.f(log.rows(State(end.g))) - end.f)
    return replace(end, f_change=change, residual=residual.at_the_end(change, end.residual))


def _outside(side: Side, lse: Tensor, potential: Tensor, problem: Problem) -> Tensor:
    """Potentials of tokens that take no part: what an update gives them, +inf without candidates."""
    candidate = lse > -torch.inf
    value = -problem.damping * problem.epsilon * torch.where(candidate, lse, 0.0)
    if problem.reference == "counting":  # a zero weight pulls its potential down without bound
        value = torch.where(side.weight > 0, value, -torch.inf)
    return torch.where(side.active, potential, torch.where(candidate, value, torch.inf))
