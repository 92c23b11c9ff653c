"""How many iterations to 1e-6 of the plan, against tau / epsilon: ours with a tol, and plain Sinkhorn's."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ours import VERSIONS, folder_cost, quiet
from problems import EPSILON
from worker import Contender

from saot.transport import SparseCost, TransportResult, solve_transport

RATIOS = (1, 3, 10, 30, 100, 300, 1000)
GOAL = 1e-6
_SETTLED = 1e-13  # residual of the float64 reference
_MOST = 60_000
_ABSORB = 100.0  # a log scaling this far from the absorbed one is absorbed anew; float64 has room for 700


@dataclass(frozen=True)
class Trail:
    """Log scalings of plain Sinkhorn at growing iterations, and the residual of the last."""

    steps: list[int]
    x: list[torch.Tensor]
    y: list[torch.Tensor]
    residual: float


class _Sweep:
    """Plain updates in float64, written apart from the library; uniform weights, x = f / epsilon, y = g / epsilon."""

    def __init__(self, cost: SparseCost, tau: float) -> None:
        self.support, (self.n, self.m) = cost.support, cost.shape
        self.log_kernel, self.damping = -cost.values.double() / EPSILON, tau / (tau + EPSILON)
        self.x, self.y = torch.zeros(self.n, dtype=torch.float64), torch.zeros(self.m, dtype=torch.float64)
        self._absorb()

    def sweep(self) -> float:
        """One row and one column update; the largest change over (1 + the largest scaling)."""
        if float(max((self.x - self.s).abs().max(), (self.y - self.t).abs().max())) > _ABSORB:
            self._absorb()
        x = -self.damping * ((self.by_row @ (self.y - self.t).exp() / self.m).log() - self.s)
        y = -self.damping * ((self.by_col @ (x - self.s).exp() / self.n).log() - self.t)
        y = torch.where(y.isfinite(), y, 0.0)  # a target without candidates
        change = float(max((x - self.x).abs().max(), (y - self.y).abs().max()))
        self.x, self.y = x, y
        return change / (1 + float(max(x.abs().max(), y.abs().max())))

    def _absorb(self) -> None:
        support, self.s, self.t = self.support, self.x, self.y
        values = (self.log_kernel + self.s[support.row.long()] + self.t[support.col.long()]).exp()
        self.by_row = _csr(support.crow, support.col, values, (self.n, self.m))
        self.by_col = _csr(support.ccol, support.trow, values[support.perm.long()], (self.m, self.n))


def plain(cost: SparseCost, tau: float) -> Trail:
    """Plain Sinkhorn until it is settled, remembered at every iteration up to 50 and then at every fiftieth part."""
    sweep, trail, step = _Sweep(cost, tau), Trail([], [], [], np.inf), 0
    while trail.residual > _SETTLED and step < _MOST:
        residual, goal = np.inf, max(step + 1, int(step * 1.02))
        while step < goal:
            residual, step = sweep.sweep(), step + 1
        trail = Trail([*trail.steps, step], [*trail.x, sweep.x], [*trail.y, sweep.y], residual)
    return trail


def _csr(crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    with quiet():  # torch says once that CSR is in beta
        return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


def counts(folder: str, ratio: float) -> Contender:
    """Iterations of both, float64, on the folder's support, with seconds of `solve_transport` at those counts."""
    single = folder_cost(folder)
    cost, tau = SparseCost(single.values.double(), single.support), ratio * EPSILON

    def solve(iterations: int, tol: float, sparse: SparseCost = cost) -> TransportResult:
        with quiet():
            return solve_transport(sparse, epsilon=EPSILON, tau=tau, max_iter=iterations, tol=tol, gradient="none")

    def run() -> dict[str, float]:
        trail = plain(cost, tau)
        log_kernel, (n, m) = -cost.values / EPSILON, cost.shape
        row, col = cost.support.row.long(), cost.support.col.long()

        def plan_at(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (log_kernel + x[row] + y[col]).exp() / (n * m)

        exact = plan_at(trail.x[-1], trail.y[-1])

        def error(plan: torch.Tensor) -> float:
            return float((plan - exact).abs().sum() / exact.sum())

        reached = (
            step for step, x, y in zip(trail.steps, trail.x, trail.y, strict=True) if error(plan_at(x, y)) <= GOAL
        )
        plain_count = next(reached)
        ours_count = _least(lambda count: error(solve(count, 1e-15).plan_values) <= GOAL)
        default = solve(_MOST, 1e-5)
        return {
            "plain": plain_count,
            "ours": ours_count,
            "plain_seconds": _seconds(lambda: solve(plain_count, 0)),
            "ours_seconds": _seconds(lambda: solve(ours_count, 1e-15)),
            "default_iterations": int(default.iterations),
            "default_error": error(default.plan_values),
            "float32_iterations": int(solve(_MOST, 1e-5, single).iterations),
            "reference_residual": trail.residual,
            "reference_iterations": trail.steps[-1],
        }

    return Contender(run, versions=VERSIONS)


def _least(reaches: Callable[[int], bool]) -> int:
    """The least count that reaches, by growing and halving; reaching is taken to be monotone."""
    low, high = 0, 4
    while not reaches(high):
        low, high = high, int(high * 1.5)
        if high > _MOST:
            raise ArithmeticError(f"not within {GOAL} after {low} iterations")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _seconds(call: Callable[[], object]) -> float:
    """The best of three."""
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return float(best)
