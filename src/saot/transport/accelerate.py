"""Fewer iterations where tau / epsilon is large: a closed-form translation and Anderson's extrapolation.

A plain sweep contracts errors by p^2 only, p = tau / (tau + epsilon), and on a support of weakly linked clusters
it does so along many directions at once. Two things are done to g after a sweep:

- translation: of all (f + s, g - s) the dual is best at s = tau / 2 (LSE(log a - f / tau) - LSE(log b - g / tau))
  (Sejourne, Vialard and Peyre 2022). The plan does not change, but the slowest direction is gone.
- extrapolation: the combination of the last sweeps whose residual is least (Anderson 1965, in the form of Walker
  and Ni 2011), like GMRES on the linearised sweep.

The first 10 sweeps are plain, and remembered. After that a sweep from an extrapolated g is kept only if the
dual has not fallen below the last kept one; otherwise the next sweep starts from the last kept g, with the memory
emptied. The dual rises by every plain sweep, so this converges. Where rounding is all that is left (the residual
small and not falling), sweeps are plain from then on.
"""

import torch
from torch import Tensor

from .problem import Problem, Side

PLAIN = 10  # sweeps before the first step of another kind
_MEMORY = 10  # sweeps remembered
_RIDGE = 1e-10  # of the least squares, relative to the largest remembered change
_STALLED = 30  # sweeps without a smaller residual


class Accelerator:
    """Proposes the g from which the next sweep starts; every member of a batch by itself."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        weight = problem.cols.weight
        self._weight = torch.where(problem.cols.active, weight, 0.0).double()
        shape = (_MEMORY, *weight.shape)
        self._g_steps = torch.zeros(shape, dtype=torch.float64, device=weight.device)
        self._r_steps = torch.zeros_like(self._g_steps)
        self._g = self._r = self._kept_g = torch.zeros_like(self._weight)
        self._dual_kept = torch.full(weight.shape[:-1], -torch.inf, dtype=torch.float64, device=weight.device)
        self._plain = torch.ones_like(self._dual_kept, dtype=torch.bool)  # the last proposal was a kept g
        self._least, self._since = -self._dual_kept, torch.zeros_like(self._dual_kept)
        self._count = 0
        self._largest_jump = self._reach()

    def next(self, start: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """The g (..., m) to start from, after a sweep that led from `start` to (f, g)."""
        start, f, g = start.double(), f.double(), g.double()
        finished = self._finished(g - start, f, g) | (self._count < PLAIN - 1)
        dual = self._dual(f, g)
        kept = self._plain | (dual >= self._dual_kept)  # False for NaN
        moved = torch.where(_column(finished), g, self._translated(f, g))
        self._remember(moved, moved - start, kept)
        proposal = moved + torch.where(_column(finished), 0.0, self._extrapolation(moved - start))
        self._kept_g = torch.where(_column(kept), moved, self._kept_g)
        self._dual_kept = torch.where(kept, dual, self._dual_kept)
        self._plain = ~kept | finished
        return torch.where(_column(kept), proposal, self._kept_g).to(self.problem.cols.weight.dtype)

    def _finished(self, r: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """Whether a residual has stopped falling (...), and is so small that rounding must be why."""
        cols, rows = self.problem.cols.active, self.problem.rows.active
        size = torch.where(cols, r, 0.0).abs().amax(-1)
        scale = torch.maximum(torch.where(rows, f, 0.0).abs().amax(-1), torch.where(cols, g, 0.0).abs().amax(-1))
        less = size < 0.9 * self._least
        self._least = torch.where(less, size, self._least)
        self._since = torch.where(less, 0.0, self._since + 1)
        rounding = 0.01 * torch.finfo(self.problem.epsilon.dtype).eps ** 0.5
        return (self._since > _STALLED) & (self._least < rounding * (self.problem.epsilon.squeeze(-1) + scale))

    def _reach(self) -> Tensor:
        """How far from a residual r the solution may be: |g* - g| <= p^2 / (1 - p^2) |r|, by the contraction."""
        square = self.problem.damping.double().square()
        return torch.where(square < 1, square / (1 - square), 1e3).clamp(max=1e4)

    def _translated(self, f: Tensor, g: Tensor) -> Tensor:
        problem = self.problem
        if problem.balanced:
            return g
        tau = problem.tau.double()
        shift = tau / 2 * (_log_mass(problem.rows, f, tau) - _log_mass(problem.cols, g, tau))
        return g - torch.where(shift.isfinite(), shift, 0.0)

    def _dual(self, f: Tensor, g: Tensor) -> Tensor:
        """The dual value up to a constant, (...); after a column update the mass is that of the columns."""
        problem = self.problem
        sides = ((problem.rows, f), (problem.cols, g))
        if problem.balanced:
            terms = [torch.where(s.active, s.weight.double() * v, 0.0).sum(-1) for s, v in sides]
            return terms[0] + terms[1]
        tau, epsilon = problem.tau.double(), problem.epsilon.double()
        rows, cols = (_log_mass(side, v, tau).exp() for side, v in sides)
        return -(tau * rows + (tau + epsilon) * cols).squeeze(-1)

    def _remember(self, g: Tensor, r: Tensor, kept: Tensor) -> None:
        place = self._count % _MEMORY
        fresh = torch.zeros_like(kept) if self._count == 0 else kept
        self._g_steps[place] = torch.where(_column(fresh), g - self._g, 0.0)
        self._r_steps[place] = torch.where(_column(fresh), r - self._r, 0.0)
        lost = _column(~kept)
        if bool(lost.any()):
            self._g_steps.masked_fill_(lost, 0.0)
            self._r_steps.masked_fill_(lost, 0.0)
        self._g, self._r, self._count = g, r, self._count + 1

    def _extrapolation(self, r: Tensor) -> Tensor:
        """- sum_h gamma_h (g step)_h, where gamma minimises |r - sum_h gamma_h (r step)_h|."""
        used = min(self._count, _MEMORY)
        steps, weighted = self._r_steps[:used], self._r_steps[:used] * self._weight
        gram = torch.stack([(weighted * steps[h]).sum(-1) for h in range(used)], -1).movedim(0, -2).contiguous()
        right = (weighted * r).sum(-1).movedim(0, -1).contiguous()
        ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True) + torch.finfo(torch.float64).tiny
        gram = gram + torch.diag_embed(ridge.expand(right.shape))
        gamma = torch.linalg.solve(gram, right.unsqueeze(-1)).squeeze(-1)
        jump = -sum(gamma[..., h, None] * self._g_steps[h] for h in range(used))
        assert isinstance(jump, Tensor)
        limit = self._largest_jump * torch.where(self.problem.cols.active, r, 0.0).abs().amax(-1, keepdim=True)
        length = jump.abs().amax(-1, keepdim=True)
        shrink = torch.where(length > limit, limit / length, 1.0)
        return torch.where(jump.isfinite().all(-1, keepdim=True), jump * shrink, 0.0)


def _column(mask: Tensor) -> Tensor:
    return mask.unsqueeze(-1)


def _log_mass(side: Side, potential: Tensor, tau: Tensor) -> Tensor:
    """log sum_i a_i exp(-f_i / tau), (..., 1)."""
    weight = torch.where(side.active, side.weight, 0.0).double()
    return torch.logsumexp(weight.log() - torch.where(side.active, potential, 0.0) / tau, -1, keepdim=True)
