"""Generalised minimal residuals for x - A x = b, where A is known by what it does, each member of a batch by itself."""

import torch
from torch import Tensor

from .conjugate import Map


def minimal_residual(operator: Map, right: Tensor, batch_dims: int, tol: float, most: int) -> tuple[Tensor, Tensor]:
    """The solution x of x - operator(x) = right, and what is left of each member's right-hand side as a share of it.

    Arnoldi's basis of images of the right-hand side, without restarts; where the operator shrinks what it is given this
    needs no more images than the series right + operator(right) + ..., and it does not need that.

    Args:
        operator: A linear map of tensors (*batch, ...), that mixes no members.
        right: Right-hand sides, (*batch, ...).
        batch_dims: How many leading dimensions are those of the batch.
        tol: Share of a right-hand side that may be left.
        most: Images at most, each kept in memory.

    Example:
        >>> x, left = minimal_residual(lambda x: x / 2, torch.tensor([1.0, 3.0]), 0, 1e-6, 5)
        >>> x, bool(left < 1e-6)
        (tensor([2., 6.]), True)
    """
    shape, right = right.shape, right.flatten(batch_dims)
    size = torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    basis = [_over(right, size)]
    steep = right.new_zeros(*size.shape[:-1], most + 1, most)
    goal = right.new_zeros(most + 1)
    goal[0] = 1.0
    mix, left = right.new_zeros(*size.shape[:-1], 0), (size > 0).to(right)
    for count in range(most if bool(left.any()) else 0):
        image = basis[-1] - operator(basis[-1].reshape(shape)).flatten(batch_dims)
        for _ in range(2):  # the second time for what rounding left
            for place, each in enumerate(basis):
                along = (image * each).sum(-1, keepdim=True)
                image = image - along * each
                steep[..., place, count] += along.squeeze(-1)
        length = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
        steep[..., count + 1, count] = length.squeeze(-1)
        basis.append(_over(image, length))
        part, end = steep[..., : count + 2, : count + 1], goal[: count + 2]
        mix = torch.linalg.pinv(part) @ end  # a member whose basis is complete has columns of zeros
        left = torch.linalg.vector_norm((part @ mix.unsqueeze(-1)).squeeze(-1) - end, dim=-1, keepdim=True)
        left = torch.where(size > 0, left, 0.0)
        if bool((left <= tol).all()):
            break
    found = torch.zeros_like(right)
    for place in range(mix.shape[-1]):
        found = found + mix[..., place, None] * basis[place]
    return (size * found).reshape(shape), left.squeeze(-1)


def _over(x: Tensor, length: Tensor) -> Tensor:
    """At unit length; zero where there is nothing."""
    return torch.where(length > 0, x / torch.where(length > 0, length, 1.0), 0.0)
