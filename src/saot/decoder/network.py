"""The residual MLP of sec. 4.5 and appendix E.4."""

from jaxtyping import Float
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Linear - GELU - Linear, plus the input, then LayerNorm and dropout (E.4)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*shape w"]) -> Float[Tensor, "*shape w"]:
        """One block, same shape."""
        return self.dropout(self.norm(x + self.inner(x)))


class TokenDecoder(nn.Module):
    """Class logits of single tokens.

    Args:
        dim: Feature width d.
        num_classes: Number of classes K.
        hidden: Width of the residual stream (1,024 in T12).
        blocks: Residual blocks (2).
        dropout: Dropout after the first layer and each block (0.1).

    Example:
        >>> sum(p.numel() for p in TokenDecoder(1024, 19).parameters())
        5273619
    """

    def __init__(self, dim: int, num_classes: int, hidden: int = 1024, blocks: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = {
            "dim": dim,
            "num_classes": num_classes,
            "hidden": hidden,
            "blocks": blocks,
            "dropout": dropout,
        }
        self.stem = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout))
        self.blocks = nn.Sequential(*(ResidualBlock(hidden, dropout) for _ in range(blocks)))
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, tokens: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape K"]:
        """Logits (..., K) of unit features (..., d)."""
        return self.head(self.blocks(self.stem(tokens)))
