"""One picture as a matcher sees it: its tokens, which of them may be matched, and perhaps where they lie in space."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MatchSide:
    """Tokens of one of the two pictures of a pair.

    Attributes:
        tokens: Features of n = rows * columns tokens, row by row, each of length 1.
        shape: Rows and columns of the grid.
        mask: Tokens that may be matched: the object, or all that is no padding.
        points: Place of each token in space, in units of its own picture; None where nobody knows.

    Raises:
        ValueError: If a part does not fit the grid, nothing may be matched, or a number is not finite.

    Example:
        >>> side = MatchSide.of(torch.eye(4), (2, 2))
        >>> side.tokens.shape, int(side.mask.sum())
        (torch.Size([4, 4]), 4)
    """

    tokens: Float[Tensor, "n d"]
    shape: tuple[int, int]
    mask: Bool[Tensor, " n"]
    points: Float[Tensor, "n 3"] | None = None

    def __post_init__(self) -> None:
        count, (rows, columns) = len(self.tokens), self.shape
        if self.tokens.ndim != 2 or count == 0 or rows * columns != count:
            raise ValueError(
                f"expected one row of numbers for each token of a {rows} x {columns} grid, but tokens have shape "
                f"{tuple(self.tokens.shape)}"
            )
        for name, part, want in (("mask", self.mask, (count,)), ("points", self.points, (count, 3))):
            if part is not None and tuple(part.shape) != want:
                raise ValueError(f"{name} must have shape {want}, one row for each token, but has {tuple(part.shape)}")
        if not bool(self.mask.any()):
            raise ValueError("the mask leaves no token to match; give one that covers some of the picture")
        for name, part in (("tokens", self.tokens), ("points", self.points)):
            if part is not None and not bool(torch.isfinite(part[self.mask]).all()):
                raise ValueError(f"{name} hold a number that is not finite at a token that may be matched")

    @classmethod
    def of(
        cls,
        tokens: Float[Tensor, "n d"],
        shape: tuple[int, int],
        mask: Bool[Tensor, " n"] | None = None,
        points: Float[Tensor, "n 3"] | None = None,
    ) -> "MatchSide":
        """A side with its tokens scaled to length 1, and all of them to be matched unless a mask is given."""
        if mask is None:
            mask = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        elif mask.shape == tokens.shape[:1]:
            tokens = torch.where(mask.unsqueeze(-1), tokens, torch.where(tokens.isfinite(), tokens, 0.0))
        return cls(torch.nn.functional.normalize(tokens.float(), dim=-1), shape, mask, points)
