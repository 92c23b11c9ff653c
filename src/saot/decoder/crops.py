"""Windows of pictures to train on, for decoders that look at neighbours.

A window comes with the tokens around it that its own can see, so that training sees what a whole picture would show;
only labelled tokens of the window itself enter the loss, weighted by class as `TokenPool.draw` would draw them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from saot.decoder.fine import IGNORE
from saot.decoder.pool import TokenPool


@dataclass(frozen=True)
class CropBatch:
    """Windows of one training step, padded to one size.

    Attributes:
        tokens: (c, rows * columns, d) features, zero where there is none.
        inside: (c, rows * columns), True where there is a token.
        rows: Rows of each window with its surroundings.
        columns: Columns of it.
        place: (e,) labelled tokens, as positions in the flattened c * rows * columns.
        targets: (e,) classes or (e, K) soft labels.
        weights: (e,) of the loss, summing to 1.
    """

    tokens: Float[Tensor, "c n d"]
    inside: Bool[Tensor, "c n"]
    rows: int
    columns: int
    place: Int[Tensor, " e"]
    targets: Tensor
    weights: Float[Tensor, " e"]


@dataclass(frozen=True)
class _Window:
    """The window of one picture: its own tokens, and those read around them; rows and columns as (first, past)."""

    picture: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    read_rows: tuple[int, int]
    read_columns: tuple[int, int]
    width: int

    def tokens(self) -> Int[Tensor, "h w"]:
        """Numbers of the tokens to read."""
        rows, columns = torch.arange(*self.read_rows), torch.arange(*self.read_columns)
        return rows.unsqueeze(1) * self.width + columns

    def holds(self, token: Int[Tensor, " p"]) -> Bool[Tensor, " p"]:
        """Which of these tokens belong to the window itself."""
        row, column = token // self.width, token % self.width
        in_rows = (row >= self.rows[0]) & (row < self.rows[1])
        return in_rows & (column >= self.columns[0]) & (column < self.columns[1])


class CropReader:
    """The windows of one pool; batch number s is the same in every run.

    Each window holds a token drawn class first (E.4), at a random place in it; a picture smaller than a window is
    taken whole.

    Args:
        pool: Where tokens come from; it must know its grids.
        batch: Tokens a step, without surroundings: batch // side^2 windows, at least one.
        side: Of a window, tokens.
        radius: How far around it is read, tokens.
        class_power: See `TokenPool.draw`.
        make_generator: Step to its generator.
        device: Where batches go.

    Raises:
        ValueError: If the pool does not know its grids.
    """

    def __init__(
        self,
        pool: TokenPool,
        batch: int,
        side: int,
        radius: int,
        class_power: float,
        make_generator: Callable[[int], torch.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        if pool.grid is None:
            raise ValueError(
                "expected tokens that know their neighbours, but the pool has no grid; pass grid=... to token_pool"
            )
        self.pool, self.grid, self.side, self.radius = pool, pool.grid, side, radius
        self.windows = max(1, batch // side**2)
        self.class_power, self.make_generator, self.device = class_power, make_generator, device
        self.order = pool.picture.argsort(stable=True)
        pictures = int(pool.picture.max()) + 1
        self.bounds = torch.searchsorted(pool.picture[self.order].contiguous(), torch.arange(pictures + 1))

    def __call__(self, step: int) -> CropBatch:
        """The windows of this step."""
        generator = self.make_generator(step)
        positions = self.pool.draw(self.windows, generator, self.class_power)
        windows = [self._window(int(position), generator) for position in positions]
        rows = max(w.read_rows[1] - w.read_rows[0] for w in windows)
        columns = max(w.read_columns[1] - w.read_columns[0] for w in windows)
        tokens = torch.zeros(len(windows), rows, columns, self.pool.dim)
        inside = torch.zeros(len(windows), rows, columns, dtype=torch.bool)
        place, entries, soft = [], [], []
        for number, window in enumerate(windows):
            where = window.tokens()
            height, width = where.shape
            read = self.pool.features(window.picture, where.flatten())
            tokens[number, :height, :width] = read.float().reshape(height, width, -1)
            inside[number, :height, :width] = True
            mine = self.order[self.bounds[window.picture] : self.bounds[window.picture + 1]]
            mine = mine[window.holds(self.pool.token[mine].long())]
            token = self.pool.token[mine].long()
            row, column = token // window.width - window.read_rows[0], token % window.width - window.read_columns[0]
            place.append((number * rows + row) * columns + column)
            entries.append(mine)
            if self.pool.soft is not None:
                soft.append(self.pool.soft(window.picture, token).float())
        classes = self.pool.label[torch.cat(entries)].long()
        return CropBatch(
            tokens.flatten(1, 2).to(self.device),
            inside.flatten(1, 2).to(self.device),
            rows,
            columns,
            torch.cat(place).to(self.device),
            (torch.cat(soft) if soft else classes).to(self.device),
            self._weights(classes).to(self.device),
        )

    def _first(self, place: int, back: int, size: int) -> int:
        """Where a window that holds `place` begins along an axis of `size` tokens; `back` is drawn below `side`."""
        length = min(self.side, size)
        return min(max(place - back % length, 0), size - length)

    def _window(self, position: int, generator: torch.Generator) -> _Window:
        picture, token = int(self.pool.picture[position]), int(self.pool.token[position])
        height, width = self.grid(picture)
        shift = torch.randint(self.side, (2,), generator=generator).tolist()

        def span(place: int, back: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
            length, first = min(self.side, size), self._first(place, back, size)
            return (first, first + length), (max(first - self.radius, 0), min(first + length + self.radius, size))

        rows, read_rows = span(token // width, shift[0], height)
        columns, read_columns = span(token % width, shift[1], width)
        return _Window(picture, rows, columns, read_rows, read_columns, width)

    def _weights(self, classes: Int[Tensor, " e"]) -> Float[Tensor, " e"]:
        """Each class has the share of the loss that drawing tokens class first would give it, among those shown."""
        all_tokens = self.pool.class_counts()
        shown = torch.bincount(classes, minlength=len(all_tokens))
        share = torch.where(shown > 0, all_tokens.double() ** self.class_power, 0.0)
        return (share / share.sum() / shown.clamp_min(1))[classes].float()


@dataclass(frozen=True)
class CellBatch:
    """Windows of one training step with what their cells are, padded to one size.

    Attributes:
        tokens: (c, rows * columns, d) features, zero where there is none.
        rows: Rows of each window.
        columns: Columns of it.
        targets: (c, n, cells) classes, 255 for none, or (c, n, cells, K) probabilities, all zero for none.
        weights: (c, n, cells) of the loss, summing to 1; all zero where no cell has a target.
    """

    tokens: Float[Tensor, "c n d"]
    rows: int
    columns: int
    targets: Num[Tensor, "..."]
    weights: Float[Tensor, "c n cells"]


class CellCrops(CropReader):
    """The windows of a pool whose tokens have targets for their cells; batch number s is the same in every run.

    Windows begin where `align` says, or end at the far border. All their cells that have a target enter the loss; each
    class has the share of it that drawing cells class first would give it, among those shown.

    Args:
        pool: Where tokens come from; `soft` gives the targets of any token's cells.
        windows: A step.
        side: Of a window, tokens.
        align: Windows begin at multiples of it, or of the side if that is less.
        class_power: Classes are drawn, and weigh, by their frequency to this power.
        make_generator: Step to its generator.
        device: Where batches go.
        frequencies: (K,) of the classes; those of the pool's tokens unless given.

    Raises:
        ValueError: If the pool does not know its grids.
    """

    def __init__(
        self,
        pool: TokenPool,
        windows: int,
        side: int,
        align: int,
        class_power: float,
        make_generator: Callable[[int], torch.Generator],
        device: torch.device | str = "cpu",
        frequencies: Float[Tensor, " K"] | None = None,
    ) -> None:
        super().__init__(pool, windows * side**2, side, 0, class_power, make_generator, device)
        assert pool.soft is not None, "a pool of cells gives their targets"
        self.align, self.cells = min(align, side), pool.soft
        self.shares = class_weights(pool.class_counts(), frequencies, class_power)

    def _first(self, place: int, back: int, size: int) -> int:
        last = max(0, size - self.side)
        found = [at for at in sorted({*range(0, last + 1, self.align), last}) if at <= place < at + self.side]
        return found[back * len(found) // self.side]

    def cell_batch(self, step: int) -> CellBatch:
        """The windows of this step."""
        generator = self.make_generator(step)
        positions = self.pool.draw_by(self.shares, self.windows, generator)
        windows = [self._window(int(position), generator) for position in positions]
        rows = max(w.rows[1] - w.rows[0] for w in windows)
        columns = max(w.columns[1] - w.columns[0] for w in windows)
        tokens, targets = torch.zeros(len(windows), rows, columns, self.pool.dim), torch.empty(0)
        for number, window in enumerate(windows):
            where = window.tokens()
            height, width = where.shape
            read = self.pool.features(window.picture, where.flatten())
            tokens[number, :height, :width] = read.float().reshape(height, width, -1)
            mine = self.cells(window.picture, where.flatten())
            if number == 0:
                none = 0 if mine.is_floating_point() else IGNORE
                targets = mine.new_full((len(windows), rows, columns, *mine.shape[1:]), none)
            targets[number, :height, :width] = mine.reshape(height, width, *mine.shape[1:])
        targets = targets.flatten(1, 2)
        targets = targets.float() if targets.is_floating_point() else targets.long()
        shown = cell_weights(targets, self.shares)
        return CellBatch(
            tokens.flatten(1, 2).to(self.device), rows, columns, targets.to(self.device), shown.to(self.device)
        )


def class_weights(
    counts: Int[Tensor, " K"], frequencies: Float[Tensor, " K"] | None, class_power: float
) -> Float[Tensor, " K"]:
    """How often each class is drawn: by its frequency to a power; a class without tokens counts as one of them.

    Args:
        counts: Tokens of each class.
        frequencies: In their place, where it is known how frequent the classes are; a class that has tokens and no
            frequency has the smallest that is known.
        class_power: See above.

    Example:
        >>> class_weights(torch.tensor([20, 20, 0]), torch.tensor([0.64, 0.36, 0.0]), 0.5).float()
        tensor([0.8000, 0.6000, 0.6000])
        >>> class_weights(torch.tensor([16, 4, 0]), None, 0.5).tolist()
        [4.0, 2.0, 1.0]
    """
    if frequencies is None:
        return counts.double().clamp_min(1) ** class_power
    known = frequencies.double()
    return known.clamp_min(float(known[known > 0].min())) ** class_power


def cell_weights(targets: Num[Tensor, "..."], shares: Float[Tensor, " K"]) -> Float[Tensor, "c n cells"]:
    """Weights of cells by class, a soft one's by its likeliest class and times how likely that is; they sum to 1.

    Args:
        targets: (c, n, cells) classes, 255 for none, or (c, n, cells, K) probabilities, all zero for none.
        shares: Of the loss that each class has, up to a factor, among those shown.

    Example:
        >>> cell_weights(torch.tensor([[[0, 0, 1, 255]]]), torch.ones(2).double())
        tensor([[[0.2500, 0.2500, 0.5000, 0.0000]]])
    """
    confidence, classes = targets.max(-1) if targets.is_floating_point() else ((targets != IGNORE).float(), targets)
    classes = torch.where(confidence > 0, classes, 0)
    shown = torch.bincount(classes[confidence > 0], minlength=len(shares)).double()
    weights = torch.where(shown > 0, shares / shown.clamp_min(1), 0.0)[classes] * confidence
    return (weights / weights.sum().clamp_min(1e-12)).float()
