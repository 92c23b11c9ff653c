"""From token scores to pixels: bilinear, at the exact place of every token in the picture."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import IGNORE_INDEX, PatchGrid

STRIP_VALUES = 1 << 18  # scores worked on at a time in predict_mask: 1 MiB of float32 stays in a core's cache
DEVICE_VALUES = 1 << 23  # the same on an accelerator, where few large operations are fastest: 32 MiB
TILE_WIDTH = 2048  # pixels, so that a strip of a huge picture has several rows


def interpolation_matrix(
    pixels: int, input_size: int, patch_size: int, tokens: int, *, start: int = 0, stop: int | None = None
) -> Float[Tensor, "rows tokens"]:
    """Weights of the tokens along one axis for each pixel of the picture.

    Pixel centre y lies at token coordinate (y + 1/2) * (input / image) / patch - 1/2: align_corners=False,
    but with the true scale instead of tokens / pixels, so that padding and cropping do not shift the mask.
    Coordinates outside the outermost token centres take the outermost token.

    Args:
        pixels: Size of the picture along this axis, pixels.
        input_size: Size of the resized picture before padding, pixels of the network input.
        patch_size: Pixels of network input per token.
        tokens: Tokens along this axis.
        start: First pixel row of the result. Other.
        stop: One past the last pixel row; None means `pixels`. Other.

    Returns:
        (stop - start, tokens), float64; each row has at most two neighbouring weights, which sum to 1.

    Example:
        >>> interpolation_matrix(4, 4, 2, 2).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    low, high, fraction = _neighbours(
        pixels, input_size, patch_size, tokens, slice(start, pixels if stop is None else stop)
    )
    matrix = torch.zeros(len(low), tokens, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], (1 - fraction)[:, None])
    matrix.scatter_add_(1, high[:, None], fraction[:, None])
    return matrix


def _neighbours(
    pixels: int, input_size: int, patch_size: int, tokens: int, window: slice
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The two tokens along an axis that each pixel lies between, and the weight of the second; float64."""
    centres = torch.arange(window.start, window.stop, dtype=torch.float64) + 0.5
    where = (centres * (input_size / pixels / patch_size) - 0.5).clamp(0, tokens - 1)
    low = where.floor().long()
    return low, (low + 1).clamp(max=tokens - 1), where - low


def on_cells(scores: Float[Tensor, "n k"], grid: PatchGrid) -> tuple[Float[Tensor, "cells k"], PatchGrid]:
    """Scores and the grid they lie on: that of the tokens, or of r x r cells a token if there are r^2 times as many.

    Cells of the last tokens that lie wholly in padding are dropped.

    Example:
        >>> on_cells(torch.zeros(4 * 6, 2), PatchGrid(4, 6, 4, 6, 2, 2, 3))[1].patch_size
        2
    """
    parts = math.isqrt(scores.shape[0] // grid.num_tokens)
    if parts < 2 or scores.shape[0] != grid.num_tokens * parts**2:
        return scores, grid
    fine = grid.subdivide(parts)
    cells = scores.view(grid.height * parts, grid.width * parts, -1)[: fine.height, : fine.width]
    return cells.flatten(0, 1), fine


def _checked(
    scores: Float[Tensor, "n k"], grid: PatchGrid, bias: Float[Tensor, "c"] | None
) -> tuple[Float[Tensor, "cells k"], PatchGrid]:
    scores, grid = on_cells(scores, grid)
    if scores.shape[0] != grid.height * grid.width:
        raise ValueError(
            f"scores has {scores.shape[0]} tokens but the grid has {grid.height} x {grid.width} = "
            f"{grid.height * grid.width}; pass the scores of all tokens, row by row"
        )
    if not 1 <= scores.shape[1] <= 255:
        raise ValueError(f"expected 1 to 255 classes (255 means ignore), got {scores.shape[1]}")
    if not all(bool(torch.isfinite(one)) for one in scores.aminmax()):  # NaN is the least and the most
        raise ValueError(
            "scores has infinite or NaN values, which would spread between tokens; "
            "pass probabilities or finite logits, and fill in uncovered tokens first"
        )
    if bias is not None and len(bias) != scores.shape[1]:
        raise ValueError(f"bias has {len(bias)} values but scores has {scores.shape[1]} classes")
    return scores, grid


def _window(
    scores: Float[Tensor, "k height width"], grid: PatchGrid, rows: slice, columns: slice
) -> Float[Tensor, "k rows columns"]:
    """One window of the upsampled scores."""
    high, up, down, below = _used(
        scores, _neighbours(grid.image_height, grid.input_height, grid.patch_size, grid.height, rows)
    )
    wide, left, right, beside = _used(
        scores, _neighbours(grid.image_width, grid.input_width, grid.patch_size, grid.width, columns)
    )
    tokens = scores[:, high, wide].flatten(0, 1)  # a matrix: columns of more axes are taken ten times as slowly
    lines = _between(tokens.index_select(1, left), tokens.index_select(1, right), beside)
    lines = lines.view(len(scores), -1, len(left))
    return _between(lines.index_select(1, up), lines.index_select(1, down), below[:, None])


def _used(scores: Tensor, axis: tuple[Tensor, Tensor, Tensor]) -> tuple[slice, Tensor, Tensor, Tensor]:
    """The tokens that pixels lie between along an axis, and among them `_neighbours`, on the scores' device."""
    low, high, share = axis
    first, device = int(low[0]), scores.device
    near = (low - first).to(device), (high - first).to(device), share.to(scores.dtype).to(device)  # mps has no float64
    return slice(first, int(high[-1]) + 1), *near


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """first + share (second - first), made of `second`."""
    return second.sub_(first).mul_(share).add_(first)


def _by_class(scores: Float[Tensor, "n k"], grid: PatchGrid) -> Float[Tensor, "k height width"]:
    """Token scores as a picture for each class, at least float32: half precision would blur close calls."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(dtype).view(grid.height, grid.width, -1).permute(2, 0, 1).contiguous()


def _tiles(
    scores: Float[Tensor, "n k"], grid: PatchGrid
) -> Iterator[tuple[tuple[slice, slice], Float[Tensor, "k rows columns"]]]:
    """Strips of rows, cut at TILE_WIDTH columns, of at most so many scores (or one row)."""
    values = STRIP_VALUES if scores.device.type == "cpu" else DEVICE_VALUES
    step, classes = max(1, values // (min(TILE_WIDTH, grid.image_width) * scores.shape[1])), _by_class(scores, grid)
    for top in range(0, grid.image_height, step):
        rows = slice(top, min(top + step, grid.image_height))
        for left in range(0, grid.image_width, TILE_WIDTH):
            columns = slice(left, min(left + TILE_WIDTH, grid.image_width))
            yield (rows, columns), _window(classes, grid, rows, columns)


def upsample_scores(scores: Float[Tensor, "n k"], grid: PatchGrid) -> Float[Tensor, "k h w"]:
    """Scores of every pixel of the picture, bilinear between token centres.

    SAOT sec. 6.1 goes to full size before the argmax.
    Equals `F.interpolate(mode="bilinear", align_corners=False)` where the tokens fill the picture exactly.

    Args:
        scores: Probabilities or finite logits of the n = height * width tokens, row by row.
        grid: How the picture lies under the tokens.

    Returns:
        (K, image_height, image_width), at least float32. Holds K floats a pixel; `predict_mask` does not.

    Raises:
        ValueError: If the number of tokens differs from the grid, or a score is not finite.
    """
    scores, grid = _checked(scores, grid, None)
    return _window(_by_class(scores, grid), grid, slice(0, grid.image_height), slice(0, grid.image_width))


def scores_at(
    scores: Float[Tensor, "n k"], grid: PatchGrid, rows: Int[Tensor, " p"], columns: Int[Tensor, " p"]
) -> Float[Tensor, "p k"]:
    """Upsampled scores of single pixels: `upsample_scores(scores, grid)[:, rows, columns].T` without the rest.

    Args:
        scores: Token scores, as in `predict_mask`.
        grid: How the picture lies under the tokens.
        rows: Rows of the pixels, from the top.
        columns: Their columns, from the left.

    Raises:
        ValueError: As `upsample_scores`, or if a pixel lies outside the picture.
    """
    scores, grid = _checked(scores, grid, None)
    for name, places, size in (("row", rows, grid.image_height), ("column", columns, grid.image_width)):
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < size:
            raise ValueError(f"expected {name}s in [0, {size}); got {int(places.min())} to {int(places.max())}")
    up, down, below = (
        one[rows.cpu()]
        for one in _neighbours(
            grid.image_height, grid.input_height, grid.patch_size, grid.height, slice(0, grid.image_height)
        )
    )
    left, right, beside = (
        one[columns.cpu()]
        for one in _neighbours(
            grid.image_width, grid.input_width, grid.patch_size, grid.width, slice(0, grid.image_width)
        )
    )
    values = scores.to(torch.promote_types(scores.dtype, torch.float32))
    result = values.new_zeros(len(rows), scores.shape[1])
    for y, share in ((up, 1 - below), (down, below)):
        for x, part in ((left, 1 - beside), (right, beside)):
            result += (share * part).to(values)[:, None] * values[(y * grid.width + x).to(values.device)]
    return result


def predict_mask(
    scores: Float[Tensor, "n k"], grid: PatchGrid, bias: Float[Tensor, "c"] | None = None, *, threshold: float = 0.0
) -> UInt8[Tensor, "h w"]:
    """Class of every pixel: argmax of the upsampled scores, plus `bias`.

    Works in strips of rows, so memory beyond the mask does not grow with the picture.

    Args:
        scores: Probabilities or finite logits of the n = height * width tokens.
        grid: How the picture lies under the tokens.
        bias: Added to the scores of each class (logit adjustment); `-inf` forbids a class.
        threshold: Pixels whose `predict_confidence` is less become 255; scores are logits then. Other.

    Returns:
        Class indices of the picture's pixels; the lowest index wins a tie.

    Raises:
        ValueError: If the number of tokens or of biases does not fit, or a score is not finite.
    """
    scores, grid = _checked(scores, grid, bias)
    mask = torch.empty(grid.image_height, grid.image_width, dtype=torch.uint8, device=scores.device)
    for place, values in _tiles(scores, grid):
        if bias is not None:
            values += bias.to(values)[:, None, None]
        mask[place] = _likeliest(values)
        if threshold > 0:
            mask[place][values.softmax(0).amax(0) < threshold] = IGNORE_INDEX
    return mask


def _likeliest(values: Float[Tensor, "k rows columns"]) -> UInt8[Tensor, "rows columns"]:
    """`values.argmax(0)`, the lowest index at a tie: class by class, which is seven times as fast on a CPU."""
    best, found = values[0].clone(), torch.zeros(values.shape[1:], dtype=torch.uint8, device=values.device)
    better = torch.empty_like(found)
    for index, one in enumerate(values[1:], 1):
        torch.gt(one, best, out=better.view(torch.bool))
        torch.maximum(found, better.mul_(index), out=found)  # every later class has the larger index
        torch.maximum(best, one, out=best)
    return found


def predict_confidence(
    scores: Float[Tensor, "n k"],
    grid: PatchGrid,
    bias: Float[Tensor, "c"] | None = None,
    *,
    kind: Literal["logits", "probs"] = "logits",
) -> Float[Tensor, "h w"]:
    """Probability of the class that `predict_mask` chooses at every pixel.

    Args:
        scores: Token scores, as in `predict_mask`.
        grid: How the picture lies under the tokens.
        bias: As in `predict_mask`.
        kind: `"logits"` applies a softmax to the upsampled scores plus `bias`; `"probs"` reads the upsampled
            probability itself (`bias` then only moves the choice). Other.

    Returns:
        Confidence (image_height, image_width) in [0, 1].

    Raises:
        ValueError: As `predict_mask`.
    """
    scores, grid = _checked(scores, grid, bias)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    result = torch.empty(grid.image_height, grid.image_width, dtype=dtype, device=scores.device)
    for place, values in _tiles(scores, grid):
        moved = values if bias is None else values + bias.to(values)[:, None, None]
        if kind == "logits":
            result[place] = moved.softmax(0).amax(0)
        else:
            result[place] = values.gather(0, moved.argmax(0, keepdim=True))[0]
    return result
