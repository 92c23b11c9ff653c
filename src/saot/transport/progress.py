"""How far each member of a batch has come; one that has ended is frozen."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Progress:
    """Where the loop stands: potentials in cost units, and per problem how it goes.

    Attributes:
        f: Last finite potentials (..., n).
        g: Last finite potentials (..., m).
        f_change: What one more row update would change, where transport is balanced and the loop has ended; else 0.
        residual: That of the last iteration (...).
        iterations: Iterations done.
        non_finite: Whether a potential left the range of the floating type.
        stuck: Whether rounding keeps the residual above tol.
        frozen: Members that the last iteration did not move.
        ended: Members that the next one will not move: within tol, stuck, or out of range.
    """

    f: Tensor
    g: Tensor
    f_change: Tensor
    residual: Tensor
    iterations: Tensor
    non_finite: Tensor
    stuck: Tensor
    frozen: Tensor
    ended: Tensor

    @classmethod
    def at(cls, f: Tensor, g: Tensor, iterations: int) -> "Progress":
        """At potentials that nobody has looked at; zeros where a member of them has left the range."""
        f, g = (_finite(p) for p in (f, g))
        residual = torch.zeros(f.shape[:-1], dtype=f.dtype, device=f.device)
        count, no = torch.full_like(residual, iterations, dtype=torch.int64), residual > 0
        return cls(f, g, torch.zeros_like(f), residual, count, non_finite=no, stuck=no, frozen=no, ended=no)

    def after(self, f: Tensor, g: Tensor, residual: Tensor, tol: float | int, stuck: Tensor) -> "Progress":
        """After one more iteration to these potentials, of the members that had not ended; `stuck` ones end here."""
        finite, going = residual.isfinite(), ~self.ended
        frozen = self.ended | ~finite
        f, g = (torch.where(frozen.unsqueeze(-1), old, new) for old, new in ((self.f, f), (self.g, g)))
        return replace(
            self,
            f=f,
            g=g,
            residual=torch.where(going, residual, self.residual),
            iterations=torch.where(going, self.iterations + 1, self.iterations),
            non_finite=self.non_finite | (going & ~finite),
            frozen=frozen,
            stuck=self.stuck | (going & finite & stuck & (residual > tol)),
            ended=frozen | stuck | (residual <= tol),
        )


def _finite(potentials: Tensor) -> Tensor:
    finite = potentials.isfinite().all(-1, keepdim=True)
    return potentials if bool(finite.all()) else torch.where(finite, potentials, 0.0)


def stack(members: list[Progress], batch_shape: torch.Size) -> Progress:
    """The members of a flattened dense batch as one."""
    stacked = {f.name: torch.stack([getattr(one, f.name) for one in members]) for f in fields(Progress)}
    return Progress(**{name: t.unflatten(0, batch_shape) for name, t in stacked.items()})
