"""The residual MLP of sec. 4.5 and appendix E.4, and the two networks table 4 compares it with."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saot.decoder.fine import FineDecoder, grid_of_cells, seen_width, smoothed
from saot.decoder.joint import JointDecoder
from saot.decoder.noise import Dropout
from saot.decoder.tail import TailDecoder
from saot.features import make_tail
from saot.recipes import DecoderRecipe


class ResidualBlock(nn.Module):
    """Linear - GELU - Linear, plus the input, then LayerNorm and dropout (E.4)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

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
        self.stem = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.GELU(), Dropout(dropout))
        self.blocks = nn.Sequential(*(ResidualBlock(hidden, dropout) for _ in range(blocks)))
        self.head = nn.Linear(hidden, num_classes)

    def embed(self, tokens: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape w"]:
        """What feeds the head."""
        return self.blocks(self.stem(tokens))

    def forward(self, tokens: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape K"]:
        """Logits (..., K) of unit features (..., d)."""
        return self.head(self.embed(tokens))


class MLPDecoder(nn.Module):
    """Class logits of single tokens by a 3-layer MLP, table 4.

    The table says "512 hidden" and 1.6M parameters: 1024-1024-512-19 has the second, 1024-512-512-19 (0.80M) the first
    alone (paper-notes A-3).

    Args:
        dim: Feature width d.
        num_classes: Number of classes K.
        first: Width of the first hidden layer.
        second: Width of the second.
        dropout: Dropout after each hidden layer.

    Example:
        >>> [sum(p.numel() for p in MLPDecoder(1024, 19, first, 512).parameters()) for first in (1024, 512)]
        [1584147, 797203]
    """

    def __init__(self, dim: int, num_classes: int, first: int = 1024, second: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = {
            "architecture": "mlp3",
            "dim": dim,
            "num_classes": num_classes,
            "first": first,
            "second": second,
            "dropout": dropout,
        }
        self.body = nn.Sequential(
            nn.Linear(dim, first),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(first, second),
            nn.GELU(),
            Dropout(dropout),
        )
        self.head = nn.Linear(second, num_classes)

    def embed(self, tokens: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape w"]:
        """What feeds the head."""
        return self.body(tokens)

    def forward(self, tokens: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape K"]:
        """Logits (..., K) of unit features (..., d)."""
        return self.head(self.embed(tokens))


class ConvBlock(nn.Module):
    """3x3 convolution - GELU, plus the input, then LayerNorm of each token and dropout."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b rows columns w"], inside: Float[Tensor, "b rows columns 1"]
    ) -> Float[Tensor, "b rows columns w"]:
        """One block, same shape; what is not inside counts as the zeros beyond the border."""
        neighbours = self.conv((x * inside).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.dropout(self.norm(x + nn.functional.gelu(neighbours)))


class GridDecoder(nn.Module):
    """Class logits of all tokens of a picture, each seen with its neighbours: table 4's "Spatial Conv (3x3, 3 blk)".

    The paper gives no widths; 320 channels have its 3.1M parameters.

    Args:
        dim: Feature width d.
        num_classes: Number of classes K.
        hidden: Channels.
        blocks: 3x3 convolutions, each with a skip connection.
        dropout: Dropout after the first layer and each block.

    Example:
        >>> sum(p.numel() for p in GridDecoder(1024, 19).parameters())
        3102419
    """

    def __init__(self, dim: int, num_classes: int, hidden: int = 320, blocks: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = {
            "architecture": "conv",
            "dim": dim,
            "num_classes": num_classes,
            "hidden": hidden,
            "blocks": blocks,
            "dropout": dropout,
        }
        self.stem = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.GELU(), Dropout(dropout))
        self.blocks = nn.ModuleList(ConvBlock(hidden, dropout) for _ in range(blocks))
        self.head = nn.Linear(hidden, num_classes)

    @property
    def radius(self) -> int:
        """How many tokens away a neighbour may be and still have a say."""
        return len(self.blocks)

    def forward(
        self,
        tokens: Float[Tensor, "*shape n d"],
        rows: int,
        columns: int,
        inside: Bool[Tensor, "*shape n"] | None = None,
    ) -> Float[Tensor, "*shape n K"]:
        """Logits of the n = rows * columns tokens of each picture, row by row.

        Args:
            tokens: Unit features.
            rows: Rows of the token grid.
            columns: Columns of it.
            inside: False for places without a token, which then equal the zeros beyond the border; their logits mean
                nothing. None is True everywhere.

        Raises:
            ValueError: If there are not rows * columns tokens.
        """
        if tokens.shape[-2] != rows * columns:
            raise ValueError(
                f"expected {rows} x {columns} = {rows * columns} tokens; got {tokens.shape[-2]}: pass whole pictures"
            )
        if inside is None:
            inside = torch.ones(tokens.shape[:-1], dtype=torch.bool, device=tokens.device)
        x = self.stem(tokens).reshape(-1, rows, columns, self.head.in_features)
        mask = inside.reshape(-1, rows, columns, 1).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x).reshape(*tokens.shape[:-1], -1)


Decoder = TokenDecoder | MLPDecoder | GridDecoder | FineDecoder | TailDecoder | JointDecoder
CELLS = (FineDecoder, TailDecoder, JointDecoder)  # those finer than their tokens


def picture_logits(
    decoder: Callable[..., Tensor], tokens: Float[Tensor, "n d"], rows: int, columns: int
) -> Float[Tensor, "cells K"]:
    """Logits of all tokens of a picture, whether the network looks at neighbours or not.

    A decoder of cells gives those of r^2 n cells, (rows r) x (columns r) of them row by row; `saot.evaluate` knows by
    their number what they are. They are smoothed as the decoder says.

    Args:
        decoder: A decoder, or any other function of single tokens.
        tokens: All n = rows * columns tokens of the picture, row by row.
        rows: Rows of its token grid.
        columns: Columns of it.
    """
    if isinstance(decoder, CELLS):
        cells, side = grid_of_cells(decoder.of_tokens(tokens, rows, columns), rows, columns), decoder.subdivision
        return smoothed(cells, rows * side, columns * side, decoder.smooth)
    return decoder(tokens, rows, columns) if isinstance(decoder, GridDecoder) else decoder(tokens)


def make_decoder(dim: int, num_classes: int, config: DecoderRecipe) -> Decoder:
    """An untrained decoder of the recipe's architecture.

    Args:
        dim: Feature width d.
        num_classes: Number of classes K.
        config: Architecture and widths.

    Raises:
        ValueError: If the architecture is not known.

    Example:
        >>> make_decoder(1024, 19, DecoderRecipe(architecture="conv")).shape["hidden"]
        320
    """
    match config.architecture:
        case "residual":
            return TokenDecoder(dim, num_classes, config.hidden, config.blocks, config.dropout)
        case "mlp3":
            first, second = (max(1, round(part * config.hidden)) for part in config.mlp_widths)
            return MLPDecoder(dim, num_classes, first, second, config.dropout)
        case "conv":
            width = max(1, round(config.conv_width * config.hidden))
            return GridDecoder(dim, num_classes, width, config.conv_blocks, config.dropout)
        case "fine":
            outputs = num_classes * config.subdivision**2
            width = seen_width(dim, config.context)
            body = TokenDecoder(width, outputs, config.hidden, config.blocks, config.dropout)
            surroundings = config.context, config.context_dropout
            decoder = FineDecoder(dim, num_classes, body, config.subdivision, *surroundings, config.smooth)
            return decoder.start_alike() if config.start == "alike" else decoder
    raise ValueError(
        f"expected an architecture among residual, mlp3, conv, fine; got {config.architecture!r}: choose one"
    )


def decoder_of_shape(shape: Mapping[str, Any]) -> Decoder:
    """An untrained decoder from the `shape` of another.

    Example:
        >>> decoder_of_shape(MLPDecoder(8, 3, 4, 2).shape).shape == MLPDecoder(8, 3, 4, 2).shape
        True
    """
    sizes = {name: value for name, value in shape.items() if name != "architecture"}
    if shape.get("architecture") == "fine":
        dim, classes, parts = sizes.pop("dim"), sizes.pop("num_classes"), sizes.pop("subdivision")
        levels, context_dropout = sizes.pop("levels", 0), sizes.pop("context_dropout", 0.0)
        smooth = sizes.pop("smooth", 0)  # none in decoders of earlier versions
        body = TokenDecoder(seen_width(dim, levels), classes * parts**2, **sizes)
        return FineDecoder(dim, classes, body, parts, levels, context_dropout, smooth)
    if shape.get("architecture") == "tail":
        return TailDecoder(make_tail(sizes.pop("tail")), **sizes)
    if shape.get("architecture") == "joint":
        fine, trained = decoder_of_shape(sizes["fine"]), decoder_of_shape(sizes["trained"])
        assert isinstance(fine, FineDecoder) and isinstance(trained, TailDecoder), "as it was packed"
        return JointDecoder(make_tail(sizes["tail"]), fine, trained, sizes["unit"])
    kinds = {"residual": TokenDecoder, "mlp3": MLPDecoder, "conv": GridDecoder}
    return kinds[shape.get("architecture", "residual")](**sizes)
