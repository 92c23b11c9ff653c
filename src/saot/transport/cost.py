"""What it costs to send mass from a source token to a target token: fixed costs, dense or on a support."""

from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from .products import pair_dots
from .support import Support


@dataclass(frozen=True, eq=False)
class SparseCost:
    """Cost of the pairs of a support; every other pair is forbidden.

    Attributes:
        values: Cost of each pair in CSR order; +inf forbids a pair as well.
        support: The pairs.

    Raises:
        ValueError: If there is not one value a pair, or they live on another device.

    Example:
        >>> SparseCost(torch.tensor([0.5, 1.0]), Support.full(1, 2)).shape
        (1, 2)
    """

    values: Float[Tensor, " n_values"]
    support: Support

    def __post_init__(self) -> None:
        if self.values.shape != (self.support.nnz,):
            raise ValueError(
                f"values must hold one cost for each of the {self.support.nnz} pairs of the support, "
                f"but have shape {tuple(self.values.shape)}; give them in CSR order"
            )
        if self.values.device != self.support.device:
            raise ValueError(
                f"values are on {self.values.device} but the support on {self.support.device}; "
                "move it with support.to(values.device)"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sources and of targets."""
        return self.support.shape

    def dense(self) -> Float[Tensor, "n m"]:
        """The (n, m) cost, +inf off the support; differentiable."""
        n, m = self.shape
        flat = self.support.row.long() * m + self.support.col
        return self.values.new_full((n * m,), torch.inf).index_put((flat,), self.values).view(n, m)


@overload
def cosine_cost(
    source: Float[Tensor, "... n d_source"], target: Float[Tensor, "... m d_target"], support: None = None
) -> Float[Tensor, "... n m"]: ...
@overload
def cosine_cost(
    source: Float[Tensor, "n d_source"], target: Float[Tensor, "m d_target"], support: Support
) -> SparseCost: ...
def cosine_cost(
    source: Float[Tensor, "... n d_source"],
    target: Float[Tensor, "... m d_target"],
    support: Support | None = None,
) -> Float[Tensor, "... n m"] | SparseCost:
    """1 - cos(x, y), the cost of GWOT; between 0 and 2, differentiable in both features.

    A zero feature has cosine 0 with everything and gets no gradient from its direction.

    Args:
        source: Features of n source tokens; with a support no batch dimension.
        target: Features of m target tokens, of the same dimension.
        support: Pairs to evaluate; all of them if not given.

    Returns:
        A `SparseCost` on the support, or the dense (..., n, m) cost.

    Raises:
        ValueError: If the feature dimensions differ, or the support is of another shape.

    Example:
        >>> cosine_cost(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([[0., 1.]])
    """
    source, target = _checked(source, target, support)
    with torch.autocast(source.device.type, enabled=False):
        x, y = unit(source), unit(target)
        if support is None:
            return 1 - x @ y.mT
        return SparseCost(1 - pair_dots(x, y, support), support)


@overload
def squared_euclidean_cost(
    source: Float[Tensor, "... n d_source"], target: Float[Tensor, "... m d_target"], support: None = None
) -> Float[Tensor, "... n m"]: ...
@overload
def squared_euclidean_cost(
    source: Float[Tensor, "n d_source"], target: Float[Tensor, "m d_target"], support: Support
) -> SparseCost: ...
def squared_euclidean_cost(
    source: Float[Tensor, "... n d_source"],
    target: Float[Tensor, "... m d_target"],
    support: Support | None = None,
) -> Float[Tensor, "... n m"] | SparseCost:
    """|x - y|^2, the cost of SAOT's fixed-cost baselines (2 - 2 cos on unit features); differentiable.

    Evaluated as |x|^2 + |y|^2 - 2 <x, y>; where rounding takes that below 0 it is 0.

    Args:
        source: Features of n source tokens; with a support no batch dimension.
        target: Features of m target tokens, of the same dimension.
        support: Pairs to evaluate; all of them if not given.

    Returns:
        A `SparseCost` on the support, or the dense (..., n, m) cost.

    Raises:
        ValueError: If the feature dimensions differ, or the support is of another shape.

    Example:
        >>> squared_euclidean_cost(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0], [4.0, 5.0]]))
        tensor([[ 1., 25.]])
    """
    source, target = _checked(source, target, support)
    with torch.autocast(source.device.type, enabled=False):
        x_norm, y_norm = source.square().sum(-1), target.square().sum(-1)
        if support is None:
            return _at_least_zero(x_norm[..., :, None] + y_norm[..., None, :] - 2 * source @ target.mT)
        norms = x_norm.index_select(0, support.row) + y_norm.index_select(0, support.col)
        return SparseCost(_at_least_zero(norms - 2 * pair_dots(source, target, support)), support)


def unit(features: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero and is similar to nothing."""
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    zero = length == 0
    if bool(zero.any()):  # whose length has no second derivative
        length = torch.linalg.vector_norm(features.masked_fill(zero, 1.0), dim=-1, keepdim=True)
    return features / torch.where(zero, 1.0, length)


def _at_least_zero(distance: Tensor) -> Tensor:
    """0 where rounding took a squared distance below it; its derivatives, 2 (x - y) and 2, are kept."""
    return distance - distance.detach().clamp(max=0)


def _checked(source: Tensor, target: Tensor, support: Support | None) -> tuple[Tensor, Tensor]:
    """Both features in their common type, float32 or better."""
    if source.shape[-1] != target.shape[-1]:
        raise ValueError(
            f"source features have {source.shape[-1]} dimensions but target features {target.shape[-1]}; "
            "take both from one backbone"
        )
    shape = (*source.shape[:-1], *target.shape[:-1])
    if support is not None and shape != support.shape:
        raise ValueError(
            f"the support is for {support.shape[0]} sources and {support.shape[1]} targets, but the features "
            f"have shapes {tuple(source.shape)} and {tuple(target.shape)}; build it from the same tokens"
        )
    dtype = torch.promote_types(torch.promote_types(source.dtype, target.dtype), torch.float32)
    return source.to(dtype), target.to(dtype)
