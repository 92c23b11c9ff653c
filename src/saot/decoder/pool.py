"""Tokens to train on, drawn class first and token second, read from disk a block at a time.

Only a byte for the class and eight for the place of each token stay in memory; features and soft labels are read
where they are drawn, so that memory does not grow with what a data set weighs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Rows = Callable[[int, Tensor], Tensor]
Grid = Callable[[int], tuple[int, int]]
BLOCK_BYTES = 48 * 2**20


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

    def draw(self, count: int, generator: torch.Generator, class_power: float = 0.0) -> Int[Tensor, " count"]:
        """Positions of tokens drawn class first, with probability ~ (tokens of the class)^class_power, E.4."""
        counts = self.class_counts().double()
        weights = torch.where(counts > 0, counts.clamp_min(1) ** class_power, torch.zeros_like(counts))
        classes = torch.multinomial(weights, count, replacement=True, generator=generator)
        place = (torch.rand(count, generator=generator, dtype=torch.float64) * counts[classes]).long()
        return self.starts[classes] + place

    def read(self, positions: Int[Tensor, " k"]) -> tuple[Float[Tensor, "k d"], Tensor]:
        """Features and targets (classes, or soft labels) at these positions, each picture read once."""
        order = self.picture[positions].argsort(stable=True)
        chosen = positions[order]
        pictures, lengths = self.picture[chosen].unique_consecutive(return_counts=True)
        features, targets, begin = [], [], 0
        for picture, length in zip(pictures.tolist(), lengths.tolist(), strict=True):
            tokens = self.token[chosen[begin : begin + length]].long()
            features.append(self.features(picture, tokens))
            if self.soft is not None:
                targets.append(self.soft(picture, tokens))
            begin += length
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        if self.soft is None:
            return torch.cat(features)[back], self.label[positions].long()
        return torch.cat(features)[back], torch.cat(targets)[back]


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


class BlockReader:
    """The batches of one pool, read ahead in blocks of bounded size; batch number s is the same in every run.

    Args:
        pool: Where tokens come from.
        batch: Tokens a step.
        class_power: See `TokenPool.draw`.
        make_generator: Block number to its generator.
        device: Where batches go.
    """

    def __init__(
        self,
        pool: TokenPool,
        batch: int,
        class_power: float,
        make_generator: Callable[[int], torch.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        self.pool, self.batch, self.class_power = pool, batch, class_power
        self.make_generator, self.device = make_generator, device
        self.steps = max(1, BLOCK_BYTES // (batch * (pool.dim * 2 + pool.target_bytes)))
        self.loaded = -1
        self.block: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def __call__(self, step: int) -> tuple[Float[Tensor, "batch d"], Tensor]:
        """Features (batch, d) in float32 and targets of this step."""
        number, within = divmod(step, self.steps)
        if number != self.loaded:
            positions = self.pool.draw(self.steps * self.batch, self.make_generator(number), self.class_power)
            features, targets = self.pool.read(positions)
            self.block, self.loaded = (features.to(self.device), targets.to(self.device)), number
        rows = slice(within * self.batch, (within + 1) * self.batch)
        features, targets = self.block[0][rows], self.block[1][rows]
        return features.float(), targets.float() if targets.is_floating_point() else targets
