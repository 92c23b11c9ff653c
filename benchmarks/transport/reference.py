"""The exact answers, float64: the dense plan by plain Sinkhorn scaling, its gradient by the adjoint system.

Written apart from the library, and from its peers, to measure them all. No pair is a cost of +inf.
"""

from pathlib import Path

import numpy as np
from problems import EPSILON, TAU, cached, load


def plan(cost: np.ndarray, epsilon: float = EPSILON, tau: float = TAU, counting: bool = False) -> np.ndarray:
    """The minimiser of Eq. (1), or with `counting` of the problem that Eq. (8) as printed solves; uniform weights."""
    n, m = cost.shape
    damping = tau / (tau + epsilon)
    row_reference, col_reference = (1.0, 1.0) if counting else (1 / n, 1 / m)
    kernel = np.exp(-cost.astype(np.float64) / epsilon)
    u, v, change = np.ones(n), np.ones(m), np.inf
    for _ in range(5000):
        new_u = _power(kernel @ v * (n * row_reference * col_reference), -damping)
        new_v = _power(kernel.T @ new_u * (m * row_reference * col_reference), -damping)
        change = max(np.abs(_log(new_u) - _log(u)).max(), np.abs(_log(new_v) - _log(v)).max())
        u, v = new_u, new_v
        if change < 1e-13:
            break
    else:
        raise ArithmeticError(f"the reference plan still changes by {change:.1e}")
    return row_reference * col_reference * u[:, None] * kernel * v


def gradient(plan: np.ndarray, weights: np.ndarray, epsilon: float = EPSILON, tau: float = TAU) -> np.ndarray:
    """d sum(weights * plan) / d cost, by alternating over the two blocks of the optimality conditions."""
    weighted = plan * weights
    rows, cols = plan.sum(1), plan.sum(0)
    scale = 1 / epsilon + 1 / tau
    alpha, beta = np.zeros(len(rows)), np.zeros(len(cols))
    for _ in range(5000):
        before = alpha
        alpha = _ratio(weighted.sum(1) - plan @ beta, epsilon * scale * rows)
        beta = _ratio(weighted.sum(0) - alpha @ plan, epsilon * scale * cols)
        if np.abs(alpha - before).max() <= 1e-14 * np.abs(alpha).max():
            return plan * (alpha[:, None] + beta - weights) / epsilon
    raise ArithmeticError("the reference gradient did not settle")


def masked_cost(folder: Path) -> np.ndarray:
    """The dense cost with +inf off the support."""
    cost, row, col = load(folder, "cost", "row", "col")
    sparse = np.full_like(cost, np.inf)
    sparse[row, col] = cost[row, col]
    return sparse


def answer(folder: Path, kind: str, of: str) -> np.ndarray:
    """The exact plan or gradient (`of`) of the problem `kind`: "sparse" (on the pairs), "dense" or "counting"."""

    def make() -> np.ndarray:
        dense = load(folder, "cost")[0]
        if of == "gradient":
            exact = _full(folder, answer(folder, kind, "plan")) if kind == "sparse" else answer(folder, kind, "plan")
            out = gradient(exact, load(folder, "w")[0].astype(np.float64))
        else:
            out = plan(masked_cost(folder) if kind == "sparse" else dense, counting=kind == "counting")
        return out[tuple(load(folder, "row", "col"))] if kind == "sparse" else out

    return cached(folder / f"exact-{of}-{kind}.npy", make)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """|found - exact|_1 / |exact|_1."""
    return float(np.abs(found.astype(np.float64) - exact).sum() / np.abs(exact).sum())


def _full(folder: Path, values: np.ndarray) -> np.ndarray:
    row, col, cost = load(folder, "row", "col", "cost")
    out = np.zeros(cost.shape)
    out[row, col] = values
    return out


def _power(x: np.ndarray, exponent: float) -> np.ndarray:
    """Zero where there is nothing to sum: such a token takes no part."""
    return np.where(x > 0, np.where(x > 0, x, 1.0) ** exponent, 0.0)


def _log(x: np.ndarray) -> np.ndarray:
    return np.log(np.where(x > 0, x, 1.0))


def _ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y > 0, x / np.where(y > 0, y, 1.0), 0.0)
