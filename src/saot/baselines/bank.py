"""A bounded bank of labelled source tokens."""

from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class TokenBank:
    """Labelled tokens of many pictures together.

    Attributes:
        tokens: (N, d) unit features.
        labels: (N,) classes; no "ignore".
    """

    tokens: Float[Tensor, "N d"]
    labels: UInt8[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "TokenBank":
        """The first tokens; a bank is in random order, so they are a sample of it."""
        return TokenBank(self.tokens[:count], self.labels[:count])
