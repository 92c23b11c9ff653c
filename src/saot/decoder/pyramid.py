"""What lies around a token, coarser the further away: means over blocks of 3 x 3, 9 x 9, 27 x 27 tokens, and so on.

A patch of wall and one of road may look the same; what is above and below them does not. A pyramid of block means
tells a network of single tokens about it for an eighth of the memory of the tokens themselves.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

STEP = 3  # blocks of level l have 3^l tokens along each side


def block_grid(rows: int, columns: int, level: int) -> tuple[int, int]:
    """Rows and columns of the blocks of a level; the last ones may be cut short by the border.

    Example:
        >>> block_grid(36, 72, 1), block_grid(36, 72, 3)
        ((12, 24), (2, 3))
    """
    side = STEP**level
    return -(-rows // side), -(-columns // side)


def pyramid(tokens: Float[Tensor, "n d"], rows: int, columns: int, levels: int) -> Float[Tensor, "blocks d"]:
    """Mean token of every block of levels 1 to `levels`, level by level, each row by row.

    Args:
        tokens: Of a whole picture, n = rows * columns.
        rows: Rows of the token grid.
        columns: Columns of it.
        levels: How many levels.

    Example:
        >>> pyramid(torch.arange(9.0).unsqueeze(-1), 3, 3, 1)
        tensor([[4.]])
    """
    picture, parts = tokens.float().T.reshape(1, -1, rows, columns), []
    for level in range(1, levels + 1):
        side = STEP**level
        means = torch.nn.functional.avg_pool2d(picture, side, side, ceil_mode=True, count_include_pad=False)
        parts.append(means[0].flatten(1).T)
    return torch.cat(parts) if parts else tokens.new_zeros(0, tokens.shape[-1])


def around(
    blocks: Float[Tensor, "blocks d"], tokens: Int[Tensor, " k"], rows: int, columns: int, levels: int
) -> Float[Tensor, "k levels_d"]:
    """The pyramid at some tokens, bilinear between the centres of the blocks, fine levels first.

    Args:
        blocks: Of `pyramid`.
        tokens: Token numbers.
        rows: Rows of the token grid.
        columns: Columns of it.
        levels: How many levels the pyramid has.
    """
    if levels == 0:
        return blocks.new_zeros(len(tokens), 0)
    corners, shares, start = [], [], 0
    for level in range(1, levels + 1):
        height, width = block_grid(rows, columns, level)
        above, below, down = _between(tokens // columns, STEP**level, height)
        left, right, across = _between(tokens % columns, STEP**level, width)
        corners += [start + row * width + column for row in (above, below) for column in (left, right)]
        shares += [part * share for part in (1 - down, down) for share in (1 - across, across)]
        start += height * width
    index, weight = (torch.stack(parts, dim=-1).view(-1, 4) for parts in (corners, shares))  # a bag of four each
    if torch.compiler.is_exporting():  # in ONNX a bag is a loop over its rows, thousands of times slower
        found = (blocks.float()[index] * weight.unsqueeze(-1)).sum(1)
    else:
        found = torch.nn.functional.embedding_bag(index, blocks.float(), mode="sum", per_sample_weights=weight)
    return found.view(len(tokens), -1)


def _between(place: Int[Tensor, " k"], side: int, blocks: int) -> tuple[Tensor, Tensor, Float[Tensor, " k"]]:
    """The two blocks along an axis whose centres enclose a token's, and the weight of the second."""
    where = ((place + 0.5) / side - 0.5).clamp(0, blocks - 1)
    first = where.floor().long()
    return first, (first + 1).clamp_max(blocks - 1), where - first
