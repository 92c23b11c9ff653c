"""Structure: pairs of tokens at like distances should stay so. The Gromov-Wasserstein term of SAOT appendix D.

For distances D^s of n sources and D^t of m targets the discrepancy of a plan Gamma is

    Q(Gamma) = sum_ijkl (D^s_ik - D^t_jl)^2 Gamma_ij Gamma_kl,

and Eq. (13) linearises it at a plan as Q~_ij = 2 sum_kl (D^s_ik - D^t_jl)^2 Gamma_kl. The factor 2 makes Q~
the gradient of Q, as `gwggrad` of POT returns it; Q is quadratic, so Q(Gamma) = <Gamma, Q~> / 2, without it.
The "approximately <Gamma, Q~> + const" of Eq. (13) is the first-order expansion, whose constant is -Q.

With r and c the row and column sums of Gamma, whatever their masses,

    Q~_ij = 2 [ (D^s^2 r)_i + (D^t^2 c)_j - 2 (D^s Gamma D^t)_ij ],        D^2 elementwise,

so nothing of n^2 m^2 numbers is needed. Squared Euclidean distances of points have rank d + 2: on a support
everything is O(pairs + n + m). Q~ is linear in Gamma and, distances being symmetric, its own adjoint.
"""

from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from .cost import SparseCost
from .products import multiply, pair_dots
from .support import Support

_BLOCK_ELEMENTS = 2**22  # of a product with a matrix of distances held at one time
_ASYMMETRY = 0.01  # of the largest distance: what half precision, or a root of rounding as in cdist, may leave


@dataclass(frozen=True, eq=False)
class PointGeometry:
    """Squared Euclidean distances |p_i - p_k|^2 of points; never a matrix.

    Attributes:
        points: One point a token, such as `grid_points` makes. Only differences matter.

    Raises:
        ValueError: If there is no point, or one is not finite.
    """

    points: Float[Tensor, "n d"]

    def __post_init__(self) -> None:
        _check_table("points", self.points)

    @property
    def table(self) -> Tensor:
        """What is stored, one row a token."""
        return self.points

    def multiply(self, x: Float[Tensor, "... n c"]) -> Float[Tensor, "... n c"]:
        """D x, in the type of x."""
        left, right = self.factors(x.dtype)
        return left @ (right.T @ x)

    def multiply_squared(self, r: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
        """sum_k |p_i - p_k|^4 r_k, from the moments of r up to order 4."""
        p = self._centred(r.dtype)
        u = p.square().sum(-1)
        ru = r * u
        inner = ((p @ ((r.unsqueeze(-2) * p.T) @ p)) * p).sum(-1)  # sum_k r_k <p_i, p_k>^2
        cross = u * (r @ p @ p.T) + ru @ p @ p.T
        return (
            r.sum(-1, keepdim=True) * u.square()
            + 2 * ru.sum(-1, keepdim=True) * u
            + ((ru * u).sum(-1, keepdim=True) - 4 * cross + 4 * inner)
        )

    def factors(self, dtype: torch.dtype) -> tuple[Float[Tensor, "n rank"], Float[Tensor, "n rank"]]:
        """A and B of d + 2 columns with D = A B^T: |p|^2 + |q|^2 - 2 <p, q>."""
        p = self._centred(dtype)
        u = p.square().sum(-1, keepdim=True)
        one = torch.ones_like(u)
        return torch.cat([u, one, -2 * p], 1), torch.cat([one, u, p], 1)

    def _centred(self, dtype: torch.dtype) -> Tensor:
        """Points about their mean: far from the origin the squares would cancel."""
        p = self.points.detach()
        p = p.to(torch.promote_types(p.dtype, dtype))
        return (p - p.mean(0)).to(dtype)


@dataclass(frozen=True, eq=False)
class DistanceGeometry:
    """Distances of any kind, given as a symmetric matrix.

    Attributes:
        matrix: Distance of each two tokens of one side; taken as it is, not squared.

    Raises:
        ValueError: If the matrix is empty, not square, not symmetric, or holds a number that is not finite.
    """

    matrix: Float[Tensor, "n n_columns"]

    def __post_init__(self) -> None:
        d = self.matrix
        if d.ndim != 2 or d.shape[0] != d.shape[1]:
            raise ValueError(f"matrix must be square, one distance for each two tokens, but has shape {tuple(d.shape)}")
        _check_table("matrix", d)
        d = d.detach()
        uneven = max(float((d[part] - d[:, part].T).abs().max()) for part in _blocks(*d.shape))
        if uneven > _ASYMMETRY * max(abs(float(x)) for x in d.aminmax()):
            raise ValueError(
                f"matrix must be symmetric, but differs from its transpose by up to {uneven:.3g}; "
                "pass (matrix + matrix.T) / 2 if direction does not matter"
            )

    @property
    def table(self) -> Tensor:
        """What is stored, one row a token."""
        return self.matrix

    def multiply(self, x: Float[Tensor, "... n c"]) -> Float[Tensor, "... n c"]:
        """D x, in the type of x."""
        d = self.matrix.detach()
        return torch.cat([d[part].to(x.dtype) @ x for part in _blocks(*d.shape)], -2)

    def multiply_squared(self, r: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
        """sum_k D_ik^2 r_k."""
        d = self.matrix.detach()
        return torch.cat([r @ d[part].to(r.dtype).square().T for part in _blocks(*d.shape)], -1)


Geometry = PointGeometry | DistanceGeometry


def grid_points(
    height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "n 2"]:
    """Centres (y, x) of the tokens of a grid, row by row, in units of its longer side.

    Squared distances then lie below 2 whatever the size of the grid, so that one weight alpha means the same
    for every picture: at mass 1 the term Q lies below 4, and is 0 for a plan that only shifts the picture.

    Raises:
        ValueError: If a side has no token.

    Example:
        >>> grid_points(1, 2)
        tensor([[0.2500, 0.2500],
                [0.2500, 0.7500]])
    """
    if height < 1 or width < 1:
        raise ValueError(f"a grid must have at least one token a side, but is {height} x {width}")
    y, x = (torch.arange(size, dtype=dtype, device=device).add(0.5) for size in (height, width))
    return torch.cartesian_prod(y, x) / max(height, width)


@overload
def structure_gradient(
    plan_values: Float[Tensor, "... n m"], source: Geometry, target: Geometry, support: None = None
) -> Float[Tensor, "... n m"]: ...
@overload
def structure_gradient(
    plan_values: Float[Tensor, " nnz"], source: Geometry, target: Geometry, support: Support
) -> SparseCost: ...
def structure_gradient(
    plan_values: Float[Tensor, "..."],
    source: Geometry,
    target: Geometry,
    support: Support | None = None,
) -> Float[Tensor, "..."] | SparseCost:
    """Q~ of SAOT Eq. (13) at a plan: the gradient of the structure term Q, with its factor 2.

    Takes `result.plan_values` and `result.support` of a solve. Holds for a plan of any mass. Gradients reach
    the plan, not the geometries, and save nothing for their way back.

    Args:
        plan_values: Plan on its pairs: (nnz,) in CSR order with a support, else dense (..., n, m).
        source: Distances of the n sources.
        target: Distances of the m targets.
        support: Pairs of the plan, where Q~ is evaluated, of one problem: a block diagonal of several would
            compare the tokens of one with those of another. On a support, points take O(pairs) memory, and
            matrices of distances no more than n m / 8 numbers at a time beside themselves.

    Returns:
        A `SparseCost` on the support, or the dense (..., n, m) cost.

    Raises:
        ValueError: If a geometry or the support does not fit the plan, or the plan is not finite.

    Example:
        Two tokens at distance 1 on either side, each sent to its like. Exchanging one alone costs 2 * 1/2 for
        each of the two:

        >>> line = PointGeometry(torch.tensor([[0.0], [1.0]]))
        >>> structure_gradient(torch.eye(2) / 2, line, line)
        tensor([[0., 2.],
                [2., 0.]])
    """
    plan = _checked(plan_values, source, target, support)
    values = _Linearise.apply(plan, source, target, support)
    return values if support is None else SparseCost(values, support)


def structure_value(
    plan_values: Float[Tensor, "..."], source: Geometry, target: Geometry, support: Support | None = None
) -> Float[Tensor, "*batch"]:
    """Q of a plan, SAOT appendix D: <plan, Q~> / 2, without the factor 2 of Eq. (13).

    Args:
        plan_values: Plan on its pairs: (nnz,) in CSR order with a support, else dense (..., n, m).
        source: Distances of the n sources.
        target: Distances of the m targets.
        support: Pairs of the plan; all of them if not given.

    Raises:
        ValueError: If a geometry or the support does not fit the plan, or the plan is not finite.

    Example:
        Of the 16 ways to draw two sources and two targets, 8 differ in distance by 1:

        >>> line = PointGeometry(torch.tensor([[0.0], [1.0]]))
        >>> structure_value(torch.full((2, 2), 0.25), line, line)
        tensor(0.5000)
    """
    plan = _checked(plan_values, source, target, support)
    batch_dims = 0 if support is not None else plan.ndim - 2
    return sum_pairs(plan * _Linearise.apply(plan, source, target, support), batch_dims) / 2


class _Linearise(torch.autograd.Function):
    """The plan to Q~ on its pairs: linear, symmetric, so its own way back."""

    @staticmethod
    def forward(ctx: Any, plan: Tensor, source: Geometry, target: Geometry, support: Support | None) -> Tensor:
        ctx.geometry = (source, target, support)
        return linearise(plan.detach(), source, target, support)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Linearise.apply(grads[0].contiguous(), *ctx.geometry), None, None, None


def linearise(plan: Tensor, source: Geometry, target: Geometry, support: Support | None) -> Tensor:
    with torch.autocast(plan.device.type, enabled=False):
        if support is None:
            rows, cols = source.multiply_squared(plan.sum(-1)), target.multiply_squared(plan.sum(-2))
            cross = source.multiply(target.multiply(plan.mT).mT)
            return 2 * (rows.unsqueeze(-1) + cols.unsqueeze(-2) - 2 * cross)
        r, c = (
            multiply(plan, plan.new_ones(size, 1), support, transpose).squeeze(-1)
            for size, transpose in ((support.shape[1], False), (support.shape[0], True))
        )
        rows = source.multiply_squared(r).index_select(0, support.row)
        cols = target.multiply_squared(c).index_select(0, support.col)
        return 2 * (rows + cols - 2 * _cross(plan, source, target, support))


def _cross(plan: Tensor, source: Geometry, target: Geometry, support: Support) -> Tensor:
    """(D^s Gamma D^t)_ij on the pairs (nnz,)."""
    if isinstance(source, PointGeometry):
        left, right = source.factors(plan.dtype)
        return pair_dots(left, target.multiply(multiply(plan, right, support, transpose=True)), support)
    if isinstance(target, PointGeometry):
        left, right = target.factors(plan.dtype)
        return pair_dots(source.multiply(multiply(plan, right, support)), left, support)
    n, parts = support.shape[0], []
    for part in _blocks(n, max(support.shape)):  # of sources: D^t Gamma^T D^s, (m, block)
        distances = source.matrix[:, part].detach().to(plan.dtype)
        product = target.multiply(multiply(plan, distances, support, transpose=True))
        begin, end = int(support.crow[part.start]), int(support.crow[min(part.stop, n)])
        flat = support.col[begin:end] * product.shape[1] + (support.row[begin:end] - part.start)
        parts.append(product.flatten().index_select(0, flat))
    return torch.cat(parts)


def sum_pairs(values: Tensor, batch_dims: int) -> Tensor:
    return values.flatten(batch_dims).sum(-1)


def _blocks(count: int, width: int) -> list[slice]:
    """Rows in parts of at most an eighth, and of a bounded number of elements."""
    step = max(1, min(_BLOCK_ELEMENTS // width, count // 8))
    return [slice(start, start + step) for start in range(0, count, step)]


def _checked(plan: Tensor, source: Geometry, target: Geometry, support: Support | None) -> Tensor:
    """The plan in float32 or better."""
    check_fit(plan, source, target, support)
    _check_finite("plan_values", plan)
    return plan.to(torch.promote_types(plan.dtype, torch.float32))


def check_fit(values: Tensor, source: Geometry, target: Geometry, support: Support | None) -> None:
    """Whether values on the pairs, a plan or a cost, belong to these geometries."""
    if support is not None and support.blocks:
        raise ValueError(
            f"a geometry is that of one problem, but the support is a block diagonal of {len(support.blocks)}; "
            "take its members one by one"
        )
    if support is not None and values.shape != (support.nnz,):
        raise ValueError(
            f"plan_values must hold one number for each of the {support.nnz} pairs of the support, but have shape "
            f"{tuple(values.shape)}; give them in CSR order"
        )
    if support is None and values.ndim < 2:
        raise ValueError(
            f"a dense plan or cost must have shape (..., n, m), but has {tuple(values.shape)}; with values on a "
            "support, pass the support"
        )
    shape = values.shape[-2:] if support is None else support.shape
    for name, table, size in (("source", source.table, shape[0]), ("target", target.table, shape[1])):
        if table.shape[0] != size:
            raise ValueError(
                f"the {name} geometry has {table.shape[0]} tokens but the problem has {size} {name}s; "
                "build it from the same tokens, row by row"
            )
        if table.device != values.device:
            raise ValueError(
                f"the {name} geometry is on {table.device} but the problem on {values.device}; "
                "build it from tensors moved there"
            )


def _check_table(name: str, table: Tensor) -> None:
    if table.ndim != 2 or table.shape[0] == 0:
        raise ValueError(f"{name} must have one row for each token, at least one, but has shape {tuple(table.shape)}")
    _check_finite(name, table)


def _check_finite(name: str, values: Tensor) -> None:
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point, but is {values.dtype}; convert with .float()")
    plain = values.detach()
    if plain.numel() and not bool(torch.stack(plain.aminmax()).isfinite().all()):  # NaN spreads to both
        place = [int(i) for i in torch.nonzero(~plain.isfinite())[0]]
        raise ValueError(
            f"{name} must be finite, but {name}{place} is {float(plain[tuple(place)])}; check where it was made"
        )
