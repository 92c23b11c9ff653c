"""The gradient of the potentials by the adjoint of the optimality conditions: O(pairs) memory.

The potentials are the fixed point of f = T1(g), g = T2(f), the two updates of the loop. With W_ij and V_ij
the softmax of log plan by row and by column, dT1_i/dg_j = -p W_ij and dT2_j/df_i = -p V_ij. For cotangents f'
and g' the adjoint is

    lam_i + p sum_j V_ij mu_j = f'_i,        mu_j + p sum_i W_ij lam_i = g'_j,

and a parameter's gradient is lam dT1 + mu dT2. With lam = sqrt(r) u and mu = sqrt(c) v (r, c the marginals)
it turns symmetric, [I, pM; pM^T, I] with M_ij = plan_ij / sqrt(r_i c_j), of norm 1. We eliminate v and solve
for u by conjugate gradients; the spectrum lies in [1 - p^2, 1]. Balanced transport (p = 1) is singular along
u = sqrt(r) on each connected part; right-hand sides have no such component, and what rounding adds is
projected out.

Backward passes that are to be differentiated again (`create_graph`) solve the same system by `_Adjoint`, whose own way
back is the transposed system, and take lam dT1 + mu dT2 by autograd: O(pairs) memory and derivatives of any order.
"""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .balanced import connected_parts, project_out
from .conjugate import Map, conjugate_gradients
from .pairs import DensePairs, Pairs, largest_exponent
from .plan import plan_values, weights_are_positive
from .problem import Problem
from .products import csr, csr_transposed, has_sparse_kernels, in_full_precision, refuse_transforms
from .triton_kernels import has_triton, segment_sum_product
from .updates import both_updates

_MAX_ITER = 5000


def attach(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The potentials f and g, as differentiable functions of the problem's cost, a, b, epsilon and tau."""
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in problem.tensors):
        return f, g
    return _Implicit.apply(*problem.tensors, f, g, problem.detach())


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, f, g, problem = inputs
        f, g = f.clone(), g.clone()
        ctx.save_for_backward(*tensors, f, g)  # outputs: when unpacked, functions of the tensors again
        ctx.problem = problem  # the structure; its tensors are views of the saved ones
        ctx.set_materialize_grads(False)
        return f, g

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None and grads[1] is None:  # the value's gradient needs no adjoint
            return (None,) * 8
        refuse_transforms(*grads)
        *tensors, f, g = ctx.saved_tensors
        f_bar, g_bar = (torch.zeros_like(v) if bar is None else bar for v, bar in zip((f, g), grads, strict=True))
        if torch.is_grad_enabled():
            lam, mu = _Adjoint.apply(f_bar, g_bar, f, g, *tensors, ctx.problem, False)
            return (*_pull_back_twice(ctx.problem, lam, mu, f, g, tensors), None, None, None)
        point = _linearise(ctx.problem.with_tensors(*tensors), f, g)
        lam, mu = _solve_adjoint(point, f_bar, g_bar)
        return (*_pull_back(point, lam, mu, needs_epsilon=ctx.needs_input_grad[3]), None, None, None)


class _Adjoint(torch.autograd.Function):
    """The solution x of H x = b with H = (I - dT/dz)^T at z = (f, g), or of H^T x = b if `transposed`.

    dx = H^-1 (db - dH x), so for a cotangent x' the solution w of H^T w = x' is the cotangent of b, and that of z
    and the parameters is the gradient of -<w, H x> = <dT/dz w, x> - <w, x> at fixed w and x. Each is the other's
    way back, so there are derivatives of any order.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        f_bar, g_bar, f, g, *tensors, problem, transposed = inputs
        point = _linearise(problem.with_tensors(*tensors), f, g)
        x = (_solve_transposed if transposed else _solve_adjoint)(point, f_bar, g_bar)
        ctx.save_for_backward(*x, f, g, *tensors)
        ctx.how = problem, transposed
        return x

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        refuse_transforms(*grads)
        lam, mu, f, g, *tensors = ctx.saved_tensors
        problem, transposed = ctx.how
        w = _Adjoint.apply(*grads, f, g, *tensors, problem, not transposed)
        left, right = ((lam, mu), w) if transposed else (w, (lam, mu))
        wanted = ctx.needs_input_grad[2:9]
        return (*w, *_bend(problem, (f, g, *tensors), wanted, left, right), None, None)


def _bend(
    problem: Problem, point: Sequence[Tensor], wanted: Sequence[bool], w: Sequence[Tensor], x: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of <dT/dz w, x> in the point (f, g, cost, a, b, epsilon, tau), at fixed w and x."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if not again:
            w, x = ([t.detach() for t in pair] for pair in (w, x))
        held = (True, True, *wanted[2:])  # of f and g the first derivative is taken in any case
        f, g, *tensors = (_alias(t, again, needs) for t, needs in zip(point, held, strict=True))
        pulled = _inner(x, both_updates(problem.with_tensors(*tensors), f, g))
        bent = _inner(w, torch.autograd.grad(pulled, (f, g), create_graph=True))
        return _gradients(bent, (f, g, *tensors), wanted, again)


def _pull_back_twice(
    problem: Problem, lam: Tensor, mu: Tensor, f: Tensor, g: Tensor, tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """`_pull_back` with a gradient of its own, in everything it is made of."""
    wanted = [t.requires_grad for t in tensors]
    tensors = [_alias(t, True, t.requires_grad) for t in tensors]
    pulled = _inner((lam, mu), both_updates(problem.with_tensors(*tensors), f, g))
    return _gradients(pulled, tensors, wanted, True)


def _alias(t: Tensor, attached: bool, needs: bool) -> Tensor:
    """The same numbers under a name of their own: a gradient in it is a partial derivative."""
    return t.view_as(t) if attached and t.requires_grad else t.detach().requires_grad_(needs)


def _inner(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    return (x[0] * y[0]).sum() + (x[1] * y[1]).sum()


def _gradients(of: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool], again: bool) -> list[Tensor | None]:
    """One gradient for each input that is wanted, None for the others."""
    chosen = [t for t, needs in zip(inputs, wanted, strict=True) if needs]
    found = iter(torch.autograd.grad(of, chosen, create_graph=again, allow_unused=True) if chosen else ())
    return [next(found) if needs else None for needs in wanted]


@dataclass(frozen=True, eq=False)
class _PlanPoint:
    """The problem at (f, g), where all weights are positive and no marginal comes near underflow.

    The softmaxes of log plan are then W_ij = plan_ij / r_i and V_ij = plan_ij / c_j.
    """

    problem: Problem
    f: Tensor  # 0 for tokens without candidates
    g: Tensor
    plan: Tensor
    r: Tensor  # row sums; inf for tokens without candidates
    c: Tensor

    def roots(self) -> tuple[Tensor, Tensor]:
        """Square roots of the marginals, 0 for tokens that take no part."""
        root_r, root_c = (torch.where(v.isfinite(), v.sqrt(), 0.0) for v in (self.r, self.c))
        return root_r, root_c

    @functools.cached_property
    def maps(self) -> tuple[Map, Map]:
        """V -> plan v and u -> plan^T u."""
        return plan_maps(self.plan, self.problem.pairs)

    def symmetric_maps(self) -> tuple[Map, Map]:
        """V -> M v and u -> M^T u with M_ij = plan_ij / sqrt(r_i c_j), which is never formed."""
        (forward, backward), row, col = self.maps, self.r.rsqrt(), self.c.rsqrt()
        return (lambda v: forward(v * col).mul_(row)), (lambda u: backward(u * row).mul_(col))

    def pulls(self, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W_ij lam_i + V_ij mu_j on the pairs; sum_j V_ij mu_j; sum_i W_ij lam_i."""
        joint = self.problem.pairs.weighted(self.plan, lam / self.r, mu / self.c)
        return joint, *self.pull_sums(lam, mu)

    def pull_sums(self, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """Sum_j V_ij mu_j; sum_i W_ij lam_i."""
        forward, backward = self.maps
        return forward(mu / self.c), backward(lam / self.r)

    def follow_rows(self, g: Tensor) -> Tensor:
        """Sum_j W_ij g_j, (..., n)."""
        return self.maps[0](g) / self.r

    def follow_cols(self, f: Tensor) -> Tensor:
        """Sum_i V_ij f_i, (..., m)."""
        return self.maps[1](f) / self.c

    def taking_part(self) -> tuple[Tensor, Tensor]:
        """Tokens that have a finite potential."""
        return self.r.isfinite(), self.c.isfinite()


@dataclass(frozen=True, eq=False)
class _Point:
    """The problem at (f, g). f and g are 0 where infinite; the lse are +inf where there is nothing to sum."""

    problem: Problem
    f: Tensor
    g: Tensor
    log_kernel: Tensor
    x: Tensor  # log row scalings, -inf without mass
    y: Tensor
    row_lse: Tensor  # log sum_j exp(y_j - C_ij / epsilon)
    col_lse: Tensor

    def softmax_rows(self, y: Tensor) -> Tensor:
        """W_ij = exp(y_j - C_ij / epsilon - row_lse_i)."""
        pairs = self.problem.pairs
        return _exp(self.log_kernel + pairs.spread_rows(-self.row_lse) + pairs.spread_cols(y))

    def softmax_cols(self, x: Tensor) -> Tensor:
        """V_ij = exp(x_i - C_ij / epsilon - col_lse_j)."""
        pairs = self.problem.pairs
        return _exp(self.log_kernel + pairs.spread_rows(x) + pairs.spread_cols(-self.col_lse))

    def roots(self) -> tuple[Tensor, Tensor]:
        """Square roots of the marginals, 0 for tokens that take no part."""
        rows, cols = self.problem.rows.active, self.problem.cols.active
        root_r = torch.where(rows, ((self.x + self.row_lse) / 2).exp(), 0.0)
        return root_r, torch.where(cols, ((self.y + self.col_lse) / 2).exp(), 0.0)

    def symmetric_maps(self) -> tuple[Map, Map]:
        """V -> M v and u -> M^T u with M_ij = plan_ij / sqrt(r_i c_j)."""
        pairs = self.problem.pairs
        x, y = (self.x - self.row_lse) / 2, (self.y - self.col_lse) / 2
        return plan_maps((self.log_kernel + pairs.spread_rows(x) + pairs.spread_cols(y)).exp(), pairs)

    def pulls(self, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W_ij lam_i + V_ij mu_j on the pairs; sum_j V_ij mu_j; sum_i W_ij lam_i."""
        pairs = self.problem.pairs
        by_row = self.softmax_rows(self.y) * pairs.spread_rows(lam)
        by_col = self.softmax_cols(self.x) * pairs.spread_cols(mu)
        return by_row + by_col, pairs.sum_rows(by_col), pairs.sum_cols(by_row)

    def pull_sums(self, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """Sum_j V_ij mu_j; sum_i W_ij lam_i."""
        return self.pulls(lam, mu)[1:]

    def follow_rows(self, g: Tensor) -> Tensor:
        """Sum_j W_ij g_j, (..., n)."""
        pairs = self.problem.pairs
        return pairs.sum_rows(self.softmax_rows(self.y) * pairs.spread_cols(g))

    def follow_cols(self, f: Tensor) -> Tensor:
        """Sum_i V_ij f_i, (..., m)."""
        pairs = self.problem.pairs
        return pairs.sum_cols(self.softmax_cols(self.x) * pairs.spread_rows(f))

    def taking_part(self) -> tuple[Tensor, Tensor]:
        """Tokens that have a finite potential."""
        return self.row_lse < torch.inf, self.col_lse < torch.inf


def _exp(exponent: Tensor) -> Tensor:
    """A softmax is at most 1; only between two tokens of weight zero may it be anything."""
    return exponent.clamp(max=largest_exponent(exponent.dtype)).exp()


def _linearise(problem: Problem, f: Tensor, g: Tensor) -> "_PlanPoint | _Point":
    if problem.pairs.finite is None and weights_are_positive(problem):
        plan, pairs = plan_values(problem, f, g), problem.pairs
        r, c = (
            torch.where(side.active, sums, torch.inf)
            for side, sums in ((problem.rows, pairs.sum_rows(plan)), (problem.cols, pairs.sum_cols(plan)))
        )
        floor = torch.finfo(r.dtype).tiny ** 0.75
        if bool((r > floor).all()) and bool((c > floor).all()):
            f, g = (torch.where(v.isfinite(), v, 0.0) for v in (f, g))
            return _PlanPoint(problem, f, g, plan, r, c)
    return _log_point(problem, f, g)


def _log_point(problem: Problem, f: Tensor, g: Tensor) -> "_Point":
    pairs, log_kernel = problem.pairs, problem.log_kernel()
    x, y = problem.rows.scale(f, problem.epsilon), problem.cols.scale(g, problem.epsilon)
    sums = pairs.lse_rows(log_kernel, y), pairs.lse_cols(pairs.in_columns(log_kernel), x)
    row_lse, col_lse = (torch.where(v.isfinite(), v, torch.inf) for v in sums)
    f, g = (torch.where(v.isfinite(), v, 0.0) for v in (f, g))
    return _Point(problem, f, g, log_kernel, x, y, row_lse, col_lse)


def _solve_adjoint(point: _PlanPoint | _Point, f_bar: Tensor, g_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Lam (..., n) and mu (..., m) of the two equations at the head of this file."""
    lam_out, mu_out = torch.zeros_like(f_bar), torch.zeros_like(g_bar)
    if isinstance(point, _Point):
        f_bar, g_bar, lam_out, mu_out = _eliminate_zero_weights(point, f_bar, g_bar)
    else:
        f_bar, g_bar = (torch.where(v.isfinite(), b, 0.0) for v, b in ((point.r, f_bar), (point.c, g_bar)))
    root_r, root_c = point.roots()
    # x = b + H^-1 (b - H b): what a token of small mass is given leaves the system, where it would drown the others
    row_pull, col_pull = point.pull_sums(f_bar, g_bar)
    p = point.problem.damping
    u, v = _solve_symmetric(point, root_r, _divide(-p * row_pull, root_r), _divide(-p * col_pull, root_c))
    return f_bar + root_r * u + lam_out, g_bar + root_c * v + mu_out


def _solve_transposed(point: _PlanPoint | _Point, lam_bar: Tensor, mu_bar: Tensor) -> tuple[Tensor, Tensor]:
    """The changes (..., n) and (..., m) of f and g, f_i + p sum_j W_ij g_j = lam'_i, g_j + p sum_i V_ij f_i = mu'_j.

    With f = u / sqrt(r) and g = v / sqrt(c) the system is the symmetric one. Tokens of weight zero come last.
    """
    root_r, root_c = point.roots()
    _, v = _solve_symmetric(point, root_r, root_r * lam_bar, root_c * mu_bar)
    g, p = _divide(v, root_c), point.problem.damping
    # once more by the equations themselves: exact for tokens of small mass, and all there is for those of none
    row_in, col_in = point.taking_part()
    f = torch.where(row_in, lam_bar - p * point.follow_rows(g), 0.0)
    return f, torch.where(col_in, mu_bar - p * point.follow_cols(f), 0.0)


def _solve_symmetric(
    point: _PlanPoint | _Point, root_r: Tensor, right_u: Tensor, right_v: Tensor
) -> tuple[Tensor, Tensor]:
    """The solution u, v of [I, pM; pM^T, I], up to the kernel that it has if balanced."""
    problem, p = point.problem, point.problem.damping
    forward, backward = point.symmetric_maps()
    right = right_u - p * forward(right_v)
    parts = connected_parts(problem) if problem.balanced else None

    def project(u: Tensor) -> Tensor:
        return u if parts is None else project_out(u, root_r, parts)

    tol = 1e-12 if right.dtype == torch.float64 else 1e-6
    u, left, _ = conjugate_gradients(lambda u: u - p.square() * forward(backward(u)), right, project, tol, _MAX_ITER)
    if bool((left > 1.001 * tol).any()):
        warnings.warn(
            f"the gradient of a transport plan is solved to {float(left.max()):.1e} of its right-hand side instead of "
            f"{tol:.0e}; raise epsilon, lower tau or solve in float64",
            stacklevel=2,
        )
    return u, right_v - p * backward(u)


def _eliminate_zero_weights(point: _Point, f_bar: Tensor, g_bar: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-hand sides without tokens of weight zero, and those tokens' lam and mu.

    Such a token feels the others but not the reverse: its equation is explicit.
    """
    problem, pairs = point.problem, point.problem.pairs
    rows, cols, p = problem.rows.active, problem.cols.active, problem.damping
    f_bar = torch.where(point.row_lse < torch.inf, f_bar, 0.0)
    g_bar = torch.where(point.col_lse < torch.inf, g_bar, 0.0)
    lam_out, mu_out = torch.where(rows, 0.0, f_bar), torch.where(cols, 0.0, g_bar)
    f_bar, g_bar = f_bar - lam_out, g_bar - mu_out
    if bool(lam_out.any()):
        pulled = point.softmax_rows(point.y) * pairs.spread_rows(lam_out)
        g_bar = torch.where(cols, g_bar - p * pairs.sum_cols(pulled), 0.0)
    if bool(mu_out.any()):
        pulled = point.softmax_cols(point.x) * pairs.spread_cols(mu_out)
        f_bar = torch.where(rows, f_bar - p * pairs.sum_rows(pulled), 0.0)
    return f_bar, g_bar, lam_out, mu_out


def plan_maps(m: Tensor, pairs: Pairs) -> tuple[Map, Map]:
    """V -> M v and u -> M^T u."""
    if isinstance(pairs, DensePairs):
        return _dense_maps(m)
    if has_triton(m.device):
        s, by_col = pairs.support, pairs.in_columns(m)
        return (
            lambda v: pairs.as_rows(segment_sum_product(m, s.crow, s.col, v.flatten())),
            lambda u: pairs.as_cols(segment_sum_product(by_col, s.ccol, s.trow, u.flatten())),
        )
    if has_sparse_kernels(m.device) and m.numel():
        by_row, by_col = csr(m, pairs.support), csr_transposed(m, pairs.support)
        return (lambda v: pairs.as_rows(by_row @ v.flatten())), (lambda u: pairs.as_cols(by_col @ u.flatten()))
    return (lambda v: pairs.sum_rows(m * pairs.spread_cols(v))), (lambda u: pairs.sum_cols(m * pairs.spread_rows(u)))


def _dense_maps(m: Tensor) -> tuple[Map, Map]:
    """One problem at a time, in memory of its own: a batched product rounds a member by its company."""
    if m.ndim == 2:
        return (lambda v: m @ v), (lambda u: m.mT @ u)
    members = [one.clone() for one in m.reshape(-1, *m.shape[-2:])]

    def product(matrices: list[Tensor], x: Tensor, size: int) -> Tensor:
        if not members:
            return x.new_zeros(*m.shape[:-2], size)
        vectors = x.reshape(-1, x.shape[-1])
        return torch.stack([a @ v.clone() for a, v in zip(matrices, vectors, strict=True)]).view(*m.shape[:-2], size)

    transposed = [one.mT for one in members]
    return (lambda v: product(members, v, m.shape[-2])), (lambda u: product(transposed, u, m.shape[-1]))


def _divide(x: Tensor, root: Tensor) -> Tensor:
    return torch.where(root > 0, x / torch.where(root > 0, root, 1.0), 0.0)


def _pull_back(
    point: _PlanPoint | _Point, lam: Tensor, mu: Tensor, needs_epsilon: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of cost, a, b, epsilon and tau: lam dT1 + mu dT2."""
    problem, pairs, p = point.problem, point.problem.pairs, point.problem.damping
    epsilon = problem.epsilon
    cost_bar, row_pull, col_pull = point.pulls(lam, mu)
    cost_bar = cost_bar.mul_(pairs.scalar(p))
    strength = p * epsilon
    if problem.reference == "counting":
        a_bar, b_bar = _divide(strength * lam, problem.rows.weight), _divide(strength * mu, problem.cols.weight)
    else:
        a_out, b_out = _pull_on_zero_weights(point, lam, mu) if isinstance(point, _Point) else (0.0, 0.0)
        a_bar = -strength * (_divide(row_pull, problem.rows.weight) + a_out)
        b_bar = -strength * (_divide(col_pull, problem.cols.weight) + b_out)
    potentials = (lam * point.f).sum(-1, keepdim=True) + (mu * point.g).sum(-1, keepdim=True)
    epsilon_bar, tau_bar = torch.zeros_like(epsilon), torch.zeros_like(epsilon)
    if needs_epsilon:
        pulled = (row_pull * point.f).sum(-1, keepdim=True) + (col_pull * point.g).sum(-1, keepdim=True)
        epsilon_bar = (p * (potentials + pulled) - pairs.sum_all(cost_bar * problem.finite_cost)) / epsilon
    if not problem.balanced:
        tau_bar = (epsilon / (problem.tau + epsilon)).square() / strength * potentials
    return cost_bar, a_bar, b_bar, epsilon_bar, tau_bar


def _pull_on_zero_weights(point: _Point, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """What the first mass on tokens of weight zero would change: sums of the softmaxes over the weight."""
    problem, pairs = point.problem, point.problem.pairs
    a_out, b_out = torch.zeros_like(lam), torch.zeros_like(mu)
    rows = (problem.rows.weight == 0) & (point.row_lse < torch.inf)
    cols = (problem.cols.weight == 0) & (point.col_lse < torch.inf)
    if bool(rows.any()):
        x = torch.where(rows, point.f / problem.epsilon, -torch.inf)
        a_out = pairs.sum_rows(point.softmax_cols(x) * pairs.spread_cols(mu))
    if bool(cols.any()):
        y = torch.where(cols, point.g / problem.epsilon, -torch.inf)
        b_out = pairs.sum_cols(point.softmax_rows(y) * pairs.spread_rows(lam))
    return a_out, b_out
