"""Two decoders of different kinds as one: cells of frozen tokens, and one that the network's last layers are part of.

They err differently: frozen tokens say little of what is thin, trained layers forget what the source rarely shows.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.decoder.fine import FineDecoder, grid_of_cells, smoothed, tokens_of_grid
from saot.decoder.tail import TailDecoder
from saot.features import Tail


def joint_logits(logits: Sequence[Float[Tensor, "*shape K"]]) -> Float[Tensor, "*shape K"]:
    """Log of the mean posterior of several networks, up to a constant.

    Example:
        >>> joint_logits([torch.tensor([0.0, 0.0]), torch.tensor([100.0, 0.0])]).softmax(-1)
        tensor([0.7500, 0.2500])
    """
    return torch.stack([part.log_softmax(-1) for part in logits]).logsumexp(0)


class JointDecoder(nn.Module):
    """The mean posterior of both, from early tokens alone; each is trained by itself.

    Args:
        frozen: The network's last layers as they were, which make the tokens that `fine` is given.
        fine: Of cells of whole tokens.
        trained: Of the same cells, with last layers of its own.
        unit: Whether `fine` is given tokens of length 1.

    Raises:
        ValueError: If the two answer for other cells or classes.
    """

    smooth = 0

    def __init__(self, frozen: Tail, fine: FineDecoder, trained: TailDecoder, unit: bool = True) -> None:
        super().__init__()
        ours, theirs = ((one.num_classes, one.subdivision) for one in (fine, trained))
        if ours != theirs:
            raise ValueError(
                f"expected two decoders of the same classes and of {theirs[1]} x {theirs[1]} cells a token; got {ours} "
                f"and {theirs}: set decoder.subdivision to {theirs[1]}"
            )
        self.frozen, self.fine, self.trained, self.unit = frozen, fine, trained, unit
        self.dim, self.num_classes, self.subdivision = trained.dim, fine.num_classes, trained.subdivision

    @property
    def head(self) -> nn.Linear:
        """The last linear layer of the cells of whole tokens."""
        return self.fine.head

    @property
    def shape(self) -> dict[str, object]:
        """What `decoder_of_shape` builds it from."""
        parts = {"fine": self.fine.shape, "trained": self.trained.shape}
        return {"architecture": "joint", "tail": self.frozen.kind, "unit": self.unit, **parts}

    def whole(self, tokens: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "n D"]:
        """What the whole frozen network says of a picture with these early tokens."""
        found = self.frozen(tokens.view(1, rows, columns, -1)).flatten(0, 2)
        return nn.functional.normalize(found, dim=-1) if self.unit else found

    def of_tokens(self, tokens: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "n cells K"]:
        """Log of the mean posterior of the cells of each token of a whole picture, up to a constant."""
        of_fine, side = self.fine.of_tokens(self.whole(tokens, rows, columns), rows, columns), self.subdivision
        grid = smoothed(grid_of_cells(of_fine, rows, columns), rows * side, columns * side, self.fine.smooth)
        return joint_logits([tokens_of_grid(grid, rows, columns, side), self.trained.of_tokens(tokens, rows, columns)])

    def forward(self, tokens: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "n cells K"]:
        """As `of_tokens`."""
        return self.of_tokens(tokens, rows, columns)
