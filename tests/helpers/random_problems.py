"""Random transport problems of every kind that users make, and what the solver says of each against a second solver."""

import math
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from helpers.reference import reference_plan

from saot.transport import (
    SparseCost,
    Support,
    TransportResult,
    TransportStatus,
    block_diagonal,
    solve_transport,
    split_result,
)

How = Literal["cold", "warm", "joined"]

CLOSE = 1e-3  # in L1 over the plan's mass: what `converged` promises at the default tol
_SMALLEST = 300  # of a plan's mass in a type, as a multiple of its least normal number


@dataclass(frozen=True)
class RandomProblem:
    """One problem, in the type it is solved in; the kinds are what tables sort by."""

    cost: torch.Tensor  # (n, m), +inf is no pair
    a: torch.Tensor
    b: torch.Tensor
    epsilon: float
    tau: float
    reference: str
    sparse: bool
    offset: float
    scale: float
    feasible: bool  # a balanced problem made around a plan; True if unbalanced

    @property
    def given(self) -> torch.Tensor | SparseCost:
        """The cost as `solve_transport` takes it."""
        if not self.sparse:
            return self.cost
        pairs = torch.nonzero(self.cost < math.inf, as_tuple=True)
        return SparseCost(self.cost[pairs], Support.from_pairs(*pairs, tuple(self.cost.shape)))


@dataclass(frozen=True)
class Checked:
    """What came of one problem.

    `error` is the L1 distance to the second solver's plan over the latter's mass; `sure` is whether that solver
    vouches for its plan, and `representable` whether the plan's mass fits the type.
    """

    number: int
    n: int
    m: int
    epsilon: float  # over the cost's scale
    tau: float
    offset: float
    mass_ratio: float
    sparse: bool
    single: bool
    counting: bool
    holes: bool  # empty rows or zero weights
    feasible: bool
    status: str
    residual: float
    iterations: int
    error: float
    sure: bool
    representable: bool
    finite: bool
    warned: bool

    @property
    def converged(self) -> bool:
        return self.status == "CONVERGED"

    @property
    def wrong(self) -> bool:
        """Whether the solver broke its word: a NaN, no warning where there is no convergence, or a plan that is off."""
        silent = self.warned == self.converged
        return not self.finite or silent or (self.converged and self.sure and not self.error < CLOSE)

    @property
    def right(self) -> bool:
        """Whether it said, and rightly, that the plan is close."""
        return self.converged and self.sure and self.error < CLOSE


def random_problem(seed: int, number: int, largest: int = 300) -> RandomProblem:
    """Problem `number` of a seed; sizes 1 to `largest`, epsilon 1e-4 to 10 and tau 1e-3 to infinity of the scale."""
    draw = np.random.default_rng([seed, number])
    n, m = (round(math.exp(draw.uniform(0, math.log(largest)))) for _ in range(2))
    scale = float(10 ** draw.uniform(-3, 3))
    cost = scale * _cost(draw, n, m)
    epsilon, tau = (scale * float(10 ** draw.uniform(low, high)) for low, high in ((-4, 1), (-3, 3)))
    balanced, sparse, counting, single = (bool(draw.random() < share) for share in (0.25, 0.5, 0.3, 0.4))
    keep = _support(draw, n, m) if sparse or draw.random() < 0.2 else np.ones((n, m), bool)
    a, b = (_weights(draw, size) for size in (n, m))
    feasible = True
    if balanced:
        tau, feasible = math.inf, bool(draw.random() < 0.9)
        plan = np.where(keep, np.exp(_spread(draw) * draw.standard_normal((n, m))), 0.0)
        if feasible:
            mass = float(10 ** draw.uniform(-3, 3)) if draw.random() < 0.3 else 1.0
            plan *= mass / max(plan.sum(), 1e-300)
            a, b = plan.sum(1), plan.sum(0)
        elif draw.random() < 0.5:
            b = b * 1.5
    elif draw.random() < 0.6:
        b = b * float(10 ** draw.uniform(-3, 3))
    if draw.random() < 0.3 and not balanced:
        a[draw.random(n) < 0.2] = 0
        b[draw.random(m) < 0.2] = 0
    elif balanced and feasible and draw.random() < 0.3:  # padding: tokens that no plan needs
        a, cost, keep = np.append(a, 0.0), np.vstack([cost, cost[:1]]), np.vstack([keep, keep[:1]])
    offset = 0.0
    if draw.random() < 0.4:
        # as far as a plan's mass can be represented: exp(-offset / (epsilon + 2 tau)) within exp(+-30)
        reach = 30 * (epsilon + 2 * min(tau, 1e4 * scale))
        offset = float(draw.choice([-1, 1]) * min(reach, scale * 10 ** draw.uniform(0, 5)))
    cost = np.where(keep, cost + offset, math.inf)
    dtype = torch.float32 if single else torch.float64
    cost, a, b = (torch.from_numpy(v).to(dtype) for v in (cost, a, b))
    reference = "counting" if counting else "product"
    return RandomProblem(cost, a, b, epsilon, tau, reference, sparse, offset, scale, feasible)


def _cost(draw: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Costs of scale 1: noise, distances of points, or distances in clusters."""
    kind = draw.integers(3)
    if kind == 0:
        return draw.random((n, m))
    dim = int(draw.integers(1, 9))
    x, y = draw.standard_normal((n, dim)), draw.standard_normal((m, dim))
    if kind == 2:
        centres = 3 * draw.standard_normal((6, dim))
        x, y = 0.3 * x + centres[draw.integers(6, size=n)], 0.3 * y + centres[draw.integers(6, size=m)]
    cost = ((x[:, None] - y) ** 2).sum(-1)
    return cost / max(float(cost.max()), 1e-12)


def _support(draw: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Pairs that exist: at random, near the diagonal, or in blocks; some tokens have none."""
    kind = draw.integers(3)
    if kind == 0:
        return draw.random((n, m)) < 10 ** draw.uniform(-1.5, -0.1)
    place = np.abs(np.arange(n)[:, None] / n - np.arange(m) / m)
    if kind == 1:
        return place <= draw.uniform(0.5, 4) / max(min(n, m), 1)
    blocks = int(draw.integers(1, 5))
    own = (np.arange(n) * blocks // n)[:, None] == np.arange(m) * blocks // m
    return own | (draw.random((n, m)) < 0.003)


def _weights(draw: np.random.Generator, size: int) -> np.ndarray:
    """Of mass 1: equal, or spread a little or widely."""
    weights = np.exp(_spread(draw) * draw.standard_normal(size))
    return weights / weights.sum()


def _spread(draw: np.random.Generator) -> float:
    return float(draw.choice([0.0, 0.5, 2.0]))


def _warm(problem: RandomProblem, seed: int, number: int, settings: dict) -> TransportResult:
    """From the potentials of a problem like it, whose costs are off by up to a tenth of their scale."""
    draw = torch.Generator().manual_seed(1000 * seed + number)
    noise = 0.1 * problem.scale * torch.rand(problem.cost.shape, generator=draw, dtype=problem.cost.dtype)
    weights = problem.a, problem.b, problem.epsilon, problem.tau
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = solve_transport(replace(problem, cost=problem.cost + noise).given, *weights, **settings)
    return solve_transport(problem.given, *weights, **settings, init=first.potentials)


def _joined(problem: RandomProblem, seed: int, number: int, settings: dict) -> TransportResult:
    """Between two other problems of one block diagonal; its own part of the result."""
    pairs = torch.nonzero(problem.cost < math.inf, as_tuple=True)
    middle = SparseCost(problem.cost[pairs], Support.from_pairs(*pairs, tuple(problem.cost.shape)))
    n, m = middle.shape
    draw = torch.Generator().manual_seed(1000 * seed + number)
    sides = []
    for shape in ((n, m), (n + n // 5, max(1, m - m // 5))):
        values = problem.scale * torch.rand(math.prod(shape), generator=draw, dtype=problem.cost.dtype)
        sides.append(SparseCost(values, Support.full(*shape)))
    weights = [
        torch.cat([
            torch.full((sides[0].shape[side],), 1 / sides[0].shape[side]).to(own),
            own,
            torch.full((sides[1].shape[side],), 1 / sides[1].shape[side]).to(own),
        ])
        for side, own in enumerate((problem.a, problem.b))
    ]  # fmt: skip
    joint = block_diagonal([sides[0], middle, sides[1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = solve_transport(joint, *weights, problem.epsilon, problem.tau, **settings)
    own = split_result(found)[1]
    if not bool(own.converged):
        warnings.warn("transport ended: the member in the middle did not converge", stacklevel=2)
    return own


def check(seed: int, number: int, largest: int = 300, how: How = "cold", **settings) -> Checked:
    """One problem, solved by both; ours starts cold, warm, or is a member of a block diagonal."""
    problem = random_problem(seed, number, largest)
    settings = {"reference": problem.reference, "max_iter": 1000, "gradient": "none", **settings}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if how == "cold":
            result = solve_transport(problem.given, problem.a, problem.b, problem.epsilon, problem.tau, **settings)
        else:
            result = (_warm if how == "warm" else _joined)(problem, seed, number, settings)
    exact = [v.double().numpy() for v in (problem.cost, problem.a, problem.b)]
    # the solver has epsilon and tau in the type of the cost
    scales = [float(torch.tensor(v, dtype=problem.cost.dtype)) for v in (problem.epsilon, problem.tau)]
    second = reference_plan(*exact, *scales, problem.reference)
    numbers = (result.plan_values, *result.potentials, *result.marginals, result.mass, result.value, result.residual)
    type_ = torch.finfo(problem.cost.dtype)
    empty = second.mass == 0 and second.error == 0
    error = 0.0
    if not empty:
        error = float(np.abs(result.plan.double().numpy() - second.plan).sum() / max(second.mass, 1e-300))
    return Checked(
        number=number,
        n=problem.cost.shape[0],
        m=problem.cost.shape[1],
        epsilon=problem.epsilon / problem.scale,
        tau=problem.tau / problem.scale,
        offset=problem.offset / problem.scale,
        mass_ratio=float(problem.b.sum() / problem.a.sum()) if bool(problem.a.any()) else math.inf,
        sparse=problem.sparse,
        single=problem.cost.dtype == torch.float32,
        counting=problem.reference == "counting",
        holes=bool((problem.cost == math.inf).all(1).any() or (problem.a == 0).any() or (problem.b == 0).any()),
        feasible=problem.feasible,
        status=TransportStatus(int(result.status)).name,
        residual=float(result.residual),
        iterations=int(result.iterations),
        error=error,
        sure=bool(second.error < CLOSE / 100),
        representable=empty or _SMALLEST * type_.tiny < second.mass < type_.max / _SMALLEST,
        finite=not any(bool(v.isnan().any()) for v in numbers),
        warned=any("transport ended" in str(w.message) for w in caught),
    )


def as_json(checked: Checked) -> dict[str, object]:
    """One line of a report."""
    return asdict(checked)
