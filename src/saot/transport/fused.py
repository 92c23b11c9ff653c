"""Appearance and structure at once: Eq. (1) of SAOT with the Gromov-Wasserstein term of appendix D.

The plan is a fixed point, plan = P(C + s) with s = alpha Q~(plan) and P the solution of Eq. (1) at a cost. So

    ds = alpha Q~ P' (dC + ds)    and    d plan = P' (dC + ds),

with P' the derivative of P, which `implicit` has. A cotangent r of what is made of P(C + s) at s gives the cost

    r + P'^T alpha Q~ x    with    x = r + P'^T alpha Q~ x,

since Q~ is linear and its own adjoint: one linear system on the pairs, solved with a few more adjoints of Eq. (1).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .cost import SparseCost
from .krylov import minimal_residual
from .problem import Gradient, Reference, SolveSettings
from .products import in_full_precision
from .result import TransportResult
from .sinkhorn import solve_quietly, solve_transport
from .structure import Geometry, check_fit, linearise, sum_pairs

_SHORTEST_STEP = 2.0**-20
_MOST_IMAGES = 60  # of the gradient's system, each of the size of the plan
_ENOUGH = 1e-4  # share of the predicted descent that a step must bring (Armijo)


@dataclass(frozen=True, eq=False)
class FusedSettings:
    """How `solve_fused` goes about it; what is not explained here is handed to `solve_transport`.

    Attributes:
        steps: Most linearisations; one is one solve.
        structure_tol: The residual of the structure term to reach; 0 uses up the steps, without warning.
        epsilon: Weight of the entropy.
        tau: Weight of the marginals; `math.inf` is balanced.
        reference: "product" or "counting".
        max_iter: Most iterations of a solve.
        tol: Residual of a solve.
        gradient: How gradients pass through the last solve: "implicit", "unrolled" or "none".
        warm: Whether each solve starts from the potentials of the last step, which takes fewer iterations and gives the
            same plan within `tol`. A solve with an unrolled gradient does not, nor one with `tol=0`, whose iterations
            are counted.
        follow: Whether gradients also follow the structure cost, as it changes with the plan; if not, it is held.
    """

    steps: int = 50
    structure_tol: float | int = 1e-4
    epsilon: float | int | Float[Tensor, "..."] = 0.1
    tau: float | int | Float[Tensor, "..."] = 0.3
    reference: Reference = "product"
    max_iter: int = 100
    tol: float | int = 1e-5
    gradient: Gradient = "implicit"
    follow: bool = False
    warm: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, but is {self.steps}; alpha=0 leaves the structure out")
        if not self.structure_tol >= 0:
            raise ValueError(f"structure_tol must be 0 or above, but is {self.structure_tol}; 0 uses up the steps")


@dataclass(frozen=True, eq=False)
class FusedResult:
    """Solution of the fused problem, as `solve_fused` returns it.

    Attributes:
        transport: The last solve, at the cost C + `structure_cost`; its value is that of the linearised problem.
        structure_cost: alpha Q~ as the last solve took it, on the pairs: (nnz,), or (..., n, m). No gradient.
        objective: <plan, C> + alpha Q(plan) + the entropy and marginal terms of Eq. (1), first at the plan of C
            alone, then after each step. Never rises by more than the gaps of the two solves. No gradient.
        residual: Largest |alpha Q~(plan) - structure_cost| over (epsilon + the largest alpha Q~), of tokens
            that carry mass: 0 where the plan solves its own linearisation.
        converged: The residual is within `structure_tol`, and the last solve converged.
        steps: Linearised problems solved.
    """

    transport: TransportResult
    structure_cost: Float[Tensor, "..."]
    objective: Float[Tensor, "records *batch"]
    residual: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    steps: Int[Tensor, "*batch"]


def solve_fused(
    cost: Float[Tensor, "... n m"] | SparseCost,
    source: Geometry,
    target: Geometry,
    alpha: float | int,
    a: Float[Tensor, "... n_weights"] | None = None,
    b: Float[Tensor, "... m_weights"] | None = None,
    settings: FusedSettings = FusedSettings(),
) -> FusedResult:
    """A plan at which appearance and structure agree: Eq. (1) of SAOT with alpha Q(plan) added, appendix D.

    Starts from the plan of C alone, then solves with C + alpha Q~ of the last plan, again and again.

    In balanced transport with Euclidean distances on both sides, squared or not, no such step raises the
    objective: between plans of the same marginals Q is concave (for points, Q(H) = -8 |P_s^T H P_t|^2 along a
    change H without row and column sums). With relaxed marginals it can rise: mass that pays for its
    structure leaves, and comes back once it is gone. There this departs from the paper: a step that raises
    the objective is taken back, and tried at half the length, with a structure cost between the old and the
    new. This is mirror descent, whose mirror is the convex rest of the objective, so short steps descend;
    full steps are the paper's. The objective is not convex: the plan is stationary, not always the best.

    Q grows with the square of the mass, so at a small tau, where little mass is moved, structure counts for
    less; with the counting reference, whose plans are heavier, for more.

    Gradients pass through the last solve. With `follow=False` the structure cost is held fixed: `transport.value` then
    has the gradient of the fused objective at a stationary plan, which is the plan; the gradient of
    `transport.plan` leaves out how the structure cost would follow the plan. With `follow=True` it is in it, by the
    condition that the plan solves its own linearisation: plan, potentials, mass and `apply` then have the derivative of
    where the scheme ends (as near as `structure_tol` and the solves come to it), and `value` that of the linearised
    problem's value. Training a cost through the plan needs the latter. There is no second derivative of either: it
    raises NotImplementedError, unless alpha is 0.

    Args:
        cost: Appearance cost C, dense (..., n, m) or on a support; +inf is no pair.
        source: Distances of the n sources, shared by a batch.
        target: Distances of the m targets.
        alpha: Weight of the structure; 0 gives exactly `solve_transport` of the cost.
        a: Weights of the sources; 1/n if not given.
        b: Weights of the targets; 1/m if not given.
        settings: Steps, and the settings of `solve_transport`.

    Returns:
        A `FusedResult`. Running out of steps is told by `converged` and one warning.

    Raises:
        ValueError: If alpha is negative or not finite, or a geometry does not fit the cost.

    Example:
        By appearance source 1 may go to target 1 or 2; by structure, only to 1:

        >>> from saot.transport import PointGeometry
        >>> line = PointGeometry(torch.tensor([[0.0], [1.0], [3.0]]))
        >>> cost = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.5, 0.5], [1.0, 1.0, 0.0]])
        >>> plan = solve_fused(cost, line, line, alpha=0.1).transport.plan
        >>> [round(float(x), 3) for x in plan[1] / plan[1].sum()]
        [0.0, 1.0, 0.0]
    """
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be 0 or above and finite, but is {alpha}; 0 leaves the structure out")
    sparse = isinstance(cost, SparseCost)
    support = cost.support if sparse else None
    check_fit(cost.values if sparse else cost, source, target, support)

    def solve(shift: Tensor | float, quietly: bool = False, last: _Iterate | None = None) -> TransportResult:
        values, s = cost.values if isinstance(cost, SparseCost) else cost, settings
        values = (_FirstDerivative.apply(values) if alpha > 0 else values) + shift
        shifted = SparseCost(values, cost.support) if isinstance(cost, SparseCost) else values
        init = None if last is None else _start(last, s)
        if quietly:
            return solve_quietly(
                shifted, a, b, s.epsilon, s.tau, SolveSettings(s.reference, s.max_iter, s.tol, s.gradient), init
            )
        return solve_transport(shifted, a, b, s.epsilon, s.tau, s.reference, s.max_iter, s.tol, s.gradient, init)

    def evaluate(shift: Tensor, result: TransportResult) -> _Iterate:
        linear = alpha * linearise(result.plan_values.detach(), source, target, support)
        return _evaluate(shift, linear, result, settings)

    start = solve(0.0)
    with torch.no_grad():  # the first and the last solve warn for all
        now = evaluate(torch.zeros_like(start.plan_values), start)
        now, steps, objective = _descend(
            now, lambda shift, last: evaluate(shift, solve(shift, quietly=True, last=last)), settings
        )
    shift, follow = now.shift, settings.follow and settings.gradient != "none" and alpha > 0
    if follow and torch.is_grad_enabled():
        shift = _followed(cost, (a, b), shift, settings, lambda plan: alpha * linearise(plan, source, target, support))
    transport = solve(shift, last=now) if bool(steps.any()) or shift.requires_grad else start
    converged = (now.residual <= settings.structure_tol) & transport.converged
    if settings.structure_tol > 0 and not bool((now.residual <= settings.structure_tol).all()):
        warnings.warn(
            f"the structure term ended at a residual of {float(now.residual.max()):.1e} after "
            f"{int(steps.max())} steps; raise steps, epsilon or structure_tol, or lower alpha",
            stacklevel=2,
        )
    return FusedResult(transport, now.shift, objective, now.residual, converged, steps)


def _followed(
    cost: Tensor | SparseCost,
    weights: tuple[Tensor | None, Tensor | None],
    shift: Tensor,
    settings: FusedSettings,
    linear: Callable[[Tensor], Tensor],
) -> Tensor:
    """The structure cost where the scheme ended, as a function of cost, weights, epsilon and tau.

    Args:
        cost: Appearance cost C.
        weights: a and b.
        shift: The structure cost alpha Q~, as numbers.
        settings: Of the solve.
        linear: A plan on the pairs to alpha Q~.
    """

    def plan_of(values: Tensor, a: Tensor | None, b: Tensor | None, epsilon: Tensor | None, tau: Tensor | None):
        shifted = SparseCost(values, cost.support) if isinstance(cost, SparseCost) else values
        scale = settings.epsilon if epsilon is None else epsilon, settings.tau if tau is None else tau
        how = SolveSettings(settings.reference, settings.max_iter, settings.tol, settings.gradient)
        return solve_quietly(shifted, a, b, *scale, how).plan_values

    values = cost.values if isinstance(cost, SparseCost) else cost
    scales = [x if isinstance(x, Tensor) else None for x in (settings.epsilon, settings.tau)]
    return _Follow.apply(plan_of, linear, shift, values, *weights, *scales)


class _Follow(torch.autograd.Function):
    """s as it is; its derivative is that of the fixed point s = alpha Q~(P(C + s)), see the top of this file."""

    @staticmethod
    def forward(ctx: Any, plan_of: Any, linear: Any, shift: Tensor, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(shift, *tensors)
        ctx.maps = plan_of, linear
        return shift.clone()

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        (plan_of, linear), (shift, values, *others) = ctx.maps, ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        with torch.enable_grad():
            moved = (values.detach() + shift).requires_grad_()
            held = [
                None if t is None else t.detach().requires_grad_(needs)
                for t, needs in zip(others, wanted[1:], strict=True)
            ]
            plan = plan_of(moved, *held)

        def pulled(x: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(plan, inputs, linear(x), retain_graph=True)

        with torch.no_grad():
            tol = 1e-6 if plan.dtype == torch.float32 else 1e-12
            batch_dims = 0 if values.ndim == 1 else values.ndim - 2
            x, left = minimal_residual(lambda x: pulled(x, [moved])[0], grads[0], batch_dims, tol, _MOST_IMAGES)
            if not bool((left <= 1e3 * tol).all()):
                warnings.warn(
                    f"the gradient of the structure term was solved to {float(left.max()):.1e} of its size only; "
                    "lower alpha, or raise epsilon",
                    stacklevel=2,
                )
            chosen = [t for t in held if t is not None and t.requires_grad]
            first, *found = pulled(x, [moved, *chosen])
        rest = iter(found)
        through = [next(rest) if t is not None and t.requires_grad else None for t in held]
        result = [first.to(values.dtype) if wanted[0] else None, *through]
        if torch.is_grad_enabled():  # of a backward pass that is to be differentiated again
            once = torch.zeros((), requires_grad=True)
            result = [None if t is None else _NoFurther.apply(t, once) for t in result]
        return (None, None, None, *result)


class _FirstDerivative(torch.autograd.Function):
    """The tensor as it is; its gradient has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if not torch.is_grad_enabled():
            return grads[0]
        return _NoFurther.apply(grads[0], torch.zeros((), requires_grad=True))


class _NoFurther(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "a fused solve has no second derivatives, for its structure cost is held fixed in them; take first ones, "
            "or differentiate solve_transport at cost + structure_cost"
        )


@dataclass(frozen=True, eq=False)
class _Iterate:
    """A plan, as the solution at the cost C + shift, and what the next step needs to know of it."""

    shift: Tensor
    plan: Tensor
    f: Tensor  # potentials of the plan
    g: Tensor
    linear: Tensor  # alpha Q~ at the plan
    objective: Tensor
    slack: Tensor  # how far the objective may be off: the plan is solved to a gap, in finite precision
    residual: Tensor


def _evaluate(shift: Tensor, linear: Tensor, result: TransportResult, settings: FusedSettings) -> _Iterate:
    support, plan, batch_dims = result.support, result.plan_values, result.mass.ndim
    appearance = result.value - sum_pairs(plan * shift, batch_dims)  # with entropy and marginal terms
    objective = appearance + sum_pairs(plan * linear, batch_dims) / 2
    rows, cols = (sums > 0 for sums in result.marginals)
    if support is None:
        carries = rows.unsqueeze(-1) & cols.unsqueeze(-2)
    else:
        carries = rows.index_select(0, support.row) & cols.index_select(0, support.col)
    missing, size = (_max_pairs(torch.where(carries, v.abs(), 0.0), batch_dims) for v in (linear - shift, linear))
    terms = result.value.abs() + objective.abs() + result.mass * size  # what cancels has the size of these
    slack = result.gap.abs() + 16 * torch.finfo(plan.dtype).eps * terms
    epsilon = torch.as_tensor(settings.epsilon, dtype=plan.dtype, device=plan.device)
    return _Iterate(shift, plan, *result.potentials, linear, objective, slack, missing / (epsilon + size))


def _start(last: _Iterate, settings: FusedSettings) -> tuple[Tensor, Tensor] | None:
    """Where the next solve starts; None is at 0."""
    unrolled = settings.gradient == "unrolled" and torch.is_grad_enabled()
    return (last.f, last.g) if settings.warm and settings.tol > 0 and not unrolled else None


def _descend(
    now: _Iterate, solve: Callable[[Tensor, _Iterate], _Iterate], settings: FusedSettings
) -> tuple[_Iterate, Tensor, Tensor]:
    """Where the steps end, how many there were, and the objective before and after each; by problem of a batch."""
    stride = torch.ones_like(now.objective)
    steps = torch.zeros_like(now.objective, dtype=torch.int64)
    records = [now.objective]
    for _ in range(settings.steps):
        active = (now.residual > settings.structure_tol) & (stride >= _SHORTEST_STEP)
        if not bool(active.any()):
            break
        trial = solve(torch.lerp(now.shift, now.linear, _spread(stride, now.plan)), now)
        descent = sum_pairs((now.linear - now.shift) * (trial.plan - now.plan), stride.ndim)
        enough = trial.objective <= now.objective + _ENOUGH * descent + now.slack + trial.slack
        taken = active & enough
        now = _Iterate(
            **{
                f.name: torch.where(_spread(taken, getattr(now, f.name)), getattr(trial, f.name), getattr(now, f.name))
                for f in fields(_Iterate)
            }
        )
        stride = torch.where(active & ~enough, stride / 2, stride)
        steps = steps + active
        records.append(now.objective)
    return now, steps, torch.stack(records)


def _spread(x: Tensor, like: Tensor) -> Tensor:
    """One number a problem (...) to the shape of `like` (..., pairs)."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def _max_pairs(values: Tensor, batch_dims: int) -> Tensor:
    flat = values.flatten(batch_dims)
    return flat.amax(-1) if flat.shape[-1] else flat.sum(-1)
