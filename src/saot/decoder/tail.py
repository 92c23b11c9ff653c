"""A decoder of cells that a network's own last layers are part of, trained along with it.

Frozen features say what the network was trained to say, and what it left out no decoder finds again. So the first
layers alone stay frozen, computed once and kept; a copy of the last ones is trained with the decoder, at a tenth of its
rate. Windows of pictures are trained on, which begin where the windows of attention do.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from saot.decoder.noise import Dropout, noise_generator
from saot.features import Tail

SIDE = 4  # cells along each side of a token: two steps of twice as many


class TailDecoder(nn.Module):
    """Class logits of the 4 x 4 cells of each token of a picture, from early tokens.

    Args:
        tail: The network's last layers, trained along.
        num_classes: Number of classes K.
        width: Channels on the tokens' own grid; half as many on finer ones.
        dropout: Share of the tail's channels, and of a block's hidden numbers, that training does without.

    Example:
        >>> from saot.features import make_tail
        >>> decoder = TailDecoder(make_tail("mobile-sam"), 3)
        >>> decoder.of_tokens(torch.zeros(6, 160), 2, 3).shape
        torch.Size([6, 16, 3])
    """

    subdivision = SIDE
    smooth = 0

    def __init__(self, tail: Tail, num_classes: int, width: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim, self.num_classes, self.tail = tail.dim, num_classes, tail
        self.shape: dict[str, object] = {
            "architecture": "tail",
            "tail": tail.kind,
            "num_classes": num_classes,
            "width": width,
            "dropout": dropout,
        }
        half = width // 2
        self.stem = nn.Sequential(ChannelDropout(dropout), nn.Linear(tail.out, width), nn.LayerNorm(width))
        self.coarse = nn.Sequential(MixBlock(width, 7, dropout), MixBlock(width, 7, dropout))
        self.middle = nn.Sequential(nn.LayerNorm(width), MixBlock(width, 3, dropout), nn.Linear(width, half))
        self.fine = nn.Sequential(nn.LayerNorm(half), MixBlock(half, 3, dropout))
        self.head = nn.Linear(half, num_classes)

    @property
    def window(self) -> int:
        """A window of tokens that begins at a multiple of it is seen as in a whole picture."""
        return self.tail.window

    def own_parameters(self) -> list[nn.Parameter]:
        """Those of the decoder without the tail."""
        tail = {id(one) for one in self.tail.parameters()}  # type: ignore[attr-defined]
        return [one for one in self.parameters() if id(one) not in tail]

    def forward(self, tokens: Float[Tensor, "b n d"], rows: int, columns: int) -> Float[Tensor, "b n cells K"]:
        """Logits of the cells of each token, cells row by row.

        Args:
            tokens: Early tokens of windows or whole pictures, n = rows * columns.
            rows: Rows of tokens.
            columns: Columns of tokens.
        """
        x = self.coarse(self.stem(self.tail(tokens.unflatten(1, (rows, columns)))))
        x = self.head(self.fine(twice(self.middle(twice(x)))))
        parts = x.unflatten(1, (rows, SIDE)).unflatten(3, (columns, SIDE)).transpose(2, 3)  # b rows columns r r K
        return parts.flatten(3, 4).flatten(1, 2)

    def of_tokens(self, tokens: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "n cells K"]:
        """Logits of the cells of each token of a whole picture, n = rows * columns."""
        return self(tokens.unsqueeze(0), rows, columns)[0]


def twice(x: Float[Tensor, "b rows columns w"]) -> Float[Tensor, "b finer_rows finer_columns w"]:
    """A map with twice as many rows and columns, bilinearly."""
    return functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").permute(0, 2, 3, 1)


class ChannelDropout(nn.Module):
    """Zeros in place of whole channels of a picture, all others scaled so that the mean stays."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Float[Tensor, "b rows columns w"]) -> Float[Tensor, "b rows columns w"]:
        """Same shape."""
        if not self.training or self.share == 0:
            return x
        drawn = torch.rand(x.shape[0], x.shape[-1], device=x.device, generator=noise_generator(x.device))
        return x * ((drawn >= self.share) / (1.0 - self.share))[:, None, None]


class MixBlock(nn.Module):
    """A depthwise convolution, normalisation and an MLP of each place, plus the input."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        near = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.near = near.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm, self.drop = nn.LayerNorm(width), Dropout(dropout)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "b rows columns w"]) -> Float[Tensor, "b rows columns w"]:
        """One block, same shape."""
        near = self.near(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.narrow(self.drop(functional.gelu(self.wide(self.norm(near)))))
