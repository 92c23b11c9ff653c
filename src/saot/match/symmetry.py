"""Symmetric key points keep their order from left to right. GWOT, Eq. (6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SymmetricPairs:
    """Source tokens (i, k) of symmetric key points, for a batch of pairs of pictures.

    Eq. (6) as printed compares a source's with a target's coordinate. With S = sign(x - x') within each picture,

        F_sym(T) = - sum_(i,k) sum_jl S^s_ik S^t_jl T_ij T_kl = - sum_(i,k) S^s_ik sum_j T_ij (L_k - R_k)(x_j),

    where L_k and R_k are the mass of row k left and right of a column of the grid: cumulative sums over its columns.

    Attributes:
        problem: Which of the batch a pair belongs to.
        first, second: Its two tokens.
        sign: S^s of the two.
        target: Rows and columns of the target's grid.
        degree: Most pairs that one token of a problem takes part in.
    """

    problem: Int64[Tensor, " pairs"]
    first: Int64[Tensor, " pairs"]
    second: Int64[Tensor, " pairs"]
    sign: Float[Tensor, " pairs"]
    target: tuple[int, int]
    degree: Float[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.problem)

    @classmethod
    def of(
        cls,
        pairs: Sequence[Int64[Tensor, "_ 2"]] | None,
        batch: int,
        source: tuple[int, int],
        target: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> "SymmetricPairs":
        """From one list of tokens for each problem; none at all where nothing is known.

        Raises:
            ValueError: If there is not one list for each problem, or a token is none of the source's.
        """
        pairs = [torch.zeros(0, 2, dtype=torch.int64)] * batch if pairs is None else pairs
        if len(pairs) != batch:
            raise ValueError(f"expected symmetric key points for each of {batch} pairs of pictures; got {len(pairs)}")
        tokens = source[0] * source[1]
        for part in pairs:
            if len(part) and not (int(part.min()) >= 0 and int(part.max()) < tokens):
                raise ValueError(f"symmetric key points name a token that is none of the source's {tokens}")
        problem = torch.cat([torch.full((len(part),), number) for number, part in enumerate(pairs)]).to(device)
        both = torch.cat([part.to(device) for part in pairs])
        first, second = both[:, 0], both[:, 1]
        sign = torch.sign((first % source[1]).float() - (second % source[1]).float())
        degree = torch.zeros(batch, tokens, device=device, dtype=sign.dtype)  # whatever torch's default is
        for side in (first, second):
            degree.index_put_((problem, side), torch.ones_like(sign), accumulate=True)
        return cls(problem, first, second, sign, target, degree.amax(-1))

    def only(self, number: int) -> "SymmetricPairs":
        """Those of one problem."""
        mine = self.problem == number
        first, second, sign = self.first[mine], self.second[mine], self.sign[mine]
        return SymmetricPairs(torch.zeros_like(first), first, second, sign, self.target, self.degree[number, None])

    def value(self, plan: Float[Tensor, "batch n m"]) -> Float[Tensor, " batch"]:
        """F_sym of a plan, without its weight; differentiable."""
        rows = plan[self.problem, self.first]
        each = -self.sign.to(plan.dtype) * (rows * self._ahead(plan[self.problem, self.second])).sum(-1)
        return plan.new_zeros(len(plan)).index_add(0, self.problem, each)

    def add(
        self,
        plan: Float[Tensor, "batch n m"],
        gradient: Float[Tensor, "batch block m"],
        rows: slice,
        weight: Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Add weight times the gradient of F_sym to its rows, and return half their part of <gradient, plan>.

        F_sym is quadratic: over all rows the halves add up to weight times F_sym.
        """
        total = torch.zeros_like(weight)
        # S^s and S^t both change sign when the two tokens are exchanged, so the term of the second is of the same form
        for here, there, sign in ((self.first, self.second, self.sign), (self.second, self.first, -self.sign)):
            mine = (here >= rows.start) & (here < rows.stop)
            problem, token = self.problem[mine], here[mine]
            scale = (-sign[mine].to(plan.dtype) * weight[problem]).unsqueeze(-1)
            part = scale * self._ahead(plan[problem, there[mine]])
            gradient.index_put_((problem, token - rows.start), part, accumulate=True)
            total = total.index_add(0, problem, (part * plan[problem, token]).sum(-1) / 2)
        return total

    def _ahead(self, rows: Float[Tensor, "pairs m"]) -> Float[Tensor, "pairs m"]:
        """Mass of a row left of each target's column, less the mass right of it."""
        columns = rows.unflatten(-1, self.target).sum(-2)
        up_to = columns.cumsum(-1)
        ahead = (up_to - columns) - (up_to[..., -1:] - up_to)
        return ahead.unsqueeze(-2).expand(-1, self.target[0], -1).flatten(-2)
