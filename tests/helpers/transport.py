"""Small problems and an independent, naive solver for the tests of the transport room."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from saot.transport import SparseCost, Support, TransportResult, cosine_cost, solve_transport, topk_support

DOUBLE = torch.float64


@dataclass(frozen=True)
class Sample:
    """A dense cost with weights; `support` and `sparse` are the same problem on fewer pairs."""

    cost: Tensor
    a: Tensor
    b: Tensor
    support: Support

    @property
    def sparse(self) -> SparseCost:
        return SparseCost(self.cost[self.support.row.long(), self.support.col.long()], self.support)

    @property
    def masked(self) -> Tensor:
        """The sparse problem as a dense cost, +inf off the support."""
        return self.sparse.dense()


def sample(seed: int, n: int = 9, m: int = 7, balanced: bool = False, scale: float = 1.0) -> Sample:
    """Random cost in [0, scale], non-uniform weights, and a random support that has the diagonal and more."""
    generator = torch.Generator().manual_seed(seed)
    cost = scale * torch.rand(n, m, dtype=DOUBLE, generator=generator)
    a = torch.rand(n, dtype=DOUBLE, generator=generator) + 0.1
    b = torch.rand(m, dtype=DOUBLE, generator=generator) + 0.1
    a, b = a / a.sum(), b / b.sum() * (1.0 if balanced else 1.3)
    keep = torch.rand(n, m, generator=generator) < 0.5
    keep[torch.arange(n), torch.arange(n) % m] = True
    keep[torch.arange(m) % n, torch.arange(m)] = True
    if balanced:  # a feasible support: all that the first source and the first target can reach
        keep[0], keep[:, 0] = True, True
    rows, cols = torch.nonzero(keep, as_tuple=True)
    return Sample(cost, a, b, Support.from_pairs(rows, cols, (n, m)))


def solve(cost, a=None, b=None, epsilon=0.1, tau=0.3, **settings) -> TransportResult:
    """Solved to rounding."""
    settings = {"tol": 1e-14, "max_iter": 5000, **settings}
    return solve_transport(cost, a, b, epsilon, tau, **settings)


def outputs(result, seed) -> dict[str, Tensor]:
    """A number of each differentiable field, with random weights."""
    generator = torch.Generator().manual_seed(seed)
    (f, g), (r, c) = result.potentials, result.marginals
    n, m = f.shape[-1], g.shape[-1]
    x, y, pairs = (torch.randn(*shape, dtype=DOUBLE, generator=generator) for shape in ((n, 1), (m, 1), (n, m)))
    f, g = (torch.where(v.isfinite(), v, 0.0) for v in (f, g))
    return {
        "value": result.value,
        "mass": result.mass,
        "plan": (result.plan * pairs).sum(),
        "plan_values": result.plan_values.square().sum(),
        "potentials": (f * x[:, 0]).sum() + (g * y[:, 0]).sum(),
        "marginals": (r * x[:, 0]).sum() + (c.square() * y[:, 0]).sum(),
        "apply": (result.apply(x) * y).sum(),
        "apply_transpose": result.apply_transpose(y).square().sum(),
    }


def naive_plan(cost, a, b, epsilon, tau, reference, iterations) -> tuple[Tensor, Tensor, Tensor]:
    """The iteration as printed, log domain, full matrices: plan, f, g."""
    p = 1.0 if math.isinf(tau) else tau / (tau + epsilon)
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    ra, rb = (a.log(), b.log()) if reference == "product" else (torch.zeros_like(a), torch.zeros_like(b))
    for _ in range(iterations):
        f = p * epsilon * (a.log() - ra - torch.logsumexp(rb + (g - cost) / epsilon, 1))
        g = p * epsilon * (b.log() - rb - torch.logsumexp((ra + f / epsilon)[:, None] - cost / epsilon, 0))
    plan = ((f[:, None] + g - cost) / epsilon + ra[:, None] + rb).exp()
    return plan, f, g


def objective(plan, cost, a, b, epsilon, tau, reference="product") -> Tensor:
    """The primal of Eq. (1), from its definition, on the finite pairs of the cost."""
    finite = cost.isfinite()
    measure = a[:, None] * b if reference == "product" else torch.ones_like(cost)

    def kl(x, y):
        return (torch.special.xlogy(x, x / y) - x + y).sum()

    value = (plan * cost)[finite].sum() + epsilon * kl(plan[finite], measure[finite])
    return value if math.isinf(tau) else value + tau * (kl(plan.sum(1), a) + kl(plan.sum(0), b))


def infeasible(kind):
    """Cost, a and b of a balanced problem without solution."""
    cost = torch.rand(6, 5, dtype=DOUBLE)
    a, b = torch.full((6,), 1 / 6, dtype=DOUBLE), torch.full((5,), 1 / 5, dtype=DOUBLE)
    if kind == "masses":
        b = b * 1.5
    elif kind == "row":
        cost[2] = math.inf
    elif kind == "column":
        cost[:, 2] = math.inf
    else:  # three sources share one target: 1/2 must fit into 1/5
        cost[:3, 1:] = math.inf
    return cost, a, b


def clustered(n=150, m=130, k=20, seed=0):
    """A support of weakly linked clusters; big enough for the fast path."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(8, 24, generator=generator, dtype=DOUBLE)

    def side(count):
        label = torch.randint(0, 8, (count,), generator=generator)
        return centres[label] + 0.8 * torch.randn(count, 24, generator=generator, dtype=DOUBLE)

    x, y = side(n), side(m)
    support = topk_support(x, y, k, cover=2)
    return SparseCost(2 * cosine_cost(x, y, support).values, support)


def typed(cost, dtype):
    return SparseCost(cost.values.to(dtype), cost.support)


def quiet_solve(cost, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve_transport(cost, **settings)


def features(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def check_orders(support):
    n, m = support.shape
    rows, cols = support.rows().long(), support.col.long()
    key = rows * m + cols
    assert bool((key.diff() > 0).all())  # CSR order, no pair twice
    assert support.crow.dtype == support.col.dtype == support.perm.dtype == torch.int32
    assert torch.equal(support.crow.diff().long(), torch.bincount(rows, minlength=n))
    assert torch.equal(support.ccol.diff().long(), torch.bincount(cols, minlength=m))
    by_column = cols * n + rows
    assert torch.equal(by_column[support.perm.long()], by_column.sort().values)
    assert torch.equal(support.trow, support.row[support.perm.long()])
    assert torch.equal(support.tcol, support.col[support.perm.long()])
