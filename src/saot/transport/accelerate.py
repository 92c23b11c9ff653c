"""Fewer iterations where tau / epsilon is large: a closed-form translation and Anderson's extrapolation.

A plain sweep contracts errors by p^2 only, p = tau / (tau + epsilon), and on a support of weakly linked clusters
it does so along many directions at once. Two things are done to g after a sweep:

- translation: of all (f + s, g - s) the dual is best at s = tau / 2 (LSE(log a - f / tau) - LSE(log b - g / tau))
  (Sejourne, Vialard and Peyre 2022). The plan does not change, but the slowest direction is gone.
- extrapolation: the combination of the last sweeps whose residual is least (Anderson 1965, in the form of Walker
  and Ni 2011), like GMRES on the linearised sweep.

All of it costs a few vector operations a sweep, so it waits: the first 10 sweeps are plain, and remembered; where
p^2 <= 0.8, all of them. After that a sweep from an extrapolated g is kept only if the dual has not fallen below the
last kept one; otherwise the next sweep starts from the last kept g, with the memory emptied. Every 20th sweep is
plain. The dual never falls and each plain sweep raises it by what its residual is worth, so the residual goes to zero.
Where rounding is all that is left (the residual small and not falling), sweeps are plain from then on.
"""

import torch
from torch import Tensor

from .problem import Problem
from .progress import Progress
from .updates import State

PLAIN = 10  # sweeps before the first step of another kind
PLAIN_WARM = 2  # the same from the potentials of an earlier result
_SLOW = 0.8  # contraction p^2 above which plain sweeps are too many
_MEMORY = 10  # sweeps remembered
_RIDGE = 1e-10  # of the least squares, relative to the largest remembered change
_EVERY = 20  # sweeps, of which one is plain
_STALLED = 30  # sweeps without a smaller residual


class Plain:
    """Every sweep goes on from the last one."""

    def next(self, start: Tensor, y: State, now: Progress) -> tuple[Tensor, State]:
        """The g (..., m) from which the next sweep starts, after one from `start` to `y`; and in the updates' form."""
        return now.g, State(now.g) if bool(now.frozen.any()) else y


class Accelerator:
    """Proposes the g from which the next sweep starts; every member of a batch by itself."""

    def __init__(self, problem: Problem, warm: bool = False) -> None:
        self.problem, self._wait = problem, PLAIN_WARM if warm else PLAIN
        rows, cols = problem.rows, problem.cols
        self._a, self._b = (side.inside(side.weight).double() for side in (rows, cols))
        self._log_a, self._log_b = self._a.log(), self._b.log()
        self._tau, self._epsilon = problem.tau.double(), problem.epsilon.double()
        batch, device = problem.batch_shape, self._b.device
        self._g_steps = torch.zeros(_MEMORY, *self._b.shape, dtype=torch.float64, device=device)
        self._r_steps = torch.zeros_like(self._g_steps)
        self._gram = torch.zeros(*batch, _MEMORY, _MEMORY, dtype=torch.float64, device=device)
        self._g = self._r = self._kept_g = torch.zeros_like(self._b)
        self._dual_kept = torch.full(batch, -torch.inf, dtype=torch.float64, device=device)
        self._plain = torch.ones_like(self._dual_kept, dtype=torch.bool)  # the last proposal was a kept g
        self._least, self._since = -self._dual_kept, torch.zeros_like(self._dual_kept)
        self._count = 0
        square = problem.damping.double().square()
        self._idle = (square <= _SLOW).squeeze(-1)
        # how far the solution may be from a residual r: |g* - g| <= p^2 / (1 - p^2) |r|, by the contraction
        self._reach = torch.where(square < 1, square / (1 - square), 1e3).clamp(max=1e4)

    @staticmethod
    def is_worth_it(problem: Problem) -> bool:
        """Whether plain sweeps contract too slowly for a member of this problem."""
        return bool((problem.damping.square() > _SLOW).any())

    def next(self, start: Tensor, y: State, now: Progress) -> tuple[Tensor, State]:
        """The g (..., m) from which the next sweep starts, after one from `start` to `y`; and in the updates' form."""
        start = self._propose(start, now.f, now.g)
        return start, State(start)

    def _propose(self, start: Tensor, f: Tensor, g: Tensor) -> Tensor:
        start, f, g = start.double(), f.double(), g.double()
        finished = self._finished(g - start, f, g) | self._idle | self._plain_turn()
        dual, shift = self._dual_and_shift(f, g)
        kept = self._plain | (dual >= self._dual_kept)  # False for NaN
        moved = torch.where(_column(finished), g, g - shift)
        self._remember(moved, moved - start, kept)
        proposal = moved
        if not bool(finished.all()):
            proposal = moved + torch.where(_column(finished), 0.0, self._extrapolation(moved - start))
        self._kept_g = torch.where(_column(kept), moved, self._kept_g)
        self._dual_kept = torch.where(kept, dual, self._dual_kept)
        self._plain = ~kept | finished
        return torch.where(_column(kept), proposal, self._kept_g).to(self.problem.cols.weight.dtype)

    def _plain_turn(self) -> bool:
        return self._count < self._wait - 1 or self._count % _EVERY == 0

    def _finished(self, r: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """Whether a residual has stopped falling (...), and is so small that rounding must be why."""
        size = r.abs().amax(-1)
        scale = torch.maximum(f.abs().amax(-1), g.abs().amax(-1)) + self._epsilon.squeeze(-1)
        less = size < 0.9 * self._least
        self._least = torch.where(less, size, self._least)
        self._since = torch.where(less, 0.0, self._since + 1)
        rounding = 0.01 * torch.finfo(self.problem.epsilon.dtype).eps ** 0.5
        return (self._since > _STALLED) & (self._least < rounding * scale)

    def _dual_and_shift(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The dual value up to a constant, (...), and the best translation, (..., 1).

        After a column update the mass of the plan is that of b exp(-g / tau), so this needs no pair.
        """
        if self.problem.balanced:
            return (self._a * f).sum(-1) + (self._b * g).sum(-1), torch.zeros_like(self._tau)
        dual = -self._tau * (self._a * torch.expm1(-f / self._tau)).sum(-1, keepdim=True)
        dual = dual - (self._tau + self._epsilon) * (self._b * torch.expm1(-g / self._tau)).sum(-1, keepdim=True)
        rows = torch.logsumexp(self._log_a - f / self._tau, -1, keepdim=True)
        cols = torch.logsumexp(self._log_b - g / self._tau, -1, keepdim=True)
        shift = self._tau / 2 * (rows - cols)
        return dual.squeeze(-1), torch.where(shift.isfinite(), shift, 0.0)

    def _remember(self, g: Tensor, r: Tensor, kept: Tensor) -> None:
        """The last steps of g and of its residual, and the inner products of the latter."""
        if not bool(kept.all()):
            self._g_steps.masked_fill_(_column(~kept), 0.0)
            self._r_steps.masked_fill_(_column(~kept), 0.0)
            self._gram.masked_fill_(_column(_column(~kept)), 0.0)
        if self._count > 0:
            place = self._count % _MEMORY
            self._g_steps[place] = torch.where(_column(kept), g - self._g, 0.0)
            self._r_steps[place] = torch.where(_column(kept), r - self._r, 0.0)
            products = self._products(self._r_steps[place])
            self._gram[..., place, :] = products
            self._gram[..., :, place] = products
        self._g, self._r, self._count = g, r, self._count + 1

    def _products(self, v: Tensor) -> Tensor:
        """<v, (r step)_h> weighted by b, (..., memory)."""
        return (self._r_steps * (self._b * v)).sum(-1).movedim(0, -1).contiguous()

    def _extrapolation(self, r: Tensor) -> Tensor:
        """- sum_h gamma_h (g step)_h, where gamma minimises |r - sum_h gamma_h (r step)_h|."""
        right = self._products(r)
        largest = self._gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        ridge = (_RIDGE * largest + torch.finfo(torch.float64).tiny).expand(right.shape)  # alone where none is
        gamma = torch.linalg.solve(self._gram + torch.diag_embed(ridge), right.unsqueeze(-1)).squeeze(-1)
        jump = -(gamma.movedim(-1, 0).unsqueeze(-1) * self._g_steps).sum(0)
        limit = self._reach * r.abs().amax(-1, keepdim=True)
        length = jump.abs().amax(-1, keepdim=True)
        shrink = torch.where(length > limit, limit / length, 1.0)
        return torch.where(jump.isfinite().all(-1, keepdim=True), jump * shrink, 0.0)


def _column(mask: Tensor) -> Tensor:
    return mask.unsqueeze(-1)
