"""A second solver of the transport problem, in numpy and float64, that shares nothing with the library's.

It works in the log domain and on full matrices: sweeps of Eq. (8), then Newton's method on the dual, from a large
epsilon down to the one asked for. A step takes O((n + m)^3), and finds plans that sweeps alone need millions for.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.special import logsumexp

_MOST_STEPS = 400  # of Newton's method at one epsilon
_ENOUGH = 1e-10  # of the plan's mass: what a Newton step may still move


@dataclass(frozen=True)
class Reference:
    """The plan (n, m), and how far it may be from the solution, in L1 over its mass.

    `error` is NaN where the plan's mass cannot be represented, and infinite where there is no solution.
    """

    plan: np.ndarray
    error: float

    @property
    def mass(self) -> float:
        return float(self.plan.sum())


def reference_plan(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, tau: float, reference: str = "product"
) -> Reference:
    """The plan of Eq. (1), or of Eq. (8) as printed ("counting"); cost +inf is no pair, tau may be infinite."""
    cost, a, b = (np.asarray(v, dtype=np.float64) for v in (cost, a, b))
    pair = np.isfinite(cost) & (a > 0)[:, None] & (b > 0)
    rows, cols = pair.any(1), pair.any(0)
    plan = np.zeros_like(cost)
    if not pair.any():
        return Reference(plan, math.inf if math.isinf(tau) and (a.any() or b.any()) else 0.0)
    if math.isinf(tau) and (a[~rows].any() or b[~cols].any()):
        return Reference(plan, math.inf)
    inner = cost[np.ix_(rows, cols)]
    inside, error = _solve(inner, a[rows], b[cols], epsilon, tau, reference)
    plan[np.ix_(rows, cols)] = inside
    return Reference(plan, error)


def _solve(cost, a, b, epsilon, tau, reference) -> tuple[np.ndarray, float]:
    finite = cost[np.isfinite(cost)]
    f, g = np.zeros_like(a), np.zeros_like(b)
    largest = max(epsilon, float(finite.max() - finite.min()))
    steps = max(0, math.ceil(math.log(largest / epsilon, 4)))
    plan, error = np.zeros_like(cost), math.nan
    for i in range(steps, -1, -1):
        eps = epsilon * 4.0**i
        level = _Level(cost, a, b, eps, tau, reference)
        u, v, error = level.solve(f / eps, g / eps, last=i == 0)
        f, g, plan = u * eps, v * eps, level.plan(u, v)
    return plan, error


class _Level:
    """The dual in u = f / epsilon and v = g / epsilon, at one epsilon."""

    def __init__(self, cost, a, b, epsilon, tau, reference) -> None:
        self.a, self.b = a, b
        product = reference == "product"
        la, lb = (np.log(w) if product else np.zeros_like(w) for w in (a, b))
        self.log_kernel = la[:, None] + lb - cost / epsilon
        self.ratio = tau / epsilon  # of the two strengths
        self.p = 1.0 if math.isinf(tau) else tau / (tau + epsilon)

    def plan(self, u, v):
        with np.errstate(over="ignore"):
            return np.exp(self.log_kernel + u[:, None] + v)

    def goals(self, u, v):
        """What the marginals are at the solution: a exp(-f / tau), b exp(-g / tau)."""
        with np.errstate(over="ignore"):
            return self.a * np.exp(-u / self.ratio), self.b * np.exp(-v / self.ratio)

    def dual(self, u, v) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            mass = np.exp(logsumexp(self.log_kernel + u[:, None] + v))
            if math.isinf(self.ratio):
                return float(self.a @ u + self.b @ v - mass)
            kept = self.a @ np.expm1(-u / self.ratio) + self.b @ np.expm1(-v / self.ratio)
            return float(-self.ratio * kept - mass)

    def sweep(self, u, v):
        """Both updates of Eq. (8), and the best (u + s, v - s) after them."""
        u = self.p * (np.log(self.a) - logsumexp(self.log_kernel + v, axis=1))
        v = self.p * (np.log(self.b) - logsumexp(self.log_kernel + u[:, None], axis=0))
        if not math.isinf(self.ratio):
            r = logsumexp(np.log(self.a) - u / self.ratio)
            s = self.ratio / 2 * (r - logsumexp(np.log(self.b) - v / self.ratio))
            u, v = u + s, v - s
        return u, v

    def newton(self, u, v):
        """Newton's step, and what it moves of the plan, in L1 over its mass; None where it cannot be had."""
        plan = self.plan(u, v)
        r, c = plan.sum(1), plan.sum(0)
        s, t = self.goals(u, v)
        n, mass = len(r), r.sum()
        if not (np.isfinite(mass) and np.isfinite(s).all() and np.isfinite(t).all() and mass > 0):
            return None
        diagonal = np.concatenate([s / self.ratio + r, t / self.ratio + c])
        root = np.sqrt(np.maximum(diagonal, 1e-300))
        matrix = np.zeros((len(root), len(root)))
        matrix[:n, n:] = plan / root[:n, None] / root[n:]
        matrix[n:, :n] = matrix[:n, n:].T
        np.fill_diagonal(matrix, 1.0 + 1e-13)
        if math.isinf(self.ratio):  # a constant may go from u to v
            e = np.concatenate([root[:n], -root[n:]])
            matrix += np.outer(e, e) / (e @ e)
        slope = np.concatenate([s - r, t - c]) / root
        try:
            step = scipy.linalg.solve(matrix, slope, assume_a="pos") / root
        except (np.linalg.LinAlgError, ValueError):
            return None
        du, dv = step[:n], step[n:]
        return du, dv, float((plan * np.abs(du[:, None] + dv)).sum() / mass), float(slope @ (step * root))

    def solve(self, u, v, last: bool):
        """From a start to the solution: u, v and the error left."""
        for _ in range(20):
            u, v = self.sweep(u, v)
        error, best, waited = math.inf, math.inf, 0
        for _ in range(_MOST_STEPS if last else 30):
            step = self.newton(u, v)
            if step is None:
                if not np.isfinite(self.plan(u, v).sum()) or self.plan(u, v).sum() == 0:
                    error = math.nan
                u, v = self.sweep(u, v)
                waited += 1
                if waited > 20:
                    break
                continue
            du, dv, error, decrement = step
            if error < (_ENOUGH if last else 1e-3):
                return u + du, v + dv, error
            if error < 0.5 * best:
                best, waited = error, 0
            elif error < 1e-7:
                waited += 1
                if waited > 5:  # rounding
                    break
            u, v = self._search(u, v, du, dv, decrement)
            u, v = self.sweep(u, v)
        return u, v, error

    def _search(self, u, v, du, dv, decrement):
        """The longest of the steps 1, 1/2, 1/4, ... that raises the dual enough."""
        start, length = self.dual(u, v), 1.0
        for _ in range(40):
            if self.dual(u + length * du, v + length * dv) >= start + 0.1 * length * decrement - 1e-14 * abs(start):
                return u + length * du, v + length * dv
            length /= 2
        return u, v
