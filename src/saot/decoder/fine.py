"""A decoder finer than its tokens: each token, seen with what is around it, answers for r x r cells of its patch.

A patch hides what is smaller than itself (appendix H): a pole never wins the vote of a 16-pixel patch. Its token knows
of it all the same, and the source's masks say where it stands; so the head learns the labels of cells, not of patches.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from saot.decoder.noise import noise_generator
from saot.decoder.pool import Grid, Rows
from saot.decoder.pyramid import around, pyramid

IGNORE = 255


def cross_tokens(tokens: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "n five_d"]:
    """Each token followed by those above, below, left and right of it; at a border the token stands in for them.

    Example:
        >>> cross_tokens(torch.tensor([[1.0], [2.0]]), 1, 2)
        tensor([[1., 1., 1., 1., 2.],
                [2., 2., 2., 1., 2.]])
    """
    return tokens[_cross(torch.arange(rows * columns, device=tokens.device), rows, columns)].flatten(1)


def seen_tokens(tokens: Float[Tensor, "n d"], rows: int, columns: int, levels: int = 0) -> Float[Tensor, "n parts_d"]:
    """What a `FineDecoder` sees of each token of a whole picture: `cross_tokens`, then the pyramid around it.

    Example:
        >>> seen_tokens(torch.zeros(12, 8), 3, 4, levels=3).shape  # itself, four neighbours, three levels
        torch.Size([12, 64])
    """
    cross = cross_tokens(tokens, rows, columns)
    if levels == 0:
        return cross
    everywhere = torch.arange(rows * columns, device=tokens.device)
    coarse = around(pyramid(tokens, rows, columns, levels), everywhere, rows, columns, levels)
    return torch.cat([cross, coarse.to(cross)], dim=-1)


def seen_rows(features: Rows, grid: Grid, blocks: Callable[[int], Tensor] | None = None, levels: int = 0) -> Rows:
    """The reader of single tokens that brings along what `seen_tokens` gives them.

    Args:
        features: Picture number and token numbers to features.
        grid: Picture number to rows and columns.
        blocks: Picture number to its `pyramid`; None without levels.
        levels: Of the pyramid.
    """

    def read(picture: int, tokens: Int[Tensor, " k"]) -> Float[Tensor, "k parts_d"]:
        rows, columns = grid(picture)
        needed, place = _cross(tokens.long(), rows, columns).unique(return_inverse=True)
        cross = features(picture, needed)[place].flatten(1)
        if blocks is None or levels == 0:
            return cross
        return torch.cat([cross, around(blocks(picture), tokens.long(), rows, columns, levels).to(cross)], dim=-1)

    return read


def seen_width(dim: int, levels: int) -> int:
    """Numbers that a `FineDecoder` sees of each token: its own, four neighbours' and those of each level."""
    return (5 + levels) * dim


def _cross(tokens: Int[Tensor, " k"], rows: int, columns: int) -> Int[Tensor, "k 5"]:
    row, column = tokens // columns, tokens % columns
    up, down = (row - 1).clamp_min(0), (row + 1).clamp_max(rows - 1)
    left, right = (column - 1).clamp_min(0), (column + 1).clamp_max(columns - 1)
    places = (tokens, up * columns + column, down * columns + column, row * columns + left, row * columns + right)
    return torch.stack(places, dim=-1)


def cells_of_tokens(
    cells: UInt8[Tensor, " cells"], height: int, width: int, rows: int, columns: int, subdivision: int
) -> UInt8[Tensor, "n cells_a_token"]:
    """Labels of a grid of cells, token by token; 255 for cells of the last tokens that lie in padding.

    Args:
        cells: Labels of height * width cells, row by row.
        height: Rows of cells that hold some of the picture, at most rows * subdivision.
        width: Columns of the same.
        rows: Rows of tokens.
        columns: Columns of tokens.
        subdivision: r, cells along each side of a token.
    """
    full = cells.new_full((rows * subdivision, columns * subdivision), IGNORE)
    full[:height, :width] = cells.view(height, width)
    parts = full.view(rows, subdivision, columns, subdivision).transpose(1, 2)
    return parts.reshape(rows * columns, subdivision**2)


def grid_of_cells(values: Float[Tensor, "n cells_a_token K"], rows: int, columns: int) -> Float[Tensor, "cells K"]:
    """The reverse, for scores: all (rows r) x (columns r) cells, row by row."""
    side = round(values.shape[1] ** 0.5)
    return values.reshape(rows, columns, side, side, -1).transpose(1, 2).flatten(0, 3)


def tokens_of_grid(
    cells: Float[Tensor, "cells K"], rows: int, columns: int, side: int
) -> Float[Tensor, "n cells_a_token K"]:
    """The reverse of `grid_of_cells`: token by token, side x side cells each."""
    return cells.reshape(rows, side, columns, side, -1).transpose(1, 2).reshape(rows * columns, side**2, -1)


def smoothed(cells: Float[Tensor, "cells K"], rows: int, columns: int, reach: int) -> Float[Tensor, "cells K"]:
    """Scores of each cell, averaged over the cells up to `reach` away; at the border over those there are.

    Each of a token's cells has weights of its own, so all tokens alike repeat what one cell says otherwise than the
    next: a checkerboard (docs/best.md), which means over neighbours weaken. Cells in padding take part.

    Args:
        cells: Scores of rows * columns cells, row by row.
        rows: Rows of cells.
        columns: Columns of cells.
        reach: 1 averages 3 x 3 cells, 0 leaves the scores as they are.

    Example:
        >>> smoothed(torch.tensor([[0.0], [3.0], [0.0], [3.0]]), 1, 4, 1).flatten().tolist()
        [1.5, 1.0, 2.0, 1.5]
    """
    if reach == 0:
        return cells
    if torch.compiler.is_exporting():  # what is added in place is copied whole in ONNX
        picture = cells.T.reshape(1, -1, rows, columns)
        return nn.functional.avg_pool2d(picture, 2 * reach + 1, 1, reach, count_include_pad=False)[0].flatten(1).T
    grid = cells.view(rows, columns, -1)
    return _mean_along(_mean_along(grid, 0, reach), 1, reach).flatten(0, 1)


def _mean_along(grid: Float[Tensor, "rows columns K"], axis: int, reach: int) -> Float[Tensor, "rows columns K"]:
    """Means over the cells up to `reach` away along one axis, of those there are."""
    size = grid.shape[axis]
    total, count = grid.clone(), torch.ones(size, device=grid.device)
    for step in range(1, min(reach, size - 1) + 1):
        total.narrow(axis, step, size - step).add_(grid.narrow(axis, 0, size - step))
        total.narrow(axis, 0, size - step).add_(grid.narrow(axis, step, size - step))
        count[step:] += 1
        count[: size - step] += 1
    return total.div_(count.view(-1, *[1] * (2 - axis)))


class FineDecoder(nn.Module):
    """Class logits of the r x r cells of each token.

    Args:
        dim: Feature width d.
        num_classes: Number of classes K.
        body: Of single tokens: `seen_width(dim, levels)` numbers to K r^2.
        subdivision: r.
        levels: Of the pyramid around each token; 0 leaves it with its four neighbours.
        context_dropout: Share of training tokens that do without the pyramid, so that it can never be all a network
            goes by: across a large shift surroundings change more than patches do.
        smooth: How many cells away those are over which a whole picture's scores are averaged (`picture_logits`).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        body: nn.Module,
        subdivision: int,
        levels: int = 0,
        context_dropout: float = 0.0,
        smooth: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.num_classes, self.subdivision, self.body = dim, num_classes, subdivision, body
        self.levels, self.context_dropout, self.smooth = levels, context_dropout, smooth
        self.body_shape: dict[str, object] = dict(body.shape)  # type: ignore[arg-type]

    @property
    def shape(self) -> dict[str, object]:
        """What `decoder_of_shape` builds it from."""
        own = {"dim": self.dim, "num_classes": self.num_classes, "subdivision": self.subdivision}
        own |= {"levels": self.levels, "context_dropout": self.context_dropout, "smooth": self.smooth}
        return {**self.body_shape, "architecture": "fine", **own}

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        return self.body.head  # type: ignore[return-value]

    @torch.no_grad()
    def start_alike(self) -> "FineDecoder":
        """The weights of the first cell for all: what tells cells apart is learned, not drawn."""
        for part in (self.head.weight, self.head.bias):
            part.copy_(part[: self.num_classes].repeat(self.subdivision**2, *[1] * (part.dim() - 1)))
        return self

    def embed(self, seen: Float[Tensor, "*shape parts_d"]) -> Float[Tensor, "*shape w"]:
        """What feeds the head: one vector a token, from which all its cells are told."""
        if self.training and self.levels > 0 and self.context_dropout > 0:
            drawn = torch.rand(seen.shape[:-1], device=seen.device, generator=noise_generator(seen.device))
            kept = drawn >= self.context_dropout
            near, far = seen.split([5 * self.dim, self.levels * self.dim], dim=-1)
            seen = torch.cat([near, far * kept.unsqueeze(-1)], dim=-1)
        return self.body.embed(seen)  # type: ignore[operator]

    def forward(self, seen: Float[Tensor, "*shape parts_d"]) -> Float[Tensor, "*shape cells K"]:
        """Logits (..., r^2, K) of tokens with what is around them (`seen_tokens`), cells row by row."""
        return self.head(self.embed(seen)).unflatten(-1, (self.subdivision**2, self.num_classes))

    def of_tokens(self, tokens: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "n cells K"]:
        """Logits of the cells of each token of a whole picture, n = rows * columns."""
        return self(seen_tokens(tokens, rows, columns, self.levels))


def cell_loss(
    logits: Float[Tensor, "b cells K"],
    targets: Tensor,
    weights: Float[Tensor, " b"],
    soft_loss: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Float[Tensor, ""]:
    """Weighted mean over labelled cells of the cross-entropy, or `soft_loss` of all cells of probabilities.

    Args:
        logits: Of b tokens.
        targets: (b, cells) classes, 255 for none, or (b, cells, K) probabilities.
        weights: Of the tokens, summing to 1.
        soft_loss: Of (b * cells, K) logits and probabilities, and weights that sum to 1.
    """
    cells = weights.unsqueeze(-1).expand(targets.shape[:2])
    if targets.is_floating_point():
        return soft_loss(logits.flatten(0, 1), targets.flatten(0, 1), cells.flatten() / targets.shape[1])
    values = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten().long(), ignore_index=IGNORE, reduction="none"
    )
    shown = cells * (targets != IGNORE)
    total = shown.sum()
    return (shown.flatten() * values).sum() / torch.where(total > 0, total, 1.0)
