"""Conjugate gradients for the systems that a plan gives rise to, every member of a batch by itself."""

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def conjugate_gradients(
    operator: Map, right: Tensor, project: Map, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The solution (..., n) of a symmetric system, what is left of each right-hand side, (...), as a share of it, and
    whether more iterations would help.

    A member stops by itself: at `tol`, or where only rounding is left to go along. That happens where the system is
    all but singular (nearly balanced, and nearly infeasible or of small epsilon). `project` takes out of a vector
    what the operator cannot reach.
    """
    unit = right.abs().amax(-1, keepdim=True)  # squares must stay in the range of the type
    unit = torch.where(unit > 0, unit, 1.0)
    residual = project(right / unit)
    solution, direction = torch.zeros_like(right), residual
    size = residual.square().sum(-1, keepdim=True)
    start, goal = size, size * tol**2
    active = size > goal
    for _ in range(max_iter):
        if not bool(active.any()):
            break
        image = project(operator(direction))
        bend = (direction * image).sum(-1, keepdim=True)
        active = active & (bend > torch.finfo(right.dtype).eps * direction.square().sum(-1, keepdim=True))
        step = torch.where(active, size / bend, 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        new_size = torch.where(active, residual.square().sum(-1, keepdim=True), size)
        direction = torch.where(active, residual + (new_size / size) * direction, direction)
        size = new_size
        active = active & (size > goal)
    left = torch.where(start > 0, size / torch.where(start > 0, start, 1.0), 0.0).sqrt()
    return solution * unit, left.squeeze(-1), active.squeeze(-1)
