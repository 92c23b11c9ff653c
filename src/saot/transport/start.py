"""Where the loop starts: at 0, or at the potentials of an earlier result."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import Problem, Side, broadcasts

Potentials = tuple[Tensor, ...]  # f (..., n) and g (..., m), as `TransportResult.potentials` has them


@dataclass(frozen=True, eq=False)
class Start:
    """Potentials f (..., n) and g (..., m) in the type of a problem; 0 for tokens that take no part."""

    f: Tensor
    g: Tensor

    def member(self, index: int) -> "Start":
        """That of one problem of a batch with one leading dimension."""
        return Start(self.f[index], self.g[index])

    def flatten(self) -> "Start":
        """With its leading dimensions made one."""
        return Start(self.f.reshape(-1, self.f.shape[-1]), self.g.reshape(-1, self.g.shape[-1]))


def check_start(problem: Problem, init: Potentials) -> Start:
    """The start that a caller gave, without a gradient.

    Raises:
        ValueError: If a potential is of another size, type or device than the problem, or is not finite where its
            token takes part.
    """
    if not isinstance(init, tuple) or len(init) != 2:
        raise ValueError(f"init must be the two potentials (f, g) of a result, but is {type(init).__name__}")
    sides = zip("fg", ("sources", "targets"), (problem.rows, problem.cols), init, strict=True)
    return Start(*(_checked(name, many, side, potential) for name, many, side, potential in sides))


def _checked(name: str, many: str, side: Side, potential: Tensor) -> Tensor:
    weight = side.weight
    count, batch = weight.shape[-1], weight.shape[:-1]
    if potential.ndim == 0 or potential.shape[-1] != count or not broadcasts(potential.shape[:-1], batch):
        raise ValueError(
            f"init {name} must have shape {(*batch, count)}, one number for each of the {count} {many}, but has "
            f"{tuple(potential.shape)}; pass the potentials of a result of the same tokens"
        )
    if potential.device != weight.device:
        raise ValueError(f"the problem is on {weight.device} but init {name} on {potential.device}; move it there")
    if potential.dtype != weight.dtype:
        raise ValueError(
            f"the problem is solved in {weight.dtype} but init {name} is {potential.dtype}; convert it with "
            f"{name}.to({weight.dtype})"
        )
    plain = potential.detach().expand_as(weight)
    wrong = ~plain.isfinite() & (side.active | plain.isnan())
    if bool(wrong.any()):
        place = [int(i) for i in torch.nonzero(wrong)[0]]
        raise ValueError(
            f"init must be finite for tokens that take part, but {name}{place} is {float(plain[tuple(place)])}; pass "
            "the potentials of a result of the same pairs, or 0 there"
        )
    return side.inside(plain)
