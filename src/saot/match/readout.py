"""Where in the target a token points: from one row of a similarity or plan to a place finer than a token.

Positions are (row, column) in token units: the centre of the token in row r and column c is (r, c), so that a token
covers r - 1/2 to r + 1/2. `to_pixels` and `from_pixels` go to pixels of the original picture and back.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saot.data import PatchGrid

Shape = tuple[int, int]
READOUTS = ("argmax", "soft", "window", "parabola", "mass")


@dataclass(frozen=True)
class Readout:
    """How a row of scores becomes a position.

    Attributes:
        how: "argmax" (centre of the best token), "soft" (soft-argmax over the whole map), "window" (around the best
            token), "parabola" (through the best token and its neighbours) or "mass" (centre of mass around the best
            token; for scores of one sign, such as a plan).
        half_width: Of the window: 7 is 15 x 15 tokens.
        temperature: Of the softmax; of "soft" and "window".
        legacy_zero_window: Zero similarities outside the window, as published code does, in place of leaving them out.
    """

    how: Literal["argmax", "soft", "window", "parabola", "mass"] = "window"  # SoY sec. 4.2: soft-argmax after NN
    half_width: int = 7  # FACTS S-13: as trained; 5 in the zero-shot configuration
    temperature: float = 0.02  # FACTS S-12
    legacy_zero_window: bool = False  # FACTS S-13: leaks where peaks are low

    def __post_init__(self) -> None:
        if self.half_width < 0 or not self.temperature > 0:
            raise ValueError(
                f"expected half_width >= 0 and temperature > 0, got {self.half_width} and {self.temperature}; "
                "half_width counts tokens on each side of the best one"
            )


def read_out(
    scores: Float[Tensor, "*b n m"],
    shape: Shape,
    mask: Bool[Tensor, "*#b m"] | None = None,
    readout: Readout = Readout(),
) -> Float[Tensor, "*b n 2"]:
    """Target position of each source token, (row, column) in token units; masked targets never take part.

    Args:
        scores: Similarity or plan of n sources and the m tokens of the whole target grid, more is better.
        shape: Rows and columns of the target grid.
        mask: Targets that may win; all of them if not given.
        readout: How.

    Raises:
        ValueError: If the grid does not have m tokens, a mask is empty, or "mass" gets a negative score.

    Example:
        >>> read_out(torch.tensor([[0.1, 0.9, 0.2]]), (1, 3), readout=Readout("argmax")).tolist()
        [[0.0, 1.0]]
    """
    match readout.how:
        case "argmax":
            return argmax_positions(scores, shape, mask)
        case "soft":
            return soft_argmax(scores, shape, mask, readout.temperature)
        case "window":
            return windowed_soft_argmax(scores, shape, mask, readout)
        case "parabola":
            return parabola_positions(scores, shape, mask)
        case "mass":
            return mass_positions(scores, shape, mask, readout.half_width)


def token_positions(shape: Shape, like: Float[Tensor, "..."]) -> Float[Tensor, "m 2"]:
    """Centres (row, column) of the tokens of a grid, row by row, in token units; type and device as `like`.

    Example:
        >>> token_positions((1, 2), torch.zeros(1)).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    rows, columns = (torch.arange(size, dtype=like.dtype, device=like.device) for size in shape)
    return torch.cartesian_prod(rows, columns)


def best_targets(scores: Float[Tensor, "*b n m"], mask: Bool[Tensor, "*#b m"] | None = None) -> Int64[Tensor, "*b n"]:
    """Number of the best target of each source among those that may win; the first one of equals."""
    return _allowed(scores, mask).argmax(-1)


def argmax_positions(
    scores: Float[Tensor, "*b n m"], shape: Shape, mask: Bool[Tensor, "*#b m"] | None = None
) -> Float[Tensor, "*b n 2"]:
    """Centre of the best target of each source."""
    scores = _checked(scores, shape)
    return token_positions(shape, scores)[best_targets(scores, mask)]


def soft_argmax(
    similarity: Float[Tensor, "*b n m"],
    shape: Shape,
    mask: Bool[Tensor, "*#b m"] | None = None,
    temperature: float = 0.02,
) -> Float[Tensor, "*b n 2"]:
    """Mean position under softmax(similarity / temperature) over the whole map; differentiable (Eq. 11, FACTS S-12).

    Example:
        >>> soft_argmax(torch.tensor([[0.5, 0.5]]), (1, 2)).tolist()
        [[0.0, 0.5]]
    """
    similarity = _checked(similarity, shape)
    weights = torch.softmax(_allowed(similarity, mask) / temperature, dim=-1)
    return weights @ token_positions(shape, similarity)


def windowed_soft_argmax(
    similarity: Float[Tensor, "*b n m"],
    shape: Shape,
    mask: Bool[Tensor, "*#b m"] | None = None,
    readout: Readout = Readout(),
) -> Float[Tensor, "*b n 2"]:
    """Soft-argmax over the tokens at most `half_width` rows and columns from the best one (FACTS S-13).

    Tokens outside the window are left out. With `legacy_zero_window` they count with similarity 0 instead, as published
    code has it: each weighs exp(-s / temperature) of a peak s, and thousands of them pull a low peak to the middle.

    Example:
        >>> row = torch.tensor([[0.02, 0.02, 0.0, 0.01]])
        >>> near = Readout(half_width=1, temperature=0.02)
        >>> windowed_soft_argmax(row, (1, 4), readout=near).tolist()  # the third and fourth token are left out
        [[0.0, 0.5]]
    """
    similarity = _checked(similarity, shape)
    allowed = _allowed(similarity, mask)
    inside = _window(allowed.argmax(-1), shape, readout.half_width)
    if readout.legacy_zero_window:
        windowed = torch.where(inside | allowed.isneginf(), allowed, 0.0)
    else:
        windowed = torch.where(inside, allowed, -torch.inf)
    return torch.softmax(windowed / readout.temperature, dim=-1) @ token_positions(shape, similarity)


def mass_positions(
    scores: Float[Tensor, "*b n m"],
    shape: Shape,
    mask: Bool[Tensor, "*#b m"] | None = None,
    half_width: int = 1,
) -> Float[Tensor, "*b n 2"]:
    """Centre of mass of the scores at most `half_width` rows and columns from the best token; meant for a plan.

    A row without mass is read as its first allowed target; look at the plan's marginals there.

    Raises:
        ValueError: If a score is negative.

    Example:
        >>> mass_positions(torch.tensor([[0.3, 0.1, 0.9]]), (1, 3)).tolist()  # (1 * 0.1 + 2 * 0.9) / 1
        [[0.0, 1.899999976158142]]
    """
    scores = _checked(scores, shape)
    if bool((scores < 0).any()):
        raise ValueError(
            'a centre of mass needs scores of 0 and above, such as a plan, but some are negative; use "window" or '
            '"parabola" for similarities'
        )
    allowed = _allowed(scores, mask)
    best = allowed.argmax(-1)
    weights = torch.where(_window(best, shape, half_width) & ~allowed.isneginf(), allowed, 0.0)
    total = weights.sum(-1, keepdim=True)
    places = token_positions(shape, scores)
    return torch.where(total > 0, weights @ places / torch.where(total > 0, total, 1.0), places[best])


def parabola_positions(
    scores: Float[Tensor, "*b n m"], shape: Shape, mask: Bool[Tensor, "*#b m"] | None = None
) -> Float[Tensor, "*b n 2"]:
    """Top of the parabola through the best token and its two neighbours, along rows and along columns.

    At most half a token from the best one. Along an axis where a neighbour is missing or masked, or all three are
    equal, the best token's centre is kept.

    Example:
        >>> parabola_positions(torch.tensor([[0.0, 3.0, 2.0]]), (1, 3)).tolist()  # (0 - 2) / (2 (0 - 2 * 3 + 2))
        [[0.0, 1.25]]
    """
    scores = _checked(scores, shape)
    allowed = _allowed(scores, mask)
    best = allowed.argmax(-1)
    top = allowed.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    shifts = []
    for place, size, stride in ((best // shape[1], shape[0], shape[1]), (best % shape[1], shape[1], 1)):
        exists = (place > 0) & (place < size - 1)
        before, after = (
            allowed.gather(-1, torch.where(exists, best + step, best).unsqueeze(-1)).squeeze(-1)
            for step in (-stride, stride)
        )
        usable = exists & ~before.isneginf() & ~after.isneginf() & (before + after < 2 * top)
        before, after = torch.where(usable, before, top - 1), torch.where(usable, after, top - 1)
        shifts.append(torch.where(usable, (before - after) / (2 * (before - 2 * top + after)), 0.0))
    return token_positions(shape, scores)[best] + torch.stack(shifts, -1)


def to_pixels(positions: Float[Tensor, "*b 2"], grid: PatchGrid) -> Float[Tensor, "*b 2"]:
    """Pixels (row, column) of the original picture under positions in token units; pixel centres are whole numbers.

    y = (r + 1/2) * patch * image / input - 1/2, the inverse of where `saot.evaluate` takes a pixel's scores from. A
    place in the padding is moved to the nearest pixel of the picture.

    Example:
        >>> to_pixels(torch.tensor([[0.0, 1.0]]), PatchGrid(4, 8, 4, 8, 4, 1, 2)).tolist()
        [[1.5, 5.5]]
    """
    scale, last = _axes(grid, positions)
    return ((positions + 0.5) * scale - 0.5).clamp(min=torch.zeros_like(last), max=last)


def from_pixels(pixels: Float[Tensor, "*b 2"], grid: PatchGrid) -> Float[Tensor, "*b 2"]:
    """Positions in token units of pixels (row, column) of the original picture: the inverse of `to_pixels`.

    Example:
        >>> from_pixels(torch.tensor([[1.5, 5.5]]), PatchGrid(4, 8, 4, 8, 4, 1, 2)).tolist()
        [[0.0, 1.0]]
    """
    scale, _ = _axes(grid, pixels)
    return (pixels + 0.5) / scale - 0.5


def in_mask(positions: Float[Tensor, "p 2"], mask: Bool[Tensor, " n"], shape: Shape) -> Bool[Tensor, " p"]:
    """Which positions lie on a cell of the mask: those target key points that PCK_label counts (sec. 5.1).

    Works on any grid whose cell (r, c) is centred at (r, c): tokens with positions in token units (`from_pixels`), or
    the pixels of a mask with positions in pixels. A position outside the grid, or one that is not a number (a key
    point that is not there), lies on no cell.

    Example:
        >>> in_mask(torch.tensor([[0.0, 1.4], [0.0, 0.4], [0.0, 9.0]]), torch.tensor([False, True]), (1, 2)).tolist()
        [True, False, False]
    """
    if mask.shape != (shape[0] * shape[1],):
        raise ValueError(f"a mask of a {shape[0]} x {shape[1]} grid has one value a cell, but has {tuple(mask.shape)}")
    size = positions.new_tensor(shape)
    cell = (positions + 0.5).floor()
    inside = ((cell >= 0) & (cell < size)).all(-1)
    row, column = torch.where(inside.unsqueeze(-1), cell, 0.0).long().unbind(-1)
    return inside & mask[row * shape[1] + column]


def _axes(grid: PatchGrid, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of the picture a token, and the last pixel, along rows and columns."""
    scale = [
        grid.patch_size * grid.image_height / grid.input_height,
        grid.patch_size * grid.image_width / grid.input_width,
    ]
    return like.new_tensor(scale), like.new_tensor([grid.image_height - 1, grid.image_width - 1])


def _window(best: Tensor, shape: Shape, half_width: int) -> Tensor:
    """(..., n, m): targets at most `half_width` rows and columns from the best one."""
    numbers = torch.arange(shape[0] * shape[1], device=best.device)
    best = best.unsqueeze(-1)
    near_row = (numbers // shape[1] - best // shape[1]).abs() <= half_width
    return near_row & ((numbers % shape[1] - best % shape[1]).abs() <= half_width)


def _allowed(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores with -inf at targets that may not win."""
    if mask is None:
        return scores
    if not bool(mask.any(-1).all()):
        raise ValueError("the mask leaves no target to point at; give one that covers some of the picture")
    return torch.where(mask.unsqueeze(-2), scores, -torch.inf)


def _checked(scores: Tensor, shape: Shape) -> Tensor:
    """Scores of the whole grid, in float32 or better."""
    if scores.shape[-1] != shape[0] * shape[1]:
        raise ValueError(
            f"scores have {scores.shape[-1]} targets but the grid has {shape[0]} x {shape[1]} = {shape[0] * shape[1]}; "
            "pass the scores of the whole grid and a mask"
        )
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
