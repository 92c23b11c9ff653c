"""Tokens to train on, drawn class first and token second, read from disk a block at a time.

Only a byte for the class and eight for the place of each token stay in memory; features and soft labels are read
where they are drawn, so that memory does not grow with what a data set weighs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import Ahead

Rows = Callable[[int, Tensor], Tensor]
Grid = Callable[[int], tuple[int, int]]
BLOCK_BYTES = 32 * 2**20  # two of them are in memory, the one in use and the next
BLOCK_PICTURES = 1024  # at most about so many are opened for a block


@dataclass(frozen=True)
class TokenPool:
    """Labelled tokens, sorted by class.

    Attributes:
        picture: (N,) picture number of each token.
        token: (N,) its place in that picture.
        label: (N,) its class.
        starts: (K + 1,) where each class begins.
        features: Picture number and token numbers (k,) to features (k, d).
        soft: The same to soft labels (k, K), or None where the class is all there is.
        dim: Width d.
        grid: Picture number to rows and columns of its tokens; None will do for decoders of single tokens.
        target_bytes: Of a token's soft label in memory, so that blocks stay small where that is many numbers.
        identity: A name for everything above, so that equal trainings are known; empty where nobody asks.
    """

    picture: Int[Tensor, " N"]
    token: Int[Tensor, " N"]
    label: UInt8[Tensor, " N"]
    starts: Int[Tensor, " bounds"]
    features: Rows
    soft: Rows | None
    dim: int
    grid: Grid | None = None
    target_bytes: int = 0
    identity: str = ""

    def __len__(self) -> int:
        return len(self.picture)

    def class_counts(self) -> Int[Tensor, " K"]:
        """Tokens of each class."""
        return self.starts.diff()

    def draw(
        self, count: int, generator: torch.Generator, class_power: float = 0.0, cluster: int = 1
    ) -> Int[Tensor, " count"]:
        """Positions of tokens drawn class first, with probability ~ (tokens of the class)^class_power, E.4.

        Args:
            count: How many.
            generator: Of the draws.
            class_power: See above.
            cluster: Tokens drawn together, all of one class and picture. Each token is drawn as often as it would be
                alone, but few pictures are read where there are very many.
        """
        counts = self.class_counts().double()
        weights = torch.where(counts > 0, counts.clamp_min(1) ** class_power, torch.zeros_like(counts))
        groups = -(-count // cluster)
        classes = torch.multinomial(weights, groups, replacement=True, generator=generator)
        place = (torch.rand(groups, generator=generator, dtype=torch.float64) * counts[classes]).long()
        first = self.starts[classes] + place
        if cluster == 1:
            return first
        group = torch.searchsorted(self.segments, first, right=True) - 1
        begin, length = self.segments[group], self.segments.diff()[group]
        within = torch.rand(groups, cluster, generator=generator, dtype=torch.float64) * length.unsqueeze(-1)
        drawn = (begin.unsqueeze(-1) + within.long()).flatten()
        return drawn[torch.randperm(len(drawn), generator=generator)[:count]]

    def draw_by(self, weights: Float[Tensor, " K"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Positions of tokens drawn class first by these weights; of classes without tokens none."""
        counts = self.class_counts().double()
        weights = torch.where(counts > 0, weights.double(), 0.0)
        classes = torch.multinomial(weights, count, replacement=True, generator=generator)
        place = (torch.rand(count, generator=generator, dtype=torch.float64) * counts[classes]).long()
        return self.starts[classes] + place

    @cached_property
    def segments(self) -> Int[Tensor, " bounds"]:
        """Where the tokens of each class and picture begin, and the end of the last."""
        new = torch.ones(len(self) + 1, dtype=torch.bool)
        new[1:-1] = self.picture[1:] != self.picture[:-1]
        new[self.starts] = True
        return new.nonzero().squeeze(-1)

    def read(self, positions: Int[Tensor, " k"]) -> tuple[Float[Tensor, "k d"], Tensor]:
        """Features and targets (classes, or soft labels) at these positions, each picture read once."""
        distinct, back = positions.unique(return_inverse=True)
        features, targets = self.read_distinct(distinct)
        return features[back], targets[back]

    def read_distinct(self, positions: Int[Tensor, " k"]) -> tuple[Float[Tensor, "k d"], Tensor]:
        """As `read`, of positions without repeats, in half of the memory."""
        order = self.picture[positions].argsort(stable=True)
        chosen = positions[order]
        pictures, lengths = self.picture[chosen].unique_consecutive(return_counts=True)
        features, targets, begin = torch.empty(0), torch.empty(0), 0
        for picture, length in zip(pictures.tolist(), lengths.tolist(), strict=True):
            rows = order[begin : begin + length]
            tokens = self.token[positions[rows]].long()
            part = self.features(picture, tokens)
            features = part.new_empty(len(positions), *part.shape[1:]) if begin == 0 else features
            features[rows] = part
            if self.soft is not None:
                part = self.soft(picture, tokens)
                targets = part.new_empty(len(positions), *part.shape[1:]) if begin == 0 else targets
                targets[rows] = part
            begin += length
        return features, self.label[positions].long() if self.soft is None else targets


def token_pool(
    labels: Sequence[UInt8[Tensor, " n"]],
    num_classes: int,
    features: Rows,
    dim: int,
    soft: Rows | None = None,
    grid: Grid | None = None,
) -> TokenPool:
    """A pool of every token that is not 255 in the label maps, one map a picture.

    Raises:
        ValueError: If no token has a label.
    """
    flat = torch.cat([part.reshape(-1) for part in labels]) if labels else torch.zeros(0, dtype=torch.uint8)
    keep = (flat != 255).nonzero().squeeze(-1)
    if len(keep) == 0:
        raise ValueError(
            "expected at least one labelled token; got none: check that the masks use the class set's indices"
        )
    sizes = torch.tensor([part.numel() for part in labels])
    picture = torch.repeat_interleave(torch.arange(len(labels), dtype=torch.int32), sizes)
    offsets = (sizes.cumsum(0) - sizes)[picture.long()]
    token = (torch.arange(len(flat)) - offsets).int()
    pool = _sorted_pool(picture[keep], token[keep], flat[keep], num_classes, features, soft, dim)
    return replace(pool, grid=grid)


def point_pool(
    picture: Int[Tensor, " p"],
    token: Int[Tensor, " p"],
    classes: Int[Tensor, " p"] | UInt8[Tensor, " p"],
    num_classes: int,
    features: Rows,
    dim: int,
    grid: Grid | None = None,
) -> TokenPool:
    """A pool of declared points; a token may carry several."""
    pool = _sorted_pool(picture.int(), token.int(), classes.to(torch.uint8), num_classes, features, None, dim)
    return replace(pool, grid=grid)


def _sorted_pool(
    picture: Tensor,
    token: Tensor,
    label: Tensor,
    num_classes: int,
    features: Rows,
    soft: Rows | None,
    dim: int,
) -> TokenPool:
    order = label.argsort(stable=True)
    starts = torch.zeros(num_classes + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(label.long(), minlength=num_classes).cumsum(0)
    return TokenPool(picture[order], token[order], label[order], starts, features, soft, dim)


@dataclass(frozen=True)
class Batch:
    """Tokens of one training step. One that is drawn several times stands there once, with the weight of its draws.

    Attributes:
        features: (u, d) in float32.
        targets: (u,) classes, or soft labels.
        weights: (u,) share of the draws, summing to 1.
    """

    features: Float[Tensor, "u d"]
    targets: Tensor
    weights: Float[Tensor, " u"]


@dataclass(frozen=True)
class _Block:
    """Distinct tokens that some steps draw from, and where each draw stands among them."""

    features: Tensor
    targets: Tensor
    drawn: Int[Tensor, " draws"]


class BlockReader:
    """The batches of one pool, read in blocks of bounded size; batch number s is the same in every run.

    While the batches of one block are trained on, a thread reads the next.

    Args:
        pool: Where tokens come from.
        batch: Tokens a step.
        class_power: See `TokenPool.draw`.
        make_generator: Block number to its generator.
        device: Where batches go.
        steps: Batches in all, beyond which nothing is read ahead; None reads nothing ahead.
    """

    def __init__(
        self,
        pool: TokenPool,
        batch: int,
        class_power: float,
        make_generator: Callable[[int], torch.Generator],
        device: torch.device | str = "cpu",
        steps: int | None = None,
    ) -> None:
        self.pool, self.batch, self.class_power = pool, batch, class_power
        self.make_generator, self.device = make_generator, device
        self.length = max(1, BLOCK_BYTES // (batch * (pool.dim * 2 + pool.target_bytes)))  # of a block, steps
        self.whole = len(pool) <= self.length * batch  # read once, whatever is drawn
        many = not self.whole and int(pool.picture.max()) >= BLOCK_PICTURES
        self.cluster = max(1, self.length * batch // BLOCK_PICTURES) if many else 1
        self.loaded, self.block = -1, _Block(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
        last = -1 if steps is None or self.whole else -(-steps // self.length) - 1
        self.blocks = Ahead(self._read, last)

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        rows, counts = self._rows(step).unique(return_counts=True)
        return Batch(*self._at(rows), (counts / self.batch).float().to(self.device))

    def draws(self, step: int) -> tuple[Float[Tensor, "batch d"], Tensor]:
        """Features in float32 and targets of every draw of this step, repeats and all."""
        return self._at(self._rows(step))

    def _at(self, rows: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        rows = rows.to(self.device)
        features, targets = self.block.features[rows].float(), self.block.targets[rows]
        return features, targets.float() if targets.is_floating_point() else targets

    def _rows(self, step: int) -> Int[Tensor, " batch"]:
        """Where the draws of this step stand in its block, which is taken up if it is another one."""
        number, within = divmod(step, self.length)
        if number != self.loaded:
            self._take(number)
        return self.block.drawn[within * self.batch : (within + 1) * self.batch]

    def _take(self, number: int) -> None:
        if self.whole and self.loaded >= 0:
            self.block = replace(self.block, drawn=self._draw(number))
        else:
            self.block = self.blocks(number)
        self.loaded = number

    def _draw(self, number: int) -> Int[Tensor, " draws"]:
        count = self.length * self.batch
        return self.pool.draw(count, self.make_generator(number), self.class_power, self.cluster)

    def _read(self, number: int) -> _Block:
        positions = self._draw(number)
        if self.whole:
            wanted, drawn = torch.arange(len(self.pool)), positions
        else:
            wanted, drawn = positions.unique(return_inverse=True)
        features, targets = self.pool.read_distinct(wanted)
        return _Block(features.to(self.device), targets.to(self.device), drawn)
