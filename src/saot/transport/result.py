"""What a solve returns: the plan with its potentials, values and certificates."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .products import multiply
from .support import Support


class TransportStatus(IntEnum):
    """How a solve ended; `message` says it in words."""

    CONVERGED = 0
    MAX_ITER = 1
    NON_FINITE = 2
    INFEASIBLE = 3
    ROUNDING = 4

    @property
    def message(self) -> str:
        """One sentence: what happened and what to do."""
        return _MESSAGES[self]


_MESSAGES = {
    TransportStatus.CONVERGED: "The residual is within tol.",
    TransportStatus.MAX_ITER: (
        "The residual is above tol after max_iter iterations; raise max_iter, epsilon or tol, or lower tau."
    ),
    TransportStatus.NON_FINITE: (
        "A potential or the plan's mass left the range of the floating type and the last finite iterate is returned; "
        "raise epsilon, scale the cost down, take a constant off it or solve in float64."
    ),
    TransportStatus.INFEASIBLE: (
        "No plan on these pairs has the marginals a and b, and the last iterate is returned; "
        "use a finite tau, a larger support, or weights of equal total mass."
    ),
    TransportStatus.ROUNDING: (
        "The floating type cannot tell the plan within tol, for costs or potentials are too many times epsilon; "
        "solve in float64, take a constant off the cost, or raise epsilon or tol."
    ),
}


class TransportError(ValueError):
    """Input that no solver can take: NaN anywhere, -inf in a cost, infinite weights.

    Attributes:
        status: Why, as a `TransportStatus`.
        indices: Batch indices of the problems concerned; `((),)` for a single problem.
    """

    def __init__(self, message: str, status: TransportStatus, indices: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(message)
        self.status = status
        self.indices = indices


@dataclass(frozen=True, eq=False)
class TransportResult:
    """Solution of a transport problem with n sources and m targets, as `solve_transport` returns it.

    One problem has no batch dimensions and its numbers are 0-dim. Of a block diagonal, tokens and pairs of all
    members lie one after another and the numbers have one entry a member. Gradients reach the cost, a, b, epsilon and
    tau through every field but `dual_value`, `gap` and `residual`, unless solved with gradient "none".

    Attributes:
        plan_values: The plan on its pairs: (nnz,) in CSR order for a sparse cost, else (..., n, m).
        potentials: f (..., n) and g (..., m) in cost units; +inf for a token without candidates. In balanced
            transport, where a constant may go from f to g, those with <a, f> = <b, g> on each connected part:
            the limit of large tau.
        marginals: Row sums (..., n) and column sums (..., m) of the plan.
        mass: Sum of the plan.
        value: Primal value, with the mass terms of KL; the reference is restricted to the support.
        dual_value: Dual value at the potentials.
        gap: value - dual_value. Never negative with a finite tau.
        covered: Targets that have a finite pair with a_i > 0 and b_j > 0.
        converged: residual <= tol.
        status: How the solve ended, a code of `TransportStatus`.
        residual: A hundredth of how far the plan may be from the solution, in L1 over its mass. If balanced, not
            less than the L1 error of the marginals over the mass of a. With tol=0 balanced plans have that error
            alone, and unbalanced ones a cautious bound (docs/conventions.md).
        iterations: Iterations done: row and column updates.
        support: The pairs of a sparse problem; `None` where the cost is dense.
    """

    plan_values: Float[Tensor, "..."]
    potentials: tuple[Float[Tensor, "... n"], Float[Tensor, "... m"]]
    marginals: tuple[Float[Tensor, "... n"], Float[Tensor, "... m"]]
    mass: Float[Tensor, "*batch"]
    value: Float[Tensor, "*batch"]
    dual_value: Float[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    covered: Bool[Tensor, "... m"]
    converged: Bool[Tensor, "*batch"]
    status: Int[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    support: Support | None

    @property
    def plan(self) -> Float[Tensor, "... n m"]:
        """The dense plan (..., n, m), zero off the support; made anew at each call for a sparse problem."""
        if self.support is None:
            return self.plan_values
        n, m = self.support.shape
        flat = self.support.row.long() * m + self.support.col
        return self.plan_values.new_zeros(n * m).index_put((flat,), self.plan_values).view(n, m)

    def apply(self, x: Float[Tensor, "... n c"]) -> Float[Tensor, "... m c"]:
        """plan^T x: what the sources x (..., n, c) send to each target, (..., m, c); differentiable.

        Half-precision x is taken in the type of the plan.

        Raises:
            ValueError: If x does not have a row for each source.
        """
        return self._multiply(x, transpose=True)

    def apply_transpose(self, y: Float[Tensor, "... m c"]) -> Float[Tensor, "... n c"]:
        """Plan y: what the targets y (..., m, c) send back to each source, (..., n, c); differentiable.

        Raises:
            ValueError: If y does not have a row for each target.
        """
        return self._multiply(y, transpose=False)

    def _multiply(self, x: Tensor, transpose: bool) -> Tensor:
        side, count = ("source", self.potentials[0]) if transpose else ("target", self.potentials[1])
        if x.ndim < 2 or x.shape[-2] != count.shape[-1]:
            raise ValueError(
                f"the plan has {count.shape[-1]} {side}s but x has shape {tuple(x.shape)}; pass (..., "
                f"{count.shape[-1]}, channels), one row for each {side}"
            )
        values = self.plan_values
        x = x.to(values.dtype)
        with torch.autocast(values.device.type, enabled=False):
            if self.support is None:
                return (values.mT if transpose else values) @ x
            if x.ndim > 2:  # a sparse plan is one problem: fold the leading dimensions into channels
                folded = self._multiply(x.movedim(-2, 0).flatten(1), transpose)
                return folded.unflatten(1, (*x.shape[:-2], x.shape[-1])).movedim(0, -2)
            return multiply(values, x, self.support, transpose)

    def __repr__(self) -> str:
        n, m = self.potentials[0].shape[-1], self.potentials[1].shape[-1]
        sparse = "" if self.support is None else f", nnz={self.support.nnz}"
        batch = f", batch={tuple(self.mass.shape)}" if self.mass.ndim else ""
        if self.mass.numel() == 1:
            numbers = (
                f"status={TransportStatus(int(self.status)).name}, iterations={int(self.iterations)}, "
                f"residual={float(self.residual):.2e}, mass={float(self.mass.detach()):.4g}, "
                f"value={float(self.value.detach()):.6g}"
            )
        elif self.mass.numel() == 0:
            numbers = "no problems"
        else:
            numbers = f"iterations<={int(self.iterations.max())}, residual<={float(self.residual.max()):.2e}"
        done = f"converged={bool(self.converged.all())}"
        return f"TransportResult(n={n}, m={m}{sparse}{batch}, {done}, {numbers})"
