"""Clicks that cover the target's tokens: k-centre greedy (Sener and Savarese, 2018), a rule to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from saot.annotate.clicks import Suggestion
from saot.data import PatchGrid
from saot.evaluate import scores_at
from saot.label import Contest, FinishedRun

MOST_TOKENS = 2048  # of a picture that are looked at, evenly spread


@dataclass(frozen=True)
class Middles:
    """Tokens of several pictures, and the pixels in their middle.

    Attributes:
        tokens: Of length 1.
        picture: Number of each one's picture.
        rows, columns: The pixel.
        radius: Half the side of a region of its picture, pixels.
    """

    tokens: Float[Tensor, "n d"]
    picture: Int64[Tensor, " n"]
    rows: Int64[Tensor, " n"]
    columns: Int64[Tensor, " n"]
    radius: Int64[Tensor, " n"]

    def near(self, picture: int, row: int, column: int) -> Tensor:
        """Which lie in the region around a pixel."""
        close = ((self.rows - row).abs() <= self.radius) & ((self.columns - column).abs() <= self.radius)
        return close & (self.picture == picture)

    @classmethod
    def joined(cls, parts: Sequence["Middles"]) -> "Middles":
        """All of them."""
        return cls(*(torch.cat(field) for field in zip(*(vars(part).values() for part in parts), strict=True)))


def coreset(
    run: FinishedRun,
    contest: Contest,
    count: int,
    radius: Callable[[tuple[int, int]], int],
    progress: Callable[[int, int], None] | None = None,
) -> list[Suggestion]:
    """Pixels in the middle of tokens, each the farthest by 1 - cos from all that were chosen or declared before.

    Args:
        run: Whose network says the class of each pixel.
        contest: What it was made of.
        count: How many; fewer where there are not so many regions.
        radius: Half the side of a region, pixels, of a picture of such height and width.
        progress: Told how many pictures are done, of how many.
    """
    target, parts, declared = contest.data.target, [], []
    for number in range(len(target)):
        grid, tokens = target.grid(number), functional.normalize(target.tokens(number).cpu(), dim=-1)
        rows, columns = middles(grid)
        x, y, _ = contest.data.points.pixels.of(target.images.keys[number])
        clicked = torch.stack([x, y], 1).tolist()
        declared += [tokens[((rows - row) ** 2 + (columns - column) ** 2).argmin()] for column, row in clicked]
        some = torch.arange(0, len(tokens), -(-len(tokens) // MOST_TOKENS))
        size = torch.full_like(some, radius((grid.image_height, grid.image_width)))
        part = Middles(tokens[some], torch.full_like(some, number), rows[some], columns[some], size)
        open_ = torch.ones(len(some), dtype=torch.bool)
        for column, row in clicked:
            open_ &= ~part.near(number, row, column)
        parts.append(Middles(*(field[open_] for field in vars(part).values())))
        if progress:
            progress(number + 1, len(target))
    places = Middles.joined(parts)
    chosen = farthest(places, torch.stack(declared) if declared else None, count)
    return [_suggestion(run, contest, places, one, far) for one, far in chosen]


def middles(grid: PatchGrid) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Row and column of the pixel in the middle of each token, row by row.

    Example:
        >>> middles(PatchGrid(20, 40, 10, 20, 10, 1, 2))
        (tensor([10, 10]), tensor([10, 30]))
    """
    y = (torch.arange(grid.height) + 0.5) * grid.patch_size * grid.image_height / grid.input_height
    x = (torch.arange(grid.width) + 0.5) * grid.patch_size * grid.image_width / grid.input_width
    y, x = y.long().clamp_max(grid.image_height - 1), x.long().clamp_max(grid.image_width - 1)
    return y.repeat_interleave(grid.width), x.repeat(grid.height)


def farthest(places: Middles, declared: Tensor | None, count: int) -> list[tuple[int, float]]:
    """Number and distance of each choice; without a declared token the first is the one most like the mean of all.

    Example:
        >>> tokens, zero = torch.eye(3)[[0, 0, 0, 1]], torch.zeros(4, dtype=torch.long)
        >>> places = Middles(tokens, zero, zero, torch.tensor([0, 5, 9, 30]), zero + 2)
        >>> [one for one, _ in farthest(places, tokens[:1], 1)]
        [3]
    """
    if declared is None:
        far = places.tokens @ functional.normalize(places.tokens.mean(0), dim=0)
    else:
        far = 1 - (places.tokens @ declared.T).amax(1)
    free, chosen = torch.ones(len(far), dtype=torch.bool), []
    while len(chosen) < count and bool(free.any()):
        one = int(torch.where(free, far, -torch.inf).argmax())
        first = declared is None and not chosen
        chosen.append((one, 1.0 if first else float(far[one])))
        now = 1 - places.tokens @ places.tokens[one]
        far = now if first else torch.minimum(far, now)
        free &= ~places.near(int(places.picture[one]), int(places.rows[one]), int(places.columns[one]))
    return chosen


def _suggestion(run: FinishedRun, contest: Contest, places: Middles, one: int, far: float) -> Suggestion:
    number, row, column = int(places.picture[one]), places.rows[one : one + 1], places.columns[one : one + 1]
    target = contest.data.target
    grid = target.grid(number)
    scores = scores_at(target.logits(run.decoder, number).cpu(), grid, row, column)
    scores = scores if run.bias is None else scores + run.bias.to(scores)
    size = grid.image_height, grid.image_width
    return Suggestion(target.images.keys[number], size, int(column), int(row), int(scores.argmax()), round(far, 6))
