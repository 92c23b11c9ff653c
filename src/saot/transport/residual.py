"""When to stop. The residual: a hundredth of how far the plan may be from the solution, in L1 over the plan's mass.

The row update fits the rows, so after it the columns alone miss their goal t_j = b_j exp(-g_j / tau), by q_j =
log(c_j / t_j) = (g_j - g'_j) / (p epsilon), with g' what the column update makes of g. The gap between primal and
dual is then tau sum_j t_j phi(q_j), phi(q) = q exp(q) - exp(q) + 1. It bounds epsilon KL(solution | plan), before
the column update and so after it; and by Pinsker's inequality

    |plan - solution|_1 / mass <= sqrt(2 tau / epsilon sum_j t_j phi(q_j) / mass).

Where tau is many times epsilon that is far too cautious, and in balanced transport there is no such bound. There
`plan_error`, Newton's step, has the last word. It costs some sweeps, so it is taken where the marginals are within
what the plan may miss, and then at growing intervals. Where it stays too long and rounding is of its size, the type
has no better plan.
"""

import math

import torch
from torch import Tensor

from .newton import goal, plan_error
from .problem import Problem, SolveSettings

SHARE = 100.0  # the residual is the plan's error over this: 1e-5 stands for 1e-3
_LOOSE = 0.8  # p^2 from which the bound is too cautious
_WAIT = 5  # sweeps at least between two Newton steps
_LARGEST = 1e30  # residual: a large one is not out of range
_STALLED = 200  # sweeps of which none brings the marginals a tenth nearer
_PATIENCE = 3  # Newton steps of which none halves the error


class Residual:
    """The residual after each sweep; every member of a batch by itself."""

    def __init__(self, problem: Problem, settings: SolveSettings) -> None:
        self.problem, self.tol, self.last = problem.detach(), float(settings.tol), settings.max_iter
        damping = self.problem.damping.squeeze(-1)
        self._asks = (damping.square() > _LOOSE) & (settings.tol > 0)  # members that have a Newton step taken
        self._any_asks = bool(self._asks.any())
        self._caution = (self.problem.tau / self.problem.epsilon).sqrt().squeeze(-1) / SHARE
        self._error = torch.full_like(damping, torch.inf)  # of the last Newton step, over SHARE
        self._due = torch.full_like(damping, torch.inf)  # the sweep at which the next is taken
        self._least, self._idle = self._error, torch.zeros_like(damping)  # the least, and how many have passed since
        self._nearest, self._waited = self._error, torch.zeros_like(damping)  # the same of what the marginals miss
        self._hopeless = torch.zeros_like(damping, dtype=torch.bool)  # where rounding is all that is left
        self.stuck = self._hopeless  # (...), where no more sweeps will help

    @torch.no_grad()
    def after(self, sweep: int, start: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """The residual (...) after sweep number `sweep`, from g = `start` (..., m) to f (..., n) and g (..., m)."""
        missed = missed_by_columns(self.problem, start, g)
        found = missed if self.problem.balanced else (missed + self._rounding(g)) * self._caution
        found = found.clamp(max=_LARGEST)
        still = (missed == 0) & (self.tol > 0)  # and so it will be after every further sweep
        self.stuck = still & (found > self.tol)
        if not self._any_asks:
            return found
        near = found <= self.tol if self.problem.balanced else (missed <= 2 * SHARE * self.tol) & (found > self.tol)
        self._error = torch.where(near, self._error, torch.inf)
        self._ask(sweep, near & self._asks, still, f, g)
        if self.problem.balanced:
            self._watch(missed, self._rounding(f, g))
            found = torch.where(near, torch.maximum(found, self._error.clamp(max=1.0)), found)
        else:
            found = torch.where(self._asks, torch.minimum(found, self._error), found)
        self.stuck = (still | self._hopeless) & (found > self.tol)
        return found

    def _watch(self, missed: Tensor, rounding: Tensor) -> None:
        """Give a balanced member up whose marginals have long come no nearer, where rounding may be why."""
        nearer = missed < 0.9 * self._nearest
        self._nearest = torch.where(nearer, missed, self._nearest)
        self._waited = torch.where(nearer, 0, self._waited + 1)
        self._hopeless = self._hopeless | ((self._waited > _STALLED) & (missed < rounding))

    def _rounding(self, *potentials: Tensor) -> Tensor:
        """What rounding of the potentials, f and g or g alone, may hide of q, (...)."""
        sides = self.problem.rows, self.problem.cols
        parts = zip(sides[-len(potentials) :], potentials, strict=True)
        size = torch.stack([side.inside(v).abs().amax(-1) for side, v in parts]).amax(0)
        return torch.finfo(size.dtype).eps * size / (self.problem.damping * self.problem.epsilon).squeeze(-1)

    @torch.no_grad()
    def at_the_end(self, f_change: Tensor, last: Tensor) -> Tensor:
        """The residual (...) of a balanced plan whose rows another update would still change by `f_change` (..., n).

        That of the last sweep looked at what the columns missed before their update; it stays where it was too much.
        """
        rows = self.problem.rows
        missed = goal(self.problem, rows, f_change) * torch.expm1(-f_change / self.problem.epsilon).abs()
        now = (missed.sum(-1) + outside(self.problem)) / _positive(rows.weight.sum(-1))
        now = torch.where(now.isfinite(), now, last)
        settled = torch.maximum(torch.minimum(now, last), torch.where(self._error.isfinite(), self._error, 0.0))
        return torch.where(last <= self.tol, settled, torch.where(now > self.tol, now, last))

    def _ask(self, sweep: int, near: Tensor, now: Tensor, f: Tensor, g: Tensor) -> None:
        """Take Newton's step for the members that are near, and due; `now` at once."""
        wait = max(_WAIT, sweep // 4)
        first = sweep if self.problem.balanced else sweep + wait  # balanced, nothing else can end it
        self._due = torch.where(near, self._due.clamp(max=first), self._due)
        due = near & ((self._due <= sweep) | (sweep == self.last) | now)
        if bool(due.any()):
            error = plan_error(self.problem, f, g, SHARE * self.tol)
            distance, rounding = (e.to(self._error.dtype) / SHARE for e in (error.distance, error.rounding))
            self._error = torch.where(due, distance, self._error)
            self._due = torch.where(due, sweep + wait, self._due)
            less = distance < 0.5 * self._least
            self._least = torch.where(due & less, distance, self._least)
            self._idle = torch.where(due, torch.where(less, 0, self._idle + 1), self._idle)
            self._hopeless = self._hopeless | (due & (self._idle >= _PATIENCE) & (rounding > 0.1 * self.tol))


def missed_by_columns(problem: Problem, start: Tensor, g: Tensor) -> Tensor:
    """What the columns missed before their update from `start` to g (..., m), (...).

    Balanced: in L1, with what no update mends, over the mass of a. Else sqrt(2 sum_j t_j phi(q_j) / mass).
    """
    cols, want = problem.cols, goal(problem, problem.cols, start)
    q = cols.inside((start - g) / (problem.damping * problem.epsilon))
    if problem.balanced:
        return ((want * torch.expm1(q).abs()).sum(-1) + outside(problem)) / _positive(problem.rows.weight.sum(-1))
    mass = goal(problem, cols, g).sum(-1)
    bent = q.clamp(max=math.log(torch.finfo(q.dtype).max) / 2)
    phi = torch.where(bent.abs() < 1e-3, q * q * (0.5 + q / 3 + q * q / 8), bent * bent.exp() - torch.expm1(bent))
    missed = (2 * (want * phi).sum(-1) / _positive(mass)).sqrt().clamp(max=torch.finfo(q.dtype).max)
    return torch.where(q.isfinite().all(-1), missed, torch.nan)


def outside(problem: Problem) -> Tensor:
    """The weight of tokens without a partner (...), which a balanced plan cannot have."""
    rows, cols = (torch.where(side.active, 0.0, side.weight).sum(-1) for side in (problem.rows, problem.cols))
    return rows + cols


def _positive(mass: Tensor) -> Tensor:
    return torch.where(mass > 0, mass, torch.finfo(mass.dtype).tiny)
