"""`solve_transport`: entropic transport, unbalanced or balanced, dense or on a support."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from .balanced import fix_gauge, infeasible, keep_masses_equal, refuse_gradients
from .batch import solve_blocks
from .cost import SparseCost
from .implicit import attach
from .loop import iterate
from .pairs import SparsePairs
from .plan import Plan, dual_value, duality_gap, envelope, make_plan, primal_value
from .problem import Gradient, Problem, Reference, SolveSettings, build_problem
from .products import refuse_transforms
from .progress import Progress
from .result import TransportResult, TransportStatus
from .start import Potentials, Start, check_start


def solve_transport(
    cost: Float[Tensor, "... n m"] | SparseCost,
    a: Float[Tensor, "... n_weights"] | None = None,
    b: Float[Tensor, "... m_weights"] | None = None,
    epsilon: float | int | Float[Tensor, "..."] = 0.1,
    tau: float | int | Float[Tensor, "..."] = 0.3,
    reference: Reference = "product",
    max_iter: int = 100,
    tol: float | int = 1e-5,
    gradient: Gradient = "implicit",
    init: Potentials | None = None,
) -> TransportResult:
    """The plan that moves a to b at the least cost, with entropy and relaxed marginals: SAOT Eq. (1).

    Minimises <plan, C> + epsilon KL(plan | a b^T) + tau KL(plan 1 | a) + tau KL(plan^T 1 | b) over plans on
    the pairs of the cost, by updates of rows and columns in turn. With f and g the potentials,
    plan_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon), and at the solution plan 1 = a exp(-f / tau).

    Weights are taken as they are, never normalised. Weight 0 is padding: such a token changes nothing. A
    token without candidates adds tau times its weight to the value. Half-precision input is solved in float32.
    In balanced transport the gradients of a and b are projected onto changes that keep both masses equal.

    Args:
        cost: Cost of each pair, dense (..., n, m) or on a support; +inf is no pair. Members of a batch never
            influence each other.
        a: Weights of the sources, (n,) or (..., n); 1/n if not given.
        b: Weights of the targets, (m,) or (..., m); 1/m if not given.
        epsilon: Weight of the entropy, in units of the cost. The default is SAOT's, sec. 6.1.
        tau: Weight of the marginals, in units of the cost; `math.inf` is balanced transport. SAOT's default.
        reference: Other: the measure the entropy refers to, "product" a b^T or "counting", 1 a pair. The
            latter is what Eq. (8) as printed solves; with uniform weights its plan is a multiple of the
            other.
        max_iter: Other: most iterations; one is one row and one column update.
        tol: Other: the residual to reach. 0 runs exactly `max_iter` iterations, without checks or warning.
        gradient: Other: "implicit" (by the optimality conditions, memory independent of `max_iter`),
            "unrolled" (through the iterations, the readable twin) or "none".
        init: Other: where to start, (f, g) in cost units: the potentials of an earlier result, of this problem or of
            one like it, whatever its tau. 0 if not given. It changes the iterations needed and not the solution: the
            plan is that of a cold start within `tol`, and so are implicit gradients. The unrolled gradient takes it
            as a constant, and so is that of the fewer iterations that are left: start cold for it.

    Returns:
        A `TransportResult`. Look at `converged`: running out of iterations, infeasibility (balanced only) and
        a potential out of range are told by `status` and one warning, not raised.

    Raises:
        TransportError: If the cost holds NaN or -inf, or a weight is not finite.
        ValueError: If shapes do not fit, a weight is negative, a setting is out of range, or `init` is not finite where
            a token takes part, or of another type or device.
        NotImplementedError: Under torch.func or forward-mode AD; gradients of any order are torch.autograd's.

    Example:
        Equal costs c everywhere and weights of mass 1 give a plan of mass exp(-c / (epsilon + 2 tau)):

        >>> result = solve_transport(torch.full((2, 2), 0.7), epsilon=0.1, tau=0.3)
        >>> result.mass
        tensor(0.3679)
        >>> result.plan
        tensor([[0.0920, 0.0920],
                [0.0920, 0.0920]])
    """
    result = solve_quietly(cost, a, b, epsilon, tau, SolveSettings(reference, max_iter, tol, gradient), init)
    if tol > 0:
        _warn(result)
    return result


def solve_quietly(
    cost: Tensor | SparseCost,
    a: Tensor | None,
    b: Tensor | None,
    epsilon: float | int | Tensor,
    tau: float | int | Tensor,
    settings: SolveSettings,
    init: Potentials | None = None,
) -> TransportResult:
    """`solve_transport` without its warning: for solves inside a longer scheme."""
    values = cost.values if isinstance(cost, SparseCost) else cost
    refuse_transforms(values, a, b, epsilon, tau)
    with (
        torch.autocast(values.device.type, enabled=False),
        torch.set_grad_enabled(torch.is_grad_enabled() and settings.gradient != "none"),
    ):
        if isinstance(cost, SparseCost) and cost.support.blocks:
            return solve_blocks(cost, (a, b), (epsilon, tau), settings, _solve, init)
        problem = build_problem(cost, a, b, epsilon, tau, settings.reference)
        return _solve(problem, settings, None if init is None else check_start(problem, init))


def _solve(problem: Problem, settings: SolveSettings, start: Start | None) -> TransportResult:
    if problem.balanced:
        problem = keep_masses_equal(problem)
    unrolled = settings.gradient == "unrolled" and torch.is_grad_enabled()
    with torch.set_grad_enabled(unrolled):
        end = iterate(problem if unrolled else problem.detach(), settings, start)
        status = _status(problem, end, settings.tol)
    may_refuse, bad = problem.balanced and not unrolled, status == int(TransportStatus.INFEASIBLE)
    if may_refuse:
        problem = problem.with_tensors(*refuse_gradients(problem.tensors, bad, end.residual, problem.pairs))
    f, g = (end.f, end.g) if unrolled else attach(problem, end.f, end.g)
    if may_refuse:  # before the adjoint, which could not be solved
        f, g = refuse_gradients((f, g), bad, end.residual, problem.pairs)
    return _result(problem, end, status, f, g, unrolled)


def _result(problem: Problem, end: Progress, status: Tensor, f: Tensor, g: Tensor, unrolled: bool) -> TransportResult:
    plan = make_plan(problem, f, g)  # of the potentials as the loop left them: a shift may cost digits
    if problem.balanced:
        f, g = fix_gauge(problem, f, g)
    with torch.set_grad_enabled(unrolled):
        value = primal_value(problem, plan, f, g)
    with torch.no_grad():
        dual, gap = dual_value(problem, plan, f, g), duality_gap(problem, plan, f, g)
        status.masked_fill_(_out_of_range(problem, plan), int(TransportStatus.NON_FINITE))
    if not unrolled and plan.values.requires_grad:
        value = envelope(problem, plan, f, g, value)
    return TransportResult(
        plan_values=plan.values,
        potentials=(f, g),
        marginals=(plan.rows, plan.cols),
        mass=plan.mass.squeeze(-1),
        value=value,
        dual_value=dual,
        gap=gap,
        covered=problem.cols.active,
        converged=status == int(TransportStatus.CONVERGED),
        status=status,
        residual=end.residual,
        iterations=end.iterations,
        support=problem.pairs.support if isinstance(problem.pairs, SparsePairs) else None,
    )


def _status(problem: Problem, end: Progress, tol: float | int) -> Tensor:
    status = torch.full_like(end.iterations, int(TransportStatus.MAX_ITER))
    converged = end.residual <= tol
    status.masked_fill_(converged, int(TransportStatus.CONVERGED))
    if problem.balanced and not bool(converged.all()):
        proven = infeasible(problem.detach(), end.f.detach(), end.g.detach(), end.f_change)
        status.masked_fill_(proven & ~converged, int(TransportStatus.INFEASIBLE))
    left = end.stuck & (status == int(TransportStatus.MAX_ITER))
    status.masked_fill_(left, int(TransportStatus.ROUNDING))
    return status.masked_fill_(end.non_finite, int(TransportStatus.NON_FINITE))


def _out_of_range(problem: Problem, plan: Plan) -> Tensor:
    """Whether the mass of a plan (...) cannot be told in its floating type, though pairs carry some."""
    mass, range_ = plan.mass.squeeze(-1), torch.finfo(plan.mass.dtype)
    return problem.rows.active.any(-1) & ~((mass >= range_.tiny) & (mass <= range_.max))


_GRAVITY = (
    TransportStatus.MAX_ITER,
    TransportStatus.ROUNDING,
    TransportStatus.INFEASIBLE,
    TransportStatus.NON_FINITE,
)


def _warn(result: TransportResult) -> None:
    """One warning for all problems of a solve that did not converge."""
    status = result.status
    failed = status != int(TransportStatus.CONVERGED)
    if not bool(failed.any()):
        return
    worst = max((TransportStatus(int(code)) for code in status[failed].unique()), key=_GRAVITY.index)
    where = ""
    if status.ndim:
        first = [tuple(int(i) for i in row) for row in torch.nonzero(failed)[:3]]
        where = f" in {int(failed.sum())} of {status.numel()} problems, the first at {first}"
    warnings.warn(
        f"transport ended with {worst.name}{where} (residual {float(result.residual.max()):.1e} after "
        f"{int(result.iterations.max())} iterations): {worst.message}",
        stacklevel=3,
    )
