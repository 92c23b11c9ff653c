"""A transport problem, checked: pairs, weights, epsilon and tau in one floating type, ready for the loop."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from .cost import SparseCost
from .pairs import BlockPairs, DensePairs, Pairs, SparsePairs
from .result import TransportError, TransportStatus

Reference = Literal["product", "counting"]
Gradient = Literal["implicit", "unrolled", "none"]


@dataclass(frozen=True)
class SolveSettings:
    """How a problem is solved: the last four arguments of `solve_transport`, which explains them.

    Raises:
        ValueError: If one is out of range.
    """

    reference: Reference = "product"
    max_iter: int = 100
    tol: float | int = 1e-5
    gradient: Gradient = "implicit"

    def __post_init__(self) -> None:
        if self.reference not in ("product", "counting"):
            raise ValueError(f'reference must be "product" (Eq. 1) or "counting" (Eq. 8), but is {self.reference!r}')
        if self.gradient not in ("implicit", "unrolled", "none"):
            raise ValueError(f'gradient must be "implicit", "unrolled" or "none", but is {self.gradient!r}')
        if self.max_iter < 1:
            raise ValueError(
                f"max_iter must be at least 1, but is {self.max_iter}; one iteration is one row and column update"
            )
        if not self.tol >= 0:
            raise ValueError(f"tol must be 0 or above, but is {self.tol}; 0 runs exactly max_iter iterations")


@dataclass(frozen=True, eq=False)
class Side:
    """One side's weights as the equations need them.

    Attributes:
        weight: a or b, (..., n).
        active: Weight above 0 and a candidate of weight above 0.
        reference: Factor of this side in the reference measure: the weight itself, or 1 ("counting").
        log_reference: Its logarithm; 0 where not active.
        log_ratio: log(weight / reference); 0 where not active.
    """

    weight: Tensor
    active: Tensor
    reference: Tensor
    log_reference: Tensor
    log_ratio: Tensor

    @functools.cached_property
    def whole(self) -> bool:
        """Whether every token is active."""
        return bool(self.active.all())

    @property
    def log_weight(self) -> Tensor:
        """log a; 0 where not active."""
        return self.log_reference + self.log_ratio

    def inside(self, x: Tensor, other: float = 0.0) -> Tensor:
        """x (..., n) of active tokens, `other` of the rest; x itself if there is no rest."""
        return x if self.whole else torch.where(self.active, x, other)

    def scale(self, potential: Tensor, epsilon: Tensor) -> Tensor:
        """Log of a scaling: log reference + potential / epsilon; -inf where this side carries no mass."""
        return self.inside(self.log_reference + self.inside(potential) / epsilon, -torch.inf)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Side":
        """With every tensor changed."""
        return Side(*(change(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Problem:
    """Eq. (1) or, with reference "counting", the problem that Eq. (8) solves; tensors in one floating type.

    `epsilon` and `tau` are (..., 1). `balanced` stands for tau = inf; `tau` then holds ones nobody reads.
    """

    pairs: Pairs
    rows: Side
    cols: Side
    epsilon: Tensor
    tau: Tensor
    balanced: bool
    reference: Reference

    @property
    def damping(self) -> Tensor:
        """P = tau / (tau + epsilon), (..., 1); 1 if balanced."""
        return torch.ones_like(self.epsilon) if self.balanced else self.tau / (self.tau + self.epsilon)

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions; empty for one problem."""
        return self.rows.weight.shape[:-1]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What a gradient may reach: cost, a, b, epsilon, tau."""
        return self.pairs.cost, self.rows.weight, self.cols.weight, self.epsilon, self.tau

    @property
    def finite_cost(self) -> Tensor:
        """The cost of the pairs, 0 where there is none."""
        pairs = self.pairs
        return pairs.cost if pairs.finite is None else torch.where(pairs.finite, pairs.cost, 0.0)

    def log_kernel(self) -> Tensor:
        """-C / epsilon on the pairs, -inf where there is no pair; a new tensor."""
        pairs, scale = self.pairs, -self.pairs.scalar(self.epsilon)
        if pairs.finite is None:
            return pairs.cost / scale
        return torch.where(pairs.finite, self.finite_cost / scale, -torch.inf)

    def with_tensors(self, cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, tau: Tensor) -> "Problem":
        """The same structure with other tensors of the same values, such as saved or detached ones."""
        return Problem(
            self.pairs.with_cost(cost),
            make_side(a, self.rows.active, self.reference),
            make_side(b, self.cols.active, self.reference),
            epsilon,
            tau,
            self.balanced,
            self.reference,
        )

    def detach(self) -> "Problem":
        """The same problem without gradients."""
        if not any(t.requires_grad for t in self.tensors):
            return self
        return self.with_tensors(*(t.detach() for t in self.tensors))

    def double(self) -> "Problem":
        """The same problem in float64."""
        return self.with_tensors(*(t.double() for t in self.tensors))

    def member(self, index: int) -> "Problem":
        """One problem of a batch with one leading dimension."""
        assert isinstance(self.pairs, DensePairs | BlockPairs)
        return self._each(lambda t: t[index], self.pairs.member(index))

    def flatten(self) -> "Problem":
        """A batch with its leading dimensions made one."""
        assert isinstance(self.pairs, DensePairs | BlockPairs)
        return self._each(lambda t: t.reshape(-1, t.shape[-1]), self.pairs.flatten())

    def _each(self, change: Callable[[Tensor], Tensor], pairs: Pairs) -> "Problem":
        """The problem on these pairs, with everything else changed."""
        return replace(
            self,
            pairs=pairs,
            rows=self.rows.each(change),
            cols=self.cols.each(change),
            epsilon=change(self.epsilon),
            tau=change(self.tau),
        )


def make_side(weight: Tensor, active: Tensor, reference: Reference) -> Side:
    """The side with these weights, of which `active` take part."""
    zero = torch.zeros_like(weight)
    log_weight = torch.where(active, weight, 1.0).log()
    if reference == "product":
        return Side(weight, active, weight, log_weight, zero)
    return Side(weight, active, (weight > 0).to(weight.dtype), zero, log_weight)


def build_problem(
    cost: Tensor | SparseCost,
    a: Tensor | None,
    b: Tensor | None,
    epsilon: float | int | Tensor,
    tau: float | int | Tensor,
    reference: Reference,
) -> Problem:
    """Checks what a caller gave and puts it in one floating type, float32 or better."""
    values = cost.values if isinstance(cost, SparseCost) else cost
    if not values.is_floating_point():
        raise ValueError(f"cost must be floating point, but is {values.dtype}; convert it with cost.float()")
    if values.ndim < 2 and not isinstance(cost, SparseCost):
        raise ValueError(
            f"a dense cost must have shape (..., n, m), but has {tuple(values.shape)}; pass a matrix, "
            "or a SparseCost for values on a support"
        )
    n, m = cost.shape[-2:]
    if n == 0 or m == 0:
        raise ValueError(f"cost must have at least one source and one target, but its shape is {(n, m)}")
    dtype = torch.promote_types(values.dtype, torch.float32)
    batch = values.shape[:-2] if not isinstance(cost, SparseCost) else torch.Size()
    finite = check_cost(cost, values)
    support = cost.support if isinstance(cost, SparseCost) else None
    values = values.to(dtype)
    pairs = SparsePairs(values, finite, support) if support else DensePairs(values, finite)
    return problem_on(pairs, (a, b), (epsilon, tau), reference, (batch, n, m))


def problem_on(
    pairs: Pairs,
    weights: tuple[Tensor | None, Tensor | None],
    scales: tuple[float | int | Tensor, float | int | Tensor],
    reference: Reference,
    shape: tuple[torch.Size, int, int],
) -> Problem:
    """The problem on pairs that are checked, with weights and scales that are not; `shape` is (batch, n, m)."""
    (a, b), (epsilon, tau), (batch, n, m), values = weights, scales, shape, pairs.cost
    a = _check_weights("a", "sources", a, n, batch, values)
    b = _check_weights("b", "targets", b, m, batch, values)
    epsilon = _check_scale("epsilon", epsilon, batch, values)
    tau = _check_scale("tau", tau, batch, values)
    balanced = bool(tau.isinf().all())
    if tau.isinf().any() and not balanced:
        raise ValueError("tau must be finite for the whole batch or inf for the whole batch; solve the two apart")
    if balanced:
        tau = torch.ones_like(tau)
    row_active, col_active = _active(pairs, a, b)
    rows, cols = make_side(a, row_active, reference), make_side(b, col_active, reference)
    return Problem(pairs, rows, cols, epsilon, tau, balanced, reference)


def _active(pairs: Pairs, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that take part: weight above 0 and a candidate of weight above 0."""
    with torch.no_grad():
        if pairs.finite is None and bool((a > 0).all()) and bool((b > 0).all()):
            if isinstance(pairs, DensePairs):
                return torch.ones_like(a, dtype=torch.bool), torch.ones_like(b, dtype=torch.bool)
            return pairs.as_rows(pairs.support.crow.diff() > 0), pairs.as_cols(pairs.support.ccol.diff() > 0)
        real = torch.zeros_like(pairs.cost) if pairs.finite is None else (~pairs.finite) * -1.0
        a_real, b_real = (torch.where(w > 0, 0.0, -1.0).to(real.dtype) for w in (a, b))
        row = (a > 0) & (pairs.max_rows(real + pairs.spread_cols(b_real)) == 0)
        col = (b > 0) & (pairs.max_cols(real + pairs.spread_rows(a_real)) == 0)
        return row, col


def check_cost(cost: Tensor | SparseCost, values: Tensor) -> Tensor | None:
    """Which pairs exist, or None if all do; NaN and -inf raise."""
    if values.numel() == 0:
        return None
    low, high = values.detach().aminmax()  # NaN spreads to both
    if not bool(low > -torch.inf):
        bad = torch.nonzero(values.detach().isnan() | (values.detach() == -torch.inf))
        place = tuple(int(i) for i in bad[0])
        where = f"cost{list(place)}"
        if isinstance(cost, SparseCost):
            source, target = int(cost.support.row[place[0]]), int(cost.support.col[place[0]])
            where = f"cost.values[{place[0]}] (source {source}, target {target})"
        raise TransportError(
            f"a cost must be finite, or +inf for no pair, but {where} is {float(values[place])} "
            f"({len(bad)} such in all); check the features it was made from",
            TransportStatus.NON_FINITE,
            tuple(sorted({tuple(int(i) for i in row[: values.ndim - 2]) for row in bad[:1000]})),
        )
    return values.detach() < torch.inf if bool(high == torch.inf) else None


def _check_weights(
    name: str, side: str, weights: Tensor | None, count: int, batch: torch.Size, values: Tensor
) -> Tensor:
    if weights is None:
        return torch.full((*batch, count), 1.0 / count, dtype=values.dtype, device=values.device)
    if weights.ndim == 0 or weights.shape[-1] != count:
        have = weights.shape[-1] if weights.ndim else "no"
        raise ValueError(f"cost has {count} {side} but {name} has {have} weights; pass {name}=None for uniform weights")
    if not broadcasts(weights.shape[:-1], batch):
        raise ValueError(
            f"{name} must have shape ({count},) or {(*batch, count)}, but has {tuple(weights.shape)}; "
            "give one row of weights, or one for each problem of the batch"
        )
    if weights.device != values.device:
        raise ValueError(f"cost is on {values.device} but {name} on {weights.device}; move {name} there")
    plain = weights.detach()
    if not bool(plain.isfinite().all()):
        place = [int(i) for i in torch.nonzero(~plain.isfinite())[0]]
        raise TransportError(
            f"weights must be finite, but {name}{place} is {float(plain[tuple(place)])}; use 0 for padding",
            TransportStatus.NON_FINITE,
            (tuple(place[:-1]),),
        )
    if not bool((plain >= 0).all()):
        place = [int(i) for i in torch.nonzero(plain < 0)[0]]
        raise ValueError(f"weights must not be negative, but {name}{place} is {float(plain[tuple(place)])}; pad with 0")
    return weights.to(values.dtype).expand(*batch, count)


def _check_scale(name: str, value: float | int | Tensor, batch: torch.Size, values: Tensor) -> Tensor:
    """Epsilon or tau as (..., 1)."""
    range_ = torch.finfo(values.dtype)
    if isinstance(value, float | int) and range_.tiny <= value <= range_.max:
        return values.new_full((*batch, 1), value)
    scale = torch.as_tensor(value, dtype=values.dtype, device=values.device)
    plain = scale.detach()
    if not bool((plain > 0).all()) or (name == "epsilon" and not bool(plain.isfinite().all())):
        allowed = "above 0 and finite" if name == "epsilon" else "above 0, or math.inf for balanced transport"
        wrong = ~(plain > 0) if name == "tau" else ~((plain > 0) & plain.isfinite())
        shown = plain.flatten()[wrong.flatten()][0]
        raise ValueError(f"{name} must be {allowed}, but is {float(shown)}; it has the unit of the cost")
    if not broadcasts(scale.shape, batch):
        raise ValueError(
            f"{name} must be one number or have the batch shape {tuple(batch)}, but has shape "
            f"{tuple(scale.shape)}; give one for each problem"
        )
    return scale.expand(batch).unsqueeze(-1)


def broadcasts(shape: torch.Size, batch: torch.Size) -> bool:
    """Whether one tensor of this shape serves the batch."""
    pairs = zip(reversed(shape), reversed(batch), strict=False)
    return len(shape) <= len(batch) and all(size in (1, count) for size, count in pairs)
