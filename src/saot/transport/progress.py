"""How far each member of a batch has come; one that has ended is frozen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import Problem


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


def stack(members: list[Iterate], batch_shape: torch.Size) -> Iterate:
    """The members of a flattened dense batch as one."""
    stacked = {name: torch.stack([getattr(one, name) for one in members]) for name in Iterate.__annotations__}
    return Iterate(**{name: t.unflatten(0, batch_shape) for name, t in stacked.items()})


class Progress:
    """The last finite potentials of each member, and whether it has ended: within tol, or out of range.

    Starts from potentials that nobody has looked at, after so many iterations.
    """

    def __init__(self, problem: Problem, tol: float | int, f: Tensor, g: Tensor, iterations: int) -> None:
        shape, device = problem.batch_shape, problem.epsilon.device
        self.f, self.g = _finite_member(f), _finite_member(g)
        self.residual = torch.zeros(shape, dtype=f.dtype, device=device)
        self.iterations = torch.full(shape, iterations, device=device)
        self.ended = self.non_finite = torch.zeros(shape, dtype=torch.bool, device=device)
        self.frozen, self._tol = self.ended, tol

    def record(self, f: Tensor, g: Tensor, residual: Tensor) -> None:
        """Takes in one more iteration, of the members that have not ended."""
        ended, finite = self.ended, residual.isfinite()
        self.frozen = ended | ~finite
        self.f, self.g = _keep(self.frozen, self.f, f), _keep(self.frozen, self.g, g)
        self.residual = torch.where(ended, self.residual, residual)
        self.iterations = torch.where(ended, self.iterations, self.iterations + 1)
        self.non_finite = self.non_finite | (~ended & ~finite)
        self.ended = self.frozen | (residual <= self._tol)

    @property
    def is_over(self) -> bool:
        """Whether all members have ended."""
        return bool(self.ended.all())

    def end(self) -> Iterate:
        """Where the members stand."""
        return Iterate(self.f, self.g, torch.zeros_like(self.f), self.residual, self.iterations, self.non_finite)


def _finite_member(potential: Tensor) -> Tensor:
    """The potentials of each member, or zeros where one has left the range unseen."""
    return torch.where(potential.isfinite().all(-1, keepdim=True), potential, 0.0)


def _keep(frozen: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(frozen.unsqueeze(-1), old, new)
